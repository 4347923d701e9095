"""Results on disk, each under a key that holds all that determines it, and checked whenever it is read.

Weights, pairs, crafted images and evaluations are kept in this one way: a safetensors file whose metadata hold the key
and a checksum. Any number of processes and hosts may share a folder: the first one to finish a result keeps it, and
all others take that one. A file that is not what it should be is named, set aside and made again.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import re
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import safetensors.torch
import torch
from torch import Tensor

from advdef.devices import autocasting, reduced_precision
from advdef.store import tally
from advdef.store.bytecode import packed
from advdef.store.closure import code_hash, name_of
from advdef.store.content import Content, NoContent
from advdef.store.files import remove_left_over, temporary, write_atomically, write_first

__all__ = [
    "Damaged", "Entry", "Key", "StoreWarning", "cache_folder", "environment", "header", "identity", "kept", "key",
    "place", "read", "set_aside", "write_atomically",
]  # fmt: skip

_TOLD = ("key", "kind", "label", "seconds", "made", "facts", "code", "roots", "environment")
_VERSIONS = ("numba", "snntorch", "pyautoattack", "foolbox")


class StoreWarning(UserWarning):
    """A file was not what it should be, or a result could not be kept."""


class Damaged(ValueError):
    """A file does not hold what its key promises; the message says why."""


@dataclass(frozen=True)
class Key:
    """All that determines a result, as a hash, and what is needed to tell later whether it still does.

    ``code`` is the hash of the code reached from ``roots``, functions and classes by name; ``environment`` holds the
    versions of libraries and the settings of torch that change floats.
    """

    digest: str
    code: str
    roots: tuple[str, ...]
    environment: dict[str, str]
    kind: str = ""


@dataclass(frozen=True)
class Entry:
    """A result: tensors on the CPU, plain facts, and the seconds that making it took, whenever that was."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    seconds: float
    from_store: bool


def key(kind: str, **parts: object) -> Key:
    """The key of a result of a kind, from named parts: their content, all code that they reach, and the environment.

    Raises TypeError, naming the part, for something that has no content that can be hashed, as an open file.
    """
    walk = Content()
    pieces = [packed(name, _content(walk, part, name)) for name, part in sorted(parts.items())]
    code, around = code_hash(walk.code), environment()
    digest = packed(kind, *pieces, code.encode(), json.dumps(around, sort_keys=True).encode()).hex()
    return Key(digest, code, tuple(sorted({name_of(c) for c in walk.code})), around, kind)


def identity(*parts: object) -> str:
    """A short hash of content and code, to tell within a process whether two things are the same.

    What has no content (a lock that a model holds, say) counts by its type.
    """
    walk = Content(lenient=True)
    pieces = [_content(walk, part, f"part {i}") for i, part in enumerate(parts, 1)]
    return packed("identity", *pieces, code_hash(walk.code).encode()).hex()[:20]


def _content(walk: Content, part: object, name: str) -> bytes:
    try:
        return walk.of(part)
    except NoContent as failure:
        where = ", ".join([name, *failure.path])
        raise TypeError(f"{where}: {failure} has no content that a key could hold; pass what it is made from") from None


def environment() -> dict[str, str]:
    """Versions of libraries, and the settings of torch that change floats."""
    return {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "torch": torch.__version__,
        "numpy": np.__version__,
        **{name: _version(name) for name in _VERSIONS},
        "threads": str(torch.get_num_threads()),
        "dtype": str(torch.get_default_dtype()),
        "precision": _precision(),
        "layout": os.environ.get("ADVDEF_CHANNELS_LAST", "1"),
    }


def _precision() -> str:
    """What torch was told about the precision of products."""
    return f"{reduced_precision()} {torch.are_deterministic_algorithms_enabled()} {autocasting()}"


@functools.cache
def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cache_folder(kind: str) -> Path:
    """Where results of a kind are kept: in ``$ADVDEF_CACHE``, else the user's cache folder."""
    root = os.environ.get("ADVDEF_CACHE")
    return (Path(root).expanduser() if root else Path(platformdirs.user_cache_dir("advdef"))) / kind


def place(folder: Path, key: Key, *, label: str = "") -> Path:
    """The path in ``folder`` of the result with this key.

    Its name is the first 80 characters of ``label``, with "-" for what is unusual in file names, and 20 digits of the
    key's hash.
    """
    label = re.sub(r"[^\w.-]+", "-", label, flags=re.ASCII)[:80]
    return folder / f"{label}{'-' if label else ''}{key.digest[:20]}.safetensors"


