"""What an evaluation found: for each attack alone, and the worst case per image over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advdef.norms import Norm
from advdef.statistics import Interval, mean_share, wilson

__all__ = ["Finding", "Outcome", "joined_curves"]


@dataclass(frozen=True)
class Finding:
    """What one attempt did.

    Attributes:
        name: The name of the attempt.
        tried: (N,) booleans: the images that it was tried on.
        broken: (N,) booleans: the images that it broke.
        seconds: How long it took, the judging included.
        forwards: How many images the attack sent forward through the network, without those of the judging.
        backwards: How many it sent backward.
        settings: The attack with its settings, as text.
        gradient: The share of the gradients that it needed which were not zero everywhere; None where it needed none,
            or took them without asking the package.
        not_finite: For how many images a gradient was NaN or infinite, which counts as zero.
    """

    name: str
    tried: Tensor
    broken: Tensor
    seconds: float = field(metadata={"content": False})
    forwards: int
    backwards: int
    settings: str = ""
    gradient: float | None = None
    not_finite: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one threat model at one eps on N images. For a random defence, see :func:`evaluate`.

    Attributes:
        eps: The budget, a size in ``norm``.
        clean: (N,) booleans: correct without an attack.
        robust: (N,) booleans: correct under everything that was tried.
        adversarial: (N, C, H, W): what broke each image first, else the image; for a random defence, the worst that was
            found for it.
        findings: What each attempt did, in order.
        norm: The norm of eps.
        defence: Identity of the defence (:func:`advdef.store.identity`).
        keys: (N,): identities of images and labels.
        shares: (N,): for a random defence, the share of fresh passes that are right under the worst that was found.
        clean_shares: (N,): the same without an attack.
        passes: (draws,): for a random defence, its accuracy in each of the fresh passes.
        exhaustive: Whether every attempt was tried on every image that is correct without one.
    """

    eps: float
    clean: Tensor
    robust: Tensor
    adversarial: Tensor
    findings: tuple[Finding, ...] = field(default=())
    norm: Norm = "Linf"
    defence: str = ""
    keys: Tensor | None = None
    shares: Tensor | None = None
    clean_shares: Tensor | None = None
    passes: Tensor | None = None
    exhaustive: bool = False

    @property
    def interval(self) -> Interval:
        """Robust accuracy with its interval, Wilson's or, for a random defence, that of the mean share."""
        if self.shares is not None:
            return mean_share(self.shares, self.passes)
        return wilson(int(self.robust.sum()), len(self.robust))

    @property
    def clean_interval(self) -> Interval:
        """Accuracy without an attack, with an interval of the same kind."""
        if self.clean_shares is not None:
            return mean_share(self.clean_shares)
        return wilson(int(self.clean.sum()), len(self.clean))

    @staticmethod
    def joined(parts: Sequence["Outcome"]) -> "Outcome":
        """One outcome on all images from those on the parts of a shard, in order, each with the same attempts.

        Raises ValueError for parts of different evaluations.
        """
        first = parts[0]
        told = {
            (o.eps, o.norm, o.defence, o.exhaustive, tuple((f.name, f.settings) for f in o.findings)) for o in parts
        }
        if len(told) != 1:
            raise ValueError("these are not the parts of one evaluation")
        images = ("clean", "robust", "adversarial", "keys", "shares", "clean_shares")
        whole: dict[str, Any] = {
            n: torch.cat([getattr(o, n) for o in parts]) for n in images if getattr(first, n) is not None
        }
        if first.passes is not None:
            sizes = torch.tensor([len(o.clean) for o in parts], dtype=first.passes.dtype, device=first.passes.device)
            whole["passes"] = (torch.stack([o.passes for o in parts if o.passes is not None], 1) * sizes).sum(
                1
            ) / sizes.sum()
        return replace(first, findings=tuple(map(_joined, zip(*(o.findings for o in parts), strict=True))), **whole)

    def survivors(self, attack: str) -> Tensor:
        """Which images (N,) are correct under one attack alone.

        Raises ValueError for an unknown attack, and for one that was not tried on every correct image.
        """
        finding = next((f for f in self.findings if f.name == attack), None)
        if finding is None:
            raise ValueError(f"no attack {attack!r}; tried: {', '.join(f.name for f in self.findings)}")
        if not self.exhaustive and bool((self.clean & ~finding.tried).any()):
            raise ValueError(f"{attack!r} was tried only on what others left; evaluate with exhaustive=True")
        return self.clean & ~finding.broken

    def unique_breaks(self) -> dict[str, int]:
        """How many images each attack alone broke, by its name.

        Without ``exhaustive`` an attack sees only what those before it left, so this is what it added to them.
        """
        total = sum((f.broken.int() for f in self.findings), torch.zeros_like(self.clean, dtype=torch.int))
        return {f.name: int((f.broken & (total == 1)).sum()) for f in self.findings}


def joined_curves(parts: Sequence[Mapping[Any, Mapping[float, Outcome]]]) -> dict[Any, dict[float, Outcome]]:
    """Outcomes by attacker and budget on all images, from those on the parts of a shard, in order."""
    return {
        threat: {eps: Outcome.joined([part[threat][eps] for part in parts]) for eps in curve}
        for threat, curve in parts[0].items()
    }


def _joined(parts: Sequence[Finding]) -> Finding:
    """What one attempt did on all images, from what it did on each part."""
    needed = [(f.gradient, int(f.tried.sum())) for f in parts if f.gradient is not None]
    tried = sum(n for _, n in needed)
    return replace(
        parts[0],
        tried=torch.cat([f.tried for f in parts]),
        broken=torch.cat([f.broken for f in parts]),
        seconds=sum(f.seconds for f in parts),
        forwards=sum(f.forwards for f in parts),
        backwards=sum(f.backwards for f in parts),
        gradient=sum(share * n for share, n in needed) / tried if tried else parts[0].gradient,
        not_finite=sum(f.not_finite for f in parts),
    )
