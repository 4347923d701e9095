"""What each of the three attackers tries: attempts, which :func:`advdef.evaluation.evaluate` runs and judges.

``oblivious``: crafted on the bare classifier, replayed on the defence. ``direct``: through the deployed defence with
plain autograd. ``adaptive``: through its surrogates, with its own attacks, by transfer and without gradients.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from advdef.attacks._types import Attack, Suite
from advdef.attacks.suites import SuiteName, stopping, suite
from advdef.attacks.wrappers import expectation, is_expectation
from advdef.defenses.base import Defense, is_random

__all__ = ["Attempt", "Threat", "adaptive", "direct", "oblivious", "stand_ins"]

Threat = Literal["clean", "oblivious", "direct", "adaptive"]

_NOTHING = "the suite has no attack: what is left would be called robust though nothing was tried"
_DRAWS = 20  # over which a random stand-in is averaged, as in AutoAttack's "rand"


@dataclass(frozen=True)
class Attempt:
    """One attack on one target: what is crafted on. Success is always judged on the defence."""

    name: str
    attack: Attack
    target: nn.Module


def oblivious(defence: Defense, attacks: Suite | SuiteName) -> list[Attempt]:
    """The suite on the bare classifier: behind a defence in front of a defence, the one behind both."""
    bare = defence.classifier
    while isinstance(bare, Defense) and bare.classifier is not bare:
        bare = bare.classifier
    return [Attempt(name, attack, bare) for name, attack in _suite(attacks).items()]


def direct(defence: Defense, attacks: Suite | SuiteName) -> list[Attempt]:
    """The suite on the deployed defence, with whatever gradient autograd finds there."""
    through = _suite(attacks) if is_random(defence) else stopping(_suite(attacks))
    return [Attempt(name, attack, defence) for name, attack in through.items()]


def adaptive(
    defence: Defense,
    attacks: Suite | SuiteName,
    *,
    eps: float,
    steps: int | None = None,
    transfer: Mapping[str, nn.Module] | None = None,
    extra: Suite | None = None,
) -> list[Attempt]:
    """The suite on every stand-in (on the defence itself when there is none), then the defence's own attacks.

    ``steps`` is the budget of those own attacks, if not their default. After them come ``extra`` attacks on the
    deployed defence (gradient-free ones) and the suite replayed from ``transfer`` models. An empty suite leaves the
    defence's own attacks and the extra ones; ValueError where there are none.
    """
    chosen = suite(attacks) if isinstance(attacks, str) else attacks
    exact = not is_random(defence) and all(part.exact for part in defence.modules() if isinstance(part, Defense))
    through = stopping(chosen) if exact else chosen
    attempts = [
        Attempt(f"{name} through {label}", attack, target)
        for label, target in (stand_ins(defence) or {"defence": defence}).items()
        for name, attack in through.items()
    ]
    attempts += [
        Attempt(name, attack if steps is None else partial(attack, steps=steps), defence)
        for name, attack in _own_attacks(defence, eps).items()
    ]
    attempts += [Attempt(name, attack, defence) for name, attack in (extra or {}).items()]
    for label, source in (transfer or {}).items():
        attempts += [Attempt(f"{name} from {label}", attack, source) for name, attack in chosen.items()]
    if not attempts:
        raise ValueError(_NOTHING)
    return attempts


def stand_ins(defence: Defense) -> dict[str, nn.Module]:
    """The surrogates of a defence; of one in front of another, its own in front of each of the other's.

    So no hard part of a stack is left to cut the gradient. What draws random numbers is replaced by the mean over its
    draws (EOT, https://arxiv.org/abs/1707.07397).

    >>> from advdef.defenses import BitDepth, Jpeg, NoiseVote
    >>> list(stand_ins(Jpeg(BitDepth(nn.Flatten()))))
    ['straight-through over straight-through']
    >>> list(stand_ins(Jpeg(NoiseVote(nn.Flatten(), 0.1))))
    ['EOT-20 of straight-through']
    """
    found = _replaced(defence)
    if not found and is_random(defence):
        return defence.surrogates() or {f"EOT-{_DRAWS}": expectation(defence, _DRAWS)}
    return {
        f"EOT-{_DRAWS} of {name}" if is_random(target) else name: _averaged(target) for name, target in found.items()
    }


def _replaced(defence: Defense) -> dict[str, nn.Module]:
    """Without its hard parts, and as random as before."""
    behind, found = defence.network, {}
    if not isinstance(behind, Defense) or behind is defence:
        return _hard(defence)
    for label, inner in (_replaced(behind) or {"": behind}).items():
        outer = defence.over(inner) if label else defence
        for name, target in (_hard(outer) or ({type(outer).__name__: outer} if label else {})).items():
            found[f"{name} over {label}" if label else name] = target
    return found


def _hard(defence: Defense) -> dict[str, nn.Module]:
    """The surrogates that replace something else than draws."""
    return {name: target for name, target in defence.surrogates().items() if not is_expectation(target)}


def _averaged(target: nn.Module) -> nn.Module:
    return expectation(target, _DRAWS) if is_random(target) else target


def _own_attacks(defence: Defense, eps: float) -> Suite:
    """The attacks that a defence brings; in front of another defence, those that see stand-ins of that one."""
    behind = defence.network
    if not isinstance(behind, Defense) or behind is defence:
        return defence.adaptive_attacks(eps)
    return {
        f"{name} over {label}" if label else name: attack
        for label, inner in (_replaced(behind) or {"": behind}).items()
        for name, attack in (defence.over(inner) if label else defence).adaptive_attacks(eps).items()
    }


def _suite(attacks: Suite | SuiteName) -> Suite:
    """A suite, also by its name; raises ValueError for one without attacks: clean accuracy would pass for robust."""
    found = suite(attacks) if isinstance(attacks, str) else attacks
    if not found:
        raise ValueError(_NOTHING)
    return found
