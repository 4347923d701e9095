"""What the page on SNN purification measures and draws besides accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.colors import to_hex
from torch import Tensor, nn

from advdef.data import load
from advdef.evaluation import ATTACKERS, Results
from advdef.evaluation.results import WORST_CASE
from advdef.grid import Task
from advdef.papers.snn.classifiers import SmallSpikingResNet
from advdef.papers.snn.figures import (
    detection_curves,
    firing_by_layer,
    more_steps_and_larger_budgets,
    purifier_losses,
)
from advdef.papers.snn.measure import (
    detection,
    hits,
    noise_map_size,
    purification_stages,
    spike_raster,
    told_of_each,
    zero_gradients,
)
from advdef.papers.snn.neurons import firing_rates
from advdef.papers.snn.purifier import UNIT, Purifier
from advdef.papers.snn.study import SpikingPurification
from advdef.plotting import COLOURS


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


def with_all_before(tasks: list[Task]) -> set[Task]:
    return set(tasks) | (with_all_before([t for task in tasks for t in task.after]) if tasks else set())


@pytest.mark.parametrize("profile", SpikingPurification.profiles)
def test_a_grid_computes_all_that_the_page_asks_for(profile: str) -> None:
    study = SpikingPurification(load("digits"), SpikingPurification.profiles[profile])
    (tasks,) = study.stages()
    found = {(task.call, *task.arguments): task for task in with_all_before(list(tasks))}
    assert all(callable(getattr(study, call)) for call, *_ in found)
    shards = range(2 if profile == "paper" else 1)
    alone = [*study.settings["levels"], *study.settings["trainings"]]
    assert found.keys() >= {
        *(("classifier", *key) for key in study.classifiers),
        *((call, *key) for key in study.purifiers for call in ("purifier", "ablation")),
        *(("part", k, i) for k in study.known for i in shards),
        *(("static", k) for k in study.defences),
        *(("core", *key, share) for key in study.compared for share in (0.25, 0.5)),
        *(("clean", k) for k in [*alone, "purifier + FGSM-AT"]),
    }
    assert found["defence", "gate"] in found["part", "gate", 0].after
    for k in ("purifier + FGSM-AT", "FGSM-AT"):
        needed = with_all_before([found["static", k]])
        assert {("classifier", "SE-MLF3", 0), ("classifier", "FGSM-AT", 0)} <= {(t.call, *t.arguments) for t in needed}


def test_hits_are_those_of_each_kind_of_image_and_are_kept(tmp_path: Path) -> None:
    images, labels = (torch.eye(4) / 2).reshape(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    made = {"clean": images, "a, b": images[:2].flip(0)}
    for _ in range(2):
        found = hits(nn.Flatten(), made, labels, resume=tmp_path)
        assert {k: v.tolist() for k, v in found.items()} == {"clean": [True, True, True, False], "a, b": [False] * 2}
    assert len(list(tmp_path.iterdir())) == 1
    assert hits(nn.Flatten(), made, 3 - labels, resume=tmp_path)["clean"].tolist() == [False, False, False, True]


class Told(Purifier):
    """A purifier that takes off a given perturbation, and reports ``factor`` times its size as noise."""

    def __init__(self, perturbation: Tensor, factor: float = 1.0) -> None:
        super().__init__(1, width=2, extractor_width=2, steps=1)
        self.perturbation, self.factor = perturbation, factor

    def extract(self, images: Tensor) -> Tensor:
        return self.factor * self.perturbation.abs() / UNIT

    def restore(self, images: Tensor, noise: Tensor) -> Tensor:
        return images - self.perturbation


def clean_and_perturbation() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = 0.3 + 0.4 * torch.rand(3, 1, 8, 8, generator=generator)
    return clean, 0.2 * torch.rand(3, 1, 8, 8, generator=generator) - 0.1


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    clean, attacked = torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([0.3, 0.5, 0.05])
    pairs = (attacked[:, None] > clean).double() + 0.5 * (attacked[:, None] == clean).double()
    found = detection(clean, attacked)
    assert found.area == pytest.approx(pairs.mean().item())
    assert (found.false_alarms[0], found.found[0]) == (0, 0)
    assert (found.false_alarms[-1], found.found[-1]) == (1, 1)
    assert found.area == pytest.approx(torch.trapezoid(found.found, found.false_alarms).item())


@pytest.mark.parametrize(("shift", "images"), [(0.0, 30), (1.8, 60), (2.5, 60)])
def test_the_interval_of_the_area_is_seldom_wrong(shift: float, images: int) -> None:
    generator, runs = torch.Generator().manual_seed(0), 400
    true = 0.5 * (1 + math.erf(shift / 2))  # a pair of normal distances is in the right order
    covered = 0
    for _ in range(runs):
        clean, attacked = torch.randn(2, images, generator=generator)
        found = detection(clean, attacked + shift).interval
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / runs <= 0.99


def test_the_interval_of_the_area_has_a_width_where_all_pairs_are_in_one_order() -> None:
    low, high = torch.arange(30.0), torch.arange(30.0) + 100
    best, worst = detection(low, high).interval, detection(high, low).interval
    assert (best.value, best.high, worst.value, worst.low) == (1, 1, 0, 0)
    assert 0.85 < best.low < 0.95
    assert worst.high == pytest.approx(1 - best.low, abs=1e-6)


def test_the_noise_map_is_compared_in_pixels() -> None:
    clean, perturbation = clean_and_perturbation()
    true, estimate, together = noise_map_size(Told(perturbation, 2.0), clean + perturbation, clean)
    assert true == pytest.approx(perturbation.abs().mean().item(), rel=1e-4)
    assert estimate == pytest.approx(2 * true, rel=1e-4)
    assert together == pytest.approx(1, abs=1e-4)


def test_without_a_perturbation_there_is_no_correlation() -> None:
    clean, perturbation = clean_and_perturbation()
    true, estimate, together = noise_map_size(Told(perturbation), clean, clean)
    assert (true, together) == (0, None)
    assert estimate > 0


def test_stages_show_what_was_done_to_each_image() -> None:
    clean, perturbation = clean_and_perturbation()
    clean[0], perturbation[0] = 0.5, 0.0
    perturbation[0, 0, 0] = torch.tensor([0.1] * 4 + [-0.1] * 4)
    stages = purification_stages(Told(perturbation), clean + perturbation, clean)
    assert [name.replace("\n", " ") for name in stages] == [
        "clean", "attacked", "attacked − clean", "noise map", "purified", "purified − attacked", "purified − clean",
    ]  # fmt: skip
    torch.testing.assert_close(stages["purified"], clean)
    change = stages["attacked\n− clean"]
    torch.testing.assert_close(change[0, 0, 0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(change[0, 0, 1:], torch.full((7, 8), 0.5))
    torch.testing.assert_close(stages["purified\n− attacked"], 1 - change)
    assert stages["noise map"].flatten(1).amax(1).tolist() == pytest.approx([1, 1, 1])
    assert all(shown.min() >= 0 and shown.max() <= 1 for shown in stages.values())


def test_no_change_is_grey() -> None:
    clean, perturbation = clean_and_perturbation()
    stages = purification_stages(Told(0 * perturbation), clean, clean)
    assert stages["attacked\n− clean"].unique().tolist() == [0.5]
    assert stages["noise map"].unique().tolist() == [0]


class Bright(nn.Module):
    """Class 1 for images that are brighter than 0.5 on average."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_a_title_tells_the_classes_and_how_near_the_images_are() -> None:
    clean = torch.full((1, 1, 4, 4), 0.49)
    stages = {"clean": clean, "attacked": clean + 0.1, "purified": clean + 0.01}
    assert told_of_each(Bright(), stages, torch.tensor([0]), ["dark", "bright"]) == [
        "dark → bright\n→ dark\n20.0 → 40.0"
    ]


