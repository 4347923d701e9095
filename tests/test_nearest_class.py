"""The order in which wrong classes are tried: by their logits, or by how far away they are."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from contract import Pair, net, random_batch, seeded
from torch import Tensor, nn

from advdef.attacks import fgsm, pgd
from advdef.attacks.composed import each_class
from advdef.attacks.losses import wrong_classes
from advdef.contract import NoGradientWarning
from advdef.defenses.broken import Detached
from advdef.evaluation import correct, counted
from advdef.norms import BallNorm


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1), ("L2", 2)])
def test_on_a_linear_model_classes_come_in_the_order_of_their_distances(norm: BallNorm, dual: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight = torch.randn(7, 18) * torch.logspace(-1, 0.5, 7)[:, None]  # of some classes the logit changes fast
        bias = torch.randn(7) - weight.sum(1) / 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 7)).requires_grad_(False)
    model[1].weight.copy_(weight)
    model[1].bias.copy_(bias)
    images = 0.3 + 0.4 * torch.rand(200, 2, 3, 3, generator=seeded())
    logits = model(images)
    labels = logits.argmax(1)
    leads = logits.gather(1, labels[:, None]) - logits
    distance = leads / (weight[labels][:, None] - weight[None]).norm(p=dual, dim=2)
    distance.scatter_(1, labels[:, None], torch.inf)
    nearest, seen = distance.argsort(1)[:, :-1], []

    def noted(model: nn.Module, images: Tensor, labels: Tensor, *, norm: BallNorm, **options: Any) -> Tensor:
        seen.append(options["targets"])
        return pgd(model, images, labels, norm=norm, steps=10, loss="margin", random_start=False, **options)

    attack = partial(each_class, attack=partial(noted, norm=norm), classes=99)
    attack(model, images, labels, eps=0.0, order="malt")
    assert torch.equal(torch.stack(seen, 1), nearest)
    seen.clear()
    attack(model, images, labels, eps=0.0)
    assert not torch.equal(torch.stack(seen, 1), nearest)  # but in that of their logits
    # so the first one breaks all that can be broken; no pixel comes to the end of its range
    eps = float(distance.amin(1).sort().values[100:102].mean())
    assert eps < 0.2
    first = partial(each_class, attack=partial(noted, norm=norm), classes=1, eps=eps)
    broken = ~correct(model, first(model, images, labels, order="malt"), labels)
    assert torch.equal(broken, distance.amin(1) < eps)
    assert int((~correct(model, first(model, images, labels), labels)).sum()) < int(broken.sum())


def still(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return images


def test_without_a_gradient_the_likely_classes_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.attacks.composed.TOGETHER", 1)
    images, labels = random_batch()
    model, seen = Detached(net()), []

    def noted(model: nn.Module, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        seen.append(options["targets"])
        return images

    with pytest.warns(NoGradientWarning):
        each_class(model, images, labels, eps=0.1, attack=partial(noted), order="malt")
    assert torch.equal(torch.stack(seen, 1), wrong_classes(net()(images), labels))


def test_nearest_first_asks_only_for_images_that_are_left(network: nn.Module, batch: Pair) -> None:
    images, labels = batch[0][:20], batch[1][:20].clone()
    labels[:5] = (network(images[:5]).argmax(1) + 1) % 10
    right = int(correct(network, images, labels).sum())
    assert 0 < right < 20
    attack = partial(each_class, attack=partial(fgsm), eps=0.0, classes=1, order="malt")
    for early, asked in ((True, right), (False, 20)):
        passes = {"forward": 0, "backward": 0}
        with counted(network, passes):
            attack(network, images, labels, attack=partial(still), stop_early=early)
        assert passes["backward"] == 9 * asked
