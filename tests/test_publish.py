"""Moving a run into the repository: what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import checkout
import nbformat
import pytest
import torch

from advdef.book.notebookfile import first_difference, read_executed, read_pair
from advdef.book.publish import publish
from advdef.book.records import images_file
from advdef.book.repository import InputError, Repository
from advdef.book.run import reproduce
from advdef.evaluation.packed import AttackedSet, PackedImages, pack


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which a laptop run with a parameter has succeeded."""
    root = tmp_path_factory.mktemp("finished")
    repository = checkout.make(root, {"01_good": checkout.GOOD})
    assert reproduce(repository, "good", profile="laptop", parameters={"seed": 5}).failure is None
    return root


@pytest.fixture
def repository(finished: Path, tmp_path: Path) -> Repository:
    """A copy that a test may change."""
    import shutil

    shutil.copytree(finished, tmp_path / "copy")
    return Repository(tmp_path / "copy")


def test_outputs_and_records_are_moved_without_traces_of_the_run(repository: Repository) -> None:
    written = publish(repository, "good", profile="laptop")
    notebook = repository.notebooks["good"]
    copied = repository.committed_results / "good/digits-laptop-seed5.json"
    assert written == [notebook, copied]
    assert json.loads(copied.read_text())["verdicts"][0]["evidence"] == "seed 5"
    recorded = read_executed(notebook)
    assert first_difference(recorded, read_pair(notebook)) is None
    assert "injected-parameters" not in checkout.tags(notebook)
    assert recorded.cells[3].outputs[0].data["text/plain"] == "6"
    assert [cell.execution_count for cell in recorded.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert recorded.cells[3].outputs[0].execution_count == 3
    text = notebook.read_text()
    assert "papermill" not in text
    assert "iopub" not in text
    assert recorded.metadata.kernelspec.name == "python3"
    assert "version" not in recorded.metadata.language_info
    nbformat.validate(recorded)
    assert not list(notebook.parent.glob(".*"))


def test_recording_twice_changes_nothing(repository: Repository) -> None:
    publish(repository, "good", profile="laptop")
    before = repository.notebooks["good"].read_bytes()
    publish(repository, "good", profile="laptop")
    assert repository.notebooks["good"].read_bytes() == before


def test_nothing_to_record(repository: Repository) -> None:
    with pytest.raises(InputError, match=r"nothing to record for good.*advdef reproduce good --profile paper"):
        publish(repository, "good", profile="paper")


def test_a_notebook_edited_since_is_refused(repository: Repository) -> None:
    notebook = repository.notebooks["good"]
    before = notebook.read_bytes()
    notebook.with_suffix(".py").write_text(checkout.GOOD.replace("seed + 1", "seed + 2"))
    with pytest.raises(InputError, match=r"01_good.py has changed since the laptop run \(cell 4\)"):
        publish(repository, "good", profile="laptop")
    assert notebook.read_bytes() == before
    assert not repository.committed_results.exists()


def test_prose_may_have_been_edited_since(repository: Repository) -> None:
    notebook = repository.notebooks["good"]
    notebook.with_suffix(".py").write_text(checkout.GOOD.replace("It has some words.", "It has better words."))
    publish(repository, "good", profile="laptop")
    assert "It has better words." in notebook.read_text()
    assert '"6"' in checkout.outputs(notebook)


def test_a_record_of_code_that_no_commit_has_is_refused(repository: Repository) -> None:
    (file,) = (repository.run("laptop", "good", seed=5).results / "good").glob("*.json")
    file.write_text(file.read_text().replace('"commit": "abc"', '"commit": "abc+"'))
    with pytest.raises(InputError, match=r"code that no commit has \(abc\+\).*commit the package, then run"):
        publish(repository, "good", profile="laptop")
    assert not repository.committed_results.exists()


def test_a_failed_last_run_is_refused(repository: Repository) -> None:
    place = repository.run("laptop", "good", seed=5)
    place.attempt.mkdir()
    (place.attempt / "01_good.failed.ipynb").write_text("{}")
    with pytest.raises(InputError, match="the last laptop run of good failed"):
        publish(repository, "good", profile="laptop")


@pytest.mark.parametrize("content", ["{", '{"schema": 2, "paper": "other", "profile": "laptop"}', "[]"])
def test_a_file_that_is_no_record_of_the_paper_is_refused(repository: Repository, content: str) -> None:
    before = repository.notebooks["good"].read_bytes()
    (repository.run("laptop", "good", seed=5).results / "good/digits-laptop-seed5.json").write_text(content)
    with pytest.raises(InputError, match=r"digits-laptop-seed5\.json is not"):
        publish(repository, "good", profile="laptop")
    assert repository.notebooks["good"].read_bytes() == before


def images_beside(record: Path, run: str | None) -> Path:
    """Attacked images, of which nothing broke, beside a record."""
    kept = PackedImages(
        torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), torch.zeros(1).long(), 1, (no_set(),), {"run": run}
    )
    pack(images_file(record), kept, lambda name, images: torch.ones(len(images), dtype=torch.bool), limit=10_000)
    return images_file(record)


def no_set() -> AttackedSet:
    right = torch.ones(1, dtype=torch.bool)
    return AttackedSet("none", "adaptive", 0.1, "Linf", right, right, ~right, torch.zeros(1, 1, 2, 2))


def test_attacked_images_go_with_their_record_and_with_no_other(repository: Repository) -> None:
    (record,) = (repository.run("laptop", "good", seed=5).results / "good").glob("*.json")
    copied = repository.committed_results / "good" / images_file(record).name
    kept = images_beside(record, json.loads(record.read_text())["run"])
    assert copied in publish(repository, "good", profile="laptop")
    assert copied.read_bytes() == kept.read_bytes()

    images_beside(record, "another")
    with pytest.raises(InputError, match="has the images of run another, and the record beside it is of run"):
        publish(repository, "good", profile="laptop")
    kept.write_bytes(b"no images")
    with pytest.raises(InputError, match="no safetensors file, or cut off; run its notebook again"):
        publish(repository, "good", profile="laptop")
    assert copied.is_file()

    kept.unlink()
    publish(repository, "good", profile="laptop")
    assert not copied.exists()
