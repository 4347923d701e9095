"""Results on disk: made once, checked whenever they are read, made again when damaged, and never lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import advdef
from advdef import store
from advdef.store import Entry, Key, StoreWarning, cache_folder, kept, key, place, read, write_atomically
from advdef.store import files as _files

KEY = key("test", part=1)


def asked(folder: Path, *, of: Key = KEY, tensors: dict[str, Tensor] | None = None, **options: Any) -> Entry:
    """A result whose making takes no time."""
    made = {"b": torch.arange(4.0), "a": torch.zeros(2, 3).T} if tensors is None else tensors
    return kept(folder, of, lambda: (made, {"n": 1, "names": ["b", "a"]}), **options)


def same(one: Entry, other: Entry) -> bool:
    return (
        one.facts == other.facts
        and one.seconds == other.seconds
        and one.tensors.keys() == other.tensors.keys()
        and all(v.dtype == other.tensors[n].dtype and torch.equal(v, other.tensors[n]) for n, v in one.tensors.items())
    )


def test_a_result_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    first = asked(folder, label="digits-net/a b")
    again = kept(folder, KEY, lambda: pytest.fail("made again"), label="digits-net/a b")
    assert (first.from_store, again.from_store) == (False, True)
    assert same(first, again)
    (file,) = folder.iterdir()
    assert file == place(folder, KEY, label="digits-net/a b")
    assert file.name == f"digits-net-a-b-{KEY.digest[:20]}.safetensors"
    assert not asked(folder, of=key("test", part=2)).from_store
    (tmp_path / "plain").write_bytes(b"")
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode  # readable by whom other files are readable


@pytest.mark.parametrize(
    "value",
    [torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([True]), torch.ones(2).bfloat16(), torch.tensor(2**60)],
    ids=lambda v: f"{v.dtype} {tuple(v.shape)}",
)
def test_all_kinds_of_tensors_come_back(tmp_path: Path, value: Tensor) -> None:
    shared = torch.arange(6)
    given = {"value": value, "whole": shared, "part": shared[::2], "parameter": nn.Parameter(torch.ones(1))}
    first = asked(tmp_path, tensors=given)
    assert same(first, asked(tmp_path))
    assert not any(v.requires_grad for v in first.tensors.values())
    assert same(asked(tmp_path, of=key("test", part="none"), tensors={}), asked(tmp_path, of=key("test", part="none")))


def test_the_seconds_are_those_of_making(tmp_path: Path) -> None:
    first = kept(tmp_path, KEY, lambda: (time.sleep(0.05), ({}, {}))[1])
    assert 0.05 <= first.seconds < 5
    assert asked(tmp_path).seconds == first.seconds


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def rewritten(content: bytes, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> bytes:
    """A whole file with other content."""
    tensors = safetensors.torch.load(content)
    told = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    change(tensors, told)
    return safetensors.torch.save(tensors, told or None)


def other_facts(tensors: dict[str, Tensor], told: dict[str, str]) -> None:
    told["facts"] = json.dumps({"n": 2})


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit of the last tensor": (lambda b: flipped(b, len(b) - 2), "does not fit its checksum"),
    "a bit in the middle": (lambda b: flipped(b, len(b) - 20), "does not fit its checksum"),
    "zeroed data": (lambda b: b[:-40] + bytes(40), "does not fit its checksum"),
    "all zero": (lambda b: bytes(len(b)), "no result of this store"),
    "cut off": (lambda b: b[:-1], "cut off"),
    "half": (lambda b: b[: len(b) // 2], "no result of this store|cut off"),
    "empty": (lambda b: b"", "no result of this store"),
    "text": (lambda b: b"hello, world", "no result of this store"),
    "no metadata": (lambda b: rewritten(b, lambda t, told: told.clear()), "no result of this store"),
    "a tensor is missing": (lambda b: rewritten(b, lambda t, told: t.pop("a")), "does not fit its checksum"),
    "a tensor has another name": (lambda b: rewritten(b, lambda t, _: t.update(c=t.pop("a"))), "checksum"),
    "another shape": (lambda b: rewritten(b, lambda t, _: t.update(a=t["a"].view(2, 3))), "checksum"),
    "another dtype": (lambda b: rewritten(b, lambda t, _: t.update(a=t["a"].view(torch.int32))), "checksum"),
    "other facts": (lambda b: rewritten(b, other_facts), "checksum"),
    "another key": (lambda b: rewritten(b, lambda t, told: told.update(key="0" * 64)), "another key"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_set_aside_and_made_again(tmp_path: Path, name: str) -> None:
    spoil, reason = DAMAGE[name]
    first = asked(tmp_path)
    (file,) = tmp_path.iterdir()
    spoiled = spoil(file.read_bytes())
    assert spoiled != file.read_bytes()
    for number in (1, 2):
        file.write_bytes(spoiled)
        with pytest.warns(StoreWarning, match=rf"(?s)^[^\n]*{reason}[^\n]*$") as told:
            again = asked(tmp_path)
        assert str(told[0].message).startswith(f"{file} is damaged (")
        assert len(told) == 1
        assert not again.from_store
        assert torch.equal(again.tensors["a"], first.tensors["a"])
        aside = sorted(tmp_path.glob("*.damaged"))
        assert len(aside) == number
        assert all(path.read_bytes() == spoiled for path in aside)
        assert same(asked(tmp_path), again)


def test_every_flipped_bit_is_seen_or_changes_nothing(tmp_path: Path) -> None:
    first = asked(tmp_path)
    (file,) = tmp_path.iterdir()
    content, silent = file.read_bytes(), 0
    for at in range(0, len(content), 3):
        file.write_bytes(flipped(content, at))
        try:
            assert same(read(file, KEY.digest), first)
            silent += 1
        except store.Damaged:
            pass
    assert silent < 0.1 * len(content) / 3  # spaces between the header and the data


def test_a_folder_under_the_name_is_set_aside(tmp_path: Path) -> None:
    place(tmp_path, KEY).mkdir(parents=True)
    with pytest.warns(StoreWarning, match="it is a folder"):
        asked(tmp_path)
    assert asked(tmp_path).from_store


def test_a_file_that_cannot_be_set_aside_is_left_and_the_result_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    monkeypatch.setattr(Path, "rename", lambda *names: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
    with pytest.warns(StoreWarning, match="ignored and made again"):
        assert not asked(tmp_path).from_store
    assert file.read_bytes() == b"damaged"
    assert list(tmp_path.iterdir()) == [file]


def test_what_fails_the_check_is_set_aside(tmp_path: Path) -> None:
    first = asked(tmp_path, check=lambda entry: pytest.fail("nothing was found"))
    assert same(asked(tmp_path, check=lambda entry: None), first)
    with pytest.warns(StoreWarning, match=r"\(robust is no subset of clean\): set aside as .*\.damaged and made again"):
        assert not asked(tmp_path, check=lambda entry: "robust is no subset of clean").from_store
    assert asked(tmp_path).from_store


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Any:
        raise RuntimeError("the third wheel")

    with pytest.raises(RuntimeError, match="third wheel"):
        kept(tmp_path, KEY, fail)
    assert list(tmp_path.iterdir()) == []


def _fails() -> tuple[dict[str, Tensor], dict[str, Any]]:
    raise ZeroDivisionError


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        told: list[str] = []

        def make(told: list[str] = told) -> Any:
            told.append("made")
            return {"a": torch.ones(1)}, {}

        with pytest.warns(StoreWarning, match=rf"^{folder} cannot be written \(.*\): the result will be returned") as w:
            assert torch.equal(kept(folder, KEY, make).tensors["a"], torch.ones(1))
        assert told == ["made"]
        assert len(w) == 1
    with pytest.warns(StoreWarning), pytest.raises(ZeroDivisionError):
        kept(tmp_path / "file", KEY, _fails)


@pytest.mark.parametrize("name", ["link", "fsync"])
def test_a_disk_that_fills_up_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def make() -> Any:
        monkeypatch.setattr(os, name, full)
        return {"a": torch.ones(1)}, {}

    with pytest.warns(
        StoreWarning, match="cannot be written .No space left on device.: the result is returned"
    ) as told:
        entry = kept(tmp_path, KEY, make)
    assert len(told) == 1
    assert torch.equal(entry.tensors["a"], torch.ones(1))
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*given: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unknown)
    first = asked(tmp_path)
    assert same(asked(tmp_path), first)

    def make() -> Any:
        asked(tmp_path, of=key("test", part=2))  # another process, meanwhile
        return {"b": torch.zeros(4)}, {}

    late = kept(tmp_path, key("test", part=2), make)
    assert late.from_store
    assert same(late, asked(tmp_path, of=key("test", part=2)))


def test_the_first_of_two_results_is_kept_and_returned_by_both(tmp_path: Path) -> None:
    def make() -> Any:
        asked(tmp_path)
        return {"b": torch.zeros(4)}, {}

    late = kept(tmp_path, KEY, make)
    assert late.from_store
    assert torch.equal(late.tensors["b"], torch.arange(4.0))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_damaged_file_that_comes_in_between_does_not_win(tmp_path: Path) -> None:
    def make() -> Any:
        place(tmp_path, KEY).write_bytes(b"damaged")
        return {"b": torch.zeros(4)}, {}

    with pytest.warns(StoreWarning, match="set aside"):
        assert not kept(tmp_path, KEY, make).from_store
    assert torch.equal(asked(tmp_path).tensors["b"], torch.zeros(4))


RACE = """
import pathlib, sys, time, torch
from advdef import store
folder, me = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / me).touch()
while len(list(folder.iterdir())) < 2:
    time.sleep(0.01)