def kept(
    folder: Path,
    key: Key,
    make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
    *,
    label: str = "",
    check: Callable[[Entry], str | None] | None = None,
) -> Entry:
    """The result under a key in a folder, or else what ``make`` gives, which is kept then.

    ``make`` returns tensors by name and plain facts (JSON). ``check`` returns a reason why a result that was found
    cannot be right, or None. A file that is damaged, or fails the check, is named in a StoreWarning, set aside as
    NAME.damaged and made again. Where the folder cannot be written, a StoreWarning says so before the work begins, and
    the result is returned without being kept.
    """
    path = place(folder, key, label=label)
    _tidy(folder)
    tally.touch(path)
    if (found := _found(path, key, check)) is not None:
        tally.note(found.seconds)
        return found
    obstacle = _obstacle(folder)
    if obstacle:
        _warn(f"{folder} cannot be written ({obstacle}): the result will be returned but not kept")
    started = time.perf_counter()
    with tally.making():
        tensors, facts = make()
    seconds = time.perf_counter() - started
    # copies, for a file holds no two tensors that share memory
    plain = {
        n: v.detach().cpu().resolve_conj().clone(memory_format=torch.contiguous_format) for n, v in tensors.items()
    }
    made = Entry(plain, json.loads(json.dumps(facts)), seconds, from_store=False)
    if obstacle:
        return made
    content = _file(made, key, label)
    try:
        for _ in range(2):
            if write_first(path, content):
                return made
            if (found := _found(path, key, check)) is not None:  # another process was faster
                tally.note(found.seconds)
                return found
    except OSError as failure:
        _warn(f"{path} cannot be written ({_reason(failure)}): the result is returned but not kept")
    return made


@functools.cache
def _tidy(folder: Path) -> None:
    """Once in a process: temporary files of killed ones go also where all that is asked for is there already."""
    remove_left_over(folder)


def read(path: Path, digest: str | None = None) -> Entry:
    """The result in a file; raises Damaged when it is not whole, or not under the key ``digest``, and OSError."""
    if path.is_dir():
        raise Damaged("it is a folder")
    content = path.read_bytes()  # not mapped: another host may set the file aside while it is used
    metadata = _metadata(content)
    if metadata["key"] != (digest or metadata["key"]):
        raise Damaged("it holds another key")
    try:
        tensors = safetensors.torch.load(content)
    except Exception as failure:
        raise Damaged("it is cut off, or no safetensors file") from failure
    if _checksum(tensors, metadata) != metadata["checksum"]:
        raise Damaged("its content does not fit its checksum")
    return Entry(tensors, json.loads(metadata["facts"]), float(metadata["seconds"]), from_store=True)


def header(path: Path) -> dict[str, str]:
    """What a file says of itself, unchecked; raises Damaged for one that is no result, and OSError."""
    if path.is_dir():
        raise Damaged("it is a folder")
    with path.open("rb") as file:
        start = file.read(8)
        return _metadata(start + file.read(min(int.from_bytes(start, "little"), 100_000_000)))


def _metadata(content: bytes) -> dict[str, str]:
    try:
        found = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        return {name: found[name] for name in (*_TOLD, "checksum")}
    except (ValueError, KeyError, TypeError, RecursionError) as failure:
        raise Damaged("it is no result of this store, or its start is damaged") from failure


def _file(entry: Entry, key: Key, label: str) -> bytes:
    """An entry as the bytes of its file."""
    told = (
        key.digest, key.kind, label, repr(entry.seconds), datetime.now(UTC).isoformat(timespec="seconds"),
        json.dumps(entry.facts), key.code, json.dumps(key.roots), json.dumps(key.environment),
    )  # fmt: skip
    metadata = dict(zip(_TOLD, told, strict=True))
    return safetensors.torch.save(entry.tensors, metadata | {"checksum": _checksum(entry.tensors, metadata)})


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    content = hashlib.sha256(json.dumps([metadata[name] for name in _TOLD]).encode())
    for name, value in sorted(tensors.items()):
        content.update(json.dumps([name, str(value.dtype), value.shape]).encode())
        content.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _found(path: Path, key: Key, check: Callable[[Entry], str | None] | None) -> Entry | None:
    """The entry in a file, or None where there is none that can be used; what is wrong with it is told."""
    try:
        entry = read(path, key.digest)
        reason = check(entry) if check is not None else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Damaged as failure:
        reason = str(failure)
    except OSError as failure:
        _warn(f"{path} cannot be read ({_reason(failure)}): its result is made again")
        return None
    if reason is None:
        return entry
    aside = set_aside(path)
    _warn(f"{path} is damaged ({reason}): {f'set aside as {aside.name}' if aside else 'ignored'} and made again")
    return None


def set_aside(path: Path) -> Path | None:
    """Rename a damaged file to NAME.damaged, or to a longer name where that is taken; None where that fails."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged")
    try:
        path.rename(aside)
    except OSError:
        return None
    return aside


def _obstacle(folder: Path) -> str:
    """Why a folder cannot be written, or nothing."""
    try:
        with temporary(folder / "probe", b"?"):
            return ""
    except OSError as failure:
        return _reason(failure)


def _reason(failure: OSError) -> str:
    return failure.strerror or str(failure)


def _warn(message: str) -> None:
    warnings.warn(message, StoreWarning, stacklevel=4)
