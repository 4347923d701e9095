"""What the page on NIP measures, judges, tabulates and draws, on small networks and by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.attacks.suites import strong
from advdef.data import Dataset, Split
from advdef.evaluation import Cost, Outcome, Results, correct, three_curves
from advdef.papers.nip import figures, judging, measure, price, tables
from advdef.papers.nip.bank import fit_bank, random_bank
from advdef.papers.nip.defence import NIPSelf
from advdef.papers.nip.influence import inverse_direction
from advdef.papers.nip.repair import Repair
from advdef.papers.nip.variants import V2
from advdef.plotting import visible_change
from advdef.statistics import mean_interval, paired_difference, wilson
from advdef.training import Training

YES, NO = True, False


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model(_trained_network: nn.Sequential) -> nn.Sequential:
    """The network trained on digits, which now names layers, the last of which is read."""
    network = copy.deepcopy(_trained_network).eval()
    network.taps = ("0", "1", "4")  # type: ignore[assignment]
    return network


@pytest.fixture(scope="module")
def images(digits: Dataset, model: nn.Sequential) -> Tensor:
    """Thirty that the network has right, a little away from black and white."""
    test, labels = 0.05 + 0.9 * digits.test.float_images()[:60], digits.test.labels[:60]
    return test[correct(model, test, labels)][:30]


@pytest.fixture(scope="module")
def labels(model: nn.Sequential, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model(images).argmax(1)


@pytest.fixture(scope="module")
def attacked(model: nn.Sequential, images: Tensor, labels: Tensor) -> Tensor:
    return judging.pgd_min(trials=10, steps=10)(model, images, labels, eps=1.0, generator=seeded())


def hits(*values: bool) -> Tensor:
    return torch.tensor(values)


def right_on(*rows: int) -> Tensor:
    return torch.isin(torch.arange(4), torch.tensor(rows))


def note(
    results: Results, defence: str, right: Tensor, attack: str = "none", *, eps: float = 0.0, **more: float | str
) -> None:
    """What a defence has right of images, and of images under an attack."""
    where = {"part": "", "dataset": "digits", "model": "LeNet-5", "seed": 0, **more}
    threat = "clean" if attack == "none" else "oblivious"
    results.add_hits(right, defence=defence, threat=threat, attack=attack, eps=eps, **where)


class Brightness(nn.Module):
    """Takes bright images for class 1, others for class 0."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


# what attacks move


def test_reach_counts_right_images_that_turn_and_measures_these() -> None:
    dark, bright = torch.full((1, 1, 2, 2), 0.4), torch.full((1, 1, 2, 2), 0.7)
    clean = torch.cat([dark, dark, bright, dark])
    moved = torch.cat([dark + 0.2, dark + 0.05, bright, dark + 0.3])
    found = measure.reach(Brightness(), clean, moved, torch.tensor([0, 0, 1, 1]))  # the last is wrong before
    assert found.fooled.tolist() == [True, False, False, False]
    assert found.share == pytest.approx(1 / 3)
    assert (found.linf, found.l2) == (pytest.approx(0.2), pytest.approx(0.4))
    row = tables.reach_row(found)
    assert row == {"images": "4", "fooled %": "33", "median Linf x 255": "51.0", "median L2": "0.40"}
    nobody = tables.reach_row(measure.reach(Brightness(), clean, clean, torch.tensor([0, 0, 1, 0])))
    assert nobody == {"images": "4", "fooled %": "0", "median Linf x 255": "nan", "median L2": "nan"}


