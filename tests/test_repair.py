"""Success rates of a defence are counted over the images that they name, and each answer is asked for once."""

from __future__ import annotations

import pytest
import torch
from contract import seeded, tiny
from torch import Tensor, nn

from advdef.contract import TrainingModeWarning
from advdef.defenses import Undefended
from advdef.evaluation import Results
from advdef.papers.nip.repair import Repair, mean_success, repair, repairs, success
from advdef.statistics import wilson


class Reads(nn.Module):
    """Sees the class, in tenths, in one of the two pixels of an image."""

    def __init__(self, pixel: int) -> None:
        super().__init__()
        self.pixel, self.calls = pixel, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        classes = (10 * images[:, 0, 0, self.pixel]).round().long()
        return 5.0 * nn.functional.one_hot(classes, 10)


class Reader(Reads):
    """Its classifier reads the first pixel, it reads the second."""

    def __init__(self) -> None:
        super().__init__(1)
        self.classifier = Reads(0)


# label, what the classifier and the defence make of the image, and of its adversarial version
TABLE = torch.tensor([
    [1, 1, 1, 2, 1],  # broken, repaired
    [1, 1, 2, 2, 1],  # broken, repaired; the defence is wrong on the image itself
    [1, 1, 1, 2, 2],  # broken, not repaired
    [1, 1, 1, 2, 3],  # broken, another wrong class
    [1, 1, 1, 1, 1],  # the attack fails
    [1, 1, 1, 1, 2],  # the attack fails, the defence breaks it
    [1, 2, 2, 3, 2],  # wrong before, and restored to this
    [1, 2, 1, 3, 1],  # wrong before, right by the defence
    [1, 2, 2, 1, 1],  # right by the attack
])  # fmt: skip
LABELS, IMAGES, ADVERSARIAL = TABLE[:, 0], *((TABLE[:, i : i + 2] / 10.0)[:, None, None] for i in (1, 3))


def counted() -> Repair:
    return repair(Reader(), IMAGES, ADVERSARIAL, LABELS)


def test_every_answer_by_hand() -> None:
    found = {name: values.int().tolist() for name, values in vars(counted()).items()}
    assert found == {
        "clean": [1, 1, 1, 1, 1, 1, 0, 0, 0],
        "attacked": [0, 0, 0, 0, 1, 1, 0, 0, 1],
        "benign": [1, 0, 1, 1, 1, 1, 0, 1, 0],
        "defended": [1, 1, 0, 0, 1, 0, 0, 1, 1],
        "unchanged": [1, 0, 1, 1, 1, 1, 1, 0, 1],
        "restored": [1, 1, 0, 0, 1, 0, 1, 0, 0],
    }


def test_every_share_by_hand() -> None:
    found = counted()
    assert found.dsr == wilson(2, 4)
    assert found.dsr_released == wilson(4, 9)
    assert found.robust == wilson(5, 9)
    assert found.benign_accuracy == wilson(6, 9)
    assert found.damage == wilson(1, 3)
    assert found.changed == wilson(2, 9)


def test_the_released_rate_is_perfect_where_nothing_was_attacked() -> None:
    found = repair(Undefended(Reads(0)), IMAGES, IMAGES, LABELS)
    assert found.dsr_released == wilson(9, 9)
    assert found.dsr is None


def test_nothing_is_damaged_where_every_attack_succeeds() -> None:
    found = repair(Reader(), IMAGES[:4], ADVERSARIAL[:4], LABELS[:4])
    assert found.damage is None
    assert found.dsr == wilson(2, 4)


def test_no_defence_repairs_and_breaks_nothing() -> None:
    found = repair(Undefended(Reads(0)), IMAGES, ADVERSARIAL, LABELS)
    assert found.dsr == wilson(0, 4)
    assert found.damage == wilson(0, 3)
    assert found.changed == wilson(0, 9)
    assert torch.equal(found.defended, found.attacked)
    assert torch.equal(found.benign, found.clean)


def noted(**attacks: Repair) -> Results:
    """The rows of a defence and of none under attacks on the same images."""
    where, found = {"part": "", "dataset": "digits", "model": "LeNet-5", "seed": 0}, Results()
    for attack, result in attacks.items():
        for defence, right in (("none", result.attacked), ("V1", result.defended)):
            found.add_hits(right, defence=defence, threat="oblivious", attack=attack, eps=None, **where)
    found.add_hits(result.clean, defence="none", threat="clean", attack="none", eps=0.0, **where)
    return found