def make():
    time.sleep(0.3)
    return {"by": torch.tensor([int(me)])}, {}
for part in range(3):
    print(int(store.kept(folder / "kept", store.key("race", part=part), make).tensors["by"]))
"""


def test_two_processes_that_race_for_a_key_end_with_one_file_and_equal_results(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(advdef.__file__).parents[1])}
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path), me], stdout=subprocess.PIPE, text=True, env=environment
        )
        for me in "12"
    ]
    one, other = (process.communicate(timeout=120)[0].split() for process in racing)
    assert [process.returncode for process in racing] == [0, 0]
    assert one == other
    assert len(one) == 3
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_file_is_written_under_a_name_that_nobody_else_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = os.link
    monkeypatch.setattr(os, "link", lambda name, path: (seen.append(Path(name).name), real(name, path))[1])
    synchronised: list[int] = []
    monkeypatch.setattr(os, "fsync", synchronised.append)
    monkeypatch.setattr(_files.socket, "gethostname", lambda: "a host/with signs")
    for part in (1, 2):
        asked(tmp_path, of=key("test", part=part))
    assert all(name.startswith(".") and f".a-host-with-signs.{os.getpid()}." in name for name in seen)
    assert len(set(seen)) == 2
    assert len(synchronised) >= 4  # files and folder
    assert not list(tmp_path.glob(".*"))


def test_the_cache_stands_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    assert cache_folder("weights") == tmp_path / "weights"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("ADVDEF_CACHE", "~/x")
    assert cache_folder("pairs") == tmp_path / "x" / "pairs"
    monkeypatch.delenv("ADVDEF_CACHE")
    assert cache_folder("weights").parts[-2:] == ("advdef", "weights")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, b"old")

    def fail(*arguments: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    path, ready = tmp_path / "file.bin", tmp_path / "ready"
    program = f"""
        import os, pathlib, time
        from advdef.store import write_atomically

        def hang(*arguments):
            pathlib.Path({str(ready)!r}).touch()
            time.sleep(60)

        os.replace = hang
        write_atomically(pathlib.Path({str(path)!r}), b"x" * 100)
    """
    root = str(Path(advdef.__file__).parents[1])
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=root) as process:
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert ready.exists()
    assert not path.exists()
    write_atomically(path, b"whole")  # and the next one is not in its way
    assert path.read_bytes() == b"whole"
