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
from advdef.attacks.wrappers import expectation
from advdef.defenses.base import Defense, is_random

__all__ = ["Attempt", "Threat", "adaptive", "direct", "oblivious", "stand_ins"]

Threat = Literal["clean", "oblivious", "direct", "adaptive"]

_DRAWS = 20  # of a random defence that names no surrogate; as AutoAttack's "rand" takes


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
    deployed defence (gradient-free ones) and the suite replayed from ``transfer`` models.
    """
    chosen = _suite(attacks)
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
    return attempts


def stand_ins(defence: Defense) -> dict[str, nn.Module]:
    """The surrogates of a defence; of one in front of another, its own in front of each of the other's.

    So no hard part of a stack is left to cut the gradient. A random defence that names none gets the mean over its
    draws (EOT, https://arxiv.org/abs/1707.07397).

    >>> from advdef.defenses import BitDepth, Jpeg
    >>> list(stand_ins(Jpeg(BitDepth(nn.Flatten()))))
    ['straight-through over straight-through']
    """
    behind = defence.network
    if not isinstance(behind, Defense) or behind is defence:
        return _named(defence)
    found = {}
    for label, inner in stand_ins(behind).items():
        outer = defence.over(inner)
        for name, target in (_named(outer) or {type(defence).__name__: outer}).items():
            found[f"{name} over {label}"] = target
    return found or _named(defence)


def _named(defence: Defense) -> dict[str, nn.Module]:
    return defence.surrogates() or ({f"EOT-{_DRAWS}": expectation(defence, _DRAWS)} if defence.random else {})


def _own_attacks(defence: Defense, eps: float) -> Suite:
    """The attacks that a defence brings; in front of another defence, those that see stand-ins of that one."""
    behind = defence.network
    if not isinstance(behind, Defense) or behind is defence:
        return defence.adaptive_attacks(eps)
    inside = stand_ins(behind) or {"": behind}
    return {
        f"{name} over {label}" if label else name: attack
        for label, inner in inside.items()
        for name, attack in defence.over(inner).adaptive_attacks(eps).items()
    }


def _suite(attacks: Suite | SuiteName) -> Suite:
    """A suite, also by its name; raises ValueError for one without attacks: clean accuracy would pass for robust."""
    found = suite(attacks) if isinstance(attacks, str) else attacks
    if not found:
        raise ValueError("the suite has no attack: what is left would be called robust though nothing was tried")
    return found
