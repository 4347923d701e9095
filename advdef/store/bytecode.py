"""What a function does, from its compiled form: so that it can be told for code of a notebook or a prompt as well."""

import dis
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

__all__ = [
    "Facts",
    "facts",
    "imported",
    "is_library",
    "is_of_the_book",
    "module_of",
    "packed",
    "said_module",
    "version_of",
]

_LIBRARIES = frozenset({"torch", "torchvision", "numpy", "numba", "snntorch", "foolbox", "pyautoattack", "scipy"})
_BOOK = (
    "advdef.book",
    "advdef.claims",
    "advdef.cli",
    "advdef.grid",
    "advdef.report",
    "advdef.plotting",
    "advdef.store.tally",
)
# what these keep counts, not how
_KEEPERS = "advdef.store", "advdef.training.weights"
_STANDARD = tuple(os.path.join(os.path.realpath(sysconfig.get_path(name)), "") for name in ("stdlib", "platstdlib"))
_OUTSIDE = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
_OF_A_MODULE = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")  # instructions that read a global name
_OF_THE_LISTING = ("__doc__", "__firstlineno__", "__static_attributes__")  # what a class body says of its source


@dataclass(frozen=True)
class Facts:
    """A code object's hash, the global names that it reads, all names in it, and its imports (name, level, names)."""

    digest: bytes
    globals: tuple[str, ...]
    names: tuple[str, ...]
    imports: tuple[tuple[str, int, tuple[str, ...]], ...]


def packed(tag: str, *pieces: Any) -> bytes:
    """Hash of a tag and pieces, bytes or contiguous arrays of them; no two lists of pieces run together."""
    content = hashlib.sha256(tag.encode())
    for piece in pieces:
        content.update(len(piece).to_bytes(8, "little"))
        content.update(piece)
    return content.digest()


@functools.lru_cache(maxsize=8192)
def facts(code: CodeType) -> Facts:
    """What counts of a code object and of those within it: instructions with their names and constants.

    Docstrings, comments, file names and line numbers do not count.
    """
    read: set[str] = set()
    names = set(code.co_names)
    imports: list[tuple[str, int, tuple[str, ...]]] = []
    pieces = [repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)).encode()]
    # of the flags, those of *args, **kwargs, generators and coroutines: the others follow or say who compiled it
    pieces.append(repr((code.co_flags & 0x2AC, code.co_varnames, code.co_cellvars, code.co_freevars)).encode())
    pieces.append(code.co_exceptiontable)
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    listing = {n for n, step in enumerate(steps) if step.opname == "STORE_NAME" and step.argval in _OF_THE_LISTING}
    loaded: list[Any] = [0, None]  # the last two constants: level and names of an import
    for number, step in enumerate(steps):
        if number in listing or number + 1 in listing:
            continue
        told = repr(step.arg).encode()
        if step.opcode in dis.hasconst:
            told, loaded = _constant(step.argval), [loaded[1], step.argval]
            if isinstance(step.argval, CodeType):
                inner = facts(step.argval)
                read.update(inner.globals)
                names.update(inner.names)
                imports += inner.imports
        elif step.opcode in dis.hasname:
            told = step.argval.encode()
            if step.opname in _OF_A_MODULE:
                read.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                imports.append((step.argval, loaded[0], loaded[1] or ()))
        pieces.append(packed(step.opname, told))
    return Facts(packed("code", *pieces), tuple(sorted(read)), tuple(sorted(names)), tuple(dict.fromkeys(imports)))


def _constant(value: Any) -> bytes:
    """A constant of a code object by type and value."""
    if isinstance(value, CodeType):
        return facts(value).digest
    if isinstance(value, tuple):
        return packed("tuple", *map(_constant, value))
    if isinstance(value, frozenset):
        return packed("frozenset", *sorted(map(_constant, value)))
    return f"{type(value).__name__} {value!r}".encode()


def module_of(thing: Any) -> str:
    """The name of the module that a function or class was written in, or nothing."""
    own = getattr(thing, "__globals__", None)  # functools.wraps changes what the function says of itself
    return str((own or {}).get("__name__") or said_module(thing))


def said_module(thing: Any) -> str:
    """What ``__module__`` says, or "" where that is no text, as in some compiled classes."""
    said = getattr(thing, "__module__", None)
    return said if isinstance(said, str) else ""


def is_library(name: str) -> bool:
    """Whether a module counts by its version and not by its code: the standard library, and what is installed.

    Modules of this package count by their code, but for those that determine no number, such as those of the book.
    """
    if name.split(".")[0] == "advdef":
        return is_of_the_book(name) or _within(name, _KEEPERS)
    module = sys.modules.get(name)
    return name != "__main__" and _installed(name, getattr(module, "__file__", None), module is None)


def is_of_the_book(name: str) -> bool:
    """Whether a module of this package makes the book, so that neither its code nor its objects determine a number."""
    return _within(name, _BOOK)


@functools.cache
def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@functools.cache
def _installed(name: str, file: str | None, unknown: bool) -> bool:
    top = name.split(".")[0]
    if top in _LIBRARIES or top in sys.builtin_module_names:
        return True
    if file is None:
        return top in sys.stdlib_module_names or (not unknown and top != name and is_library(top))
    path = os.path.realpath(file)
    return any(part in path for part in _OUTSIDE) or path.startswith(_STANDARD)


def imported(within: dict[str, Any], name: str, level: int, names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """What an import inside a function brings from modules whose code counts; nothing where it fails."""
    package = within.get("__package__") or str(within.get("__name__", "")).rpartition(".")[0]
    try:
        full = importlib.util.resolve_name("." * level + name, package) if level else name
        top = full.split(".")[0]
        if top not in sys.modules:
            spec = importlib.util.find_spec(top)
            if spec is None or top in sys.stdlib_module_names or _installed(top, spec.origin, False):
                return
        if is_library(full) or is_library(top):
            return
        module = importlib.import_module(full)
    except Exception:  # noqa: BLE001 - whatever a module does when it is imported
        return
    if not names:
        yield full, module if "." not in full else sys.modules[top]
        yield full, module
    for wanted in names:
        try:
            found = getattr(module, wanted, None)
            yield wanted, found if hasattr(module, wanted) else importlib.import_module(f"{full}.{wanted}")
        except Exception:  # noqa: BLE001 - as above
            continue


def version_of(name: str) -> str:
    """The version of a library's module, as far as it says."""
    module = sys.modules.get(name.split(".")[0])
    with warnings.catch_warnings():  # some libraries would rather be asked in another way
        warnings.simplefilter("ignore")
        version = getattr(module, "__version__", "") if isinstance(module, ModuleType) else ""
    return version if isinstance(version, str) else ""
