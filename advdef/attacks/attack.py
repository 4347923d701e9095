"""What an attack and a suite of attacks are to those who run them, and what can be told from their settings."""

import inspect
from collections.abc import Mapping
from functools import partial
from types import FunctionType, MethodType

from torch import Tensor, nn

from advdef.norms import Norm

__all__ = ["Attack", "Suite", "describe", "norm_of"]

Attack = partial[Tensor]
"""Called as ``attack(model, images, labels, eps=eps, generator=generator)``; its keywords are its settings."""
Suite = Mapping[str, Attack]
"""Attacks by name, cheap ones first."""


def describe(attack: Attack) -> str:
    """An attack and its settings as text, the same in every run.

    >>> from advdef.attacks import pgd
    >>> describe(partial(pgd, steps=40, loss="margin"))
    "pgd(steps=40, loss='margin')"

    Up to five neurons of a layer are listed; more are only counted.

    >>> from torch import arange
    >>> describe(partial(pgd, chosen={"stem": arange(2), "pool": arange(13)}))
    "pgd(chosen={'stem': [0, 1], 'pool': 13 neurons})"
    """
    settings = ", ".join(f"{name}={_printed(value)}" for name, value in attack.keywords.items())
    return f"{getattr(attack.func, '__name__', type(attack.func).__name__)}({settings})"


def norm_of(attack: Attack) -> Norm | None:
    """The norm in which an attack takes its eps, from its settings or its default; None where it does not say.

    >>> from advdef.attacks import carlini_wagner, each_class, pgd
    >>> norm_of(partial(pgd)), norm_of(partial(carlini_wagner)), norm_of(partial(each_class, attack=partial(pgd)))
    ('Linf', 'L2', 'Linf')
    """
    inner = attack.keywords.get("attack")
    if isinstance(inner, partial):
        return norm_of(inner)
    known = inspect.signature(attack.func).parameters.get("norm")
    default = None if known is None or known.default is inspect.Parameter.empty else known.default
    named: Norm | None = attack.keywords.get("norm", default)
    return named


def _printed(value: object) -> str:
    if isinstance(value, partial):
        return describe(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_inside(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_printed, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_printed, value))}{',' * (len(value) == 1)})"
    if isinstance(value, nn.Module | Tensor):
        return type(value).__name__
    return value.__qualname__ if isinstance(value, MethodType | FunctionType) else repr(value)


def _inside(value: object) -> str:
    """A value of a mapping as text; a tensor is taken to be the neurons of a layer."""
    if not isinstance(value, Tensor):
        return _printed(value)
    return repr(value.tolist()) if value.numel() <= 5 else f"{value.numel()} neurons"
