"""Verdicts in record files, as a table in plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from advdef.book.recordfile import read_record

__all__ = ["VerdictRow", "read_verdicts", "verdict_lines"]


@dataclass(frozen=True)
class VerdictRow:
    """What one run says about one claim."""

    claim: str
    run: str
    verdict: str
    evidence: str


def read_verdicts(
    results: Path, *, papers: Iterable[str] | None = None, profile: str | None = None
) -> list[VerdictRow]:
    """The verdicts in the record files of a results folder; raises `InputError` for a file that is no record."""
    wanted = None if papers is None else set(papers)
    found = []
    for file in sorted(results.glob("*/*.json")):
        if (wanted is not None and file.parent.name not in wanted) or (
            profile is not None and not file.stem.endswith(f"-{profile}")
        ):
            continue
        record = read_record(file)
        seed = record["provenance"]["seed"]
        run = f"{file.stem} seed {seed}" if seed else file.stem
        found += [VerdictRow(v["claim"], run, v["verdict"], v["evidence"]) for v in record["verdicts"]]
    return found


def verdict_lines(verdicts: Iterable[VerdictRow], *, width: int = 100) -> str:
    """A table of at most `width` columns; long evidence continues on the next line.

    >>> print(verdict_lines([VerdictRow("nip-1", "mnist-laptop", "supported", "0.91 against 0.40")]))
    claim  run           verdict    evidence
    -----  ------------  ---------  -----------------
    nip-1  mnist-laptop  supported  0.91 against 0.40
    """
    header = VerdictRow("claim", "run", "verdict", "evidence")
    rows = [header, *verdicts]
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("claim", "run", "verdict")]
    last = max(20, width - sum(widths) - 2 * len(widths))
    last = min(last, max(len(row.evidence) for row in rows))
    lines = []
    for row in rows:
        wrapped = textwrap.wrap(row.evidence, last) or [""]
        cells = [row.claim, row.run, row.verdict]
        for line in wrapped:
            lines.append("  ".join([*(c.ljust(w) for c, w in zip(cells, widths, strict=True)), line]).rstrip())
            cells = [""] * len(cells)
        if row is header:
            lines.append("  ".join("-" * w for w in (*widths, last)))
    return "\n".join(lines)
