"""Runs of one page with several seeds are read as one: rows of all, and verdicts from the numbers of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from advdef.book.records import read_records
from advdef.book.terminal import verdict_lines
from advdef.claims import Condition, all_claims, decide, pooled
from advdef.evaluation.results import Results
from advdef.statistics import Interval, over_seeds

LEADS = {0: 0.10, 3: 0.12, 6: 0.11}
CLAIM = next(claim for claim in all_claims() if claim.id == "QSN-3")


def write(folder: Path, seed: int, lead: float, *, share: float = 0.5) -> None:
    """The record of one run, with one number and one worst case."""
    number = Condition.above("TQ - CQ", Interval(lead, lead - 0.13, lead + 0.13), attacker="adaptive", images=1000)
    found = Results()
    hits = torch.arange(200) < round(200 * share)
    found.add_hits(
        hits, part="curve", dataset="mnist", model="m", defence="TQ", threat="adaptive", attack="worst case", eps=0.1,
        seed=seed,
    )  # fmt: skip
    ran = {"seed": seed, "date": "d", "commit": None, "device_name": "x", "python": "3", "versions": {}}
    ran["cached"] = {"entries": 2, "seconds": 5.0}
    told = {
        "schema": 3, "paper": "qusecnets", "dataset": "mnist", "profile": "laptop", "run": f"run{seed}", "networks": [],
        "provenance": ran | {"wall_seconds": 10.0}, "values": {}, "comparisons": [], "checks": [], "costs": [],
        "verdicts": [decide(CLAIM, "mnist", [number]).as_record()], "results": found.rows,
    }  # fmt: skip
    file = folder / "qusecnets" / f"mnist-laptop-seed{seed}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))


def test_runs_average_over_networks_and_share_their_images(tmp_path: Path) -> None:
    for seed, lead in LEADS.items():
        write(tmp_path, seed, lead, share=0.5 + lead)
        if seed == 0:
            (alone,) = read_records(tmp_path)
            assert alone["verdicts"][0]["verdict"] == "undecided"
    (record,) = read_records(tmp_path)
    (number,) = record["verdicts"][0]["conditions"]
    assert number["value"] == pytest.approx(0.11)
    assert number["high"] - number["value"] == pytest.approx((0.13**2 + 0.0248414**2) ** 0.5, abs=1e-6)
    assert (number["seeds"], number["images"]) == (3, 1000)
    assert record["verdicts"][0]["verdict"] == "undecided"
    assert record["provenance"]["seeds"] == [0, 3, 6]
    assert record["provenance"]["wall_seconds"] == 30.0
    assert record["provenance"]["cached"] == {"entries": 6, "seconds": 15.0}
    assert len(record["results"]) == 3
    assert "mnist-laptop seeds 0, 3, 6" in verdict_lines([record])


def test_the_word_follows_from_all_runs(tmp_path: Path) -> None:
    """Two runs alone would contradict each other."""
    leads = (0.2, 0.14, 0.3, 0.16, 0.25)
    for seed, lead in enumerate(leads):
        write(tmp_path, seed, lead)
    assert read_records(tmp_path)[0]["verdicts"][0]["verdict"] == "supported"
    for seed in range(5):
        write(tmp_path, seed, -leads[seed])
    assert read_records(tmp_path)[0]["verdicts"][0]["verdict"] == "contradicted"
    write(tmp_path, 5, 0.9)
    assert read_records(tmp_path)[0]["verdicts"][0]["verdict"] == "undecided"


def test_numbers_of_different_things_are_not_pooled() -> None:
    one, other = (Condition.above(what, Interval(0.1, 0, 0.2)) for what in ("lead", "loss"))
    with pytest.raises(ValueError, match="lead: these numbers are not of one condition"):
        pooled([one, other])
    assert pooled([one]) is one


def test_what_speaks_of_networks_alone_is_pooled_over_networks_alone() -> None:
    """The interval of each run is over its own networks, whose spread is that between the runs."""
    values = (0.1, 0.12, 0.11)
    found = pooled([Condition.above("x", Interval(v, v - 0.05, v + 0.05), seeds=5) for v in values])
    assert found.interval.low == pytest.approx(over_seeds(values).low, abs=1e-6)
    assert found.interval.high == pytest.approx(over_seeds(values).high, abs=1e-6)


def test_pooled_intervals_cover_as_often_as_they_say() -> None:
    """Networks vary, and images vary for all of them at once: over many made-up studies 95 % cover the truth."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        of_images = torch.randn((), generator=generator) * 0.02
        values = 0.1 + of_images + 0.03 * torch.randn(4, generator=generator)
        runs = [
            Condition.above("x", Interval(v, v - 1.96 * 0.02, v + 1.96 * 0.02), images=500) for v in values.tolist()
        ]
        interval = pooled(runs).interval
        covered += interval.low <= 0.1 <= interval.high
    assert covered / 400 > 0.93
