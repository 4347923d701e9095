"""What the page on neuron sensitivity computes besides its verdicts: experiments, comparisons, tables and figures."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import pgd, suites
from advdef.data import Dataset
from advdef.evaluation import Finding, Outcome, Results, Threat, three_curves
from advdef.evaluation.results import WORST_CASE
from advdef.grid import Task
from advdef.models import SmallResNet
from advdef.papers.sensitivity import figures, tables
from advdef.papers.sensitivity.comparison import activity, correlations, gain_over
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.sensitivity.experiments import (
    CONTROLS,
    OCCLUDED,
    channel_views,
    occluded_accuracy,
    restored_accuracy,
    skip_occlusion,
    skip_restoration,
)
from advdef.papers.sensitivity.interventions import correct_after_substitution
from advdef.papers.sensitivity.measure import Pairs, make_pairs, measure, select, sensitivity
from advdef.papers.sensitivity.migration import migration, selections
from advdef.papers.sensitivity.readings import (
    agreement_of_first,
    before_relu,
    common_share,
    pairwise_table,
    rank_agreement,
    reordered,
)
from advdef.papers.sensitivity.study import Stabilization
from advdef.statistics import Interval, mean_share, spearman, wilson
from advdef.training import train_standard

EPS = 0.15
SHARES = (0.25, 1.0)


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model(digits: Dataset) -> SmallResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallResNet(digits.shape, digits.num_classes, width=4)
    train_standard(network, digits.train.head(400), epochs=6, learning_rate=1e-2, batch_size=50, generator=seeded())
    return network.eval()


@pytest.fixture(scope="module")
def turned(model: SmallResNet, digits: Dataset) -> Pairs:
    images, labels = digits.test.float_images()[:60], digits.test.labels[:60]
    return make_pairs(model, images, labels, partial(pgd, steps=5, stop_early=True), eps=EPS, keep="successful")


@pytest.fixture(scope="module")
def ranking(model: SmallResNet, turned: Pairs) -> dict[str, Tensor]:
    return sensitivity(model, turned)


def results_of(right: dict[str, tuple[int, ...]], n: int = 4) -> Results:
    """How many of n images the networks of a training are right on, one network per seed, in the worst case."""
    found = Results()
    for defence, counts in right.items():
        for seed, count in enumerate(counts):
            found.add_hits(
                torch.arange(n) < count, part="worst", dataset="digits", model="CNN", defence=defence,
                threat="adaptive", attack=WORST_CASE, eps=EPS, seed=seed,
            )  # fmt: skip
    return found


@pytest.mark.parametrize("profile", Stabilization.profiles)
def test_each_task_is_a_call_of_the_study_and_stands_on_tasks_before_it(digits: Dataset, profile: str) -> None:
    study, known = Stabilization(digits, Stabilization.profiles[profile]), list[Task]()
    for stage in study.stages():
        for task in stage:
            inspect.signature(getattr(type(study), task.call)).bind(study, *task.arguments)
            assert set(task.after) <= set(stage) | set(known), task
        known += stage
    assert len({(task.call, task.arguments) for task in known}) == len(known)
    trained = {task.arguments for task in known if task.call == "training"}
    for task in known:
        if task.call in ("meter", "part"):  # a network is trained before, and so are those that it meets
            needed = {before.arguments for before in task.after if before.call == "training"}
            assert {arguments for arguments in trained if arguments[:2] == task.arguments[:2]} & needed
            if task.call == "part" and len(task.arguments) == 3:
                assert set(study.sources(*task.arguments[:2]).values()) <= needed


def test_all_neurons_restored_mend_every_decision(
    model: SmallResNet, turned: Pairs, ranking: dict[str, Tensor], tmp_path: Path
) -> None:
    found = restored_accuracy(model, turned, ranking, shares=SHARES, draws=2, generator=seeded())
    assert tuple(found) == CONTROLS
    assert all(right.shape == (2, len(ranking), len(turned)) for right in found.values())
    whole = [number for number, layer in enumerate(ranking) if not layer.endswith("inner")]  # no shortcut beside them
    for control in ("most sensitive", "least sensitive"):
        assert bool((found[control][1, whole] == 1).all())  # the clean pass from that layer on
    for control in ("equal change", "equal energy"):  # of all neurons that is all of them
        assert torch.equal(found[control][1], found["most sensitive"][1])
    few = select({"pool": ranking["pool"]}, ratio=SHARES[0])
    right = correct_after_substitution(model, turned.adversarial, turned.images, turned.labels, [few])[0]
    assert torch.equal(found["most sensitive"][0, list(ranking).index("pool")], right.double())
    assert 0 < float(right.double().mean()) < 1
    assert set(found["random"].unique().tolist()) <= {0.0, 0.5, 1.0}  # of two draws
    skipped = seeded()
    skip_restoration(ranking, shares=len(SHARES), draws=2, generator=skipped)
    for _ in range(2):
        draws = seeded()
        again = restored_accuracy(model, turned, ranking, shares=SHARES, draws=2, generator=draws, resume=tmp_path)
        assert list(again) == list(found)
        assert all(torch.equal(found[control], again[control]) for control in CONTROLS)
        assert torch.equal(draws.get_state(), skipped.get_state())


def test_without_any_neuron_all_images_are_one_class(
    model: SmallResNet, turned: Pairs, ranking: dict[str, Tensor], tmp_path: Path
) -> None:
    asked: list[nn.Module] = []

    def attack(network: nn.Module) -> Tensor:
        asked.append(network)
        return turned.adversarial

    layer = {"pool": ranking["pool"]}  # with all of it at zero, the head gives its bias
    occlude = partial(
        occluded_accuracy, model, turned.images, turned.labels, layer, shares=SHARES, draws=2, reference=turned.images
    )
    found = occlude(generator=seeded(), attack=attack)
    assert list(found) == [(mode, which) for mode in ("zero", "mean") for which in OCCLUDED]
    assert list(found["zero", "random"]) == ["clean", "replayed", "attacked anew"]
    assert list(found["mean", "random"]) == ["clean"]
    biased = (turned.labels == model.head.bias.argmax()).double()
    for which in OCCLUDED:
        assert torch.equal(found["zero", which]["clean"][1, 0], biased)
        assert found["mean", which]["clean"].shape == (2, 1, len(turned))
        assert torch.equal(found["zero", which]["replayed"], found["zero", which]["attacked anew"])
    assert asked[0] is model
    assert model not in asked[1:]
    real = partial(pgd, images=turned.images, labels=turned.labels, eps=0.1, steps=1)
    occlude(generator=seeded(), attack=real)  # which finds no gradient there, and warnings are errors in tests
    assert len(asked) == 1 + 2 * (1 + 3 * 2 + 1)  # shares, and draws of three controls
    skipped = seeded()
    skip_occlusion(layer, shares=len(SHARES), draws=2, generator=skipped)
    for _ in range(2):
        draws = seeded()
        plain = occlude(generator=draws, resume=tmp_path)
        assert torch.equal(draws.get_state(), skipped.get_state())
        assert list(plain) == list(found)
    assert len(list(tmp_path.iterdir())) == 1
    assert all(list(kinds) == ["clean"] for kinds in plain.values())
    assert torch.equal(plain["zero", "random"]["clean"], found["zero", "random"]["clean"])


def test_views_are_dimmed_where_a_channel_is_silent(
    model: SmallResNet, turned: Pairs, ranking: dict[str, Tensor]
) -> None:
    few = turned.of(slice(3))
    views = channel_views(model, few, "stem", ranking["stem"])
    clean, *others = views.values()
    assert clean is few.images
    assert len(others) == 4
    assert [name.split(",")[-1] for name in list(views)[1:]] == [" clean", " adversarial"] * 2
    most, least = (name.split(",")[0] for name in list(views)[1::2])
    assert most != least
    for view, images in zip(others, (few.images, few.adversarial) * 2, strict=True):
        dimmed, left = torch.isclose(view, 0.2 * images), view == images
        assert bool((dimmed | left).all())
    assert not torch.equal(others[0], few.images)


def test_reordering_keeps_the_function_and_turns_the_ranking_round(model: SmallResNet, turned: Pairs) -> None:
    layer = next(tap for tap in model.taps if tap.endswith("inner"))
    before = measure(model, turned, layers=[layer])
    twin = reordered(model, layer, before.compute()[layer])
    after = measure(twin, turned, layers=[layer])
    with torch.no_grad():
        assert torch.allclose(twin(turned.images), model(turned.images), atol=1e-4)
    assert rank_agreement(before.compute(), after.compute()) == pytest.approx(-1)
    assert rank_agreement(before.compute("standardized"), after.compute("standardized")) > 0.9


def test_readings_are_compared_layer_by_layer(model: SmallResNet, turned: Pairs, ranking: dict[str, Tensor]) -> None:
    found = agreement_of_first(model, turned)
    assert list(found) == [n for n in (10, 20, 50) if n < len(turned)]
    assert all(0 < value <= 1 for value in found.values())
    early = before_relu(model, turned)
    inner = [tap for tap in model.taps if tap.endswith("inner")]
    assert set(early) == {"stem", *inner, "pool"}
    assert torch.equal(early["pool"], ranking["pool"])  # no ReLU between its parts
    assert bool((early["stem"] >= ranking["stem"] - 1e-12).all())  # which makes no change larger
    flipped = {layer: -values for layer, values in ranking.items()}
    table = pairwise_table({"D1": ranking, "minus D1": flipped}, rank_agreement)
    assert table.loc["D1", "D1"] == pytest.approx(1)
    assert table.loc["minus D1", "D1"] == pytest.approx(-1)
    constant = ranking | {"stem": torch.ones_like(ranking["stem"])}
    assert rank_agreement(constant, constant) == pytest.approx(1)  # of the other layers
    assert (
        common_share(
            {"a": torch.tensor([0]), "b": torch.tensor([0, 1])}, {"a": torch.tensor([1]), "b": torch.tensor([0, 1])}
        )
        == 0.5
    )


def test_migration_tells_what_became_of_the_neurons_that_were_held(model: SmallResNet, turned: Pairs) -> None:
    meter = measure(model, turned, layers=["stem"])
    top = select(meter.compute(), ratio=0.1)["stem"]
    (other,) = [n for n in range(2) if n != int(top)][:1]
    even = torch.ones(2, 4)
    history = {"loss": torch.zeros(3), "sensitivity.stem": even, "chosen.stem": torch.tensor([[other], [int(top)]])}
    assert [int(chosen["stem"]) for chosen in selections(history)] == [other, int(top)]
    assert selections({"loss": torch.zeros(3)}) == []
    found = migration(history, meter)
    now = meter.compute()["stem"]
    assert (found.selections, found.turnover, found.ever, found.then, found.kept) == (2, 0.0, 0.5, 0.25, 1.0)
    assert found.now == pytest.approx(float(now.max() / now.sum()))
    once = migration(history | {"chosen.stem": torch.tensor([[other]]), "sensitivity.stem": even[:1]}, meter)
    assert (once.turnover, once.kept) == (None, 0.0)
    shown = tables.table_of_migration({"SNS": found, "chosen once": once})
    assert shown["two in a row share (Jaccard)"].tolist() == ["0.00", "–"]
    assert shown["neurons ever chosen"].tolist() == ["50 %", "25 %"]


def test_gains_are_of_the_treated_networks_seed_by_seed() -> None:
    found = results_of({"AT": (1, 2), "SNS": (3, 2), "ALP": (1,)})
    gain = gain_over(found, "SNS", "AT")
    assert gain.by_seed == (0.5, 0.0)
    assert gain.interval.value == 0.25
    assert gain.interval.low < -0.9  # of two seeds little is known
    row = tables.table_of_gains({("SNS", "AT"): gain}).iloc[0]
    assert (row["difference"], row["by seed"]) == ("SNS − AT", "+50.0, +0.0")
    for method, other in (("SNS", "ALP"), ("ALP", "SNS")):
        with pytest.raises(ValueError, match="no row has seed 1"):
            gain_over(found, method, other)


def test_means_are_over_the_seeds_that_were_trained() -> None:
    rows = tables.table_of_means(results_of({"AT": (4, 0), "VS": (4,)})).to_dict("list")
    assert rows == {"method": ["AT", "VS"], "seeds": [2, 1], "adaptive %": ["50.0 ± 70.7", "100.0"]}


def test_the_page_adds_its_attacks_to_those_of_the_protocol(model: SmallResNet, turned: Pairs, digits: Dataset) -> None:
    """As the page calls it; the network has its own gradient, so the strong attacks on it are the direct ones."""
    defence = Stabilized(model, sensitivity=sensitivity(model, turned), guides=digits.train.head(60))
    images, labels = digits.test.float_images()[:6], digits.test.labels[:6]
    more, ordinary, powerful = suites.standard(steps=2, queries=0), suites.cleverhans(), suites.strong(steps=2)
    found = three_curves(
        defence, images, labels, budgets=(EPS / 2, EPS), generator=seeded(), steps=2, queries=0, rounds=0, more=more,
        transfer={"AT": model},
    )  # fmt: skip
    tried = {threat: [f.name for f in curve[EPS].findings] for threat, curve in found.items()}
    assert tried["oblivious"] == list(ordinary)
    assert tried["direct"] == [*ordinary, *powerful]
    copied = [f"{name} from AT" for name in powerful]
    assert tried["adaptive"] == [*defence.adaptive_attacks(EPS), "noise", *more, *copied]
    assert bool((found["adaptive"][EPS].robust <= found["direct"][EPS].robust).all())


def test_correlations_are_over_the_networks_that_are_asked_for() -> None:
    networks = [("AT", s) for s in range(6)] + [("standard", 0), ("dead", 0)]
    robust = {key: 0.3 + 0.05 * i for i, key in enumerate(networks[:6])} | {networks[6]: 0.0}
    levels = {key: 1.0 - value for key, value in robust.items()} | {networks[7]: 9.0}
    size = {key: float(i % 3) for i, key in enumerate(networks)}
    found = correlations({"D1": levels}, robust, activations=size, adversarial=networks[:6])
    assert list(found) == ["D1, all", "D1, all, activation partialled out", "D1, adversarially trained"]
    expected = spearman(torch.arange(7.0), -torch.arange(7.0), groups=["AT"] * 6 + ["standard"])
    assert (found["D1, all"].low, found["D1, all"].high) == pytest.approx((expected.low, expected.high))
    assert all(interval.value == pytest.approx(-1) for interval in found.values())


def test_networks_of_one_training_are_one_draw() -> None:
    keys = [(f"training {i % 4}", s) for i, s in enumerate(range(40))]
    level = {key: float(i % 4) for i, key in enumerate(keys)}
    right = {key: -((i % 4 - 1.5) ** 2) - i % 4 + 0.01 * i for i, key in enumerate(keys)}
    found = correlations(
        {"D1": level},
        right,
        activations={key: float(s) for key, s in zip(keys, range(40), strict=True)},
        adversarial=keys,
    )
    alone = spearman(torch.tensor(list(level.values())), torch.tensor(list(right.values())))
    assert found["D1, all"].value == pytest.approx(alone.value)
    width = found["D1, all"].high - found["D1, all"].low
    assert width > 1.5 * (alone.high - alone.low)


def test_activity_counts_classes(model: SmallResNet, digits: Dataset) -> None:
    images = digits.test.float_images()[:250]
    with torch.no_grad():
        expected = len(model(images).argmax(1).unique())
    classes, level = activity(model, images, model.taps)
    assert classes == expected > 1
    assert level == pytest.approx(activity(model, images[:200], model.taps)[1])
    assert level > 0


def test_tables_say_what_was_found(model: SmallResNet, turned: Pairs) -> None:
    meter = measure(model, turned)
    (row,) = tables.table_of_places({"standard": (model, turned, meter)}).to_dict("records")
    assert row["pairs (correct images)"] == row["of these turned"] == len(turned)

    restored = {
        "AT": {
            c: torch.full((2, 3, 5), share) for c, share in zip(CONTROLS, (0.5, 0.4, 0.4, 0.3, 0.2, 0.1), strict=True)
        }
    }
    leads = {("AT", c): Interval(0.1, 0.0, 0.2) for c in CONTROLS[1:]}
    (row,) = tables.table_of_substitution(restored, leads).to_dict("records")
    assert (row["images"], row["most sensitive"], row["least sensitive"]) == (5, "50.0", "10.0")
    assert [name for name in row if "lead" in name] == [f"lead over {c}" for c in CONTROLS[1:5]]

    lost = {"AT": {("zero", w): {"clean": torch.full((2, 3, 5), 0.5)} for w in OCCLUDED}}
    costs = {("AT", "zero", "clean"): {"random": Interval(0.1, 0.0, 0.2)}}
    (row,) = tables.table_of_occlusion(lost, costs).to_dict("records")
    assert row["without random %"] == "50.0"
    assert row["sensitive cost more than random by"] == "+10.0 [+0.0, +20.0]"


def attempt(name: str, tried: int, left: int) -> Finding:
    """An attack on the first of four images that leaves fewer of them."""
    rows = torch.arange(4)
    return Finding(name, rows < tried, (rows < tried) & (rows >= left), seconds=1.2, forwards=2_000, backwards=1_000)


def test_tables_tell_which_attacks_broke_images_and_what_they_took() -> None:
    found, every = Results(), torch.ones(4, dtype=torch.bool)
    tries: dict[Threat, list[Finding]] = {
        "direct": [attempt("APGD", 4, 3)],
        "adaptive": [attempt("routing", 3, 1), attempt("feature adversary", 1, 1)],
    }
    for threat, findings in tries.items():
        left = torch.arange(4) < (3 if threat == "direct" else 1)
        outcome = Outcome(EPS, every, left, torch.zeros(4, 1, 2, 2), tuple(findings))
        found.add(outcome, part="worst", dataset="digits", model="CNN", defence="AT", threat=threat, seed=0)
    (row,) = tables.table_of_breaks(found).to_dict("records")
    assert row == {"method": "AT", "left by direct": 3, "then broken by": "routing (2)", "left": 1}
    (row,) = tables.table_of_costs(found, [{"defence": "AT", "training_seconds": 12.3}]).to_dict("records")
    assert list(row.values()) == ["AT", "12", 1, "4", "6,000", "3,000"]


SQUARE = pd.DataFrame([[1.0, -0.8], [-0.8, 1.0]], index=["a", "b"], columns=["a", "b"])


def test_matrices_carry_their_numbers() -> None:
    figure = figures.draw_readings(
        {"standard": SQUARE, "AT": SQUARE}, {"standard": {10: 0.5, 20: 0.9}, "AT": {10: 0.4}}
    )
    first, second, last = figure.axes
    assert [text.get_text() for text in first.texts] == ["1.00", "-0.80", "-0.80", "1.00"]
    assert {text.get_color() for text in first.texts} == {"white"}
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]
    assert not any(label.get_text() for label in second.get_yticklabels())
    assert last.lines[0].get_xydata().tolist() == [[10, 0.5], [20, 0.9]]
    assert last.get_xticks().tolist() == [10, 20]
    figure = figures.draw_overlap({"standard": SQUARE.abs() / 2})
    assert {text.get_color() for text in figure.axes[0].texts} == {"white"}  # dark below 0.6


def test_lines_show_what_was_measured() -> None:
    sigma = {"stem": torch.tensor([1.0, 3.0]), "pool": torch.tensor([2.0])}
    profiles = {label: {"standard": sigma, "AT": {k: v / 2 for k, v in sigma.items()}} for label in ("D1", "D4")}
    above, *_ = figures.draw_profiles(profiles).axes
    assert [line.get_ydata().tolist() for line in above.lines] == [[2, 2], [1, 1]]

    right = {control: torch.full((2, 3, 5), 0.1 * i) for i, control in enumerate(CONTROLS)}
    figure = figures.draw_substitution(dict.fromkeys(("standard", "AT", "standard, late", "AT, late"), right), SHARES)
    assert [panel.get_title() for panel in figure.axes][2] == "standard, late"
    assert figure.axes[3].lines[2].get_ydata() == pytest.approx([0.2, 0.2])
    assert [len(panel.collections) for panel in figure.axes] == [6] * 4
    ends = figure.axes[3].collections[2].get_paths()[0].vertices[:, 1]
    over_images = mean_share(torch.full((5,), 0.2))
    assert (ends.min(), ends.max()) == pytest.approx((over_images.low, over_images.high))
    assert figure.axes[2].get_ylabel() == "restored accuracy, %"

    kinds = {"clean": 0.9, "replayed": 0.5, "attacked anew": 0.3}
    measured = {kind: torch.full((2, 3, 5), share) for kind, share in kinds.items()}
    lost = {k: dict.fromkeys([("zero", w) for w in OCCLUDED], measured) for k in ("standard", "AT")}
    figure = figures.draw_occlusion(lost, SHARES, {"standard": 0.95, "AT": 0.8})
    assert [len(panel.lines) for panel in figure.axes] == [6, 6, 10]
    assert figure.axes[1].lines[-1].get_ydata() == [0.8, 0.8]
    assert figure.axes[2].lines[1].get_ydata() == pytest.approx([0.5, 0.5])
    assert [len(panel.collections) for panel in figure.axes] == [5, 5, 10]
    assert [panel.yaxis.get_major_formatter()(0.5, 0) for panel in figure.axes] == ["50"] * 3


def test_points_are_networks() -> None:
    counts = {("AT", 0): (8, 4), ("AT", 1): (7, 5), ("SNS", 0): (6, 6), ("weight 3", 0): (5, 7)}
    points = {key: (wilson(clean, 10), wilson(robust, 10)) for key, (clean, robust) in counts.items()}
    (panel,) = figures.draw_trade_off(points, methods=("AT", "SNS"), seed=0, sweep=("SNS", "weight 3")).axes
    assert [text.get_text() for text in panel.texts] == ["weight 3"]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["AT", "SNS"]
    assert panel.lines[-1].get_xydata().tolist() == [[0.6, 0.6], [0.5, 0.7]]
    across, up = panel.containers[0][2]
    assert across.get_segments()[0].ravel() == pytest.approx([wilson(8, 10).low, 0.4, wilson(8, 10).high, 0.4])
    assert up.get_segments()[0].ravel() == pytest.approx([0.8, wilson(4, 10).low, 0.8, wilson(4, 10).high])

    levels = {"D1": {key: clean.value for key, (clean, _) in points.items()}, "D4": dict.fromkeys(points, 1.0)}
    robust = {key: right for key, (_, right) in points.items() if key != ("AT", 1)}
    left, other = figures.draw_links(levels, robust, methods=("AT", "SNS"), seed=0).axes
    assert sorted(line.get_xydata().tolist()[0] for line in left.lines) == [[0.5, 0.7], [0.6, 0.6], [0.8, 0.4]]
    assert left.containers[0][2][0].get_segments()[0][:, 1] == pytest.approx([wilson(4, 10).low, wilson(4, 10).high])
    assert [text.get_text() for text in other.get_legend().get_texts()] == ["AT", "SNS"]
    assert math.isclose(other.lines[0].get_xdata()[0], 1.0)
