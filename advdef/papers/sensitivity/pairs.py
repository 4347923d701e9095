"""Dual pairs: images beside their adversarial partners on one model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Attack, describe, norm_of
from advdef.contract import borrowed, validate
from advdef.evaluation import check_sound, correct
from advdef.papers.sensitivity.keeping import kept_call

__all__ = ["Keep", "Pairs", "make_pairs"]

Keep = Literal["correct", "successful", "all"]


@dataclass(frozen=True)
class Pairs:
    """Images (N, C, H, W) in [0, 1], their adversarial partners of the same shape, and their labels (N,).

    Raises TypeError or ValueError for what are no images or labels, and for partners of another shape.
    """

    images: Tensor
    adversarial: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.shape != self.adversarial.shape:
            shapes = f"{tuple(self.images.shape)} and {tuple(self.adversarial.shape)}"
            raise ValueError(f"images and their adversarial partners must have one shape, not {shapes}")
        validate(self.images, self.labels, 0.0)
        validate(self.adversarial, self.labels, 0.0)

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, rows: Tensor | slice) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.images[rows], self.adversarial[rows], self.labels[rows])


def make_pairs(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    eps: float,
    generator: torch.Generator | None = None,
    keep: Keep = "correct",
    batch_size: int = 250,
    resume: Path | None = None,
) -> Pairs:
    """Pair images with what an attack makes of them on ``model``, in evaluation mode.

    Args:
        model: What is attacked.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        attack: The attack.
        eps: Its budget, in its own norm.
        generator: What random attacks draw from, batch by batch.
        keep: Which pairs: of images that the model classifies as their label ("correct"), of those among them that the
            attack turned ("successful"), or of all images ("all").
        batch_size: Images attacked at a time.
        resume: A folder that keeps what the attack made; this needs a ``generator``.

    Raises ValueError when no pair is left, UnsoundAttack when the attack leaves its budget.
    """
    if keep not in get_args(Keep):
        raise ValueError(f"no choice {keep!r} of pairs; there are {', '.join(get_args(Keep))}")
    crafted = kept_call(
        resume, _crafted, device=images.device, model=model, images=images, labels=labels, attack=attack, eps=eps,
        generator=generator, everything=keep == "all", batch_size=batch_size,
    )  # fmt: skip
    rows = crafted["rows"]
    pairs = Pairs(images[rows], crafted["adversarial"], labels[rows])
    if keep != "successful":
        return pairs
    turned = ~correct(model, pairs.adversarial, pairs.labels, batch_size=batch_size)
    if not bool(turned.any()):
        raise ValueError(f"no pair to keep: {describe(attack)} at eps {eps:g} turned none of {len(pairs)} images")
    return pairs.of(turned)


def _crafted(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    eps: float,
    generator: torch.Generator | None,
    everything: bool,
    batch_size: int,
) -> dict[str, Tensor]:
    """What an attack makes of all images, or of those that the model gets right, and which these are."""
    with borrowed(model, quiet=True):
        right = correct(model, images, labels, batch_size=batch_size)
        rows = torch.nonzero(right | everything)[:, 0]
        if len(rows) == 0:
            raise ValueError(f"no pair to keep: the model classifies none of {len(images)} images correctly")
        found = []
        for part in rows.split(batch_size):
            found.append(attack(model, images[part], labels[part], eps=eps, generator=generator).detach())
            # where an attack does not say its norm, Linf: no size in another norm is smaller
            check_sound(describe(attack), images[part], found[-1], eps=eps, norm=norm_of(attack) or "Linf")
    return {"rows": rows, "adversarial": torch.cat(found)}