def test_shifts_of_front_and_tail_have_both_controls(
    model: nn.Sequential, images: Tensor, labels: Tensor, attacked: Tensor
) -> None:
    find = partial(measure.front_and_tail_shifts, model, layer=model.taps[-1], match_seed=7)
    found = find(images, attacked, labels, noise_seed=6)
    parts = [f"{part}{control}" for part in ("front", "tail") for control in ("", ", matched", ", noise")]
    of_matched = {f"{part}, activation of matched" for part in ("front", "tail")}
    assert set(found) == {"middle", *parts, *(f"{part}, size" for part in parts), *of_matched}
    assert all(values.shape == (30,) for values in found.values())
    assert float(found["front"].mean()) < 0 < float(found["front, size"].mean())
    assert float(found["front, size"].mean()) > float(found["front, noise, size"].mean())
    assert all(bool((found[part].abs() <= found[f"{part}, size"] + 1e-5).all()) for part in parts)
    alone = find(images, attacked, labels, noise_seed=None)
    assert set(alone) == {name for name in found if "noise" not in name}
    assert all(torch.equal(found[name], alone[name]) for name in alone)
    too_far = find(torch.zeros_like(images), torch.ones_like(images), labels, noise_seed=6)
    assert set(too_far) == set(alone)  # no noise in [0, 1] is as long
    nothing = find(images, images, labels, noise_seed=6)
    assert all(bool((nothing[part] == 0).all()) for part in parts)


def test_attacks_that_fool_too_few_have_no_shift(
    model: nn.Sequential, images: Tensor, labels: Tensor, attacked: Tensor
) -> None:
    fooled = measure.reach(model, images, attacked, labels).fooled
    kept = torch.where(fooled.cumsum(0)[:, None, None, None] > 3, images, attacked)  # three are fooled
    tried = {"PGD-min": attacked, "AUNA": attacked[:20], "weak": kept}
    settings = {"layer": model.taps[-1], "match_seed": 7, "noise_seed": 6}
    found = measure.shifts_of_fooled(model, images, tried, labels, least=4, **settings)
    assert list(found) == ["PGD-min", "AUNA"]
    assert torch.equal(~found["PGD-min"]["front"].isnan(), fooled)
    alone = measure.front_and_tail_shifts(model, images[fooled], attacked[fooled], labels[fooled], **settings)
    assert all(torch.equal(found["PGD-min"][name][fooled], values) for name, values in alone.items())
    assert torch.equal(~found["AUNA"]["front"].isnan(), fooled[:20])
    assert set(found["AUNA"]) == {name for name in alone if "noise" not in name}
    assert len(measure.shifts_of_fooled(model, images, tried, labels, least=3, **settings)) == 3


def test_maps_hold_the_feature_of_most_and_of_least_influence(
    model: nn.Sequential, images: Tensor, labels: Tensor, attacked: Tensor
) -> None:
    maps = measure.front_and_tail_maps(model, images, attacked, labels, layer="3")
    assert list(maps) == ["front,\nclean", "front,\nattacked", "tail,\nclean", "tail,\nattacked"]
    for part in ("front", "tail"):
        pair = torch.stack([maps[f"{part},\nclean"], maps[f"{part},\nattacked"]])
        assert pair.shape[1:3] == (30, 1)
        assert 0 <= float(pair.min()) <= float(pair.max()) == 1
    same = measure.front_and_tail_maps(model, images, images, labels, layer="3")
    assert torch.equal(same["tail,\nclean"], same["tail,\nattacked"])


# what directions are


def test_facts_of_directions_by_hand() -> None:
    one = torch.tensor([3.0, -4.0, 0.0, 0.0]).view(1, 1, 2, 2)
    facts = measure.direction_facts(torch.cat([one, one, one]))
    assert facts["RMS"] == 2.5
    assert facts["largest pixel"] == 4
    assert facts["size of the cosine between two images"] == pytest.approx(1)


def test_facts_of_influence(model: nn.Sequential, images: Tensor) -> None:
    facts = measure.influence_facts(model, images)
    assert (facts.features, facts.front) == (400, 50)
    assert 0 < facts.silent < 1
    assert 0 < facts.agreement <= 1
    assert facts.against >= facts.against_skipping
    sharp, dull = copy.deepcopy(model), copy.deepcopy(model)
    for network, factor in ((sharp, 1e3), (dull, 1e-3)):
        network[5].weight.data *= factor
        network[5].bias.data *= factor
    sure = measure.influence_facts(sharp, images)
    assert sure.sure == 30
    assert sure.on_probability < 0.01 * sure.on_logit
    nobody = measure.influence_facts(dull, images)
    assert nobody.sure == 0
    assert math.isnan(nobody.on_logit)