def test_a_raster_has_a_row_for_each_neuron_and_a_column_for_each_step() -> None:
    torch.manual_seed(0)
    model, image = SmallSpikingResNet((1, 8, 8), 4, steps=3, width=4).eval(), torch.rand(1, 1, 8, 8)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data *= 5  # so that every layer fires
    layer, rate = list(firing_rates(model, image).items())[-1]
    whole, part = spike_raster(model, image, layer, neurons=10_000), spike_raster(model, image, layer, neurons=5)
    assert part.shape == (5, 3)
    assert torch.equal(part, whole[:5])
    assert whole.mean().item() == pytest.approx(rate)
    assert not part.requires_grad
    with pytest.raises(ValueError, match="no layer 'x'"):
        spike_raster(model, image, "x")


class Cut(nn.Module):
    """Logits that see the left half of the first image, and of the second image nothing."""

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.zeros_like(images)
        seen[0, :, :, :2] = 1
        return (images * seen).flatten(1)


def test_zero_gradients_are_counted_by_pixels_and_by_images() -> None:
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    pixels, whole = zero_gradients(Cut(), images, labels)
    assert (pixels, whole) == (0.75, 0.5)
    assert not images.requires_grad


def test_losses_are_drawn_for_each_seed_with_one_name_for_a_variant() -> None:
    first, second = torch.tensor([3.0, 2.0]), torch.tensor([4.0, 1.0])
    (panel,) = purifier_losses({"purifier": [first, second], "ANN purifier": [second]}).axes
    assert [line.get_ydata().tolist() for line in panel.lines] == [[3, 2], [4, 1], [4, 1]]
    assert panel.lines[0].get_xdata().tolist() == [1, 2]
    assert [line.get_alpha() for line in panel.lines] == [None, 0.5, None]
    assert panel.get_legend_handles_labels()[1] == ["purifier", "ANN purifier"]


