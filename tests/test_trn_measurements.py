"""What TRN's page measures, trains and draws: each against a computation by hand."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from cases import each
from contract import seeded, tiny
from torch import Tensor, nn

from advdef.contract import frozen
from advdef.data import Dataset, Split, load
from advdef.evaluation import Cost, Results, correct, psnr
from advdef.evaluation.results import WORST_CASE
from advdef.grid import Task
from advdef.papers.trn import figures, measure, tables, variants
from advdef.papers.trn.defence import OracleRestoration, Restoration
from advdef.papers.trn.ladder import RUNGS, rung_attacker
from advdef.papers.trn.maps import GradientMap, OracleMap, SobelMap, alignment
from advdef.papers.trn.models import SIZES, ImageRestorer, Restorer, TwoStreamRestorer
from advdef.papers.trn.study import JUDGED, Restorers
from advdef.plotting import visible_change
from advdef.statistics import Interval, over_seeds_and_images, paired_difference
from advdef.store import tally
from advdef.training import Recipe

SHAPE, CLASSES = (2, 6, 5), 4
SIZE = {"width": 4, "streams": 1, "tail": 1}


def classifier() -> nn.Module:
    return frozen(tiny(3, SHAPE, CLASSES))


def pictures(n: int = 12, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE, generator=seeded(seed))


def labels_of(n: int = 12) -> Tensor:
    return torch.arange(n) % CLASSES


def restorer(map_channels: int) -> Restorer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TwoStreamRestorer(2, map_channels, **SIZE) if map_channels else ImageRestorer(2, **SIZE)
        nn.init.normal_(made.out.weight, std=0.05)
    return made


def rows(*found: tuple[str, str, str, int, dict[str, Any]], of: int = 4) -> Results:
    """Rows for (part, threat, attack) with so many of the first images right, and what else they say."""
    made = Results()
    for part, threat, attack, count, more in found:
        where: dict[str, Any] = {"dataset": "one", "model": "CNN", "defence": "TRN", "eps": 0.1, "seed": 0} | more
        made.add_hits(torch.arange(of) < count, part=part, threat=threat, attack=attack, **where)
    return made


# Hits


def test_newly_wrong_are_right_before_and_wrong_after() -> None:
    model, x, moved = classifier(), pictures(40), pictures(40, seed=1)
    y = model(x).argmax(1)
    y[:10] = (y[:10] + 1) % CLASSES  # wrong from the start
    found = measure.newly_wrong(model, x, y, moved)
    assert torch.equal(found, (torch.arange(40) >= 10) & (model(moved).argmax(1) != y))
    assert 0 < found.sum() < 30


def test_only_an_oracle_is_told_the_label() -> None:
    model, x, y = classifier(), pictures(), labels_of()
    plain = Restoration(model, restorer(0))
    assert torch.equal(measure.right_of(plain, x, y), correct(plain, x, y))
    oracle = OracleRestoration(model, restorer(2), OracleMap(model))
    wanted = oracle(x, labels=y).argmax(1) == y
    assert torch.equal(measure.right_of(oracle, x, y), wanted)
    assert torch.equal(measure.right_of(oracle, x, y, batch_size=5), wanted)


def test_attacks_on_fewer_images_are_replayed_with_their_labels() -> None:
    model, x, y = classifier(), pictures(), labels_of()
    found = measure.replay(model, {"clean": x, "Square": x[:5]}, y)
    assert list(found) == ["clean", "Square"]
    assert torch.equal(found["clean"], correct(model, x, y))
    assert torch.equal(found["Square"], found["clean"][:5])


def test_other_maps_take_the_place_of_the_own_ones() -> None:
    model, x, y = classifier(), pictures(), labels_of()
    trn = Restoration(model, restorer(2), GradientMap(model))
    others = variants.other_maps(model)
    assert next(iter(others)) == "its own"
    own = measure.right_with_maps(trn, others["its own"], x, y)
    assert torch.equal(own, correct(trn, x, y))
    for name, other in others.items():
        logits = model(trn.prepare_with(x, other(x)))
        assert torch.equal(measure.right_with_maps(trn, other, x, y), logits.argmax(1) == y), name
    assert torch.equal(others["the same, sign turned"](x), -others["its own"](x))
    assert torch.equal(others["the neighbour's"](x)[1], others["its own"](x)[0])
    assert not others["zeros"](x).any()


def test_what_was_measured_is_kept_for_the_same_images(tmp_path: Path) -> None:
    model, x, y, before = classifier(), pictures(), labels_of(), tally.total()[0]
    trn, moved = Restoration(model, restorer(2), GradientMap(model)), (x + 0.1).clamp(0, 1)
    measured: dict[str, Callable[[Path | None, Tensor], Any]] = {
        "replay": lambda folder, x: measure.replay(trn, {"b": x, "a": moved}, y, resume=folder),
        "right_with_maps": lambda folder, x: measure.right_with_maps(trn, SobelMap(), x, y, resume=folder),
        "restored_quality": lambda folder, x: measure.restored_quality(trn, moved, x, resume=folder),
        "study_maps": lambda folder, x: vars(measure.study_maps(model, x, y, moved, resume=folder)),
    }
    for read, (name, of) in enumerate(measured.items()):
        made, known = of(None, x), of(tmp_path, x)
        assert (tally.total()[0] - before, len(list(tmp_path.iterdir()))) == (read, read + 1), name
        for found in (known, of(tmp_path, x)):
            torch.testing.assert_close(found, made, rtol=0, atol=0, equal_nan=True)
            assert not isinstance(made, dict) or list(found) == list(made)
    measured["replay"](tmp_path, x.flip(0))
    assert len(list(tmp_path.iterdir())) == len(measured) + 1


@pytest.mark.parametrize("profile", Restorers.profiles)
def test_tasks_are_calls_of_the_study(profile: str) -> None:
    for main in (True, False):
        study = Restorers(load("digits"), Restorers.profiles[profile], main=main)
        (tasks,) = study.stages()
        there = {(task.call, *task.arguments): set(task.after) for task in tasks}
        assert len(there) == len(tasks)
        for task in tasks:
            inspect.signature(getattr(study, task.call)).bind(*task.arguments)
            assert set(task.after) <= set(tasks)
        restorers = {("restorer", k, s) for k in study.names for s in study.seeds}
        parts = {("part", k, i) for k in JUDGED for i in range(1 if profile != "paper" else 2)}
        assert there.keys() >= restorers | parts | {("hits", k, s) for _, k, s in restorers}
        assert (
            there["part", "TRN", 0]
            >= there["rung_part", "TRN", study.eps, "R8", 0]
            >= {Task("classifier", ("standard",))}
        )
        assert main == (("checks", "TRN") in there) == any(task.call == "moved" for task in tasks)
        assert (("restorer", "TRN-S", study.seeds[-1]) in there) == (profile == "laptop" and main)
        assert ("clean", "TRN", study.seeds[-1]) in there


# Leads


def test_a_lead_is_for_other_seeds_where_there_are_several() -> None:
    one, other = torch.rand(3, 20, generator=seeded(1)).round(), torch.rand(3, 20, generator=seeded(2)).round()
    assert measure.lead_over(one, other) == over_seeds_and_images(one, other)
    assert measure.lead_over(one[:1], other[:1]) == paired_difference(one[0], other[0])


def test_a_mean_share_is_not_below_zero() -> None:
    found = measure.mean_withstood(torch.zeros(1, 20))
    assert (found.value, found.low) == (0, 0)
    assert found.high > 0
    shares = torch.tensor([[1.0, 0.5, 1.0], [1.0, 1.0, 0.0]])
    assert measure.mean_withstood(shares).value == pytest.approx(0.75)


def variants_of_trn() -> Results:
    """Of four images, under two attacks and with two seeds."""
    right = {("TRN", 0): (4, 2), ("TRN", 1): (4, 4), ("image only", 0): (2, 2), ("image only", 1): (2, 0)}
    names = ("none", "FGSM", "PGD", "PGD, 1.5 eps")
    return rows(
        *(
            ("ablation", "oblivious", name, count, {"defence": defence, "seed": seed})
            for (defence, seed), counts in right.items()
            for name, count in zip(names, (4, *counts, 0), strict=True)
        )
    )


def test_what_each_variant_withstands_is_on_the_mean_of_the_attacks() -> None:
    found, attacks = variants_of_trn(), ("FGSM", "PGD")
    shares = measure.shares_withstood(found, attacks)
    assert {name: share.tolist() for name, share in shares.items()} == {
        "TRN": [[1, 1, 0.5, 0.5], [1, 1, 1, 1]],
        "image only": [[1, 1, 0, 0], [0.5, 0.5, 0, 0]],
    }
    assert torch.equal(measure.share_withstood(found.select(defence="TRN"), attacks), shares["TRN"])


def test_other_settings_are_larger_budgets_and_other_classifiers() -> None:
    found, right = Results(), torch.ones(2, dtype=torch.bool)
    where = dict(defence="TRN", threat="oblivious", attack="PGD", dataset="digits", model="CNN", seed=0)
    for eps in (0.0, 0.2, 0.3, 0.4):
        found.add_hits(right, **where | dict(part="eps", eps=eps))
    for used in (None, "its own", "that of the other"):
        found.add_hits(right, **where | dict(part="moved", model="LeNet-5", eps=0.2), map=used)
    assert [*measure.other_settings(found, 0.2)] == ["PGD with 1.5 times the budget", "PGD with 2 times the budget"]
    settings = measure.other_settings(found, 0.2, ["LeNet-5"])
    assert [[row["eps"] for row in rows] for rows in settings.values()] == [[0.0, 0.3], [0.0, 0.4], [0.2, 0.2]]
    assert settings["TRN in front of LeNet-5"].values("map") == [None, "its own"]


def test_a_variant_is_shown_beside_trn() -> None:
    found, attacks = variants_of_trn(), ("FGSM", "PGD")
    row = tables.ablation_row(found, "image only", attacks)
    told = ["clean %", "FGSM %", "PGD %", "PGD, 1.5 eps %", "mean of five %", "by seed", "− TRN"]
    assert list(row) == told
    assert list(row.values())[:6] == ["100.0", "50.0", "25.0", "0.0", "37.5", "50.0, 25.0"]
    assert row["− TRN"].startswith("-50.0 [")
    assert list(tables.ablation_row(found, "TRN", attacks).values())[-3:] == ["87.5", "75.0, 100.0", "–"]


@each(
    ("low", "high", "helps"),
    [
        (0.1, 0.2, "helps"),
        (-0.1, 0.3, "cannot be told from this interval"),
        (-0.2, -0.1, "hurts"),
        (0.0, 0.1, "cannot be told from this interval"),
    ],
)
def test_the_stream_helps_where_the_whole_interval_says_so(low: float, high: float, helps: str) -> None:
    lead = Interval((low + high) / 2, low, high)
    assert tables.stream_row(lead) == {"TRN − image only": f"{lead:+}", "the gradient stream": helps}


# Maps


def test_maps_are_compared_before_scaling_whatever_the_batch() -> None:
    model, x, y = classifier(), pictures(), labels_of()
    moved = (x + 0.1 * torch.rand(x.shape, generator=seeded(5))).clamp(0, 1)
    study = measure.study_maps(model, x, y, moved, estimates=("average", "least"), batch_size=5)
    assert list(study.cosines) == ["true, delta", "average", "average, delta", "least", "least, delta"]
    true, average = OracleMap(model, scale="none")(moved, labels=y), GradientMap(model, scale="none")(moved)
    close = partial(torch.testing.assert_close, rtol=1.3e-6, atol=1e-5)  # float32's: another batch rounds otherwise
    close(study.cosines["average"], alignment(average, true)[0])
    close(study.signs["average, delta"], alignment(average, moved - x)[1])
    close(study.sizes["average"], average.abs().mean((1, 2, 3)))
    assert study.means()["true, delta"][0] == pytest.approx(alignment(true, moved - x)[0].mean().item())


def test_a_map_of_zeros_has_no_mean() -> None:
    nothing, some = torch.full((3,), math.nan), torch.tensor([0.5, math.nan, 0.7])
    study = measure.MapStudy({"a": nothing, "b": some}, {"a": nothing, "b": some}, {})
    assert list(study.means()) == ["b"]
    assert study.means()["b"] == pytest.approx([0.6, 0.6])


def test_restoration_that_takes_the_perturbation_off_has_a_cosine_of_one() -> None:
    class Undo(Restoration):
        def prepare(self, images: Tensor) -> Tensor:
            return images - 0.1

    clean = 0.2 + 0.5 * pictures()
    defence = Undo(classifier(), restorer(0))
    quality, cosine = measure.restored_quality(defence, clean + 0.1, clean, batch_size=5)
    assert cosine == pytest.approx(1)
    assert quality == pytest.approx(psnr(clean + 0.1 - 0.1, clean).median().item())
    quality, cosine = measure.restored_quality(defence, clean, clean)
    assert quality == pytest.approx(20, abs=1e-3)
    assert math.isnan(cosine)


def test_blank_images_show_nothing_and_have_labels_of_chance() -> None:
    noise, y = measure.blank_images("noise", SHAPE, CLASSES, n=500, generator=seeded())
    grey, same = measure.blank_images("grey", SHAPE, CLASSES, n=500, generator=seeded())
    assert noise.shape == grey.shape == (500, *SHAPE)
    assert torch.equal(y, same)
    assert y.unique().tolist() == list(range(CLASSES))
    assert (grey == grey[:, :1, :1, :1]).all()
    assert len(grey[:, 0, 0, 0].unique()) > 400
    assert torch.equal(grey[:, 0, 0, 0], noise[:, 0, 0, 0])


# Rungs


def test_the_direct_attacker_has_the_rung_of_plain_autograd() -> None:
    assert [rung_attacker(rung, ("R0", "R1", "R2", "R3")) for rung in ("R0", "R1", "R2", "R3")] == [
        "oblivious", "adaptive", "adaptive", "direct",
    ]  # fmt: skip
    assert [rung_attacker(rung, ("R0", "R2", "R5")) for rung in ("R0", "R2", "R5")] == [
        "oblivious", "direct", "adaptive",
    ]  # fmt: skip


def climbed(defence: str = "TRN", *, r1: bool = False) -> list[tuple[str, str, str, int, dict[str, Any]]]:
    """What a ladder of two or three rungs leaves of four images: all, three, three, two, and one after all rungs."""
    where = {"defence": defence}
    return [
        ("worst", "clean", "none", 4, where | {"eps": 0.0}),
        ("R0", "oblivious", WORST_CASE, 3, where),
        *([("R1", "adaptive", WORST_CASE, 3, where)] if r1 else []),
        ("R2", "direct", WORST_CASE, 2, where),
        ("worst", "direct", WORST_CASE, 2, where),
        ("worst", "adaptive", WORST_CASE, 1, where),
    ]


def test_rows_of_the_ladder() -> None:
    row = tables.ladder_row(rows(*climbed()))
    assert list(row) == ["clean %", *RUNGS, "worst case %"]
    assert (row["clean %"], row["R0"], row["R1"], row["R2"]) == ("100", "75", "–", "50")
    assert row["worst case %"].startswith("25.0 [")
    every = [row for name in ("none", "image only", "Fast-AT", "TRN") for row in climbed(name, r1=name == "TRN")]
    assert list(tables.headline_row(rows(*every)).values()) == ["75", "75", "75", "50", "25", "25", "25"]


def test_the_cost_is_told_beside_the_bare_classifiers() -> None:
    row = tables.cost_row(Cost(2.0, 0.5, 1.0, 1.0), Cost(1.0, 0.25, 1.0, 0.0), batch=64)
    assert list(row.values()) == ["1", "1", "2.00", "0.500", "2.0"]
    assert "in batches of 64, ms" in row


# Variants


def trained_as(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[nn.Module | None, Restorer, dict[str, Any]]:
    """Maps, untrained network and settings of a variant."""
    split, given = Split((255 * pictures()).byte(), labels_of()), {}

    def instead(build: Any, train: Any, data: Dataset, **settings: Any) -> Any:
        given.update(settings)
        return build()

    monkeypatch.setattr(variants, "trained", instead)
    data = Dataset("made up", split, split, CLASSES, SHAPE, tuple("abcd"), "0" * 16)
    model, recipe = classifier(), Recipe(eps=(0.1,))
    maps, made = variants.train_variant(
        name, model, data, recipe=recipe, size="XS", epochs=2, learning_rate=0.01, seed=7
    )
    return maps, made, given  # type: ignore[return-value]


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_each_variant_fits_its_maps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, made, given = trained_as(monkeypatch, name)
    assert (given["seed"], given["pairs_seed"], given["epochs"], given["learning_rate"]) == (7, 7, 2, 0.01)
    placed = variants.restoration(classifier(), made, maps)
    assert isinstance(placed, OracleRestoration) == (name == "oracle map")
    logits = placed(pictures(), labels=labels_of()) if name == "oracle map" else placed(pictures())
    assert logits.shape == (12, CLASSES)
    chosen = variants.VARIANTS[name]
    assert {loss: given[loss] for loss in ("pixel", "cross_entropy", "feature") if loss in given} == chosen.losses
    if isinstance(made, TwoStreamRestorer):
        assert made.kind == chosen.fusion
        assert made.map_channels == (2 * CLASSES if name == "stack" else 2)


def test_variants_differ_from_trn_in_one_thing() -> None:
    plain = variants.VARIANTS["TRN"]
    for name, chosen in variants.VARIANTS.items():
        changed = (chosen.maps != plain.maps) + (chosen.fusion != plain.fusion) + bool(chosen.losses)
        assert changed == {"TRN": 0, "HGD-style": 2}.get(name, 1), name


@each("name", variants.TRANSFORMS)
def test_transforms_are_defences_in_front_of_the_classifier(name: str) -> None:
    model, x = classifier(), pictures()
    if name == "JPEG 75":
        x, model = x[:, :1], frozen(tiny(3, (1, 6, 5), CLASSES))  # JPEG knows images of one and of three channels
    assert variants.TRANSFORMS[name](model)(x).shape == (12, CLASSES)


# Figures


def test_a_change_is_seen_around_grey() -> None:
    change = torch.tensor([-2.0, 0.0, 2.0]).view(1, 1, 1, 3)
    assert visible_change(change).flatten().tolist() == pytest.approx([0, 0.5, 1])
    assert visible_change(torch.zeros(1, 1, 2, 2)).eq(0.5).all()


def test_names_of_the_label_and_of_what_logits_say() -> None:
    logits = torch.eye(3)
    found = figures.class_turns("abc", torch.tensor([2, 1, 0]), logits, logits.flip(1))
    assert found == [["c", "a", "c"], ["b", "b", "b"], ["a", "c", "a"]]


def test_a_missing_rung_has_no_bar() -> None:
    hits = rows(*climbed())
    figure = figures.accuracy_by_rung({"one": hits, "other": hits})
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert len(heights) == 2 * (len(RUNGS) + 1)
    assert [height for height in heights if not math.isnan(height)] == [0.75, 0.5, 0.25] * 2
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == [*RUNGS, "all"]
    plt.close(figure)


def test_curves_hold_what_was_measured() -> None:
    curves = rows(
        ("eps", "oblivious", "PGD", 5, {"eps": 0.2}),
        ("eps", "clean", "none", 9, {"eps": 0.0}),
        ("eps", "clean", "none", 8, {"eps": 0.0, "defence": "none", "dataset": "other"}),
        of=10,
    )
    figure = figures.accuracy_by_eps(curves, trained=[0.1, 0.3])
    line, end = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0.0, 0.2]
    assert line.get_ydata().tolist() == [0.9, 0.5]
    assert end.get_xdata()[0] == 0.1
    assert [axes.get_title() for axes in figure.axes] == ["one, CNN", "other, CNN"]
    plt.close(figure)
    steps = [
        ("steps", "direct", WORST_CASE, number if n == 10 else 5, {"rung": rung, "steps": n})
        for n in (1, 10)
        for number, rung in enumerate(("R0", "R1", "R2", "R3", "R4"))
    ]
    figure = figures.accuracy_by_steps(rows(*steps, of=10))
    assert [line.get_ydata()[1] for line in figure.axes[0].lines] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert figure.axes[0].lines[1].get_label() == "R1 identity"
    plt.close(figure)
    figure = figures.held_out_losses({"by map": {"TRN": [torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])]}})
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 1.0]
    plt.close(figure)
    figure = figures.map_sizes({"one": {"average": torch.rand(20) + 0.1, "predicted": torch.zeros(20)}})
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 40
    plt.close(figure)


def test_examples_of_images_of_several_sizes_stand_in_one_grid() -> None:
    small, large = torch.rand(2, 1, 4, 4), torch.rand(1, 3, 6, 6)
    first, second = (figures.restored_pictures(x, x, x) for x in (small, large))
    figure = figures.example_grid([first, second], classes=[["a", "b"], ["c", "d"], ["e", "f"]])
    assert len(figure.axes) == 5 * 3
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a →\nb", "c →\nd", "e →\nf"]
    plt.close(figure)
    rows = figures.map_pictures(classifier(), pictures(3), labels_of(3), pictures(3, seed=1))
    assert list(rows) == ["clean", "attacked", "δ", "true", "average", "predicted", "Sobel"]
    assert all(row.shape == (3, *SHAPE) and 0 <= row.min() <= row.max() <= 1 for row in rows.values())


def test_growth_counts_parameters_and_multiply_adds() -> None:
    rows = {(row["restorer"], row["classes"], row["image"]): row for row in tables.growth_rows()}
    assert len(rows) == 4 * len(SIZES)
    built = TwoStreamRestorer(3, 3, **SIZES["XS"])
    row = rows["TRN-XS", "10", "3x32x32"]
    assert row["average: parameters"] == f"{sum(p.numel() for p in built.parameters()):,}"
    convolutions = [m for m in built.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    estimate = sum(m.weight.numel() for m in convolutions) * 32**2 / 1e6
    assert float(row["average: multiply-adds, millions"]) == pytest.approx(estimate, rel=0.03)
