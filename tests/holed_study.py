"""A study of seconds with a planted hole, for the tests of the search: what is judged has no gradient, and says so to
nobody.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from advdef.attacks import pgd
from advdef.defenses import Defense, Undefended
from advdef.evaluation import Outcome, Threat, direct, evaluate_curve
from advdef.grid import Study, once

__all__ = ["Holed", "Open", "Rounded"]


class Rounded(Defense):
    """Logits of a linear network, rounded off without a gradient."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def classifier(self) -> nn.Module:
        return self.net

    def forward(self, images: Tensor) -> Tensor:
        return (100 * self.net(images).detach()).round() / 100 + 0 * images.sum()


class Holed(Study):
    """Nearest class mean on digits, whose attacker looks for a gradient."""

    profiles = {"smoke": dict(datasets=("digits",), few=20)}  # noqa: RUF012
    met = "few"

    @once
    def defence(self, name: str) -> Defense:
        train = self.data.train.head(400)
        images, labels = train.float_images().flatten(1), train.labels
        means = torch.stack([images[labels == k].mean(0) for k in range(10)])
        net = nn.Sequential(nn.Flatten(), nn.Linear(means.shape[1], 10)).requires_grad_(False)
        net[1].weight.copy_(means)
        net[1].bias.copy_(-means.square().sum(1) / 2)
        return Rounded(net)

    def cases(self) -> dict[str, tuple[Any, ...]]:
        return {"rounded": ("rounded",)}

    def attacked_images(self) -> tuple[Tensor, Tensor]:
        chosen = self.data.test.sample(self.settings["few"])
        return chosen.float_images(), chosen.labels

    def curve(self, name: str) -> dict[Threat, dict[float, Outcome]]:
        defence, (images, labels) = self.defence(name), self.attacked_images()
        tried = direct(defence, {"PGD": partial(pgd, steps=2)})
        found = evaluate_curve(
            defence, {0.1: tried, 0.2: tried}, images, labels, generator=Generator().manual_seed(0), resume=self.resume
        )
        return self.with_later({"adaptive": found}, name)


class Open(Holed):
    """The same network behind nothing, so that its attacker breaks it."""

    @once
    def defence(self, name: str) -> Defense:
        rounded = super().defence(name)
        assert isinstance(rounded, Rounded)
        return Undefended(rounded.get_submodule("net"))
