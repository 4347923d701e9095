"""The command `advdef cache`: it lists, verifies and clears, and no result depends on it."""

from __future__ import annotations

import os
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from advdef import store
from advdef.cli import app
from advdef.models import SmallResNet
from advdef.store import kept, key


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    return tmp_path


def advdef(*args: str) -> Result:
    return CliRunner().invoke(app, ["cache", *args])


def keep(folder: Path, *parts: object, label: str = "digits-net") -> Path:
    """A result that takes no time."""
    asked = key("training", parts=parts)
    kept(folder, asked, lambda: ({"a": torch.zeros(500)}, {}), label=label)
    return store.place(folder, asked, label=label)


def left_over(folder: Path, *, hours: float) -> Path:
    path = folder / f".x.safetensors.host.1.{'0' * 32}"
    path.write_bytes(b"half")
    os.utime(path, times=(time.time() - 3600 * hours,) * 2)
    return path


def test_the_list_says_what_is_kept(cache: Path) -> None:
    empty = advdef("list")
    assert (empty.exit_code, empty.stdout.splitlines()[-1]) == (0, "0 results, 0 B; making them took 0 s")
    keep(cache / "weights")
    os.utime(keep(cache / "pairs", 2, label=""), times=(time.time() - 3 * 86_400,) * 2)
    (cache / "weights" / "notes.txt").write_text("not ours")
    (cache / "weights" / f"old-{'0' * 20}.safetensors").write_bytes(b"?")
    left_over(cache, hours=0)
    listed = advdef("list")
    assert listed.exit_code == 0
    lines = listed.stdout.splitlines()
    assert lines[0] == f"in {cache}:"
    assert [line.split() for line in lines[1:4]] == [
        ["training", "3", "kB", "3", "days", "0", "s"],
        ["training", "digits-net", "3", "kB", "0", "min", "0", "s"],
        ["?", f"old-{'0' * 20}.safetensors", "1", "B", "0", "min", "0", "s"],
    ]
    assert lines[4].startswith("3 results, ")
    assert lines[5].startswith("1 other files, 4 B")
    assert len(lines) == 6


def test_verify_names_what_is_damaged_and_changes_nothing(cache: Path) -> None:
    one, other = keep(cache / "weights"), keep(cache / "pairs", 2)
    assert advdef("verify").stdout == "2 whole, 0 damaged or of an earlier version\n"
    content = bytearray(other.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    found = advdef("verify")
    assert found.exit_code == 1
    assert found.stdout.splitlines()[0] == f"{other}: its content does not fit its checksum"
    assert "1 whole, 1 damaged" in found.stdout
    assert one.exists()
    assert other.read_bytes() == content


def made_up(monkeypatch: pytest.MonkeyPatch, factor: int) -> type[nn.Module]:
    """A class of a module that can be imported."""
    module = types.ModuleType("made_up")
    source = f"""
        from torch import nn

        class Net(nn.Module):
            def forward(self, x):
                return x * {factor}
    """
    exec(textwrap.dedent(source), module.__dict__)
    monkeypatch.setitem(sys.modules, "made_up", module)
    made: type[nn.Module] = module.Net
    return made


def test_clear_removes_what_nothing_will_ask_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = cache / "weights"
    stay = [
        keep(weights, SmallResNet((1, 8, 8), 2, width=2)),
        keep(weights, lambda x: x),  # which cannot be imported
        keep(weights, 5),
        left_over(weights, hours=0.5),
    ]
    go = [keep(weights, made_up(monkeypatch, 2)), left_over(cache, hours=2)]
    made_up(monkeypatch, 3)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.0")
        go.append(keep(weights, 6))
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        stay.append(keep(weights, 7))
    finally:
        torch.set_num_threads(torch.get_num_threads() - 1)
    for name in (f"old-{'0' * 20}.safetensors", f"x-{'0' * 20}.safetensors.damaged"):
        go.append(weights / name)
        go[-1].write_bytes(b"?")
    stay += [weights / "theirs.safetensors", weights / f"x-{'0' * 20}.last-good.safetensors", cache / "data.npz"]
    for path in stay[-3:]:
        path.write_bytes(b"?")

    tried = advdef("clear", "--dry-run")
    assert tried.exit_code == 0
    assert sorted(line.split()[2] for line in tried.stdout.splitlines()[:-1]) == sorted(map(str, go))
    assert all(path.exists() for path in [*stay, *go])

    done = advdef("clear")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith("5 files, ")
    assert [path for path in stay if not path.exists()] == []
    assert [path for path in go if path.exists()] == []

    advdef("clear", "--all")
    assert sorted(p for p in cache.rglob("*") if p.is_file()) == sorted([stay[3], stay[-3], stay[-1]])


def test_another_folder_can_be_named(cache: Path, tmp_path: Path) -> None:
    resume = tmp_path / "resume"
    path, other = keep(resume), keep(cache / "weights")
    assert "1 results" in advdef("list", str(resume)).stdout
    assert advdef("clear", "--all", str(resume)).exit_code == 0
    assert (path.exists(), other.exists()) == (False, True)
    missing = advdef("verify", str(tmp_path / "nowhere"))
    assert missing.exit_code == 2
    assert missing.stderr == f"advdef: there is no folder {tmp_path / 'nowhere'}\n"


def test_a_cache_that_is_not_there_yet_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(cache / "later"))
    for command in ("list", "verify", "clear"):
        assert advdef(command).exit_code == 0


def test_the_help_says_that_no_result_depends_on_it() -> None:
    assert "without ever using it" in " ".join(advdef("--help").stdout.split())