def test_every_open_setting_gives_a_direction_and_the_default_is_none(
    model: nn.Sequential, images: Tensor, labels: Tensor, attacked: Tensor
) -> None:
    settings = measure.open_settings(model.taps, front=50)
    assert len(settings) == 10
    for name, chosen in settings.items():
        cosine, shares = measure.under_settings(
            model, images[:5], images, {"PGD-min": attacked, "clean": images}, labels, step=0.01, settings=chosen
        )
        assert set(shares) == {
            "benign with V1", *(f"{attack}: right with {v}" for attack in ("PGD-min", "clean") for v in ("V0", "V1"))
        }  # fmt: skip
        assert cosine == pytest.approx(1) if name == "default" else cosine < 0.999
        assert shares["clean: right with V0"] == 100
        assert shares["clean: right with V1"] == shares["benign with V1"]
    assert shares["PGD-min: right with V0"] > shares["PGD-min: right with V1"]


def test_the_oracle_knows_more_than_its_controls(model: nn.Sequential, images: Tensor, attacked: Tensor) -> None:
    found = measure.oracle_and_controls(model, images, attacked, step=0.005, noises=5)
    assert list(found) == [
        "V0 oracle", "another image's direction", "white noise, oracle sign", "best of 5 noises, oracle sign",
        "V0, plus only", "white noise, plus only",
    ]  # fmt: skip
    assert all(values.shape == (30,) and values.dtype == torch.bool for values in found.values())
    assert bool((found["V0 oracle"] >= found["V0, plus only"]).all())
    assert bool((found["best of 5 noises, oracle sign"] >= found["white noise, oracle sign"]).all())
    assert int(found["V0 oracle"].sum()) > int(found["white noise, plus only"].sum())


def test_the_oracle_is_asked_at_each_step_about_fooled_images(
    model: nn.Sequential, images: Tensor, labels: Tensor, attacked: Tensor
) -> None:
    fooled = measure.reach(model, images, attacked, labels).fooled
    ask = partial(measure.oracle_by_step, model, images, labels=labels, steps=(0.001, 0.005), noises=2)
    found = ask(attacked)
    assert list(found) == [0.001, 0.005]
    alone = measure.oracle_and_controls(model, images[fooled], attacked[fooled], step=0.005, noises=2)
    assert all(torch.equal(found[0.005][name], values) for name, values in alone.items())
    assert ask(images) == {}  # nobody is fooled


def test_images_agree_with_their_bank_and_not_with_noise(model: nn.Sequential, images: Tensor, digits: Dataset) -> None:
    fitted = fit_bank(model, digits.train, per_class=20, kept=2)
    cosines = measure.bank_cosines(model, images[:6], fitted, random_bank(fitted, generator=seeded()))
    assert [c.shape for c in cosines] == [(10, 6)] * 2
    assert float(cosines[0].mean()) > 0.1 > 0.05 > float(cosines[1].abs().mean())


@pytest.mark.parametrize(("lost", "little"), [(0, True), (1, True), (2, False)])
def test_one_point_of_benign_accuracy_is_little(lost: int, little: bool) -> None:
    pixels = torch.full((100, 1, 2, 2), 255, dtype=torch.uint8)
    pixels[:lost] = 140  # bright, but not by much

    class Darker(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - 0.1)

    benign = Split(pixels, torch.ones(100, dtype=torch.long))
    assert price.affordable(Brightness(), {0.1: Darker(), 0.0: Brightness()}, benign) == (0.1, 0.0)[not little :]


# judging


def test_the_adaptive_attacker_goes_through_every_surrogate(
    model: nn.Sequential, images: Tensor, labels: Tensor
) -> None:
    """As the page calls the protocol, on the variant with the most to replace."""
    x, y = images[:6], labels[:6]
    effort = {"steps": 2, "queries": 0, "rounds": 0}
    found = three_curves(NIPSelf(model, step=0.02), x, y, budgets=(0.01, 0.05), generator=seeded(3), **effort)
    for eps in (0.01, 0.05):
        weaker = found["oblivious"][eps].robust & found["direct"][eps].robust
        assert bool((found["adaptive"][eps].robust <= weaker).all())
    suite, tried = strong(steps=2), [f.name for f in found["adaptive"][0.05].findings]
    through = [f"{name} through {by}" for by in ("straight-through", "soft weights") for name in suite]
    assert tried == [*through, "two conditions", "pre-compensated", "noise"]


