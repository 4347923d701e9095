"""An attack that begins where another ended leaves both models alone, and gets where its own way is flat."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from contract import assert_leaves_no_trace, net, random_batch, seeded, tiny
from torch import Tensor, nn

from advdef import store
from advdef.attacks import apgd, describe, fgsm, margin, pgd, warm_started
from advdef.attacks.attack import norm_of
from advdef.defenses import Undefended
from advdef.evaluation import Attempt, UnsoundAttack, correct, evaluate

SHORT = partial(pgd, steps=3, random_start=False)


@pytest.mark.parametrize("place", ["model", "source"])
def test_both_models_are_left_as_they_were(place: str) -> None:
    def attack(network: nn.Module, *batch: Tensor, **options: Any) -> Tensor:
        model, source = (network, tiny(5)) if place == "model" else (net(), network)
        return warm_started(model, *batch, source=source, first=SHORT, attack=partial(pgd, steps=3), **options)

    assert not assert_leaves_no_trace(attack, net(), *random_batch(), eps=0.1).requires_grad


def remembered(seen: list[Tensor], attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def kept(*batch: Any, **options: Any) -> Tensor:
        seen.append(attack(*batch, **options))
        return seen[-1]

    return kept


def test_it_is_the_attack_from_what_the_first_finds_on_the_source() -> None:
    model, source, batch = net(), tiny(5), random_batch()
    seen: list[Tensor] = []
    first = partial(remembered(seen, pgd), steps=2)
    attack = partial(pgd, steps=3, restarts=2, loss="margin")
    found = warm_started(model, *batch, eps=0.1, source=source, first=first, attack=attack, generator=seeded())
    draws = seeded()
    start = pgd(source, *batch, eps=0.1, steps=2, generator=draws)
    assert torch.equal(seen[0], start)
    assert torch.equal(found, attack(model, *batch, eps=0.1, start=start, generator=draws))
    assert not torch.equal(found, attack(model, *batch, eps=0.1, generator=draws))


@pytest.mark.parametrize("attack", [pgd, apgd])
def test_what_is_found_fools_the_model_no_less_than_the_start(attack: Callable[..., Tensor]) -> None:
    model, (images, labels) = net(), random_batch(30)
    seen: list[Tensor] = []
    first = partial(remembered(seen, pgd), steps=5)
    found = warm_started(
        model, images, labels, eps=0.1, source=tiny(5), first=first, attack=partial(attack, steps=2), generator=seeded()
    )
    with torch.no_grad():
        gained = margin(model(found), labels) - margin(model(seen[0]), labels)
    assert bool((gained >= 0).all())
    assert bool((gained > 0).any())


class Brightness(nn.Module):
    """Class 1 where the mean of the pixels is above 0.58; flat for an attacker, or not, where it is below 0.55."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, images: Tensor) -> Tensor:
        above = images.mean((1, 2, 3)) - 0.55
        score = 10 * (above.relu() if self.flat else above)
        return torch.stack([torch.full_like(score, 0.3), score], 1)


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_it_gets_where_the_way_from_the_image_is_flat() -> None:
    """A start beyond the flat part is enough: it need not fool the model itself."""
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2).long()
    model, attack = Brightness(flat=True), partial(pgd, steps=5, random_start=False)
    assert torch.equal(attack(model, images, labels, eps=0.1), images)
    first = partial(pgd, steps=1, step_size=0.6, random_start=False)
    assert bool(correct(model, first(Brightness(flat=False), images, labels, eps=0.1), labels).all())
    found = warm_started(model, images, labels, eps=0.1, source=Brightness(flat=False), first=first, attack=attack)
    assert not bool(correct(model, found, labels).any())


