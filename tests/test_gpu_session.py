"""A session on a GPU, rehearsed: its order, its time, and what is in the archive that it leaves."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import gpu_session
import pytest
from gpu_session import Step, most_undecided, pack, session, steps


def told(paper: str, *words: str) -> dict[str, object]:
    return {"paper": paper, "verdicts": [{"verdict": word} for word in words]}


def test_the_most_undecided_page_comes_first() -> None:
    records = [told("nip", "undecided", "holds"), told("trn", "undecided"), told("trn", "undecided", "refuted")]
    assert most_undecided(["five_defences", "nip", "trn"], records) == ["trn", "nip", "five_defences"]


def test_the_device_is_that_of_every_step(tmp_path: Path) -> None:
    tests, benchmarks, *pages = steps("cuda:1", "laptop", ["trn", "nip"], tmp_path, images=100)
    assert (tests.environment["ADVDEF_TEST_DEVICE"], tests.environment["ADVDEF_TEST_IMAGES"]) == ("cuda:1", "100")
    assert benchmarks.environment["ADVDEF_BENCH_DEVICE"] == "cuda:1"
    assert [page.command[-7:] for page in pages] == [
        ("reproduce", "--no-site", "--profile", "laptop", "--device", "cuda:1", paper) for paper in ("trn", "nip")
    ]
    assert {page.environment["ADVDEF_CACHE"] for page in pages} == {str(tmp_path / "cache")}
    rehearsed, *_ = steps("pretend", "smoke", [], tmp_path, images=10)
    assert "ADVDEF_TEST_DEVICE" not in rehearsed.environment


def test_what_fails_or_hangs_keeps_nothing_else_from_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_session, "ROOT", tmp_path)
    python = sys.executable
    todo = [
        Step("one that fails", (python, "-c", "print('this'); raise SystemExit(3)")),
        Step("one that hangs", (python, "-c", "import time; time.sleep(60)"), 0.05),
        Step("a page", (python, "-c", "import os; print(os.environ['WHERE'])"), environment={"WHERE": "there"}),
    ]
    ends = session(todo, tmp_path, seconds=20.0, facts={"device": "cuda"})
    assert [end.how for end in ends] == ["failed", "out of time", "passed"]
    assert [end.how for end in session(todo, tmp_path, seconds=0.5, facts={})] == ["not begun"] * 3
    session(todo[::2], tmp_path, seconds=20.0, facts={"device": "cuda"})
    found = json.loads((tmp_path / "session.json").read_text())
    assert found["device"] == "cuda"
    assert [step["how"] for step in found["steps"]] == ["failed", "passed"]
    assert "out of time" in capsys.readouterr().out
    pack(tmp_path.parent / "session.tar.gz", (tmp_path, tmp_path / "missing"), tmp_path.parent)
    with tarfile.open(tmp_path.parent / "session.tar.gz") as packed:
        inside = {Path(name).name: packed.extractfile(name) for name in packed.getnames() if name.endswith(".log")}
        assert {name: file.read().split() for name, file in inside.items() if file} == {
            "one-that-fails.log": [b"this"], "one-that-hangs.log": [], "a-page.log": [b"there"],
        }  # fmt: skip
