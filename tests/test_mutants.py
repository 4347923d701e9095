"""The planted faults of tests/mutants.py still fit the code; ``nox -s mutants`` tries them."""

from __future__ import annotations

from mutants import LEAST, MUTANTS, ROOT

from advdef.book.repository import Repository


def test_each_planted_fault_fits_its_file_once() -> None:
    for mutant in MUTANTS:
        text = (ROOT / mutant.file).read_text("utf-8")
        assert text.count(mutant.old) == 1, mutant.name
        assert mutant.new != mutant.old, mutant.name
        assert mutant.tests in Repository(ROOT).notebooks or (ROOT / mutant.tests).is_file(), mutant.name


def test_there_are_enough_faults_under_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= LEAST + 4
