"""A positive control: what our attackers leave of a network whose robustness its authors have measured and proved."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advdef.book.markup import budget, rows_of
from advdef.evaluation.results import WORST_CASE
from advdef.evaluation.threats import ATTACKERS
from advdef.statistics import wilson

__all__ = ["PUBLISHED", "control_table", "read_control"]

PUBLISHED = {"clean": "1.8", "FGSM": "3.9", "PGD": "4.1", "proved": "5.8"}
"""Percent of MNIST's 10,000 test images wrong at eps 0.1 in Linf, as https://github.com/locuslab/convex_adversarial
says of its ``models/mnist.pth`` (https://arxiv.org/abs/1711.00851); what is proved is that no attack gets more.
"""


def read_control(file: Path) -> dict[str, Any]:
    """The report of ``advdef judge`` on that network; empty where there is none."""
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def control_table(report: Mapping[str, Any]) -> str:
    """Errors under what the authors tried and proved, and under our three attackers, with 95 % intervals."""
    if not report:
        return "It has not been judged yet.\n"
    rows = [row for row in report["results"] if row["threat"] == "clean" or row["attack"] == WORST_CASE]
    found = {row["threat"]: row for row in rows}
    wrong = {name: f"{wilson(row['n'] - row['correct'], row['n'])}" for name, row in found.items()}
    body = [
        ["without an attack", PUBLISHED["clean"], wrong["clean"]],
        ["FGSM, PGD", f"{PUBLISHED['FGSM']}, {PUBLISHED['PGD']}", ""],
        *([f"{name} attacker", "", wrong[name]] for name in ATTACKERS),
        ["any attack, proved", f"at most {PUBLISHED['proved']}", ""],
    ]
    size = budget(report["threat"]["eps"])
    about = f"Errors on MNIST at eps {size}: published, and on {found['clean']['n']:,} of the same images here"
    return rows_of(about, ["", "published %", "here %"], body)
