"""The file of benchmarks and the page made of it, with numbers that nobody measured."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
import torch
from cases import each

from advdef.book.pages import generated
from advdef.book.speed import GOALS, keep_speed, read_speed, speed_page
from advdef.store import files

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


def kept(file: Path, **values: float) -> Path:
    for name, value in values.items():
        took = {"ours": 1.23456, "theirs <b>": 2.0}
        keep_speed(file, name.replace("_", " "), value, seconds=took, told="7 & 7 left", device=CPU)
    return file


def test_a_number_joins_those_that_are_there_and_replaces_its_own(tmp_path: Path) -> None:
    file = kept(tmp_path / "new" / "speed.json", seeds=0.9, pgd_end=1.1234)
    kept(file, seeds=1.5)
    found = read_speed(file)
    assert list(found) == ["pgd end", "seeds"]  # in the order of the goals
    assert (found["pgd end"]["value"], found["seeds"]["value"]) == (1.123, 1.5)
    assert found["seeds"]["seconds"] == {"ours": 1.235, "theirs <b>": 2.0}
    run = found["seeds"]["run"]
    assert run["device"] == "cpu"
    assert run["versions"]["torch"] == torch.__version__
    assert run["threads"] == torch.get_num_threads()
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", run["date"])
    with pytest.raises(KeyError):
        kept(file, unknown=1.0)
    assert read_speed(file) == found


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kept(tmp_path / "speed.json", seeds=0.9)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="full"):
        kept(file, seeds=1.5)
    assert file.read_bytes() == before


@each(
    ("content", "message"),
    [
        ("{", "no file of benchmarks"),
        ("[]", "no file of benchmarks"),
        ('{"version": 9, "rows": {}}', "version 9 of the format, not 1"),
        ('{"version": 1, "rows": {"other": {}}}', "not all of it: other"),
        ('{"version": 1, "rows": {"seeds": {"value": 1}}}', "not all of it: seeds"),
    ],
)
def test_another_file_is_refused_by_its_name(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(content)
    with pytest.raises(ValueError, match=rf"speed\.json .*{message}.*nox -s bench"):
        read_speed(tmp_path / "speed.json")


def test_a_goal_is_met_by_what_is_shown() -> None:
    least, most = GOALS["pgd end"], GOALS["reproduce cold"]
    assert [least.met(value) for value in (1.2949, 1.2951, 2.0)] == [False, True, True]
    assert [most.met(value) for value in (5.004, 5.006, 2.0)] == [True, False, True]
    assert (least.shown(), most.shown()) == ("≥ 1.3 ×", "≤ 5 min")


def test_the_page_says_what_is_met_and_what_is_not_or_not_measured(tmp_path: Path) -> None:
    values = {"pgd_end": 1.5, "apgd_end": 1.2, "step_SmallResNet_attack": 2.2, "reproduce_cold": 6.0}
    page = speed_page(read_speed(kept(tmp_path / "speed.json", **values)))
    assert f"Of {len(GOALS)} goals, 4 were measured and **2 are met**" in page
    lines = {
        name: next(row for row in page.split("<tr>") if f"<td>{html.escape(goal.what)}</td>" in row)
        for name, goal in GOALS.items()
    }
    said = {name: "not measured" if "not measured" in row else "not met" if "<b>not met</b>" in row else "met"
            for name, row in lines.items()}  # fmt: skip
    assert {name: word for name, word in said.items() if word != "not measured"} == {
        "pgd end": "met", "apgd end": "not met", "step SmallResNet attack": "met", "reproduce cold": "not met",
    }  # fmt: skip
    assert "<td>1.50 ×</td>" in lines["pgd end"]
    assert "theirs &lt;b&gt; 2" in lines["pgd end"]
    assert "7 &amp; 7 left" in page
    assert "theirs <b>" not in page


def test_the_figure_tells_its_result_and_stays_inside(tmp_path: Path) -> None:
    page = speed_page(read_speed(kept(tmp_path / "speed.json", pgd_end=1.5, seeds=0.9, step_SmallResNet_training=99.0)))
    (label,) = re.findall(r"<title>(.*?)</title>", page)
    assert label.startswith("1 of 3 measured goals are met. PGD-40, to the end")
    assert "Four seeds at once: one by one 0.90, wanted ≥ 1.3 ×, not met" in html.unescape(label)
    bars = [(float(width), colour) for width, colour in re.findall(r'width="([\d.]+)" height="8" fill="(#\w+)"', page)]
    assert [colour for _, colour in bars] == ["#0072B2", "#D55E00", "#D55E00"]
    assert bars[0][0] / bars[1][0] == pytest.approx(1.5 / 0.9, rel=0.01)
    assert all(0 < width <= 344 for width, _ in bars)


def test_a_page_without_numbers_says_how_to_get_them() -> None:
    assert "nox -s bench" in generated([], [])["_generated/speed.md"]


def test_the_committed_numbers_can_be_shown() -> None:
    rows = read_speed(ROOT / "book" / "speed.json")
    assert all(row["run"]["commit"] for row in rows.values())
    assert speed_page(rows).count("</table>") == 4
