"""What the page about re-running says of the profile gpu is what its estimate gives, and no page takes longer."""

from __future__ import annotations

from pathlib import Path

import gpu_estimate
import pytest
from gpu_estimate import LIMIT, PAGES, Work, all_tasks, larger, profiles_of, table

from advdef.grid.study import Task

ROOT = Path(__file__).resolve().parents[1]


def test_every_page_has_the_profile_and_all_data_sets_are_met() -> None:
    stems = {path.stem[3:] for path in (ROOT / "notebooks").glob("[0-9]*.py")}
    assert stems == set(PAGES)
    met = {name for page in PAGES for name in profiles_of(page)["gpu"]["datasets"]}
    assert met == {"mnist", "fashion_mnist", "gtsrb", "cifar10"}


@pytest.mark.slow
def test_the_page_tells_the_estimate_and_no_page_takes_too_long() -> None:
    told = (ROOT / "book" / "rerun.md").read_text("utf-8")
    lines = table()
    assert [line for line in lines if line not in told] == []
    minutes = {line.split("|")[1]: float(line.split("|")[-2]) for line in lines}
    assert max(minutes.values()) < LIMIT, minutes
    for assumed in (gpu_estimate.ATTACKING, gpu_estimate.TRAINING):
        assert f"{1e-12 * assumed:g} trillion" in told


def test_time_is_work_at_the_assumed_rates() -> None:
    assert Work(60 * gpu_estimate.TRAINING, 120 * gpu_estimate.ATTACKING, 30.0).minutes == pytest.approx(3.5)


def test_passes_grow_with_images_and_steps() -> None:
    then = {"images": 100, "strong": (10, 5)}
    assert larger("trn", {"images": 300, "strong": (20, 1)}, then) == pytest.approx(6.0)
    assert larger("attack_agreement", {}, {}) == 1.0


def test_a_task_that_several_stand_on_counts_once() -> None:
    base = Task("training", ("a", 0))
    tasks = all_tasks([Task("part", (1,), (base,)), Task("part", (2,), (base, Task("training", ("b", 0))))])
    assert [task.label for task in tasks] == ["training(a, 0)", "part(1)", "training(b, 0)", "part(2)"]
