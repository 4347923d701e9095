"""What an attack and a set of attacks are to those who run them."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

__all__ = ["Attack", "Suite", "describe"]

Attack = partial[Tensor]
"""Called as ``attack(model, images, labels, eps=eps, generator=generator)``; its keywords are its settings."""
Suite = Mapping[str, Attack]
"""Attacks by name, cheap ones first."""


def describe(attack: Attack) -> str:
    """An attack with its settings, the same text in every run.

    >>> from advdef.attacks import pgd
    >>> describe(partial(pgd, steps=40, loss="margin"))
    "pgd(steps=40, loss='margin')"
    """
    settings = ", ".join(f"{name}={_printed(value)}" for name, value in attack.keywords.items())
    return f"{getattr(attack.func, '__name__', type(attack.func).__name__)}({settings})"


def _printed(value: object) -> str:
    if isinstance(value, partial):
        return describe(value)
    return type(value).__name__ if isinstance(value, nn.Module | Tensor) else repr(value)