def test_firing_has_the_purifier_left_of_the_classifier_and_a_raster_for_each_image() -> None:
    rasters = {k: torch.full((5, 2), n) for n, k in enumerate(("clean", "attacked", "purified"))}
    inside = {k: {"a": 0.1 * n, "b": 0.2} for n, k in enumerate(rasters)}
    before = {k: {"a": 0.3 * n, "b": 0.4, "c": 0.5} for n, k in enumerate(("clean", "attacked"))}
    figure = firing_by_layer(before, inside, rasters)
    rates, *panels = figure.axes
    lines = [list(line.get_xdata()) for line in rates.lines]
    assert lines == [[3, 4]] * 3 + [[0, 1, 2]] * 2 + [[2.5, 2.5]]
    assert [list(line.get_ydata()) for line in rates.lines[1:5:3]] == [[0.1, 0.2], [0.3, 0.4, 0.5]]
    assert to_hex(rates.lines[1].get_color()) == to_hex(rates.lines[4].get_color())
    assert [panel.get_title() for panel in panels] == list(rasters)
    assert [panel.images[0].get_array().max() for panel in panels] == [0, 1, 2]
    assert [text.get_text() for text in panels[0].get_xticklabels()] == ["1", "2"]


def test_an_oblivious_attack_is_dotted_in_the_colour_of_the_defence() -> None:
    steps, large = Results(), Results()
    where = {"part": "-", "dataset": "digits", "model": "small", "defence": "purifier", "attack": WORST_CASE, "seed": 0}
    for threat in ATTACKERS[1::-1]:  # direct, oblivious
        for count, n in {1: 9, 10: 5}.items():
            steps.add_hits(torch.arange(10) < n, threat=threat, eps=0.1, steps=count, **where)
    for eps, n in {0.2: 0, 0.1: 4}.items():
        large.add_hits(torch.arange(10) < n, threat="direct", eps=eps, **where)
    left, right = more_steps_and_larger_budgets(steps, large).axes
    assert [drawn.get_linestyle() for drawn in left.lines] == ["-", ":"]
    assert [drawn.get_label() for drawn in left.lines] == ["purifier", "purifier, oblivious"]
    assert {drawn.get_color() for drawn in left.lines} == {COLOURS["purifier"]}
    assert left.lines[1].get_xydata().tolist() == [[1, 0.9], [10, 0.5]]
    assert [text.get_text() for text in left.get_xticklabels()] == ["1", "10"]
    assert right.lines[0].get_xydata().tolist() == [[0.1, 0.4], [0.2, 0]]


def test_detection_has_a_curve_for_each_attack_and_the_share_it_was_set_to() -> None:
    distances = torch.tensor([0.1, 0.2])
    found = {k: detection(distances, distances + 0.1 * n) for n, k in enumerate("abcd")}
    (panel,) = detection_curves(found, false_alarms=0.1).axes
    *curves, chance, share = panel.lines
    assert [line.get_label() for line in curves] == [f"{k}: area {v.area:.2f}" for k, v in found.items()]
    assert curves[1].get_xydata().tolist() == [
        [x, y] for x, y in zip(found["b"].false_alarms.tolist(), found["b"].found.tolist(), strict=True)
    ]
    assert chance.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert list(share.get_xdata()) == [0.1, 0.1]
