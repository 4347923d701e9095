"""What defences answer to images, and what they made of them, comes with the attacked images of a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdef.book.explorer import looked_at
from advdef.data import Dataset
from advdef.defenses import Undefended
from advdef.evaluation.answered import answered
from advdef.evaluation.packed import AttackedSet, PackedImages, pack, read_packed
from advdef.papers.nip.bank import fit_bank
from advdef.papers.nip.baselines import NoiseVote
from advdef.papers.nip.defence import NIPDictionary
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer


@pytest.fixture
def defences(network: nn.Sequential) -> dict[str, nn.Module]:
    return {"undefended": Undefended(network), "CQ": Quantized(network, Quantizer(2)).eval()}


def test_answers_and_what_the_network_was_given(
    defences: dict[str, nn.Module], digits: Dataset, network: nn.Sequential
) -> None:
    images = digits.test.float_images()[:5]
    moved = (images + 0.3).clamp(0, 1)
    found = answered(defences, images, [("undefended", 1 - images), ("CQ", moved)])
    assert found.classes.shape == found.percent.shape == (3, 2, 5)
    with torch.no_grad():
        logits = network(1 - images)
        probability, answer = logits.softmax(1).max(1)
        quantised = defences["CQ"].quantizer(moved)  # type: ignore[operator]
    assert torch.equal(found.classes[1, 0].long(), answer)
    assert torch.equal(found.percent[1, 0], (100 * probability).round().byte())
    assert set(found.seen) == {"CQ"}  # the other one changes no image
    assert found.seen["CQ"].shape == (2, 5, 1, 28, 28)  # the images, and those made against it
    assert torch.equal(found.seen["CQ"][1], (255 * quantised).round().byte())
    assert not torch.equal(found.seen["CQ"][0], found.seen["CQ"][1])


def test_of_many_edited_images_that_of_the_answer_is_kept(network: nn.Sequential, digits: Dataset) -> None:
    bank = fit_bank(network, digits.train, layer="4", per_class=5, kept=2)
    nip = NIPDictionary(network, bank, steps=(0.2,), rule="mean-logit")
    images = digits.test.float_images()[:4]
    seen = answered({"NIP": nip}, images, []).seen["NIP"][0]
    changed = (seen.float() / 255 - images).abs().flatten(1).amax(1)
    assert seen.shape == (4, 1, 28, 28)
    assert (changed > 0.01).all()


def test_a_random_defence_answers_the_same_each_time(network: nn.Sequential, digits: Dataset) -> None:
    images = digits.test.float_images()[:20]
    noisy = NoiseVote(network, step=0.8)
    first, second = (answered({"noise": noisy}, images, []) for _ in range(2))
    assert torch.equal(first.percent, second.percent)


def kept(defences: dict[str, nn.Module], digits: Dataset, *, asked: int | None) -> PackedImages:
    """The first half of six images fall, by a change of a quarter; the last one was wrong before."""
    images, labels = digits.test.float_images()[:6], digits.test.labels[:6]
    fell = torch.arange(6) < 3
    clean = torch.arange(6) < 5
    sets = []
    for name in defences:
        for threat in ("oblivious", "direct", "adaptive"):
            moved = torch.where(fell[:, None, None, None], (images + 0.25).clamp(0, 1), images)
            sets.append(AttackedSet(name, threat, 0.25, "Linf", clean, clean & ~fell, fell, moved))
    few = None
    if asked is not None:
        few = answered(defences, images[:asked], [(one.defence, one.attacked[:asked]) for one in sets])
    facts = {"classes": [f"digit {k}" for k in range(10)]}
    return PackedImages(images, labels, torch.arange(6), 6, tuple(sets), facts, few)


def all_wrong(name: str, images: Any) -> Tensor:
    return torch.ones(len(images), dtype=torch.bool)


def record(file: Path) -> dict[str, Any]:
    told = {"paper": "five_defences", "dataset": "digits", "profile": "smoke", "images": file}
    return told | {"provenance": {"date": "2026-01-02", "seed": 0}}


def test_answers_come_back_from_the_file_and_are_shown(
    defences: dict[str, nn.Module], digits: Dataset, tmp_path: Path
) -> None:
    whole = kept(defences, digits, asked=4)
    file = tmp_path / "a.safetensors"
    pack(file, whole, all_wrong, limit=1_000_000)
    again = read_packed(file).answers
    assert again is not None
    assert whole.answers is not None
    assert again.defences == ("undefended", "CQ")
    assert torch.equal(again.classes, whole.answers.classes)
    assert torch.equal(again.percent, whole.answers.percent)
    assert torch.equal(again.seen["CQ"], whole.answers.seen["CQ"])
    shown = looked_at([record(file)])
    assert shown is not None
    assert len(shown.images) == 4
    assert list(shown.defences) == ["undefended", "CQ"]
    assert (shown.of, shown.run) == (6, "run of 2026-01-02, profile smoke, seed 0")
    cell = shown.attacked["CQ", "adaptive", 0.25]
    assert torch.equal(cell.answers.classes["undefended"], whole.answers.classes[6, 0].long())
    assert cell.seen is not None
    assert torch.equal(cell.seen, whole.answers.seen["CQ"][3])
    assert torch.equal(cell.images[3], shown.images[3])


def test_a_file_with_fewer_images_has_their_answers_alone(
    defences: dict[str, nn.Module], digits: Dataset, tmp_path: Path
) -> None:
    whole = kept(defences, digits, asked=4)
    file = tmp_path / "a.safetensors"
    pack(file, whole, all_wrong, limit=1_000_000)
    size = len(file.read_bytes())
    few = pack(file, whole, all_wrong, limit=size * 2 // 3)
    assert 0 < len(few) < 4
    assert few.answers is not None
    assert few.answers.classes.shape[2] == few.answers.seen["CQ"].shape[1] == len(few)


def test_without_answers_all_that_is_known_is_what_was_right(
    defences: dict[str, nn.Module], digits: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    pack(file, kept(defences, digits, asked=None), all_wrong, limit=1_000_000)
    shown = looked_at([record(file)])
    assert shown is not None
    labels = shown.labels.tolist()
    assert shown.answers.classes["CQ"].tolist() == [*labels[:5], -1]
    assert shown.attacked["CQ", "direct", 0.25].answers.classes["CQ"].tolist() == [-1, -1, -1, *labels[3:5], -1]
    assert set(shown.attacked["CQ", "direct", 0.25].answers.classes) == {"CQ"}


def test_a_record_without_images_shows_nothing(tmp_path: Path) -> None:
    without = record(tmp_path)
    without.pop("images")
    assert looked_at([]) is None
    assert looked_at([without]) is None
    assert looked_at([without | {"paper": "trn"}]) is None
