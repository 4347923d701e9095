"""What an evaluation found: for each attack alone, and the worst case per image over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advdef.norms import Norm
from advdef.statistics import Interval, mean_share, wilson

__all__ = ["SearchEffort", "Finding", "Outcome", "SearchEnd", "joined_curves"]


@dataclass(frozen=True)
class SearchEffort:
    """How long a strong attack goes on: its steps, its random starts, and the queries of one that has no gradient."""

    steps: int
    restarts: int
    queries: int

    def doubled(self) -> "SearchEffort":
        """Twice of everything."""
        return SearchEffort(2 * self.steps, 2 * self.restarts, 2 * self.queries)


@dataclass(frozen=True)
class SearchEnd:
    """The last and dearest look at what was left (:mod:`advdef.evaluation.escalation`).

    Attributes:
        effort: How long its attacks went on.
        images: How many images it looked at, those nearest to breaking first.
        broke: How many of them it broke.
        at_most: Whether only some of several parts of the images needed as much effort as that.
    """

    effort: SearchEffort
    images: int
    broke: int
    at_most: bool = False

    @property
    def converged(self) -> bool:
        """Whether it broke nothing, so that the search ended of itself and not at its limit."""
        return self.broke == 0

    def __str__(self) -> str:
        """The result in words.

        >>> str(SearchEnd(SearchEffort(100, 5, 5_000), images=16, broke=0))
        'converged at 100 steps, 5 restarts, 5,000 queries: broke none of the nearest 16'
        >>> str(SearchEnd(SearchEffort(100, 5, 5_000), images=16, broke=0, at_most=True))
        'converged at 100 steps, 5 restarts, 5,000 queries or fewer: broke none of the nearest 16'
        >>> str(SearchEnd(SearchEffort(100, 5, 0), images=32, broke=3))
        'still falling at 100 steps, 5 restarts: broke 3 of 32'
        """
        if not self.images:
            return "nothing was left"
        told = [f"{self.effort.steps} steps", f"{self.effort.restarts} restarts", f"{self.effort.queries:,} queries"]
        at = ", ".join(told if self.effort.queries else told[:2]) + (" or fewer" if self.at_most else "")
        if self.converged:
            return f"converged at {at}: broke none of the nearest {self.images}"
        return f"still falling at {at}: broke {self.broke} of {self.images}"


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
        margin: (N,): the deployed defence's margin on what it found, its best wrong logit minus the true one; minus
            infinity where it was not tried.
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
    margin: Tensor | None = None


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
        clean_passes: (draws,): the same without an attack.
        exhaustive: Whether every attempt was tried on every image that is correct without one.
        margin: (N,): the largest margin of the deployed defence, its best wrong logit minus the true one, on anything
            that was found: of what is left, the larger, the nearer to breaking.
        search: The last look at what was left, where there was one.
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
    clean_passes: Tensor | None = None
    exhaustive: bool = False
    margin: Tensor | None = None
    search: SearchEnd | None = None

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
            return mean_share(self.clean_shares, self.clean_passes)
        return wilson(int(self.clean.sum()), len(self.clean))

    @staticmethod
    def joined(parts: Sequence["Outcome"]) -> "Outcome":
        """One outcome on all images from those on parts of them, in order; not every part need have had each attempt.

        Raises ValueError for parts of different evaluations.
        """
        first = parts[0]
        settings: dict[str, str] = {}
        same = all(settings.setdefault(f.name, f.settings) == f.settings for o in parts for f in o.findings)
        if not same or len({(o.eps, o.norm, o.defence, o.exhaustive) for o in parts}) != 1:
            raise ValueError("these are not the parts of one evaluation")
        images = ("clean", "robust", "adversarial", "keys", "shares", "clean_shares", "margin")
        whole: dict[str, Any] = {
            n: torch.cat([getattr(o, n) for o in parts]) for n in images if getattr(first, n) is not None
        }
        for name in ("passes", "clean_passes"):
            if (like := getattr(first, name)) is not None:
                sizes = torch.tensor([len(o.clean) for o in parts], dtype=like.dtype, device=like.device)
                whole[name] = (torch.stack([getattr(o, name) for o in parts], 1) * sizes).sum(1) / sizes.sum()
        found = tuple(_side_by_side(name, parts) for name in settings)
        return replace(first, findings=found, search=_last([o.search for o in parts]), **whole)

    def followed_by(self, later: "Outcome") -> "Outcome":
        """The outcome of a later evaluation that had this one as its ``known``, with the findings of both."""
        found = {finding.name: finding for finding in self.findings}
        for finding in later.findings:
            found[finding.name] = _after(found[finding.name], finding) if finding.name in found else finding
        return replace(later, findings=tuple(found.values()))

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
    """Outcomes on all images, by attacker and budget, from those on consecutive parts of the images, in order."""
    return {
        threat: {eps: Outcome.joined([part[threat][eps] for part in parts]) for eps in curve}
        for threat, curve in parts[0].items()
    }


def _side_by_side(name: str, parts: Sequence[Outcome]) -> Finding:
    """What an attempt did on all images, from what it did on those of each part; not every part need have had it."""
    there = [next((f for f in part.findings if f.name == name), None) for part in parts]
    had = [f for f in there if f is not None]

    def whole(what: str, otherwise: float) -> Tensor:
        like = getattr(had[0], what)
        return torch.cat([like.new_full((len(o.clean),), otherwise) if f is None else getattr(f, what)
                          for f, o in zip(there, parts, strict=True)])  # fmt: skip

    margin = whole("margin", -torch.inf) if all(f.margin is not None for f in had) else None
    return _summed(had, tried=whole("tried", False), broken=whole("broken", False), margin=margin)


def _after(first: Finding, second: Finding) -> Finding:
    """What an attempt did on two sets of the same images, one after the other."""
    both = first.margin is not None and second.margin is not None
    margin = torch.maximum(first.margin, second.margin) if both else None  # type: ignore[arg-type]
    return _summed(
        [first, second], tried=first.tried | second.tried, broken=first.broken | second.broken, margin=margin
    )


def _summed(parts: Sequence[Finding], *, tried: Tensor, broken: Tensor, margin: Tensor | None) -> Finding:
    """One finding with these images, and the time and the passes of all parts."""
    needed = [(f.gradient, int(f.tried.sum())) for f in parts if f.gradient is not None]
    images = sum(n for _, n in needed)
    return replace(
        parts[0],
        tried=tried,
        broken=broken,
        margin=margin,
        seconds=sum(f.seconds for f in parts),
        forwards=sum(f.forwards for f in parts),
        backwards=sum(f.backwards for f in parts),
        gradient=sum(share * n for share, n in needed) / images if images else parts[0].gradient,
        not_finite=sum(f.not_finite for f in parts),
    )


def _last(parts: Sequence[SearchEnd | None]) -> SearchEnd | None:
    """The searches of parts as one: as expensive as the most expensive of them, and converged where all are."""
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        return None
    falling = [part for part in found if not part.converged]
    efforts = [part.effort for part in falling or [part for part in found if part.images] or found]
    dearest = max(efforts, key=lambda effort: (effort.steps, effort.restarts, effort.queries))
    images, broke = sum(part.images for part in found), sum(part.broke for part in found)
    return SearchEnd(dearest, images, broke, at_most=len(set(efforts)) > 1)
