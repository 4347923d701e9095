"""All code that functions and classes reach, as one hash, computed from the objects themselves when it is asked for."""

import importlib
import types
from collections.abc import Iterable
from typing import Any

from advdef.store.bytecode import facts, imported, is_library, packed, said_module, version_of
from advdef.store.content import Code, Content, functions_of

__all__ = ["code_hash", "name_of", "resolve"]


def name_of(code: Code) -> str:
    """``module:name`` of a function or class."""
    return f"{said_module(code)}:{code.__qualname__}"


def resolve(name: str) -> Code | None:
    """The function or class of a name; None where it cannot be imported, as from a notebook."""
    module, _, path = name.partition(":")
    try:
        found: Any = None if module in ("", "__main__") else importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception:  # noqa: BLE001 - whatever a module does when it is imported
        return None
    return found if isinstance(found, types.FunctionType | type) else None


def code_hash(roots: Iterable[Code]) -> str:
    """Hash of functions and classes and of all code outside libraries that they reach.

    That is what they name of their modules, and import when they run: functions and classes by their code, other
    values by their content, or by their type where they have none.
    """
    return _Closure(roots).hash()


class _Closure:
    def __init__(self, roots: Iterable[Code]) -> None:
        self._waiting = list(roots)
        self._values: dict[int, tuple[object, bytes]] = {}

    def hash(self) -> str:
        entries, seen = set(), {}
        while self._waiting:
            code = self._waiting.pop()
            if id(code) not in seen:
                seen[id(code)] = code
                entries.add(self._class(code) if isinstance(code, type) else self._function(code))
        return packed("closure", *sorted(entries)).hex()

    def _class(self, code: type) -> bytes:
        members = [
            packed(name, self._value(member))
            for name, member in sorted(vars(code).items())
            if functions_of(member) or not (name.startswith("__") and name.endswith("__"))
        ]
        return packed("class", self._value(code), self._value((type(code), *code.__bases__)), *members)

    def _function(self, code: types.FunctionType) -> bytes:
        found, within = facts(code.__code__), code.__globals__
        pieces = [packed(n, self._reached(within[n], found.names, ())) for n in found.globals if n in within]
        for asked in found.imports:
            pieces += [packed(n, self._reached(value, found.names, ())) for n, value in imported(within, *asked)]
        return packed("function", self._value(code), *pieces)

    def _reached(self, value: object, names: frozenset[str], through: tuple[str, ...]) -> bytes:
        """A value that a function names; of a module, what the function may ask it for."""
        if not isinstance(value, types.ModuleType):
            return self._value(value)
        if is_library(value.__name__) or value.__name__ in through:
            return f"module {value.__name__} {version_of(value.__name__)}".encode()
        inside, path = vars(value), (*through, value.__name__)
        return packed("module", *(packed(n, self._reached(inside[n], names, path)) for n in sorted(names & {*inside})))

    def _value(self, value: object) -> bytes:
        if id(value) not in self._values:
            walk = Content(lenient=True)
            self._values[id(value)] = value, walk.of(value)
            self._waiting += walk.code
        return self._values[id(value)][1]