def test_success_from_rows_is_that_from_answers() -> None:
    harmless = repair(Reader(), IMAGES, IMAGES, LABELS)
    rows = noted(PGD=counted(), nothing=harmless)
    assert success(rows, "V1", "PGD") == counted().dsr
    assert success(rows, "none", "PGD") == wilson(0, 4)
    assert success(rows, "V1", "nothing") is None


def test_success_is_averaged_over_the_attacks_that_broke_an_image() -> None:
    harmless = repair(Reader(), IMAGES, IMAGES, LABELS)
    rates = mean_success(noted(PGD=counted(), nothing=harmless), "V1")
    assert rates[:4].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert bool(rates[4:].isnan().all())
    worse = repair(Reader(), IMAGES, ADVERSARIAL.roll(1, 0), LABELS)
    rates = mean_success(noted(PGD=counted(), worse=worse), "V1")
    broken = torch.stack([counted().clean & ~r.attacked for r in (counted(), worse)])
    right = torch.stack([r.defended for r in (counted(), worse)])
    assert rates.nan_to_num(-1).tolist() == [
        float(r[b].double().mean()) if b.any() else -1 for r, b in zip(right.T, broken.T, strict=True)
    ]


class Guesses(Undefended):
    """Draws a class at random."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.randn(len(images), 10)


def test_a_random_defence_is_asked_once() -> None:
    images = IMAGES[:1].expand(200, -1, -1, -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = repair(Guesses(Reads(0)), images, images, LABELS[:1].expand(200))
    assert 0 < int(found.defended.sum()) < 100
    assert torch.equal(found.defended, found.restored)  # the label is the clean prediction
    assert torch.equal(found.benign, found.unchanged)
    assert not torch.equal(found.benign, found.defended)


def test_each_network_sees_every_image_once_in_batches() -> None:
    defence = Reader()
    found = repair(defence, IMAGES, ADVERSARIAL, LABELS, batch_size=2)
    assert (defence.calls, defence.classifier.calls) == (10, 10)
    for name, values in vars(counted()).items():
        assert torch.equal(vars(found)[name], values), name


def test_both_are_judged_in_evaluation_mode() -> None:
    model, images = tiny(), torch.rand(20, 2, 3, 3, generator=seeded())
    labels = model(images).argmax(1)
    with pytest.warns(TrainingModeWarning, match=r"call model\.eval\(\) first"):
        found = repair(Undefended(model.train()), images, images, labels)
    assert model.training
    assert bool(found.clean.all())
    assert bool(found.benign.all())


def test_what_is_no_defence_and_no_image_is_refused() -> None:
    with pytest.raises(TypeError, match="Reads has no classifier, which a defence must name"):
        repair(Reads(0), IMAGES, ADVERSARIAL, LABELS)
    with pytest.raises(ValueError, match=r"labels must have shape \(9,\), not \(8,\)"):
        repair(Reader(), IMAGES, ADVERSARIAL, LABELS[:8])
    with pytest.raises(ValueError, match=r"labels must have shape \(8,\), not \(9,\)"):
        repair(Reader(), IMAGES, ADVERSARIAL[:8], LABELS)
    with pytest.raises(ValueError, match="seen: nan to nan"):
        repair(Reader(), IMAGES, ADVERSARIAL * float("nan"), LABELS)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9; seen: 1 to 10"):
        repair(Reader(), IMAGES, ADVERSARIAL, LABELS + 9 * torch.tensor([1] + [0] * 8))


def test_several_versions_of_the_images_share_what_the_defence_makes_of_the_images() -> None:
    defence, seen = Reader(), list[int]()
    defence.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    found = repairs(defence, IMAGES, {"a": ADVERSARIAL, 0.5: IMAGES}, LABELS)
    assert seen == [len(IMAGES)] * 3
    for key, versions in (("a", ADVERSARIAL), (0.5, IMAGES)):
        alone = repair(Reader(), IMAGES, versions, LABELS)
        assert all(torch.equal(value, getattr(found[key], name)) for name, value in vars(alone).items())
