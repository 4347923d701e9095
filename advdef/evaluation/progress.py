"""The bar that evaluations show: alive in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import TypeVar

from tqdm import tqdm

__all__ = ["attack_bar", "show_attack"]

T = TypeVar("T")
_LOG_SECONDS = 30.0


def attack_bar(attacks: Collection[T], *, shown: bool) -> tqdm[T]:
    """A bar over attacks on the standard error.

    Where that is no terminal, such as the log of continuous integration, it says nothing for half a minute, and then
    writes a line each half a minute.
    """
    live = _live()
    return tqdm(
        attacks, disable=not shown, unit="attack", leave=False, delay=0.0 if live else _LOG_SECONDS,
        mininterval=0.1 if live else _LOG_SECONDS,
    )  # fmt: skip


def show_attack(bar: tqdm[T], name: str) -> None:
    """Name the attack that begins: at once in a terminal, in a log with its next line."""
    bar.set_postfix_str(name, refresh=_live())


def _live() -> bool:
    return sys.stderr.isatty()