def test_attacks_with_a_fixed_budget_use_it(model: nn.Sequential, images: Tensor, labels: Tensor) -> None:
    pytest.importorskip("pyautoattack")
    for name, attack in judging.fixed_suite(steps=3, queries=50).items():
        found = attack(model, images[:5], labels[:5], eps=0.5, generator=seeded())
        assert 0.25 < float((found - images[:5]).abs().max()) < 0.5 + 1e-6, name


class Dead(NIPSelf):
    """Adds something whatever the step is, and its surrogate has no gradient."""

    def offset(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        return torch.full_like(images, 0.3)

    def surrogates(self) -> dict[str, nn.Module]:
        return {"straight-through": Flat()}


class Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 0 * images.flatten(1)[:, :10]


def test_six_tests_hold_for_a_sound_evaluation_and_fail_for_a_dead_gradient(
    model: nn.Sequential, images: Tensor, labels: Tensor
) -> None:
    pytest.importorskip("pyautoattack")
    asked = partial(
        judging.six_tests, images=images[:6], labels=labels[:6], eps=0.02, huge=0.6, steps=(3, 6), queries=5, seed=0
    )
    found = asked(NIPSelf(model, step=0.01), NIPSelf(model, step=0.0))
    assert [name.split()[0] for name in found] == ["(i)", "(ii)", "(iii)", "(iv)", "(v)", "(vi)"]
    assert all(holds for name, (holds, _) in found.items() if name[:5] != "(iii)"), found
    assert found["(vi) no zero gradients"][1] == "0 of 6"
    with pytest.warns(UserWarning, match="gradient"):
        dead = asked(Dead(model, step=0.01), Dead(model, step=0.0))
    assert dead["(vi) no zero gradients"] == (False, "6 of 6")
    assert not dead["(v) step 0 is the bare classifier"][0]
    assert not dead["(ii) a huge eps leaves nothing"][0]


# tables


def test_rows_say_what_was_found() -> None:
    done = Training(nn.Linear(999, 2), {}, 12.4, NO)
    clean = {"parameters": "2,000", "clean accuracy %": f"{wilson(3, 4)}", "trained in s": "12"}
    assert tables.training_row(done, hits(YES, YES, YES, NO)) == clean
    shifts = {"front": torch.tensor([0.1, 0.3]), "front, size": torch.tensor([0.2, 0.4])}
    row = tables.shift_row({part: torch.cat([torch.tensor([math.nan]), values]) for part, values in shifts.items()})
    assert (row["images"], row["front"][:6], row["front, size"]) == ("2", "+0.20 ", "0.30")
    cost = tables.passes_row(Cost(2.0, 0.5, 20, 10), Cost(0.2, 0.1, 1, 0), batch=64)
    assert list(cost.values()) == ["20", "10", "2.00", "0.500", "5.0"]
    assert "in batches of 64, ms" in cost


def test_rows_of_the_oracle() -> None:
    controls = {
        "V0 oracle": right_on(0, 1, 2),
        "white noise, oracle sign": right_on(2, 3),
        "V0, plus only": right_on(0),
    }
    row = tables.oracle_row(controls)
    assert (row["fooled images"], row["V0 oracle %"], row["only V0 / only noise"]) == ("4", "75.0", "2 / 1")
    assert row["V0 − noise, points"].startswith("+25.0 [")
    without = tables.without_row(controls, wilson(0, 4), {"V0 oracle": right_on()}, eps="0.1")
    assert list(without.values()) == ["75.0", "50.0", "25.0", "0.0", "0.0"]
    nobody = tables.without_row(controls, None, {}, eps="0.1")
    assert nobody["own image's direction, no answer (V1) %"] == "–"
    assert nobody["V0, attack with fixed eps 0.1 %"] == "–"


def test_rows_of_a_defence() -> None:
    every, clean = right_on(0, 1, 2, 3), right_on(0, 1, 2)
    found = Repair(clean, right_on(0), every, right_on(0, 1), right_on(0, 1, 2), every)
    spared = replace(found, attacked=right_on())
    eps, smallest = (0.5, 1.0, 2.0), ("PGD-min", None)
    fixed: dict[tuple[str, float | None], Repair] = {("PGD", 0.5): found, ("PGD", 1.0): found, ("PGD", 2.0): spared}
    row = tables.repair_row({smallest: found, **fixed}, eps)
    assert row["PGD-min: DSR %"] == f"{wilson(1, 2)}"
    assert (row["benign labels changed %"], row["damage %"]) == ("25.0", "0.0")
    assert [row[f"PGD, {size} eps: right %"] for size in ("half", "main", "twice")] == ["50.0"] * 3
    unharmed = replace(found, attacked=clean)
    row = tables.repair_row({smallest: unharmed, **fixed, ("PGD", 0.5): spared}, eps)
    assert (row["PGD-min: DSR %"], row["damage %"]) == ("–", "–")
    outcome = Outcome(0.1, every, clean, torch.zeros(4, 1, 1, 1))
    outcomes = {"oblivious": outcome, "direct": outcome, "adaptive": replace(outcome, robust=right_on(0))}
    row = tables.threat_row(outcomes, paired_difference(right_on(0), right_on(0, 3)))
    assert (row["benign %"], row["direct %"], row["adaptive %"]) == ("100.0", f"{wilson(3, 4)}", f"{wilson(1, 4)}")
    assert row["adaptive − undefended"].startswith("-25.0 [")
    assert tables.threat_row(outcomes, None)["adaptive − undefended"] == "–"


def test_success_by_attack_and_over_attacks() -> None:
    found = Results()
    for network, clean in (("LeNet-5", right_on(0, 1, 2)), ("CNN", right_on(0, 1))):
        note(found, "none", clean, model=network)
        for attack, broken in (("PGD", right_on(0, 1)), ("Square", right_on(1, 3)), ("UAP", right_on())):
            note(found, "none", clean & ~broken, attack, model=network)
            note(found, "V1 self", right_on(0, 3), attack, model=network)
    shown = tables.success_table(found, eleven=("PGD", "UAP"))
    assert list(shown) == ["dataset", "model", "defence", "PGD", "Square", "UAP", "all 2", "all 3"]
    lines = shown.set_index(["model", "defence"]).drop(columns="dataset")
    assert lines.loc["LeNet-5", "V1 self"].tolist()[:3] == ["50", "0", "–"]
    assert lines.loc["CNN", "none"].tolist()[:3] == ["0", "0", "–"]
    mean = mean_interval(torch.tensor([1.0, 0.0]))
    assert lines.loc["LeNet-5", "V1 self"].tolist()[3:] == [f"{mean}", f"{mean}"]


# figures


def test_each_attack_has_a_line_and_each_control_that_it_has_a_mark() -> None:
    def about(mean: float) -> Tensor:
        return mean + torch.tensor([-0.1, 0.1])

    full = {part + c: about(m) for part, m in (("front", -1), ("tail", 2)) for c in ("", ", matched", ", noise")}
    without = {name: values for name, values in full.items() if "noise" not in name}
    figure = figures.shifts_by_attack({"PGD": full, "AUNA": without})
    left, right = figure.axes
    assert [len(panel.containers) for panel in figure.axes] == [5, 5]
    assert [label.get_text() for label in left.get_yticklabels()] == ["PGD", "AUNA"]
    assert [c.lines[0].get_xdata()[0] for c in right.containers] == pytest.approx([2.0] * 5)
    assert len(figure.legends[0].get_texts()) == 3


def test_what_the_oracle_restores_is_drawn_over_the_steps() -> None:
    steps = {0.02: {"V0 oracle": right_on(0, 1)}, 0.01: {"V0 oracle": right_on(0)}}
    noise = {step: found | {"best of 3 noises, oracle sign": right_on()} for step, found in steps.items()}
    figure = figures.what_the_oracle_restores({"PGD-min": noise, "PGD": steps})
    assert [panel.get_title() for panel in figure.axes] == ["PGD-min", "PGD"]
    assert [len(panel.lines) for panel in figure.axes] == [2, 1]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0.01, 0.25], [0.02, 0.5]]


