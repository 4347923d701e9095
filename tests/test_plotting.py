"""The shared figures show every defence, threat model and image that they are given."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from advdef import plotting
from advdef.attacks import Trace
from advdef.evaluation import ATTACKERS, Results
from advdef.plotting import COLOURS, attack_traces, image_grid, robustness_curves, threat_panels


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


def curve(results: Results, dataset: str, defence: str, *threats: Any) -> None:
    """Three of ten images are left at 0.2, eight at 0.1."""
    for threat in threats:
        for eps, left in ((0.2, 3), (0.1, 8)):
            results.add_hits(
                torch.arange(10) < left, part="curve", dataset=dataset, model="CNN", defence=defence, threat=threat,
                attack="worst case", eps=eps, seed=0,
            )  # fmt: skip


def test_each_defence_gets_a_panel_with_a_line_per_threat_model_and_its_values() -> None:
    results, defences = Results(), list(COLOURS)[:5]
    for defence in defences:
        curve(results, "digits", defence, "direct", "adaptive")
    curve(results, "mnist", "CQ", "oblivious")
    figure = robustness_curves(results)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [*defences, "CQ"]
    assert [len(axes.lines) for axes in panels] == [2] * 5 + [1]
    assert panels[0].lines[0].get_xydata().tolist() == [[0.1, 0.8], [0.2, 0.3]]
    assert all(axes.yaxis.get_major_formatter()(0.4, 0) == "40" for axes in panels)
    assert panels[0].get_ylabel().endswith("robust accuracy, %")
    assert panels[0].get_ylabel().startswith("digits")
    assert all(axes.get_xlabel() for axes in panels)


def test_each_attacker_gets_a_panel_with_a_line_per_defence() -> None:
    results = Results()
    for defence in ("undefended", "AT", "mine"):
        curve(results, "digits", defence, *ATTACKERS)
    figure = threat_panels(results)
    assert [axes.get_title() for axes in figure.axes] == list(ATTACKERS)
    assert [len(axes.containers) for axes in figure.axes] == [3] * 3
    assert figure.axes[0].containers[0].lines[0].get_ydata().tolist() == [0.8, 0.3]
    assert figure.axes[2].yaxis.get_major_formatter()(0.4, 0) == "40"
    assert figure.axes[0].get_ylabel() == "robust accuracy, %"
    with pytest.raises(ValueError, match="no defence to draw"):
        threat_panels(Results())


def test_the_grid_shows_every_image_with_its_row_and_column_names() -> None:
    grey, colour = torch.rand(3, 1, 4, 4), torch.rand(3, 3, 4, 4)
    figure = image_grid({"grey": grey, "colour": colour}, columns=["a", "b", "c"])
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["grey", "colour"]
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]
    shown = figure.axes[4].images[0].get_array()
    assert torch.allclose(torch.as_tensor(shown), colour[1].permute(1, 2, 0))
    with pytest.raises(ValueError, match="zip"):
        image_grid({"grey": grey}, columns=["a", "b"])


def test_colours_differ_within_a_page() -> None:
    names = list(COLOURS)
    firsts = ("standard", "none", "another image's direction", "TRN", "random map", "early", "purifier", "LIF")
    second, third, controls, fourth, maps, fusions, fifth, levels = (names.index(name) for name in firsts)
    pages = names[:second], ["AT", *names[second:third]], ["AT", *names[third:controls]], ["none", *names[fourth:maps]]
    # figures of their own
    pages += (["V0 oracle", *names[controls:fourth]], ["TRN", "image only", *names[maps:fusions]])
    pages += (["TRN", *names[fusions:fifth]], ["none", *names[fifth:levels]], names[levels:])
    for page in pages:
        assert len({COLOURS[name] for name in page}) == len(page)


def test_a_trace_is_drawn_with_what_was_last_seen_of_an_image() -> None:
    loss = torch.tensor([[1.0, 1.0, 4.0], [2.0, torch.nan, 5.0], [3.0, torch.nan, torch.nan]])
    trace = Trace(loss, loss - 3, loss / 100, torch.zeros(3, 1, 2, 2))
    figure = attack_traces({"deployed": trace, "through the identity": trace}, eps=0.04)
    losses, margins, sizes = figure.axes
    assert [line.get_ydata().tolist() for line in losses.lines] == 2 * [[1.0, 2.0, 3.0]]
    assert margins.lines[0].get_ydata().tolist() == [-2.0, -1.0, 0.0]
    assert sizes.lines[-1].get_ydata() == [0.04, 0.04]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["deployed", "through the identity"]


def test_a_figure_calls_data_sets_what_prose_calls_them() -> None:
    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], label="fashion_mnist, TRN")
    axes.set_title("cifar10")
    axes.legend()
    said: list[str] = []
    plotting._told(figure, SimpleNamespace(text=said.append), False)
    assert (axes.get_title(), axes.get_legend().get_texts()[0].get_text()) == ("CIFAR-10", "Fashion-MNIST, TRN")
    assert "Fashion-MNIST, TRN from 0 to 1" in said[0]
    plt.close(figure)
