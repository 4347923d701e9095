"""What an evaluation accepts as input, and what it says of the gradients that its attacks met."""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from numbers import Real

import torch
from torch import Tensor

from advdef.attacks.attack import norm_of
from advdef.contract import NaNGradientWarning, NoGradientWarning, ask
from advdef.defenses.base import Defense, reseed
from advdef.draws import seeded
from advdef.evaluation.batches import Batches
from advdef.evaluation.outcomes import Finding, Outcome
from advdef.evaluation.threats import Attempt, bare, stand_ins
from advdef.norms import Norm

__all__ = ["admitted", "check_count", "check_known", "check_repeats", "warn_of_gradients"]


def admitted(
    defence: Defense,
    attempts: Iterable[Attempt],
    known: Outcome | Sequence[Outcome],
    *,
    eps: float,
    norm: Norm,
    generator: torch.Generator,
) -> tuple[list[Attempt], list[Outcome], float]:
    """Check the input of an evaluation: return attempts and earlier outcomes as lists, and eps as a float.

    Raises TypeError or ValueError for what :func:`advdef.evaluation.evaluate` does not accept.
    """
    if not isinstance(defence, Defense):
        raise TypeError(f"a Defense is needed, not {type(defence).__name__}: wrap a model in Undefended(model)")
    if not isinstance(generator, torch.Generator):
        made = "torch.Generator().manual_seed(0)"
        raise TypeError(f"generator must be a torch.Generator, such as {made}, not {generator!r}")
    if isinstance(eps, bool) or not isinstance(eps, Real):
        raise TypeError(f"eps must be a number, the same for all images, not {eps!r}")
    planned = [] if isinstance(attempts, Attempt | Mapping) else list(attempts)
    if isinstance(attempts, Attempt | Mapping) or not all(isinstance(attempt, Attempt) for attempt in planned):
        raise TypeError("attempts must be a list of Attempt, such as direct(defence, suite) makes of a suite")
    earlier = [known] if isinstance(known, Outcome) else list(known)
    if not all(isinstance(outcome, Outcome) for outcome in earlier):
        raise TypeError("known must be outcomes; of a curve, curve[eps]")
    if not planned and not earlier:
        raise ValueError("nothing to try: an empty list of attempts would make clean accuracy pass for robust accuracy")
    names = [attempt.name for attempt in planned]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two attempts have one name, {', '.join(twice)}: nobody could tell what each found")
    for attempt in planned:
        if math.isfinite(eps) and norm_of(attempt.attack) not in (None, norm):
            raise ValueError(f"{attempt.name} is an attack in {norm_of(attempt.attack)}, and eps is a size in {norm}")
    return planned, earlier, float(eps)


def warn_of_gradients(defence: Defense, planned: list[Attempt], findings: list[Finding]) -> None:
    """Warn, once for the whole evaluation, of gradients that were not finite, and of missing ones.

    An attacker who does not know a defence's stand-ins may well find no gradient. So where there are stand-ins, only
    gradients that are missing through them give a warning.
    """
    if broken := [finding for finding in findings if finding.not_finite]:
        worst = max(finding.not_finite for finding in broken)
        names = ", ".join(finding.name for finding in broken)
        told = f"the gradient is NaN or infinite at up to {worst} images in {names}; such values count as zero"
        warnings.warn(told, NaNGradientWarning, stacklevel=3)
    asked = [(attempt, f.gradient) for attempt, f in zip(planned, findings, strict=True) if f.gradient is not None]
    own = (defence, bare(defence))
    through = [share for attempt, share in asked if attempt.target not in own]
    shares = through or [share for _, share in asked]
    if shares and max(shares) < 0.5 and (through or not stand_ins(defence)):
        part = "no" if max(shares) == 0 else f"for {100 * max(shares):.0f} % of what was asked a"
        why = "no_grad, detach, a hard decision, a saturated softmax"
        text = f"{part} gradient reached the images ({why}): that the attacks fail says little"
        warnings.warn(f"{text}; give the defence a surrogate, or try square", NoGradientWarning, stacklevel=3)


def check_known(known: Outcome, here: Outcome) -> None:
    """Raise ValueError for an outcome of another defence, on other images, in another norm or at a larger eps."""
    if known.eps > here.eps or known.norm != here.norm or len(known.clean) != len(here.clean):
        seen = f"eps {known.eps:g} in {known.norm} and {len(known.clean)} images"
        raise ValueError(f"known is for {seen}, not for eps {here.eps:g} in {here.norm} and {len(here.clean)} images")
    if known.defence != here.defence:
        raise ValueError(
            "known is the outcome of another defence, or of this one before its weights or settings changed"
        )
    if known.keys is not None and here.keys is not None and not torch.equal(known.keys.to(here.keys), here.keys):
        raise ValueError("known is the outcome on other images, on other labels or in another order")


def check_repeats(defence: Defense, images: Tensor, batches: Batches, *, random: bool) -> None:
    """Raise ValueError for a defence whose logits change when asked again; a random one is asked under one seed."""
    rows = torch.arange(len(images), device=images.device)

    def asked() -> Tensor:
        if random:
            reseed(defence, 0)
        with torch.no_grad(), seeded(0, images.device) if random else nullcontext():
            return batches(lambda part: ask(defence, images[part]), rows)

    first, second = asked(), asked()
    small = 1e-4 * float(first.abs().max())
    if first.shape == second.shape and not torch.allclose(first, second, rtol=1e-4, atol=small):
        what, how = f"{type(defence).__name__} gives other logits when asked again", "set `random = True` on it"
        if random:
            raise ValueError(f"{what} under the same seed: it draws from a generator of its own; give it reseed(seed)")
        told = "then it is attacked through the expectation and judged on fresh draws"
        raise ValueError(f"{what}, so it draws random numbers; {how}: {told}")


def check_count(name: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
