"""The planted faults of tests/mutants.py still fit the code; ``nox -s mutants`` tries them."""

from __future__ import annotations

import pytest
from mutants import LEAST, MUTANTS, ROOT, Mutant

from advdef.book.repository import Repository


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_fits_its_file_once(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.new != mutant.old
    assert mutant.tests in Repository(ROOT).notebooks or (ROOT / mutant.tests).is_file()


def test_there_are_enough_faults_under_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= LEAST + 4
