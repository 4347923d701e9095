"""QuSecNets as a defence: constant (CQ) and trainable (TQ) input quantisation, https://arxiv.org/abs/1811.01437.

Only the abstract of the paper was available; the adaptive attacks are ours. A quantiser is deterministic, known and
piecewise constant: it hides no decision, it only makes gradients zero (https://arxiv.org/abs/1802.00420).
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.attacks.losses import margin
from advdef.attacks.suites import Suite
from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask, borrowed, validate
from advdef.defenses.base import Defense
from advdef.norms import spread
from advdef.papers.qusecnets.attacks import level_space
from advdef.papers.qusecnets.quantizer import Quantizer

__all__ = ["Quantized", "Ramped", "annealed", "through_identity"]


class Quantized(Defense):
    """A network behind a quantiser.

    ``undefended`` is a twin without quantiser, which the oblivious attacker crafts on (default: the network itself, fed
    with raw pixels).
    """

    def __init__(self, network: nn.Module, quantizer: Quantizer, *, undefended: nn.Module | None = None) -> None:
        super().__init__()
        self._network, self.quantizer = network, quantizer
        self.undefended = undefended

    @property
    def network(self) -> nn.Module:
        """The network behind the quantiser."""
        return self._network

    @property
    def classifier(self) -> nn.Module:
        """The undefended twin if one is known, else the network behind the quantiser."""
        return self._network if self.undefended is None else self.undefended

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the network on quantised images."""
        return ask(self._network, self.quantizer(images))

    def surrogates(self) -> dict[str, nn.Module]:
        """The deployed values with the gradient of the identity, or of a soft quantiser of hardness 5 or 20."""
        return {"identity": self.surrogate("identity"), "soft 5": self.surrogate(5.0), "soft 20": self.surrogate(20.0)}

    def surrogate(self, backward: float | Literal["identity"]) -> nn.Module:
        """BPDA at the quantiser: its values, with the gradient of the identity or of its soft form at the given
        hardness.
        """
        return _Surrogate(self, backward)

    def adaptive_attacks(self, eps: float) -> Suite:
        """BPDA with a hardening surrogate and, where the deployed layer is hard, the level-space attack."""
        suite = {"annealed BPDA": partial(annealed)}
        if self.quantizer.mode != "soft":
            suite["level-space"] = partial(level_space, network=self._network, quantizer=self.quantizer)
        return suite


def through_identity(model: Quantized) -> nn.Module:
    """The quantised network with the identity as the gradient of its quantiser: what adversarial training attacks."""
    return model.surrogate("identity")


class _Surrogate(nn.Module):
    def __init__(self, defence: Quantized, backward: float | Literal["identity"]) -> None:
        super().__init__()
        self.network, self.quantizer, self.backward = defence.network, defence.quantizer, backward

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.quantizer(images)
        if torch.is_grad_enabled():
            soft = images if self.backward == "identity" else self.quantizer.soft(images, self.backward, clip=False)
            value = replace_gradient(value, soft)
        return ask(self.network, value)


class Ramped(nn.Module):
    """The deployed values, with the slope of a ramp across each threshold: a piecewise linear quantiser.

    With N levels a ramp is 1/N wide. Where thresholds are equidistant, ramps meet, and join the middles of the cells.
    """

    def __init__(self, defence: Quantized) -> None:
        super().__init__()
        self.network, self.quantizer = defence.network, defence.quantizer
        self.training = defence.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        levels = self.quantizer.levels
        with torch.no_grad():
            value = self.quantizer(images)
        if torch.is_grad_enabled():
            each = (t.reshape(-1, 1, 1) for t in self.quantizer.thresholds.detach().unbind(-1))
            ramps = [(levels * (images - threshold) + 0.5).clamp(0, 1) for threshold in each]
            value = replace_gradient(value, torch.stack(ramps).sum(0) / (levels - 1))
        return ask(self.network, value)


@torch.inference_mode(False)
def annealed(
    model: Quantized,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 40,
    restarts: int = 1,
    hardness: tuple[float, ...] = (5.0, 10.0, 20.0, 50.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """BPDA whose soft surrogate hardens during the attack: one stage of PGD per ``hardness``, each from where the last
    ended.

    Args:
        model: The quantised network.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball, in Linf; a number, or one per image (N,).
        steps: Steps of all stages together, which share them equally.
        restarts: Runs, each from a random point; those after the first attack what ``model`` still gets right.
        hardness: The slope of the surrogate in each stage.
        generator: Source of all random numbers. Default: torch's own.

    Returns each image's point with the largest margin. Raises ValueError for fewer than one restart.
    """
    if restarts < 1:
        raise ValueError(f"restarts must be at least 1, not {restarts}")
    images, labels, budget = validate(images, labels, eps)
    budget = budget.flatten().expand(len(images))
    best, rows = images.clone(), torch.arange(len(images), device=images.device)
    best_margin = torch.full((len(images),), -torch.inf, dtype=images.dtype, device=images.device)
    with borrowed(model):
        for _ in range(restarts):
            point = None
            for slope in hardness:
                point = pgd(
                    model.surrogate(slope), images[rows], labels[rows], eps=budget[rows],
                    steps=max(1, steps // len(hardness)), loss="margin", start=point, stop_early=True,
                    generator=generator,
                )  # fmt: skip
            assert point is not None
            with torch.no_grad():
                reached = margin(ask(model, point), labels[rows])
            better = reached > best_margin[rows]
            best[rows] = torch.where(spread(better), point, best[rows])
            best_margin[rows] = torch.where(better, reached, best_margin[rows])
            rows = rows[best_margin[rows] <= 0]
            if len(rows) == 0:
                break
    return best
