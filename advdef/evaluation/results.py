"""What a run measured, as one long table: a row says which images one attack, or the worst of all, left of one defence.

Tables are pivots of it, figures are drawn from it, rules read the hits of each image from it, and a record file keeps
it. ``record.schema.json`` in ``advdef/book`` lists the columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from advdef.evaluation.outcomes import Finding, Outcome
from advdef.evaluation.threats import Threat
from advdef.norms import Norm
from advdef.statistics import Interval, wilson

__all__ = ["MEASURES", "WORST_CASE", "Results", "Row", "pack_hits", "unpack_hits"]

Row = dict[str, Any]

WORST_CASE = "worst case"
"""The attack of a row that says what all attacks together left, each image under whatever broke it."""

MEASURES = (
    "n", "correct", "accuracy", "low", "high", "hits", "settings", "tried", "broken", "unique_breaks", "seconds",
    "gradient", "forwards", "backwards", "search", "note",
)  # fmt: skip
"""The columns that say what was found. All others say of what, and no two rows have the same there."""

_SAME_EPS = 1e-6  # budgets are written with six decimals


class Results:
    """Rows in the order in which they were found.

    >>> found = Results()
    >>> where = dict(part="worst", dataset="digits", model="CNN", defence="TQ", attack="PGD", eps=0.1, seed=0)
    >>> found.add_hits(torch.tensor([True, True, False, True]), threat="direct", **where)
    >>> found.add_hits(torch.tensor([True, False, False, False]), threat="adaptive", **where)
    >>> found.hits(threat="adaptive")
    tensor([ True, False, False, False])
    >>> found.pivot(["defence"], "threat", lambda interval: f"{100 * interval.value:.0f}")
      defence direct adaptive
    0      TQ     75       25
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows: list[Row] = []
        self._rows: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            self.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def append(self, row: Row) -> None:
        """Add a row, unless the same row is there already (its seconds may differ): a cell of a notebook may run twice.

        Raises ValueError where a row of the same attack on the same defence is there and says something else.
        """
        where = {name: value for name, value in row.items() if name not in MEASURES and value is not None}
        known = self._rows.setdefault(tuple(sorted(where.items())), row)
        if known is row:
            self.rows.append(row)
        elif differing := [n for n in {**known, **row} if n != "seconds" and known.get(n) != row.get(n)]:
            told = ", ".join(f"{name} {value}" for name, value in where.items())
            raise ValueError(
                f"two rows for {told} differ in {', '.join(differing)}: give them different parts or a further column, "
                "or start the kernel again if a cell ran twice"
            )

    def add(
        self, outcome: Outcome, *, part: str, dataset: str, model: str, defence: str, threat: Threat, seed: int,
        **more: Any,
    ) -> None:  # fmt: skip
        """A row for the worst case under ``threat``, and one for each attack there.

        Args:
            outcome: What an evaluation found.
            part: The table or figure of the page that the rows are for.
            dataset: The data set's name.
            model: The network's name.
            defence: The defence's name.
            threat: What the attacker knows.
            seed: The seed of the training.
            more: Further columns of plain values that tell these rows from others.
        """
        where = _where(part, dataset, model, defence, threat, outcome.norm, outcome.eps, seed) | more
        hits = outcome.robust if outcome.shares is None else None  # a random defence has shares of passes
        searched = {} if outcome.search is None else {"search": str(outcome.search)}
        self.append(where | {"attack": WORST_CASE} | _shown(outcome.interval, len(outcome.robust), hits) | searched)
        unique = outcome.unique_breaks()
        for finding in outcome.findings:
            self.append(where | _of_one_attack(finding, outcome) | {"unique_breaks": unique[finding.name]})

    def add_hits(
        self, hits: Tensor, *, part: str, dataset: str, model: str, defence: str, threat: Threat, attack: str,
        eps: float | None, seed: int, norm: Norm | None = None, **more: Any,
    ) -> None:  # fmt: skip
        """A row for the images that are right under one attack.

        Args:
            hits: (N,) booleans, N > 0: which images are right.
            part: The table or figure of the page that the row is for.
            dataset: The data set's name.
            model: The network's name.
            defence: The defence's name.
            threat: What the attacker knows; "clean" where there is none.
            attack: The attack's name; "none" without an attack.
            eps: The budget; None for an attack that looks for the least change.
            seed: The seed of the training.
            norm: The norm of eps.
            **more: Further columns of plain values that tell this row from others.

        Raises TypeError for hits that are no booleans (N,), and ValueError where there is no image, or where a row of
        the same attack on the same defence says something else.
        """
        where = _where(part, dataset, model, defence, threat, norm, eps, seed) | more
        packed = pack_hits(hits)
        self.append(where | {"attack": attack} | _shown(wilson(int(hits.sum()), len(hits)), len(hits), None) | packed)

    def select(self, **where: Any) -> Results:
        """The rows whose columns have these values; a list or tuple stands for any of its values.

        Raises ValueError where no row is left; the message lists what the column that excluded the last ones has.
        """
        found = self.rows
        for column, wanted in where.items():
            values = wanted if isinstance(wanted, list | tuple) else (wanted,)
            left = [row for row in found if any(_same(row.get(column), value) for value in values)]
            if not left:
                there = list(dict.fromkeys(str(row.get(column)) for row in found))
                raise ValueError(f"no row has {column} {wanted!r}; there are: {', '.join(there) or 'no rows'}")
            found = left
        chosen = Results()
        chosen.rows = found
        return chosen

    def one(self, **where: Any) -> Row:
        """The only row with these values; raises ValueError where there is none, or more than one."""
        found = self.select(**where).rows
        if len(found) > 1:
            columns = [c for c in found[0] if c not in MEASURES and len({str(row.get(c)) for row in found}) > 1]
            raise ValueError(f"{len(found)} rows fit; say which {' and which '.join(columns)}")
        return found[0]

    def hits(self, **where: Any) -> Tensor:
        """What is right of N images, (N,) booleans, in the only row with these values; raises as :meth:`one` does."""
        row = self.one(**where)
        if row.get("hits") is None:
            raise ValueError(f"the row of {row['defence']} under {row['attack']} has no hits of single images")
        return unpack_hits(row["hits"], row["n"])

    def interval(self, **where: Any) -> Interval:
        """The accuracy with its 95 % interval in the only row with these values; raises as :meth:`one` does."""
        return _interval(self.one(**where))

    def values(self, column: str) -> list[Any]:
        """The values of a column, each once, in the order of the rows."""
        return list(dict.fromkeys(row.get(column) for row in self.rows))

    def frame(self) -> pd.DataFrame:
        """All rows and columns as a data frame."""
        return pd.DataFrame(self.rows)

    def pivot(
        self, index: Sequence[str], column: str, cell: Callable[[Interval], str] = str, *, name: str = "{}"
    ) -> pd.DataFrame:
        """A table of accuracies: a line for each combination in ``index``, a column for each value of ``column``.

        ``cell`` writes an accuracy, ``name`` the head of a column; "–" stands where nothing was measured. Raises
        ValueError where two rows belong to one cell.
        """
        lines: dict[tuple[Any, ...], Row] = {}
        for row in self.rows:
            if "accuracy" not in row:
                continue
            line = lines.setdefault(tuple(row[c] for c in index), {c: row[c] for c in index})
            head = name.format(row[column])
            if head in line:
                raise ValueError(
                    f"two rows for {head} of {', '.join(str(row[c]) for c in index)}: select more narrowly"
                )
            line[head] = cell(_interval(row))
        return pd.DataFrame(list(lines.values())).astype(object).fillna("–")


