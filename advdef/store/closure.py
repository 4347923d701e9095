"""All code that functions and classes reach, as one hash, computed from the objects themselves when it is asked for."""

import functools
import importlib
import operator
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, filterfalse
from typing import Any

import torch

from advdef.store.bytecode import Facts, facts, imported, is_library, module_of, packed, said_module
from advdef.store.content import Code, Content, functions_of

__all__ = ["code_hash", "name_of", "resolve"]

_PARTED = frozenset({
    tuple, list, dict, types.MappingProxyType, functools.partial, property, staticmethod, classmethod,
    types.FunctionType, types.MethodType,
})  # fmt: skip
_FIRM = _PARTED | {object, type(None), bool, int, float, complex, str, bytes, types.CodeType, torch.dtype}
_END = object()  # of what a value holds
_DEEP = 10  # what holds itself ends somewhere


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

    They reach the names of their modules that they use, and what they import when they run. Functions and classes count
    by their code, other values by their content, or by their type where they have none. Hashes are remembered in this
    process while the same objects are in the same places; of objects that can change in place, the content is hashed
    again each time.
    """
    roots = list(roots)
    try:
        return _Closure(roots).hash()
    except _Changed:
        _known.clear()
        return _Closure(roots).hash()


class _Changed(Exception):
    """A known hash was made from something else than what is there now; others may have been as well."""


@dataclass(frozen=True)
class _Known:
    """The hash of a function or class of a module, and what it was made from."""

    code: Code  # kept, so that its id is no other's
    facts: Facts | None
    names: list[str]
    objects: list[object]
    loose: list[tuple[object, bytes, list[Code]]]  # those that change in ways that are not looked at
    reached: list[Code]
    entry: bytes


_known: dict[int, _Known] = {}


class _Closure:
    def __init__(self, roots: Iterable[Code]) -> None:
        self._waiting = list(roots)
        self._values: dict[int, tuple[object, bytes, list[Code]]] = {}
        self._new: dict[int, _Known] = {}

    def hash(self) -> str:
        entries, seen = set(), {}
        while self._waiting:
            code = self._waiting.pop()
            if id(code) not in seen:
                seen[id(code)] = code
                entries.add(self._entry(code) if (known := _known.get(id(code))) is None else self._again(known))
        _known.update(self._new)  # only now: what they reach is known as well
        return packed("closure", *sorted(entries)).hex()

    def _entry(self, code: Code) -> bytes:
        """The hash of code that is not known yet."""
        told = None if isinstance(code, type) else facts(code.__code__)
        parts = list(_parts(code, told))
        content, found = self._value(code)
        pieces, reached = [content], [*found]
        for name, part in parts:
            content, found = self._value(part)
            pieces.append(packed(name, content))
            reached += found
        entry = packed("class" if told is None else "function", *pieces)
        if _lasts(code):
            objects, deep = _objects(code, parts)
            loose = [(thing, *self._value(thing)) for thing in chain(filterfalse(_is_firm, objects), deep)]
            self._new[id(code)] = _Known(code, told, [name for name, _ in parts], objects, loose, reached, entry)
        self._waiting += reached
        return entry

    def _again(self, known: _Known) -> bytes:
        """The known hash; raises _Changed where it was made from another object, or from one that has changed."""
        parts = list(_parts(known.code, known.facts))
        objects, _ = _objects(known.code, parts)
        if [name for name, _ in parts] != known.names or not _same(objects, known.objects):
            raise _Changed
        for thing, content, reached in known.loose:
            found, within = self._value(thing)
            if found != content or not _same(within, reached):
                raise _Changed
        self._waiting += known.reached
        return known.entry

    def _value(self, value: object) -> tuple[bytes, list[Code]]:
        """The content of a value, and the functions and classes in it."""
        if id(value) not in self._values:
            walk = Content(lenient=True)
            self._values[id(value)] = value, walk.of(value), walk.code
        _, content, within = self._values[id(value)]
        return content, within


def _parts(code: Code, told: Facts | None) -> Iterator[tuple[str, object]]:
    """What a class consists of, or what a function reads and imports: values by name."""
    if isinstance(code, type):
        yield "class", type(code)
        for base in code.__bases__:
            yield "base", base
        for name, member in sorted(vars(code).items()):
            if functions_of(member) or not (name.startswith("__") and name.endswith("__")):
                yield name, member
    elif told is not None:
        within = code.__globals__
        for name in told.globals:
            if name in within:
                yield from _reached(name, within[name], told.names, ())
        for asked in told.imports:
            for name, value in imported(within, *asked):
                yield from _reached(name, value, told.names, ())


def _reached(
    name: str, value: object, names: tuple[str, ...], through: tuple[str, ...]
) -> Iterator[tuple[str, object]]:
    """A value that a function names; of a module, what the function may ask it for."""
    if not isinstance(value, types.ModuleType) or is_library(value.__name__):
        yield name, value
        return
    yield name, value.__name__
    if value.__name__ not in through:
        inside, path = vars(value), (*through, value.__name__)
        for asked in names:
            if asked in inside:
                yield from _reached(f"{name}.{asked}", inside[asked], names, path)


def _objects(code: Code, parts: list[tuple[str, object]]) -> tuple[list[object], list[object]]:
    """All that code and its parts consist of, so that a change exchanges an object; and those that go too deep."""
    found: list[object] = [code.__module__, code.__qualname__]
    deep: list[object] = []
    for thing in [] if isinstance(code, type) else _of_a_function(code):
        _flatten(thing, found, deep)
    for _, part in parts:
        _flatten(part, found, deep)
    return found, deep


def _flatten(value: object, into: list[object], deep: list[object], depth: int = 0) -> None:
    into.append(value)
    if (inside := _inside(value)) is None:
        return
    if depth == _DEEP:
        deep.append(value)
        return
    for part in inside:
        _flatten(part, into, deep, depth + 1)
    into.append(_END)


def _inside(value: Any) -> Iterable[object] | None:
    """What a value consists of; None for what has no parts, has others, or is looked at by itself."""
    kind = type(value)
    if kind not in _PARTED:
        return None
    if kind in (tuple, list):
        return value
    if kind in (dict, types.MappingProxyType):
        return chain.from_iterable(value.items())
    if kind is functools.partial:
        return value.func, value.args, value.keywords
    if kind is types.FunctionType:
        return None if _stands_alone(value) else _of_a_function(value)
    if kind is property:
        return value.fget, value.fset, value.fdel
    return (value.__self__, value.__func__) if kind is types.MethodType else (value.__func__,)


def _of_a_function(code: types.FunctionType) -> Iterable[object]:
    """What a function is by itself: its code, its defaults, its attributes, and what it closes over."""
    yield from (code.__code__, code.__module__, code.__qualname__, *(code.__defaults__ or ()))
    yield from chain.from_iterable(chain((code.__kwdefaults__ or {}).items(), vars(code).items()))
    for cell in code.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            yield cell.cell_contents


def _stands_alone(code: types.FunctionType) -> bool:
    """Whether a function is looked at by itself, or is one of a library that holds nothing."""
    return _lasts(code) and (not (code.__closure__ or vars(code)) or not is_library(module_of(code)))


def _same(these: list[Any], those: list[Any]) -> bool:
    """Whether two lists hold the same objects; equal ones do not suffice, as True equals 1."""
    return len(these) == len(those) and not any(map(operator.is_not, these, those))


def _lasts(code: Code) -> bool:
    """Whether code stays as long as its module: functions within functions and those of a notebook come and go."""
    return "<locals>" not in code.__qualname__ and said_module(code) != "__main__"


def _is_firm(value: object) -> bool:
    """Whether a value has the same content as long as it is there, but for parts and code that are looked at."""
    if type(value) in _FIRM:
        return True
    if isinstance(value, type):
        return _lasts(value) or is_library(said_module(value))
    return isinstance(value, types.ModuleType) and is_library(value.__name__)
