"""Record files: one writer, one reader, and one schema between them."""

from __future__ import annotations

import errno
import importlib.metadata
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from advdef.book import records
from advdef.book.records import (
    COMPARISON,
    Run,
    read_record,
    read_records,
    record_schema,
    results_folder,
    three_attacker_rows,
)
from advdef.book.repository import InputError
from advdef.checks.result import Check
from advdef.claims import Claim, Condition, decide
from advdef.data import Dataset
from advdef.evaluation import ATTACKERS, Finding, Outcome
from advdef.evaluation.results import WORST_CASE, Results
from advdef.papers import PAPERS
from advdef.statistics import Interval
from advdef.store import tally

HITS = torch.tensor([True, True, False, True])
ROW: dict[str, Any] = {
    "part": "worst", "dataset": "digits", "model": "m", "defence": "TRN", "threat": "direct", "attack": "PGD",
    "norm": None, "eps": None, "seed": 0, "n": 3, "correct": 1, "accuracy": 0.3333, "low": 0.1, "high": 0.7,
    "hits": "4",
}  # fmt: skip
CONDITION = Condition.above("it", Interval(0.1, 0.05, 0.15)).as_record()
VERDICT: dict[str, Any] = {
    "claim": "TRN-1", "sentence": "s", "source": "paper", "verdict": "supported", "evidence": "e", "attacker": "",
    "images": None, "seeds": None, "conditions": [CONDITION],
}  # fmt: skip
RAN = {"seed": 0, "date": "d", "commit": None, "device_name": "x", "python": "3", "versions": {}, "wall_seconds": 1}
RECORD: dict[str, Any] = {
    "schema": 3, "paper": "trn", "dataset": "digits", "profile": "smoke", "run": None, "provenance": RAN,
    "networks": [], "verdicts": [VERDICT], "comparisons": [], "checks": [], "costs": [], "values": {}, "results": [ROW],
}  # fmt: skip


@pytest.fixture
def run(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ADVDEF_RESULTS", str(tmp_path / "results"))
    return Run("my_defence", "smoke", digits, seed=7)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trn/digits-smoke-seed0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(RECORD))
    return path


def attacked(run: Run, *defences: str, part: str = "worst") -> None:
    """Rows of the three attackers."""
    for defence in defences:
        for threat in ATTACKERS:
            run.add_hits(HITS, part=part, defence=defence, model="m", threat=threat, attack=WORST_CASE, eps=0.1)


# The writer


def test_what_is_written_is_what_is_read(run: Run, digits: Dataset, tmp_path: Path) -> None:
    run.add_clean(HITS, defence="none", model="m")
    run.add_clean(HITS, defence="none", model="m", seed=1, levels=2)
    attacked(run, "mine", "other")
    difference = run.compare({"defence": "mine"}, {"defence": "other"}, threat="direct", eps=0.1)
    run.compare({"defence": "mine"}, {"defence": "other"}, threat="direct", eps=0.1)  # a cell that ran again
    assert run.add_checks([Check("B4", "t", "fire", "no way"), Check("B5", "t", "pass", "")], defence="mine") == ["B4"]
    run.add_cost("mine", training_seconds=0.5, forwards=1.0)
    run.add_cost("mine", training_seconds=1.5, forwards=2.0)
    run.add_cost("mine", model="another", forwards=3.0)
    run.values["gain"] = 0.5
    run.add_network("m", torch.nn.Linear(9, 9), images=100, of=1297)
    run.add_network("m", torch.nn.Linear(9, 10), images=1297, of=1297)
    claim = Claim("my-1", "my_defence", "It works.", "paper", "by looking")
    run.verdicts.append(decide(claim, "digits", [Condition.above("it", Interval(0.1, 0.05, 0.15), images=3)]))
    path = run.save()
    assert path == tmp_path / "results" / "my_defence" / "digits-smoke-seed7.json"
    assert path.read_text().endswith("}\n")
    found = read_record(path)
    assert found["results"].rows == run.results.rows
    assert [(row["seed"], row.get("levels")) for row in found["results"].rows[:2]] == [(7, None), (1, 2)]
    assert found["results"].hits(defence="mine", threat="direct").tolist() == HITS.tolist()
    assert found["comparisons"] == [
        {"mine": {"defence": "mine"}, "other": {"defence": "other"}, "where": {"threat": "direct", "eps": 0.1},
         "value": 0.0, "low": difference.low, "high": difference.high}
    ]  # fmt: skip
    assert [(check["id"], check["status"]) for check in found["checks"]] == [("B4", "fire"), ("B5", "pass")]
    assert found["costs"] == [
        {"defence": "mine", "training_seconds": 1.5, "forwards": 2.0},
        {"defence": "mine", "model": "another", "forwards": 3.0},
    ]
    assert found["values"] == {"gain": 0.5}
    assert found["networks"] == [{"name": "m", "parameters": 100, "images": 1297, "of": 1297}]
    assert found["verdicts"] == [run.verdicts[0].as_record()]
    facts = found["provenance"]
    assert facts["seed"] == 7
    assert facts["data_checksum"] == digits.checksum
    assert (facts["train_images"], facts["test_images"]) == (1297, 500)
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    assert facts["wall_seconds"] >= 0
    run.values.clear()
    assert run.save() == path
    assert read_record(path)["values"] == {}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def left(eps: float, *robust: int) -> Outcome:
    """What one attack leaves of four images that are right without it."""
    clean, whole = torch.ones(4, dtype=torch.bool), torch.tensor(robust).bool()
    return Outcome(eps, clean, whole, torch.zeros(4, 1, 1, 1), (Finding("PGD", clean, ~whole, 0.5, 3, 1, "pgd()"),))


