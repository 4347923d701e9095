"""The table of what adaptive attackers left before and leave now."""

from __future__ import annotations

from typing import Any

from advdef.book.earlier import earlier_table

ABOUT = {"paper": "nip", "dataset": "cifar10", "part": "worst", "model": "m", "defence": "<AT>"}
BEFORE = {**ABOUT, "eps": 0.031373, "correct": 30, "n": 60, "commit": "abc"}


def record(**told: Any) -> Any:
    row = {**ABOUT, "eps": 8 / 255, "threat": "adaptive", "attack": "worst case", "seed": 0, "correct": 40, "n": 100}
    facts = {"paper": "nip", "dataset": "cifar10", "provenance": {"seed": 0}}
    return facts | {"results": [row | {"search": "converged at 100 steps"} | told, row | {"eps": 0.01}]}


def test_what_was_left_before_stands_beside_what_is_left_now() -> None:
    text = earlier_table([record()], [BEFORE])
    assert "<td>&lt;AT&gt;</td><td>nip</td><td>CIFAR-10</td><td>8/255</td><td>30 of 60</td><td>40 of 100</td>" in text
    assert "<td>converged at 100 steps</td>" in text
    for none in (earlier_table([record(search=None)], [BEFORE]), earlier_table([record()], [])):
        assert none == "No page has been run again yet.\n"
