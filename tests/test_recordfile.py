"""Damaged record files: each is named in one line that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advdef.book.recordfile import read_record, read_records
from advdef.book.repository import InputError

CONDITION = {"what": "it", "holds": True, "number": "1"}
VERDICT = {"claim": "trn-C1", "sentence": "s", "source": "paper", "verdict": "partly", "evidence": "e"}
RAN = {"seed": 0, "date": "d", "commit": None, "device_name": "x", "python": "3", "versions": {}, "wall_seconds": 1}
ROW = {
    "attack": "PGD",
    "defence": "TRN",
    "model": "m",
    "eps": None,
    "seed": 0,
    "n": 3,
    "correct": 1,
    "accuracy": 0.3333,
}
RECORD: dict[str, Any] = {
    "schema": 1, "paper": "trn", "dataset": "digits", "profile": "smoke", "provenance": RAN, "values": {},
    "verdicts": [VERDICT | {"conditions": [CONDITION]}], "rows": [ROW],
}  # fmt: skip


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


DAMAGED: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "empty": (b"", "Expecting value"),
    "truncated": (json.dumps(RECORD).encode()[:99], "line 1"),
    "not UTF-8": (json.dumps(RECORD).encode() + b"\xff", "utf-8"),
    "no number": (json.dumps(RECORD | {"values": {"gain": float("nan")}}).encode(), "NaN"),
    "another schema": (RECORD | {"schema": 2}, "schema is 2"),
    "another paper": (RECORD | {"paper": "nip"}, "says that it is nip/digits-smoke.json"),
    "another data set": (RECORD | {"dataset": "mnist"}, "says that it is trn/mnist-smoke.json"),
    "a run that is none": (RECORD | {"run": 3}, "its run is no text"),
    "no verdicts": (without(RECORD, "verdicts"), "it lacks verdicts"),
    "verdicts null": (RECORD | {"verdicts": None}, "it has verdicts None"),
    "rows null": (RECORD | {"rows": None}, "it has rows None"),
    "no evidence": (RECORD | {"verdicts": [without(VERDICT, "evidence")]}, "a verdict lacks evidence"),
    "another verdict": (RECORD | {"verdicts": [VERDICT | {"verdict": "great"}]}, "unknown verdict or source: 'great'"),
    "another source": (RECORD | {"verdicts": [VERDICT | {"source": "me"}]}, "unknown verdict or source"),
    "half a condition": (RECORD | {"verdicts": [VERDICT | {"conditions": [{}]}]}, "a condition lacks holds"),
    "wall time null": (RECORD | {"provenance": RAN | {"wall_seconds": None}}, "wall_seconds None"),
    "date null": (RECORD | {"provenance": RAN | {"date": None}}, "date None"),
    "cached null": (RECORD | {"provenance": RAN | {"cached": None}}, "cached is no JSON object"),
    "a row that is none": (RECORD | {"rows": [ROW, 5]}, "row 2 is no JSON object"),
    "a text for a budget": (RECORD | {"rows": [ROW | {"eps": "<b>"}]}, "row 1 has eps '<b>'"),
    "a changed number": (RECORD | {"rows": [ROW | {"accuracy": 0.9}]}, "row 1 has an accuracy of 0.9, and 1 of 3"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trn/digits-smoke.json"
    path.parent.mkdir()
    path.write_text(json.dumps(RECORD))
    return path


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_one_line_that_says_what_is_wrong(
    file: Path, content: bytes | dict[str, Any], said: str
) -> None:
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    for read in (
        lambda: read_record(file),
        lambda: read_records(file.parents[1]),
        lambda: read_records(file.parents[1], profile="smoke"),
    ):
        with pytest.raises(InputError) as caught:
            read()
        line = str(caught.value)
        assert line.startswith(f"{file} is not a record file: ")
        assert said in line
        assert "\n" not in line


def test_records_with_and_without_an_id_are_read(file: Path) -> None:
    assert read_record(file) == RECORD
    file.write_text(json.dumps(RECORD | {"run": "20270101T000000Z-abcdef"}))
    assert read_record(file)["run"] == "20270101T000000Z-abcdef"


def test_the_larger_profile_counts_and_papers_come_in_their_order(tmp_path: Path) -> None:
    def put(paper: str, dataset: str, profile: str) -> None:
        path = tmp_path / paper / f"{dataset}-{profile}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(RECORD | {"paper": paper, "dataset": dataset, "profile": profile}))

    for profile in ("smoke", "paper", "laptop"):
        put("trn", "digits", profile)
    put("another", "digits", "smoke")
    put("qusecnets", "mnist", "smoke")

    def found(profile: str | None) -> list[tuple[str, ...]]:
        return [(r["paper"], r["dataset"], r["profile"]) for r in read_records(tmp_path, profile=profile)]

    assert found(None) == [("qusecnets", "mnist", "smoke"), ("trn", "digits", "paper"), ("another", "digits", "smoke")]
    assert found("laptop") == [("trn", "digits", "laptop")]


def test_a_file_without_a_profile_in_its_name_is_named(file: Path) -> None:
    file.rename(file.with_name("digits.json"))
    with pytest.raises(InputError, match=r"it says that it is trn/digits-smoke\.json"):
        read_records(file.parents[1])


def test_no_checkout_has_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    assert read_records() == []
