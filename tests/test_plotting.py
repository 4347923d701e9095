"""The shared figures show every defence, threat model and image that they are given."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

from advdef.evaluation import Outcome
from advdef.plotting import COLOURS, image_grid, robustness_curves


@pytest.fixture(autouse=True)
def _no_window() -> Iterator[None]:
    mpl.use("Agg")
    yield
    plt.close("all")


def outcome(eps: float, robust: int) -> Outcome:
    hits = torch.arange(10) < robust
    return Outcome(eps, torch.ones(10, dtype=torch.bool), hits, torch.zeros(10, 1, 2, 2))


def test_each_defence_gets_a_panel_with_a_line_per_threat_model_and_its_values() -> None:
    line = {0.2: outcome(0.2, 3), 0.1: outcome(0.1, 8)}
    defences = {name: {"direct": line, "adaptive": line} for name in list(COLOURS)[:5]}
    figure = robustness_curves({"digits": defences, "mnist": {"CQ": {"oblivious": line}}})
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == [*defences, "CQ"]
    assert [len(axes.lines) for axes in panels] == [2] * 5 + [1]
    assert panels[0].lines[0].get_xydata().tolist() == [[0.1, 0.8], [0.2, 0.3]]
    assert panels[0].get_ylabel().startswith("digits")
    assert all(axes.get_xlabel() for axes in panels)


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
