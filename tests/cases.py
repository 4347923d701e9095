"""One test for a rule that many cases have to keep: the report names each case that breaks it, and the others go on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

__all__ = ["each"]

Rule = Callable[..., None]


def each(
    names: str | Sequence[str], cases: Iterable[Any], *, ids: Iterable[str] | Callable[[Any], object] | None = None
) -> Callable[[Rule], Rule]:
    """As ``pytest.mark.parametrize``, but the cases are subtests of one test: they share its fixtures."""
    arguments = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    table = list(cases)
    labels = list(ids) if ids is not None and not callable(ids) else [None] * len(table)

    def label(value: object) -> str:
        told = ids(value) if callable(ids) else None
        return str(told or getattr(value, "__name__", None) or repr(value))[:80]

    def decorate(rule: Rule) -> Rule:
        def test(*own: Any, subtests: pytest.Subtests, **fixtures: Any) -> None:
            __tracebackhide__ = True
            for case, title in zip(table, labels, strict=True):
                given = dict(zip(arguments, [case] if len(arguments) == 1 else case, strict=True))
                with subtests.test(title, **({} if title else {name: label(value) for name, value in given.items()})):
                    rule(*own, **given, **fixtures)

        asked = [p for p in inspect.signature(rule).parameters.values() if p.name not in arguments]
        wanted = inspect.Parameter("subtests", inspect.Parameter.KEYWORD_ONLY)
        told = dict(vars(rule), __signature__=inspect.Signature([*asked, wanted]))
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            told[name] = getattr(rule, name)
        for name, value in told.items():
            setattr(test, name, value)
        return test

    return decorate
