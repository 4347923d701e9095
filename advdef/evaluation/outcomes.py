"""What an evaluation found: for each attack alone, and the worst case per image over all of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from advdef.norms import Norm
from advdef.statistics import Interval, mean_share, wilson

__all__ = ["Finding", "Outcome"]


@dataclass(frozen=True)
class Finding:
    """What one attempt did: images it was tried on and broke, (N,) booleans; its cost; its settings.

    ``seconds`` include the judging; ``forwards`` and ``backwards`` count images that the attack alone sent through.
    ``gradient`` is the share of the gradients it needed that were not zero everywhere (None: it needed none, or took
    them without asking the package); ``not_finite`` for how many images one was not finite, and counted as zero.
    """

    name: str
    tried: Tensor
    broken: Tensor
    seconds: float
    forwards: int
    backwards: int
    settings: str = ""
    gradient: float | None = None
    not_finite: int = 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one threat model at one eps (in ``norm``) on N images."""

    eps: float
    clean: Tensor  # (N,) correct without an attack
    robust: Tensor  # (N,) correct under everything tried
    adversarial: Tensor  # (N, C, H, W) what broke each image first, else the image; of a random defence, the worst
    findings: tuple[Finding, ...] = field(default=())
    norm: Norm = "Linf"
    defence: str = ""  # whose outcome this is (advdef.store.identity)
    keys: Tensor | None = None  # (N,) which images and labels
    shares: Tensor | None = None  # (N,) of a random defence: the share of fresh passes that are right under the worst
    clean_shares: Tensor | None = None  # (N,) the same without an attack
    passes: Tensor | None = None  # (draws,) of a random defence: its accuracy in each of the fresh passes
    exhaustive: bool = False  # whether every attempt was tried on every correct image

    @property
    def interval(self) -> Interval:
        """Robust accuracy with an interval over images: Wilson's, or that of the mean share of a random defence."""
        if self.shares is not None:
            return mean_share(self.shares, self.passes)
        return wilson(int(self.robust.sum()), len(self.robust))

    @property
    def clean_interval(self) -> Interval:
        """Accuracy without an attack, likewise."""
        if self.clean_shares is not None:
            return mean_share(self.clean_shares)
        return wilson(int(self.clean.sum()), len(self.clean))

    def survivors(self, attack: str) -> Tensor:
        """(N,) correct under one attack alone; raises ValueError if that attack did not see every correct image."""
        finding = next((f for f in self.findings if f.name == attack), None)
        if finding is None:
            raise ValueError(f"no attack {attack!r}; tried: {', '.join(f.name for f in self.findings)}")
        if not self.exhaustive and bool((self.clean & ~finding.tried).any()):
            raise ValueError(f"{attack!r} was tried only on what others left; evaluate with exhaustive=True")
        return self.clean & ~finding.broken

    def unique_breaks(self) -> dict[str, int]:
        """Images that one attack alone broke, by attack. After a working-set run: what the attacks before it left."""
        total = sum((f.broken.int() for f in self.findings), torch.zeros_like(self.clean, dtype=torch.int))
        return {f.name: int((f.broken & (total == 1)).sum()) for f in self.findings}
