"""The positive control: our attackers on a network whose robustness is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from advdef.book.control import PUBLISHED, control_table, read_control

FILE = Path(__file__).resolve().parents[1] / "book" / "control.json"


def test_without_a_report_nothing_is_claimed(tmp_path: Path) -> None:
    assert control_table(read_control(tmp_path / "none.json")) == "It has not been judged yet.\n"


@pytest.mark.skipif(not FILE.exists(), reason="no report of the control is committed")
def test_no_attacker_breaks_what_is_proved_and_the_adaptive_one_what_pgd_broke() -> None:
    report = read_control(FILE)
    rows = [row for row in report["results"] if row["threat"] == "adaptive" and row["attack"] == "worst case"]
    (row,) = rows
    wrong = row["n"] - row["correct"]
    # the sample's own share of what is proved or broken differs from that of all images
    assert float(PUBLISHED["PGD"]) / 100 * row["n"] * 0.6 < wrong < float(PUBLISHED["proved"]) / 100 * row["n"] * 1.4
    assert report["threat"]["eps"] == 0.1
    text = control_table(report)
    assert "at most 5.8" in text
    assert f"{100 * wrong / row['n']:.1f} [" in text
