"""What each of the three attackers tries: lists of attempts, which :func:`advdef.evaluation.evaluate` runs and judges.

``oblivious`` attacks the bare classifier, and its images are replayed on the defence. ``direct`` attacks the deployed
defence with the gradient that plain autograd finds. ``adaptive`` attacks through the defence's surrogates, with the
defence's own attacks, by transfer and without gradients.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from advdef.attacks.attack import Attack, Suite
from advdef.attacks.suites import SuiteName, stopping, suite
from advdef.attacks.wrappers import expectation, is_expectation
from advdef.defenses.base import Defense, is_random, with_parts

__all__ = ["ATTACKERS", "Attempt", "Threat", "adaptive", "bare", "direct", "oblivious", "stand_ins"]

Threat = Literal["clean", "oblivious", "direct", "adaptive"]

ATTACKERS: tuple[Threat, ...] = ("oblivious", "direct", "adaptive")
"""The three attackers, in the order of what they know."""

_NOTHING = "the suite has no attack: what is left would be called robust though nothing was tried"
_DRAWS = 20  # over which a random stand-in is averaged, as in AutoAttack's "rand"


@dataclass(frozen=True)
class Attempt:
    """One attack on one target, the model that it attacks. Whether it succeeds is always judged on the defence."""

    name: str
    attack: Attack
    target: nn.Module

    def __post_init__(self) -> None:
        if not isinstance(self.attack, partial):
            object.__setattr__(self, "attack", partial(self.attack))


def oblivious(defence: Defense, attacks: Suite | SuiteName) -> list[Attempt]:
    """The suite on the bare classifier; where defences are stacked, on the classifier behind all of them."""
    _check(defence)
    return [Attempt(name, attack, bare(defence)) for name, attack in _suite(attacks).items()]


def bare(defence: nn.Module) -> nn.Module:
    """The classifier without any of the defences in front of it."""
    found = defence
    while isinstance(found, Defense) and found.classifier is not found:
        found = found.classifier
    inside = _inside(found)
    return with_parts(found, {id(inner): bare(inner) for inner in inside}) if inside else found


def direct(defence: Defense, attacks: Suite | SuiteName) -> list[Attempt]:
    """The suite on the deployed defence, with whatever gradient autograd finds there."""
    _check(defence)
    through = _suite(attacks) if is_random(defence) else stopping(_suite(attacks))
    return [Attempt(name, attack, defence) for name, attack in through.items()]


def adaptive(
    defence: Defense,
    attacks: Suite | SuiteName,
    *,
    eps: float,
    steps: int | None = None,
    restarts: int | None = None,
    through: Mapping[str, nn.Module] | None = None,
    transfer: Mapping[str, nn.Module] | None = None,
    extra: Suite | None = None,
) -> list[Attempt]:
    """All that an attacker who knows the defence tries.

    In this order: the suite on every stand-in (on the defence itself where there is none), the defence's own attacks,
    the ``extra`` ones, and the suite replayed from the ``transfer`` models.

    Args:
        defence: What is attacked.
        attacks: The suite, or its name. An empty one leaves the defence's own attacks and the extra ones.
        eps: The budget, which the defence's own attacks may depend on.
        steps: Steps of the defence's own attacks. Default: their own default.
        restarts: Their random starts, where that is more than their own default.
        through: The stand-ins that are attacked, by name. Default: all that there are, or the defence itself.
        transfer: Other models, by name, on which the suite is run as well.
        extra: Further attacks on the deployed defence: ones without gradient, say.

    Raises ValueError where that leaves nothing to try.
    """
    _check(defence)
    chosen = suite(attacks) if isinstance(attacks, str) else attacks
    exact = not is_random(defence) and all(part.exact for part in defence.modules() if isinstance(part, Defense))
    configured = stopping(chosen) if exact else chosen
    attempts = [
        Attempt(f"{name} through {label}", attack, target)
        for label, target in (through or stand_ins(defence) or {"defence": defence}).items()
        for name, attack in configured.items()
    ]
    attempts += [
        Attempt(name, _longer(attack, steps, restarts), defence) for name, attack in _own_attacks(defence, eps).items()
    ]
    attempts += [Attempt(name, attack, defence) for name, attack in (extra or {}).items()]
    for label, source in (transfer or {}).items():
        attempts += [Attempt(f"{name} from {label}", attack, source) for name, attack in chosen.items()]
    if not attempts:
        raise ValueError(_NOTHING)
    return attempts


def stand_ins(defence: Defense) -> dict[str, nn.Module]:
    """All that an adaptive attacker puts in place of a defence, by name: its surrogates, without any hard part.

    Where one defence stands in front of another, each surrogate of the first is combined with each of the second. A
    stand-in that draws random numbers is replaced by the mean over its draws (EOT, https://arxiv.org/abs/1707.07397).

    >>> from advdef.defenses import BitDepth, Jpeg
    >>> from advdef.papers.nip.baselines import NoiseVote
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
    """The stand-ins before averaging: no hard part is left in them, and they are as random as the defence."""
    found = {}
    for label, outer in _over(defence).items():
        for name, target in (_hard(outer) or ({type(outer).__name__: outer} if label else {})).items():
            found[f"{name} over {label}" if label else name] = target
    return found


def _over(defence: Defense) -> dict[str, Defense]:
    """The defence in front of each stand-in of the defences behind it, by name; "" is the defence as it is."""
    inside = _inside(defence)
    options = [list((_replaced(inner) or {"": inner}).items()) for inner in inside]
    found: dict[str, Defense] = {}
    for number in range(max(map(len, options), default=1)):
        chosen = [each[number % len(each)] for each in options]  # of defences side by side, each of the longest list
        label = " and ".join(name for name, _ in chosen if name)
        if not label:
            found[""] = defence
        elif inside == [defence.network]:
            found[label] = defence.over(chosen[0][1])
        else:
            taken = {id(inner): target for inner, (_, target) in zip(inside, chosen, strict=True)}
            found[label] = with_parts(defence, taken)
    return found


def _inside(model: nn.Module) -> list[Defense]:
    """The outermost defences in a model."""
    found: list[Defense] = []
    for child in model.children():
        found += [child] if isinstance(child, Defense) else _inside(child)
    return list(dict.fromkeys(found))


def _hard(defence: Defense) -> dict[str, nn.Module]:
    """The surrogates that replace something other than random draws."""
    return {name: target for name, target in defence.surrogates().items() if not is_expectation(target)}


def _averaged(target: nn.Module) -> nn.Module:
    return expectation(target, _DRAWS) if is_random(target) else target


def _own_attacks(defence: Defense, eps: float) -> Suite:
    """The attacks that a defence brings; those of one in front of another defence see stand-ins of that one."""
    return {
        f"{name} over {label}" if label else name: attack
        for label, outer in _over(defence).items()
        for name, attack in outer.adaptive_attacks(eps).items()
    }


def _longer(attack: Attack, steps: int | None, restarts: int | None) -> Attack:
    """A defence's own attack with other steps, and with more random starts, if that is more."""
    attack = attack if steps is None else partial(attack, steps=steps)
    known = inspect.signature(attack).parameters.get("restarts")
    return (
        attack if restarts is None or known is None or restarts <= known.default else partial(attack, restarts=restarts)
    )


def _check(defence: object) -> None:
    """Raise TypeError, with what to do, for something that is no defence."""
    if not isinstance(defence, Defense):
        raise TypeError(f"a Defense is needed, not {type(defence).__name__}: wrap a model in Undefended(model)")


def _suite(attacks: Suite | SuiteName) -> Suite:
    """A suite, given as such or by its name; raises ValueError for an empty one, which would leave clean accuracy as
    robust.
    """
    found = suite(attacks) if isinstance(attacks, str) else attacks
    if not found:
        raise ValueError(_NOTHING)
    return found
