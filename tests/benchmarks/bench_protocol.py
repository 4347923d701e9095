"""What the adaptive attacker's search by need costs, beside the same protocol without it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Generator

from advdef.data import load
from advdef.evaluation import Outcome, Threat, three_curves
from advdef.papers.comparison import FiveDefences

STEPS, QUERIES = 50, 500


def test_the_search_by_need_on_the_comparison() -> None:
    """Prints time and passes of the three attackers on each defence with the search, against those without it."""
    settings = {**FiveDefences.profiles["smoke"], "images": 200, "curve": (0.25, 0.5, 1.0)}
    study = FiveDefences(load("digits"), settings)
    images, labels = study.images()
    totals = [0.0, 0.0]
    for name in study.names:
        defence, seconds, passes = study.defence(name), [], []
        for rounds in (0, 3):
            started = time.perf_counter()
            found = three_curves(
                defence, images, labels, budgets=study.budgets, generator=Generator().manual_seed(0), steps=STEPS,
                queries=QUERIES, rounds=rounds, transfer=study.relatives_of(name),
            )  # fmt: skip
            seconds.append(time.perf_counter() - started)
            passes.append(_passes(found))
        ends = {f"{eps:g}": str(outcome.search) for eps, outcome in found["adaptive"].items()}
        ratios = f"{seconds[1] / seconds[0]:.2f} times the seconds, {passes[1] / passes[0]:.2f} times the passes"
        print(f"{name}: {ratios}; {ends}")
        totals = [total + second for total, second in zip(totals, seconds, strict=True)]
    print(f"all: {totals[1] / totals[0]:.2f} times the seconds")


def _passes(found: Mapping[Threat, Mapping[float, Outcome]]) -> Any:
    findings = [f for curve in found.values() for outcome in curve.values() for f in outcome.findings]
    return sum(f.forwards + f.backwards for f in findings)
