"""A rehearsal of the page on neuron sensitivity in its profile "paper", which needs CIFAR-10 and a GPU.

All its code runs, on two architectures and 32x32 colour images, so that a typo or a shape that does not fit shows here
and not after hours of training. Its numbers are small, its ResNet18 is narrow and shallow, its images are made up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from advdef._data_sources import write_bundle
from advdef.data import load
from advdef.notebookfile import read_pair
from advdef.reproduction import execute

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "02_neuron_sensitivity.py"

TINY = {
    "train": 96, "epochs": 2, "train_steps": 1, "ramp": 1, "probe": 32, "probe_steps": 1, "seeds": 2,
    "pairs": 32, "measuring": 3, "substituted": 20, "draws": 1, "occluded": 16, "images": 24,
    "adaptive_images": 4, "steps": 2, "long": (2, 1), "queries": 5, "curve_images": 4, "curve": 1, "checks": "fast",
}  # fmt: skip

CHOICE = "P = notebook.choose(PROFILES, profile)"
CHANGES = {
    CHOICE: f"""from advdef.models.resnet import ResNet

{CHOICE}
assert {set(TINY)!r} <= P.keys(), "the rehearsal sets what the profile does not have"
P = P | {TINY!r}""",
    '"ResNet18": ResNet18,': '"ResNet18": partial(ResNet, blocks=(1, 1, 1, 1), width=4),',
    # so few images make enough steps to learn something
    'epochs=P["epochs"],': 'epochs=P["epochs"], batch_size=8,',
    # VGG16 is as large as it is: one training of it has to do
    'for k in ("AT", "SNS", "SNS random"):\n        function': 'for k in ("SNS",):\n        function',
}

Rehearsal = tuple[nbformat.NotebookNode, dict[str, Any]]

pytestmark = pytest.mark.slow


def write_images(folder: Path) -> None:
    """A bundle of threes and eights, as classes 3 and 8 of CIFAR-10: dark and bright, which a few steps learn.

    Within a class brightness varies by so much that 8/255 carry about a third of the images across, of even the best
    classifier of brightness: each attack finds images to break, and leaves some to the next one.
    """
    digits, arrays = load("digits"), dict[str, np.ndarray]()
    draws = torch.Generator().manual_seed(0)
    for part, split in (("train", digits.train), ("test", digits.test)):
        kept = torch.isin(split.labels, torch.tensor([3, 8]))
        strokes, labels = F.interpolate(split.images[kept] / 255, 32, mode="bilinear"), split.labels[kept]
        colours = torch.where(labels == 3, 0.46, 0.54)[:, None] + 0.03 * torch.randn(len(labels), 3, generator=draws)
        images = (colours[:, :, None, None] + 0.2 * (strokes - 0.5)).clamp(0, 1)
        arrays[f"{part}_images"] = (255 * images).round().byte().permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_labels"] = labels.numpy()
    write_bundle(folder / "cifar10.npz", arrays)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """The executed notebook, and its record."""
    folder, notebook = tmp_path_factory.mktemp("rehearsal"), read_pair(NOTEBOOK)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in CHANGES.items():
        found = sum(cell.source.count(old) for cell in code)
        assert found == 1, f"the notebook says {old!r} {found} times: adapt the rehearsal"
        for cell in code:
            cell.source = cell.source.replace(old, new)
    write_images(folder)
    places = {"ADVDEF_DATA": folder, "ADVDEF_CACHE": folder / "cache", "ADVDEF_RESULTS": folder / "results"}
    settings = {"ADVDEF_RESUME": "", "OMP_NUM_THREADS": "1"}
    execution = execute(
        notebook,
        folder / NOTEBOOK.with_suffix(".ipynb").name,
        paper="neuron_sensitivity",
        parameters={"profile": "paper", "device": "cpu"},
        environment=settings | {name: str(place) for name, place in places.items()},
        folder=folder,
    )
    assert execution.failure is None, f"cell {execution.failure.cell}: {execution.failure.error}"
    record = folder / "results" / "neuron_sensitivity" / "cifar10-paper.json"
    return nbformat.read(execution.notebook, as_version=4), json.loads(record.read_text())


def test_the_paper_profile_leaves_a_complete_record(rehearsal: Rehearsal) -> None:
    _, record = rehearsal
    assert (record["profile"], record["dataset"], record["provenance"]["train_images"]) == ("paper", "cifar10", 96)
    assert [verdict["claim"][-2:] for verdict in record["verdicts"]] == ["S1", "S2", "S3", "S4", "S5", "S6"]
    assert {row["model"] for row in record["rows"]} == {"ResNet18", "VGG16"}


@pytest.mark.parametrize("model", ["ResNet18", "VGG16"])
def test_every_attack_met_images_of_each_network(rehearsal: Rehearsal, model: str) -> None:
    """Else its code was not rehearsed: an attack that is left no image does nothing."""
    _, record = rehearsal
    tried: dict[str, int] = {}
    for row in record["rows"]:
        if row["model"] == model and "tried" in row:
            tried[row["attack"]] = tried.get(row["attack"], 0) + row["tried"]
    assert len(tried) > 10
    assert min(tried.values()) > 0, tried


def test_nothing_warns(rehearsal: Rehearsal) -> None:
    notebook, _ = rehearsal
    streams = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    assert [o.text for o in streams if o.name == "stdout" or "Warning" in o.text] == []
