"""The pages of papers on a data set of one's own: other classes, colours and sizes, and few images."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from test_notebooks import executed

from advdef.book import page as notebook
from advdef.book.page import Page
from advdef.book.records import Run, read_record
from advdef.data import Dataset, load
from advdef.evaluation import ATTACKERS
from advdef.papers import line_up
from advdef.papers.comparison import FiveDefences
from advdef.papers.nip import attacked
from advdef.papers.nip.study import InversePerturbation
from advdef.papers.snn.study import SpikingPurification
from advdef.papers.trn.study import Restorers


def own(folder: Path, classes: int, *shape: int, train: int, test: int) -> Path:
    """Digits of some classes, coloured where there are three channels, in a file: ``shape`` is (C, H, W)."""
    digits, (channels, height, width) = load("digits"), shape
    content: dict[str, Any] = {"class_names": np.array([f"sign {i}" for i in range(classes)])}
    for part, split, count in (("train", digits.train, train), ("test", digits.test, test)):
        chosen = torch.nonzero(split.labels < classes)[:count, 0]
        images = torch.nn.functional.interpolate(split.images[chosen].float(), (height, width)).expand(
            -1, channels, -1, -1
        )
        tint = torch.tensor([1.0, 0.8, 0.6])[:channels, None, None]
        content |= {
            f"{part}_images": (tint * images).byte().permute(0, 2, 3, 1).numpy(),
            f"{part}_labels": split.labels[chosen].numpy(),
        }
    np.savez(folder / "mine.npz", **content)
    return folder / "mine.npz"


@pytest.fixture
def grey(tmp_path: Path) -> Dataset:
    """Three classes in grey, 60 and 20 images of 28 x 28 pixels."""
    return load(f"npz:{own(tmp_path, 3, 1, 28, 28, train=60, test=20)}")


def test_no_more_images_are_attacked_than_there_are(
    grey: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "record", lambda *_, **__: None)
    sizes = {"smoke": {"datasets": ("digits",), "images": 30, "few": 40, "train": 700}}
    told = Page("snn_purification", sizes, "smoke", dataset=f"npz:{tmp_path / 'mine.npz'}").settings
    assert (told["images"], told["few"], told["train"]) == (20, 20, 700)
    assert sizes["smoke"]["images"] == 30
    assert Page("snn_purification", sizes, "smoke").settings["images"] == 30


def test_a_page_that_trains_needs_training_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "alone.npz", test_images=np.zeros((4, 28, 28), np.uint8), test_labels=np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="npz-alone has no training images, and this page trains its networks"):
        Page("nip", {"smoke": {"datasets": ("digits",), "images": 4}}, "smoke", dataset=f"npz:{tmp_path / 'alone.npz'}")


def test_few_images_leave_some_to_learn_from_and_grey_ones_have_a_budget_of_their_own(grey: Dataset) -> None:
    spiking = SpikingPurification(grey, SpikingPurification.profiles["smoke"])
    assert (len(spiking.held), len(spiking.learnt.train), spiking.eps) == (12, 48, 0.1)
    assert Restorers(grey, Restorers.profiles["smoke"]).eps == 0.1


def test_a_purifier_says_at_once_which_images_it_takes(tmp_path: Path) -> None:
    data = load(f"npz:{own(tmp_path, 3, 1, 30, 30, train=60, test=20)}")
    with pytest.raises(ValueError, match="sides are multiples of 4, not 30 x 30 pixels"):
        SpikingPurification(data, SpikingPurification.profiles["smoke"])


def test_few_images_are_seen_often_enough(grey: Dataset, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """NIP's networks take at least 100 steps on data of one's own, and those of the comparison 40 on any."""
    epochs: dict[ModuleType, int] = {}
    for module in (attacked, line_up):
        monkeypatch.setattr(
            module, "trained", lambda *_, module=module, **told: epochs.update({module: told["epochs"]})
        )
    for data, expected in ((grey, (100, 40)), (digits, (6, 6))):
        InversePerturbation(data, InversePerturbation.profiles["smoke"]).training("LeNet-5", 0)
        FiveDefences(data, FiveDefences.profiles["smoke"]).training("undefended")
        assert tuple(epochs.values()) == expected


def test_infinite_numbers_are_null_in_a_record(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVDEF_RESULTS", str(tmp_path))
    run = Run("attack_agreement", "smoke", digits, 0)
    run.values |= {"PSNR of equal images": float("inf"), "both": [1.0, -float("inf")], "by attack": {"PGD": (2.0,)}}
    read_record(run.save())
    assert json.loads(run.save().read_text())["values"] == {
        "PSNR of equal images": None, "both": [1.0, None], "by attack": {"PGD": [2.0]},
    }  # fmt: skip


CASES = {
    "seven classes in colour": (7, 3, 32, 32, 400, 150),
    "two classes": (2, 1, 28, 28, 240, 100),
    "images that are not square": (10, 3, 48, 40, 600, 100),
    "few images": (3, 1, 28, 28, 60, 20),
}


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("paper", ["qusecnets", "neuron_sensitivity", "nip", "trn", "snn_purification"])
def test_a_page_runs_on_data_of_ones_own(paper: str, case: str, tmp_path: Path) -> None:
    classes, *shape, train, test = CASES[case]
    file = own(tmp_path, classes, *shape, train=train, test=test)
    if (paper, case) == ("qusecnets", "images that are not square"):
        with pytest.raises(AssertionError, match="square images"):
            executed(paper, tmp_path, {"dataset": f"npz:{file}"})
        return
    _, _, results = executed(paper, tmp_path, {"dataset": f"npz:{file}"})
    (record,) = map(read_record, results.glob("*.json"))
    assert record["dataset"] == "npz-mine"
    attacked = [row for row in record["results"] if row["threat"] in ATTACKERS and "n" in row]
    assert 0 < max(row["n"] for row in attacked) <= test