def test_tradeoffs_and_elastic_steps_have_a_line_per_choice() -> None:
    every, some, swept = right_on(0, 1, 2, 3), right_on(0, 1), Results()
    for name, step, benign, defended in (
        ("none", 0.0, every, right_on(3)), ("V1 self", 0.1, every, some), ("V1 self", 0.2, some, every)
    ):  # fmt: skip
        for attack, right in (("none", benign), ("PGD-min", defended), ("PGD", defended)):
            note(swept, name, right, attack, step=step)
    figure = figures.tradeoffs(swept, eps="0.1")
    left, right = (panel.lines[0].get_xydata().tolist() for panel in figure.axes)
    assert left == [[pytest.approx(2 / 3), 1.0], [1.0, 0.5]]
    assert right == [[0.5, 1.0], [1.0, 0.5]]
    assert figure.axes[0].lines[1].get_ydata() == [1.0, 1.0]  # undefended
    assert figure.axes[1].get_xlabel() == "accuracy under PGD, eps 0.1, %"
    hits, elastic = {"step 0.01": some, "oracle step": every, "stable step": some, "none": right_on()}, Results()
    for network, eps in (("LeNet-5", 0.0), ("LeNet-5", 0.1), ("CNN", 0.0)):
        for name, found in hits.items():
            note(elastic, name, found, "PGD" if eps else "none", eps=eps, model=network)
    figure = figures.elastic_steps(elastic)
    assert [panel.get_title() for panel in figure.axes] == ["digits, LeNet-5", "digits, CNN"]
    assert [line.get_label() for line in figure.axes[0].lines] == list(hits)
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[0.0, 1.0], [0.1, 1.0]]