def pack_hits(hits: Tensor) -> Row:
    """Hits (N,) for a record: their number, and a hexadecimal number whose bits they are, the first one the highest.

    Raises TypeError unless they are booleans in one dimension, and ValueError where there is no image.

    >>> pack_hits(torch.tensor([True, True, False, True]))
    {'n': 4, 'hits': 'd'}
    """
    if not (isinstance(hits, Tensor) and hits.dtype == torch.bool and hits.dim() == 1):
        raise TypeError(f"hits are a boolean tensor (N,), one per image, not {type(hits).__name__}")
    if len(hits) == 0:
        raise ValueError("no hits, as there is no image")
    bits = "".join(map(str, hits.int().tolist()))
    return {"n": len(bits), "hits": f"{int(bits, 2):0{math.ceil(len(bits) / 4)}x}"}


def unpack_hits(hits: str, n: int) -> Tensor:
    """The hits (n,) that :func:`pack_hits` wrote; raises ValueError for a number that does not fit n images.

    >>> unpack_hits("d", 4)
    tensor([ True,  True, False,  True])
    """
    number = int(hits, 16)
    if len(hits) != math.ceil(n / 4) or number >= 2**n:
        raise ValueError(f"{hits!r:.20} are no hits of {n} images")
    return torch.tensor([bit == "1" for bit in f"{number:0{n}b}"])


def _where(
    part: str, dataset: str, model: str, defence: str, threat: str, norm: str | None, eps: float | None, seed: int
) -> Row:
    budget = round(eps, 6) if eps is not None and math.isfinite(eps) else None  # JSON knows no infinity
    return {
        "part": part, "dataset": dataset, "model": model, "defence": defence, "threat": threat, "norm": norm,
        "eps": budget, "seed": seed,
    }  # fmt: skip


def _of_one_attack(finding: Finding, outcome: Outcome) -> Row:
    row: Row = {"attack": finding.name, "tried": int(finding.tried.sum()), "broken": int(finding.broken.sum())}
    if torch.equal(finding.tried, outcome.clean):  # else its accuracy alone is not known
        left = outcome.clean & ~finding.broken
        row |= _shown(wilson(int(left.sum()), len(left)), len(left), left)
    row |= {"settings": finding.settings, "seconds": round(finding.seconds, 3)}
    row |= {} if finding.gradient is None else {"gradient": round(finding.gradient, 3)}
    return row | {"forwards": finding.forwards, "backwards": finding.backwards}


def _shown(interval: Interval, n: int, hits: Tensor | None) -> Row:
    """A share of n images; of a random defence the images that are right need be no whole number."""
    correct = round(interval.value * n, 3)
    shares = {"accuracy": interval.value, "low": interval.low, "high": interval.high}
    counted: Row = {"n": n, "correct": int(correct) if correct.is_integer() else correct}
    counted |= {name: round(share, 4) for name, share in shares.items()}
    return counted | ({} if hits is None else pack_hits(hits))


def _interval(row: Row) -> Interval:
    """The accuracy of a row; where it counts images, without the rounding of what is written."""
    if row.get("hits") is not None:
        return wilson(row["correct"], row["n"])
    return Interval(row["accuracy"], row["low"], row["high"])


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, float) and isinstance(wanted, float | int):
        return abs(value - wanted) <= _SAME_EPS
    return bool(value == wanted)