def all_ones(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return torch.ones_like(images).requires_grad_()


def at_start(model: nn.Module, images: Tensor, labels: Tensor, *, start: Tensor, **options: Any) -> Tensor:
    return start


def test_a_start_outside_the_ball_is_moved_into_it() -> None:
    images, labels = random_batch()
    attack = partial(warm_started, source=tiny(5), first=partial(all_ones))
    found = attack(net(), images, labels, eps=0.1, attack=partial(pgd, steps=1))
    assert float((found - images).abs().max()) <= 0.1 + 1e-6
    assert not found.requires_grad
    # that is the attack's doing, and the evaluation stops one that does not
    attempt = Attempt("unsound", partial(attack, attack=partial(at_start)), net())
    with pytest.raises(UnsoundAttack):
        evaluate(Undefended(net()), [attempt], images, labels, eps=0.1, generator=seeded())


def test_an_attack_without_a_start_is_refused_before_anything_is_tried() -> None:
    seen: list[Tensor] = []
    run = partial(warm_started, net(), *random_batch(), eps=0.1, source=net(), first=partial(remembered(seen, pgd)))
    with pytest.raises(TypeError, match=r"must take a start, as pgd and apgd do; fgsm\(norm='L2'\) does not"):
        run(attack=partial(fgsm, norm="L2"))
    assert not seen
    run(attack=partial(pgd, steps=1))
    assert seen


def test_the_evaluation_hands_it_some_of_the_images_in_batches() -> None:
    """Those that are wrong, or fall to an attack before it, are not among them."""
    model, (images, labels) = net().double(), random_batch(20)
    images, labels = images.double(), torch.cat([labels[:15], (labels[15:] + 1) % 4])
    attack = partial(
        warm_started, source=tiny(5).double(), first=SHORT, attack=partial(pgd, steps=4, random_start=False)
    )
    attempts = [Attempt("weak", partial(fgsm), tiny(5).double()), Attempt("warm", attack, model)]
    run = partial(evaluate, Undefended(model), attempts, images, labels, eps=0.06)
    small, large = (run(generator=seeded(), batch_size=size) for size in (3, 250))
    weak, warm = small.findings
    assert 0 < int(weak.broken.sum()) < int(weak.tried.sum()) == 15
    assert torch.equal(warm.tried, weak.tried & ~weak.broken)
    assert 0 < int(warm.broken.sum()) < int(warm.tried.sum())
    assert torch.equal(small.robust, large.robust)
    assert torch.allclose(small.adversarial, large.adversarial, rtol=0, atol=1e-12)


def test_it_is_described_by_both_attacks_and_the_name_of_the_source() -> None:
    for source in (net(), net()):
        attack = partial(warm_started, source=source, first=SHORT, attack=partial(apgd, loss="dlr"))
        assert describe(attack) == (
            "warm_started(source=Sequential, first=pgd(steps=3, random_start=False), attack=apgd(loss='dlr'))"
        )


def test_its_norm_is_that_of_the_attack_which_comes_last() -> None:
    in_l2 = partial(pgd, norm="L2", steps=1)
    build = partial(partial, warm_started, source=net())
    assert norm_of(build(first=in_l2, attack=partial(pgd))) == "Linf"
    warm = build(first=partial(pgd), attack=in_l2)
    assert norm_of(warm) == "L2"
    images, labels = random_batch()
    with pytest.raises(ValueError, match="warm is an attack in L2"):
        evaluate(Undefended(net()), [Attempt("warm", warm, net())], images, labels, eps=0.1, generator=seeded())


def test_a_kept_evaluation_is_told_apart_by_the_source_and_both_attacks() -> None:
    def key(**change: Any) -> str:
        keywords = {"source": tiny(5), "first": SHORT, "attack": partial(pgd, steps=4)} | change
        return store.key("it", attack=partial(warm_started, **keywords), model=net()).digest

    assert key() == key()
    changes: list[dict[str, Any]] = [{"source": tiny(6)}, {"first": partial(SHORT, loss="margin")}]
    changes += [{"attack": partial(pgd, steps=5)}, {"attack": partial(apgd, steps=4)}]
    assert len({key(), *(key(**change) for change in changes)}) == 5
