"""What an object holds, as a hash: equal content gives equal hashes in any process, and nothing is told by its print.

Tensors and arrays count by their bytes, containers by their elements, modules and other objects by their class and
attributes, functions by their compiled code, defaults and what they close over.
"""

import copyreg
import dataclasses
import enum
import functools
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdef.store.bytecode import (
    facts,
    is_library,
    is_of_the_book,
    module_of,
    packed,
    said_module,
    version_of,
)

__all__ = ["Code", "Content", "NoContent", "functions_of"]

_OF_EVERY_MODULE = {*vars(nn.Module()), "training"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_WRAPPERS = (property, functools.cached_property, staticmethod, classmethod, functools._lru_cache_wrapper)
_BUILTIN = types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType
_NAMED = (torch.dtype, torch.layout, torch.memory_format, torch._ops.OpOverload, torch._ops.OpOverloadPacket)
Code = types.FunctionType | type


class NoContent(TypeError):
    """An object has no content that could be hashed; ``path`` says where it stands in what was given."""

    def __init__(self, value: object) -> None:
        super().__init__(type(value).__qualname__)
        self.path: list[str] = []


class Content:
    """One walk through objects: ``of(value)`` is a value's content, ``code`` the functions and classes met so far.

    With ``lenient``, what has no content counts by its type. A module or parameter that is met again within a module is
    named by its number. Raises NoContent.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.code: list[Code] = []
        self._lenient = lenient
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[object, bytes]] = {}  # with the object, so that its id is no other's
        self._numbers: dict[int, tuple[object, int]] = {}

    def of(self, value: object) -> bytes:
        """The content of a value, in a few bytes."""
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            told = hex(value) if type(value) is int else repr(value)  # long numbers have no repr
            return f"{type(value).__name__} {told}".encode("utf-8", "surrogatepass")
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open:
            return packed("above", str(len(self._open) - self._open[id(value)]).encode())
        numbered = bool(self._numbers) and isinstance(value, nn.Module | nn.Parameter)
        if numbered and id(value) in self._numbers:
            return packed("shared", str(self._numbers[id(value)][1]).encode())
        walk = self
        if not self._numbers and isinstance(value, nn.Module):  # it has the same content wherever it is met
            walk = Content(lenient=self._lenient)
            walk.code, walk._open = self.code, self._open
        if numbered or walk is not self:
            walk._numbers[id(value)] = value, len(walk._numbers)
        self._open[id(value)] = len(self._open)
        try:
            found = walk._of(value)
        except NoContent:
            if not self._lenient:
                raise
            found = packed("type", _full_name(type(value)).encode())
        except RecursionError:
            raise NoContent(value) from None
        finally:
            del self._open[id(value)]
        if not numbered:
            self._done[id(value)] = value, found
        return found

    def _parts(self, tag: str, parts: Iterable[tuple[str, object]]) -> bytes:
        pieces = []
        for name, part in parts:
            try:
                pieces += [name.encode("utf-8", "surrogatepass"), self.of(part)]
            except NoContent as failure:
                failure.path.insert(0, name)
                raise
        return packed(tag, *pieces)

    def _leniently(self, tag: str, parts: Iterable[tuple[str, object]]) -> bytes:
        before, self._lenient = self._lenient, True
        try:
            return self._parts(tag, parts)
        finally:
            self._lenient = before

    def _of(self, value: Any) -> bytes:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray) and type(value) in (np.ndarray, np.memmap):
            return self._array(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if type(value) in (list, tuple):
            return self._parts(type(value).__name__, ((f"[{i}]", part) for i, part in enumerate(value)))
        if type(value) in (dict, types.MappingProxyType):
            return self._parts("dict", _items(value))
        if type(value) in (set, frozenset):
            return packed("set", *sorted(self.of(part) for part in value))
        if isinstance(value, types.ModuleType):  # what it names are globals
            inside = [] if is_library(value.__name__) else sorted(i for i in vars(value).items() if i[0][:2] != "__")
            return self._leniently(f"module {value.__name__} {version_of(value.__name__)}", inside)
        if isinstance(value, _NAMED):
            return packed("named", str(value).encode())
        if isinstance(value, types.CodeType):
            return facts(value).digest
        if is_of_the_book(said_module(type(value))):
            return packed("of the book", _full_name(type(value)).encode())
        name, parts = _described(value)
        return self._parts(name, parts)

    def _tensor(self, value: Tensor) -> bytes:
        plain = value.detach()
        told = f"{plain.dtype} {tuple(plain.shape)} {plain.device.type} {plain.layout}".encode()
        try:
            if plain.is_quantized:
                return packed("quantised", told, str(plain.qscheme()).encode(), self.of(plain.dequantize()))
            if plain.layout is not torch.strided:
                return packed("sparse", told, self.of(plain.to_dense()))
            flat = plain.resolve_conj().resolve_neg().cpu().reshape(-1).view(torch.uint8)
            return packed("tensor", told, flat.numpy())
        except (RuntimeError, NotImplementedError, TypeError) as failure:  # of tensors that have no values
            raise NoContent(value) from failure

    def _array(self, value: np.ndarray) -> bytes:
        told = f"{value.dtype.descr} {value.shape}".encode()
        return packed("array", told, self.of(value.tolist()) if value.dtype.hasobject else value.tobytes())

    def _function(self, value: types.FunctionType) -> bytes:
        if (original := vars(value).get("_torchdynamo_orig_callable")) is not None:
            return packed("compiled", self.of(original))
        parts: list[tuple[str, object]] = [("attributes", vars(value))]
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                parts.append((f"{value.__name__}'s {name}", cell.cell_contents))
            except ValueError:  # not filled yet
                parts.append((name, None))
        if is_library(module_of(value)):
            # what matters there is the function that it wraps
            return packed("library", _full_name(value).encode(), self._leniently("within", parts))
        self.code.append(value)
        parts += [("defaults", value.__defaults__), ("defaults by name", value.__kwdefaults__)]
        return packed("function", _full_name(value).encode(), facts(value.__code__).digest, self._parts("of", parts))

    def _class(self, value: type) -> bytes:
        if is_library(said_module(value)):
            return packed("library", _full_name(value).encode())
        self.code.append(value)
        codes = []
        for name, member in sorted(vars(value).items()):
            codes += [packed(name, facts(f.__code__).digest) for f in functions_of(member)]
        return packed("class", _full_name(value).encode(), *codes)


def _items(mapping: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    for key, value in mapping.items():
        yield "key", key
        yield f"[{key!r}]" if type(key) in (str, int, float) else "value", value


def _described(value: Any) -> tuple[str, Iterable[tuple[str, object]]]:
    """A name and parts that together are all that an object holds; raises NoContent."""
    if isinstance(value, nn.Module):
        return "module", _module(value)
    if isinstance(value, types.MethodType):
        return "method", [("self", value.__self__), ("function", value.__func__)]
    if isinstance(value, functools.partial):
        keywords = dict(sorted(value.keywords.items()))
        return "partial", [("function", value.func), ("arguments", value.args), ("keywords", keywords)]
    if isinstance(value, _BUILTIN):
        owner = getattr(value, "__self__", None)
        owner = None if isinstance(owner, types.ModuleType) else owner
        return f"builtin {_full_name(value)}", [("self", owner)]
    if isinstance(value, torch.device):
        return f"device {value.type}", ()
    if isinstance(value, PurePath):
        return "path", [("value", value.as_posix())]
    if isinstance(value, torch.Generator):
        return f"generator {value.device.type}", [("state", value.get_state())]
    if isinstance(value, torch.jit.ScriptFunction):
        return "script", [("graph", re.sub(" # .*", "", str(value.inlined_graph)))]
    if isinstance(value, np.ufunc):
        name = str(value.__name__)
        if getattr(np, name, None) is not value:
            raise NoContent(value)  # it may hold any function
        return f"ufunc {name}", ()
    if said_module(type(value)) == "torch.export.exported_program":
        parts = [value.graph_module.code, value.state_dict, value.constants, str(value.graph_signature)]
        return "exported", [("program", parts)]
    around = getattr(value, "__dict__", None) or {}
    if said_module(type(value)).startswith("numba") and "py_func" in around:
        return "compiled", [("function", value.py_func), ("options", getattr(value, "targetoptions", None))]
    if isinstance(value, _WRAPPERS):
        return f"wrapper {type(value).__qualname__}", [("functions", _wrapped(value))]
    if isinstance(value, enum.Enum):
        return "member", [("class", type(value)), ("value", value.value)]
    if isinstance(value, tuple):
        return "tuple", [("class", type(value)), ("values", tuple(value))]
    if dataclasses.is_dataclass(value):
        return "object", [("class", type(value)), *_attributes(value)]
    return "object", _reduced(value)


def _module(module: nn.Module) -> Iterator[tuple[str, object]]:
    """The class of a module, its attributes, hooks, weights and children."""
    if isinstance(module, torch.jit.ScriptModule):
        yield from _scripted(module)
    elif said_module(type(module)).startswith("torch._dynamo"):
        yield "compiled", module._orig_mod
        return
    elif isinstance(module, torch.fx.GraphModule):
        yield "code", module.code
    else:
        yield "class", type(module)
        for name, value in sorted(vars(module).items()):
            if name not in _OF_EVERY_MODULE:
                yield name, value
    for name in _HOOKS:
        yield name, list(getattr(module, name, {}).values())
    yield from module._parameters.items()
    yield from module._buffers.items()
    yield from module._modules.items()


def _scripted(module: torch.jit.ScriptModule) -> Iterator[tuple[str, object]]:
    for name in module._c._method_names():
        code, constants = module._c._get_method(name).code_with_constants
        yield name, re.sub(r"___torch_mangle_\d+\.", "", code)  # numbers that tell equal classes apart
        yield "constants", constants
        for attribute in sorted(set(re.findall(r"\bself\.(\w+)", code))):
            value = module._c.getattr(attribute) if module._c.hasattr(attribute) else None
            if isinstance(value, bool | int | float | str | list | tuple | dict | Tensor):
                yield attribute, value


def _attributes(value: Any) -> Iterator[tuple[str, object]]:
    """Attributes of a dataclass, but for fields whose metadata say ``content=False``."""
    fields = {field.name: field for field in dataclasses.fields(value)}
    names = [n for n, field in fields.items() if field.metadata.get("content", True) and hasattr(value, n)]
    names += [name for name in sorted(getattr(value, "__dict__", {})) if name not in fields]
    for name in names:
        yield name, getattr(value, name)


def _reduced(value: Any) -> list[tuple[str, object]]:
    """What pickle would keep of an object."""
    try:
        reduce: Any = copyreg.dispatch_table.get(type(value))
        reduced: Any = reduce(value) if reduce else value.__reduce_ex__(2)
    except Exception as failure:
        raise NoContent(value) from failure
    if isinstance(reduced, str):
        return [("class", type(value)), ("name", reduced)]
    make, arguments, state, elements, items = (*reduced, None, None, None)[:5]
    if isinstance(state, dict):
        state = dict(sorted(state.items(), key=lambda item: str(item[0])))
    parts = [("made by", make), ("arguments", arguments), ("state", state)]
    return [*parts, ("elements", list(elements or ())), ("items", [*map(list, items or ())])]


def _wrapped(member: Any) -> list[Any]:
    """The functions of a property, a static or a class method, a cache; or what was given, in a list."""
    if isinstance(member, property):
        return [member.fget, member.fset, member.fdel]
    if isinstance(member, functools.cached_property):
        return [member.func]
    return [getattr(member, "__wrapped__", None)] if isinstance(member, _WRAPPERS) else [member]


def functions_of(member: Any) -> list[types.FunctionType]:
    """The functions of a member of a class: its own, or those that it wraps."""
    return [f for f in _wrapped(member) if isinstance(f, types.FunctionType)]


def _full_name(thing: Any) -> str:
    module = said_module(thing) or module_of(thing)
    name = f"{module}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    return f"{name} {version_of(module)}" if is_library(module) else name
