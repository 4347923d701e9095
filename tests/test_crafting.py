"""Crafted images are those of the attacks, sound, and kept: nothing is computed twice, and nothing changes by that."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest
import torch
from contract import seeded, tiny
from torch import Tensor, nn

from advdef.attacks import Suite, ddn, fgsm, pgd, uniform_noise
from advdef.evaluation import UnsoundAttack, craft

called: SimpleQueue[int] = SimpleQueue()  # a list would be content, and its growth a change of what names it


def calls() -> list[int]:
    """How many images each call since the last question had."""
    return [called.get() for _ in range(called.qsize())]


def noisy(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator, share: float = 1.0
) -> Tensor:
    """Draws from the generator; how many images each call has is counted."""
    called.put(len(images))
    noise = 2 * torch.rand(images.shape, generator=generator) - 1
    return (images + share * eps * noise).clamp(0, 1)


SUITE: Suite = {"first": partial(noisy), "second": partial(noisy, share=0.5)}


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls()


def batch(n: int = 7) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 2, 3, 3, generator=seeded()), torch.arange(n) % 4


def test_every_attack_gets_every_image_in_batches() -> None:
    model, (images, labels) = tiny(), batch()
    suite = {"FGSM": partial(fgsm), "PGD": partial(pgd, steps=3)}
    found = craft(model, suite, images, labels, eps=0.1, generator=seeded(3), batch_size=3)
    assert list(found) == ["FGSM", "PGD"]
    assert torch.equal(found["FGSM"], fgsm(model, images, labels, eps=0.1))
    whole = craft(model, suite, images, labels, eps=0.1, generator=seeded(3))
    for name in suite:  # what is drawn belongs to an image and an attack, whatever the batches and the other attacks
        assert torch.allclose(found[name], whole[name], atol=1e-6)
        alone = craft(model, {name: suite[name]}, images[2:3], labels[2:3], eps=0.1, generator=seeded(3))
        assert torch.allclose(alone[name], whole[name][2:3], atol=1e-6)
        assert not found[name].requires_grad
    craft(model, SUITE, images, labels, eps=0.1, generator=seeded(), batch_size=3)
    assert calls() == [3, 3, 1] * 2


def test_what_is_kept_is_not_made_again_and_the_generator_goes_on_as_if_it_were(tmp_path: Path) -> None:
    model, (images, labels) = tiny(), batch()
    run = partial(craft, model, images=images, labels=labels, eps=0.1)
    plain, generator = run(suite=SUITE, generator=seeded(3)), seeded(3)
    run(suite=SUITE, generator=generator)
    after = torch.rand(5, generator=generator)
    folder = tmp_path / "new"
    for times in (1, 2):
        calls()
        generator = seeded(3)
        found = run(suite=SUITE, generator=generator, resume=folder)
        assert calls() == ([7, 7] if times == 1 else [])
        assert list(found) == list(plain)
        assert all(torch.equal(found[name], plain[name]) for name in plain)
        assert torch.equal(torch.rand(5, generator=generator), after)
    assert len(list(folder.iterdir())) == 2


def test_an_interrupted_run_goes_on_at_the_attack_that_failed(tmp_path: Path) -> None:
    model, (images, labels) = tiny(), batch()
    run = partial(craft, model, images=images, labels=labels, eps=0.1, resume=tmp_path)

    def fails(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: torch.Generator) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(suite={"first": SUITE["first"], "second": partial(fails)}, generator=seeded(3))
    assert calls() == [7]
    found = run(suite=SUITE, generator=seeded(3))
    assert calls() == [7]
    expected = craft(model, SUITE, images, labels, eps=0.1, generator=seeded(3))
    assert all(torch.equal(found[name], expected[name]) for name in SUITE)


def test_something_else_is_not_taken_for_what_is_kept(tmp_path: Path) -> None:
    images, labels = batch()
    given = {"model": tiny(), "suite": {"a": partial(noisy)}, "images": images, "labels": labels, "eps": 0.1}
    craft(**given, generator=seeded(), resume=tmp_path)  # type: ignore[arg-type]
    calls()
    for change in (
        {"model": tiny(1)},
        {"suite": {"a": partial(noisy, share=0.5)}},
        {"suite": {"b": partial(noisy)}},
        {"images": images.flip(0)},
        {"labels": labels.flip(0)},
        {"eps": 0.2},
        {"norm": "L2", "eps": 4.0},
        {"generator": seeded(1)},
    ):
        craft(**{**given, "generator": seeded(), **change}, resume=tmp_path)  # type: ignore[arg-type]
        assert calls() == [7], change
    craft(**given, generator=seeded(), resume=tmp_path, batch_size=2)  # type: ignore[arg-type]
    assert calls() == []


@pytest.mark.parametrize("share", [1.5, math.nan])
def test_an_unsound_attack_raises_and_is_not_kept(share: float, tmp_path: Path) -> None:
    images, labels = batch()
    suite = {"sound": partial(noisy), "other": partial(noisy, share=share)}
    for _ in range(2):
        with pytest.raises(UnsoundAttack, match="other"):
            craft(tiny(), suite, images, labels, eps=0.1, generator=seeded(), resume=tmp_path)
        assert len(list(tmp_path.iterdir())) == 1


def test_an_attack_in_another_norm_is_refused_unless_eps_has_no_bound() -> None:
    model, (images, _) = tiny(), batch()
    labels = model(images).argmax(1)
    suite = {"noise": partial(uniform_noise, draws=1), "DDN": partial(ddn, steps=5)}
    with pytest.raises(ValueError, match="DDN is an attack in L2, and eps is a size in Linf"):
        craft(model, suite, images, labels, eps=0.1, generator=seeded())
    closest = {"DDN": suite["DDN"]}
    craft(model, closest, images, labels, eps=0.1, norm="L2", generator=seeded())
    found = craft(model, closest, images, labels, eps=math.inf, generator=seeded())
    assert not torch.equal(found["DDN"], images)