def test_the_grid_shows_what_is_added(model: nn.Sequential, images: Tensor, attacked: Tensor) -> None:
    own = inverse_direction(model, images[:2])
    figure = figures.what_is_added(images[:2], attacked[:2], {"V1": own}, {"V1": images[:2]}, columns=["a", "b"])
    names = [axes.get_ylabel() for axes in figure.axes[::2]]
    assert names == ["clean", "attacked", "attack", "V1", "defended\n(V1)"]
    assert float(visible_change(torch.zeros(1, 1, 2, 2)).mean()) == 0.5


def test_rows_without_labels_are_by_attack_beside_those_without_one() -> None:
    found, every = Results(), right_on(0, 1, 2, 3)
    for attack, eps in (("none", 0.0), ("PGD-min", 0.0), ("PGD", 0.1), ("PGD", 0.2)):
        note(found, V2, every, attack, part="label-free", eps=eps)
    note(found, V2, right_on(), "PGD", part="grid", eps=0.1)
    rows = measure.label_free_rows(found, 0.1)
    assert [*rows] == ["PGD-min", "PGD 0.1"]
    assert [(row["attack"], row["eps"]) for row in rows["PGD-min"]] == [("none", 0.0), ("PGD-min", 0.0)]
    assert [(row["attack"], row["eps"]) for row in rows["PGD 0.1"]] == [("none", 0.0), ("PGD", 0.1)]
    assert all(row["correct"] == 4 for case in rows.values() for row in case)


def test_hits_by_seed_are_in_the_order_of_the_rows() -> None:
    found, hits = Results(), {(3, V2): (0,), (3, "none"): (), (1, V2): (1, 2), (1, "none"): (3,)}
    for (seed, name), right in hits.items():
        note(found, name, right_on(*right), "PGD", seed=seed)
    mine, bare = measure.hits_by_seed(found, V2, "none")
    assert mine.tolist() == [right_on(0).tolist(), right_on(1, 2).tolist()]
    assert bare.tolist() == [right_on().tolist(), right_on(3).tolist()]