def test_curves_become_the_rows_of_their_outcomes_in_order(run: Run, digits: Dataset) -> None:
    curves = {threat: {0.1: left(0.1, 1, 1, 0, 1), 0.2: left(0.2, 1, 0, 0, 0)} for threat in ATTACKERS}
    run.add_curves(curves, main=[0.2], defence="TQ", model="m", levels=4)
    run.add_curves(curves, part="seeds", defence="TQ", model="m", seed=1)
    wanted, about = Results(), {"defence": "TQ", "model": "m", "dataset": digits.name}
    for threat in ATTACKERS:
        for eps, part in ((0.1, "curve"), (0.2, "worst")):
            wanted.add(curves[threat][eps], part=part, threat=threat, seed=7, levels=4, **about)
    for threat in ATTACKERS:
        for eps in (0.1, 0.2):
            wanted.add(curves[threat][eps], part="seeds", threat=threat, seed=1, **about)
    assert run.results.rows == wanted.rows
    assert len(wanted) == 24


def test_what_no_reader_would_take_is_not_written(run: Run) -> None:
    run.add_cost("mine", forwards=-1.0)
    with pytest.raises(ValueError, match=r"costs/0/forwards: -1\.0 is less than"):
        run.save()
    run.costs.clear()
    run.values["gain"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        run.save()
    assert not results_folder().exists()


def test_a_page_that_renames_what_the_site_shows_fails_by_itself(digits: Dataset, run: Run) -> None:
    paper = PAPERS[0]
    mine = Run(paper.id, "smoke", digits, seed=0)
    attacked(mine, paper.own, part="curve")
    with pytest.raises(ValueError, match=f"worst cases of {paper.undefended} under all three attackers"):
        mine.save()
    attacked(mine, paper.undefended, part="curve")
    assert mine.save().is_file()
    every = Run(COMPARISON, "smoke", digits, seed=0)
    attacked(every, "undefended", "AT", *(paper.defence for paper in PAPERS[1:]))
    with pytest.raises(ValueError, match=f"worst cases of {paper.defence} under"):
        every.save()


def test_a_table_of_three_attacker_rows_goes_before_a_curve(run: Run) -> None:
    attacked(run, "mine")
    attacked(run, "mine", "other", part="curve")
    assert list(three_attacker_rows(read_record(run.save()))) == [("mine", "m", 0.1)]


def test_a_record_bears_the_id_of_its_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVDEF_RUN", raising=False)
    assert read_record(run.save())["run"] is None
    monkeypatch.setenv("ADVDEF_RUN", "20270101T000000Z-abcdef")
    assert read_record(run.save())["run"] == "20270101T000000Z-abcdef"


def test_a_notebook_writes_no_record_of_another_paper(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_PAPER", "my_defence")
    before = run.save().read_bytes()
    monkeypatch.setenv("ADVDEF_PAPER", "my_copy")
    said = r"notebook of 'my_copy'.*'my_defence': name 'my_copy' as its paper"
    with pytest.raises(ValueError, match=said):
        run.save()
    with pytest.raises(ValueError, match=said):
        Run("my_defence", "smoke", run.data, seed=7)
    assert next(results_folder().glob("*/*.json")).read_bytes() == before


def test_the_record_counts_what_came_from_stored_results(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advdef.store.tally._seconds", [])
    tally.note(1615.0)
    tally.note(0.25)
    assert read_record(run.save())["provenance"]["cached"] == {"entries": 2, "seconds": 1615.2}


def test_a_full_disk_is_told_with_the_path(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write_atomically", write)
    with pytest.raises(OSError, match=r"No space left on device: '.*digits-smoke-seed7\.json'"):
        run.save()


def test_results_go_where_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_RESULTS", "/somewhere")
    assert results_folder() == Path("/somewhere")
    monkeypatch.delenv("ADVDEF_RESULTS")
    assert results_folder() == Path("advdef-results")


# The schema


def test_the_schema_is_one_and_describes_every_field() -> None:
    jsonschema.Draft202012Validator.check_schema(record_schema())

    def fields(schema: dict[str, Any]) -> list[dict[str, Any]]:
        found = list(schema.get("properties", {}).values())
        if isinstance(schema.get("items"), dict):
            found += fields(schema["items"])
        return found + [inner for field in found for inner in fields(field)]

    every = fields(record_schema())
    assert len(every) > 60
    assert all(field["description"].endswith(".") for field in every)


# The reader


def changed(path: str, value: Any) -> bytes:
    """The record with another value at a place, or without what stands there."""
    content = deepcopy(RECORD)
    *steps, last = path.split("/")
    part: Any = content
    for step in steps:
        part = part[int(step) if step.isdigit() else step]
    if value is ...:
        del part[last]
    else:
        part[int(last) if last.isdigit() else last] = value
    return json.dumps(content).encode()


DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Expecting value"),
    "truncated": (json.dumps(RECORD).encode()[:99], "line 1"),
    "not UTF-8": (json.dumps(RECORD).encode() + b"\xff", "utf-8"),
    "no object": (b"[]", "it: [] is not of type 'object'"),
    "no number": (changed("values", {"gain": float("nan")}), "NaN"),
    "an older schema": (changed("schema", 1), "schema: 3 was expected"),
    "another paper": (changed("paper", "nip"), "says that it is nip/digits-smoke-seed0.json"),
    "another profile": (changed("profile", "huge"), "its profile is 'huge'"),
    "a run that is none": (changed("run", 3), "run: 3 is not of type"),
    "no verdicts": (changed("verdicts", ...), "'verdicts' is a required property"),
    "results null": (changed("results", None), "results: None is not of type 'array'"),
    "no evidence": (changed("verdicts/0/evidence", ...), "verdicts/0: 'evidence' is a required property"),
    "another verdict": (changed("verdicts/0/verdict", "great"), "verdicts/0/verdict: 'great' is not one of"),
    "another source": (changed("verdicts/0/source", "me"), "verdicts/0/source: 'me' is not one of"),
    "another word": (changed("verdicts/0/conditions/0/word", "undecided"), "TRN-1 has words that do not follow"),
    "half a condition": (changed("verdicts/0/conditions/0", {}), "verdicts/0/conditions/0: "),
    "wall time null": (changed("provenance/wall_seconds", None), "provenance/wall_seconds: None"),
    "date null": (changed("provenance/date", None), "provenance/date: None"),
    "cached null": (changed("provenance/cached", None), "provenance/cached: None"),
    "a row that is none": (changed("results", [ROW, 5]), "results/1: 5 is not of type 'object'"),
    "a row without its threat": (changed("results/0/threat", ...), "results/0: 'threat' is a required"),
    "another threat": (changed("results/0/threat", "nobody"), "results/0/threat: 'nobody' is not one of"),
    "a text for a budget": (changed("results/0/eps", "<b>"), "results/0/eps: '<b>' is not of type"),
    "a changed number": (changed("results/0/accuracy", 0.9), "results/0 has an accuracy of 0.9, and 1 of 3"),
    "other hits": (changed("results/0/hits", "6"), "results/0 has hits that are not 1 of 3"),
    "too many hits": (changed("results/0/hits", "8"), "no hits of 3 images"),
    "a row of other data": (changed("results/0/dataset", "mnist"), "results/0 is of the data set mnist"),
    "a row twice": (changed("results", [ROW, ROW | {"correct": 2, "accuracy": 0.6667, "hits": "6"}]), "two rows for"),
    "another check": (changed("checks", [{"defence": "TRN"}]), "checks/0: "),
}


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_one_line_that_says_what_is_wrong(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
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
        assert len(line) < len(str(file)) + 300


def test_the_larger_profile_counts_and_papers_come_in_their_order(tmp_path: Path) -> None:
    def put(paper: str, dataset: str, profile: str) -> None:
        path = tmp_path / paper / f"{dataset}-{profile}-seed0.json"
        path.parent.mkdir(exist_ok=True)
        row = ROW | {"dataset": dataset}
        told = {"paper": paper, "dataset": dataset, "profile": profile, "results": [row]}
        path.write_text(json.dumps(RECORD | told))

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
    with pytest.raises(InputError, match=r"it says that it is trn/digits-smoke-seed0\.json"):
        read_records(file.parents[1])


def test_no_checkout_has_no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    assert read_records() == []


def test_of_several_files_a_damaged_one_is_named_and_the_others_are_read(file: Path) -> None:
    other = file.with_name("mnist-laptop-seed0.json")
    other.write_text("{")
    damaged: list[str] = []
    assert [record["dataset"] for record in read_records(file.parents[1], damaged=damaged)] == ["digits"]
    assert len(damaged) == 1
    assert str(other) in damaged[0]
    with pytest.raises(InputError, match="mnist-laptop"):
        read_records(file.parents[1])
