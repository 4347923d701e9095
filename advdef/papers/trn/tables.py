"""Rows of the tables on TRN's page that take more than a few lines."""

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from advdef.evaluation import Cost, Outcome, Threat
from advdef.papers.trn.ladder import RUNGS
from advdef.papers.trn.maps import MapLabel
from advdef.papers.trn.measure import MapStudy
from advdef.papers.trn.models import SIZES, TwoStreamRestorer
from advdef.statistics import paired_difference, wilson

__all__ = ["attackers_row", "cost_row", "growth_rows", "headline_row", "ladder_row", "map_row"]

_SHOWN: tuple[MapLabel, ...] = ("average", "predicted")


def map_row(study: MapStudy) -> dict[str, str]:
    """How maps compare with the true label's and with the perturbation, and the median of their sizes."""
    cosines = {what: f"{values.nanmean():+.2f}" for what, values in study.cosines.items()}
    signs = {what: f"{100 * values.nanmean():.0f}" for what, values in study.signs.items()}
    row = {f"{label}: cos to true": cosines[label] for label in study.sizes}
    row |= {f"{label}: signs as true %": signs[label] for label in _SHOWN}
    for label in ("average", "true"):
        row |= {f"{label}: cos to δ": cosines[f"{label}, delta"], f"{label}: signs as δ %": signs[f"{label}, delta"]}
    return row | {f"{label}: median size": f"{study.sizes[label].median():.1e}" for label in _SHOWN}


def ladder_row(hits: Mapping[str, Tensor], fast_at: Mapping[str, Tensor] | None) -> dict[str, str]:
    """Accuracy before the attacks, after each rung and after all, and the difference to Fast-AT.

    Hits are those of :func:`advdef.papers.trn.ladder.robust_by_rung`; ``fast_at`` is None for Fast-AT itself.
    """
    worst = hits["worst"]
    row = {"clean %": _percent(hits["clean"])}
    row |= {rung: _percent(hits[rung]) if rung in hits else "–" for rung in RUNGS}
    row["worst case %"] = f"{wilson(int(worst.sum()), len(worst))}"
    return row | {"− Fast-AT": "–" if fast_at is None else f"{paired_difference(worst, fast_at['worst']):+}"}


def attackers_row(found: Mapping[Threat, Outcome], bare: Tensor | None) -> dict[str, str]:
    """Accuracy under each of three attackers, and what the defence adds to the bare classifier's hits (N,).

    ``bare`` is None for the bare classifier itself.
    """
    row = {"clean %": f"{100 * found['direct'].clean.float().mean():.1f}"}
    row |= {f"{threat} %": f"{outcome.interval}" for threat, outcome in found.items()}
    gain = "–" if bare is None else f"{paired_difference(found['adaptive'].robust, bare):+}"
    return row | {"adaptive − undefended": gain}


def headline_row(hits: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """How TRN looks to attackers who know more and more of it, beside others; hits (N,) by defence and rung."""
    return {
        "undefended, PGD %": _percent(hits["none"]["A0"]),
        "TRN, A0: attack ignores it %": _percent(hits["TRN"]["A0"]),
        "TRN, A1: identity %": _percent(hits["TRN"]["A1"]),
        "TRN, A2: detached map %": _percent(hits["TRN"]["A2"]),
        "TRN, all rungs %": _percent(hits["TRN"]["worst"]),
        "no map, all rungs %": _percent(hits["image only"]["worst"]),
        "Fast-AT, all rungs %": _percent(hits["Fast-AT"]["worst"]),
    }


def _percent(hits: Tensor) -> str:
    return f"{100 * hits.float().mean():.0f}"


def cost_row(found: Cost, bare: Cost, *, batch: int) -> dict[str, str]:
    """What one image costs, beside the bare classifier's cost; ``batch`` is the size of the batches."""
    return {
        "forward passes of f": f"{found.forwards:g}",
        "backward passes of f": f"{found.backwards:g}",
        "one image, ms": f"{found.alone:.2f}",
        f"in batches of {batch}, ms": f"{found.batched:.3f}",
        "times the bare classifier": f"{found.batched / bare.batched:.1f}",
    }


def growth_rows() -> list[dict[str, str]]:
    """Parameters and multiply-adds of each size of TRN on images of several sizes, with one map and with a stack."""
    rows = []
    for name, (classes, side) in product(SIZES, ((10, 28), (10, 32), (100, 32), (10, 64))):
        row = {"restorer": f"TRN-{name}", "classes": str(classes), "image": f"3x{side}x{side}"}
        for maps, channels in (("average", 3), ("stack", 3 * classes)):
            built = TwoStreamRestorer(3, channels, **SIZES[name])  # type: ignore[arg-type]  # no size names a fusion
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                built(torch.zeros(1, 3, side, side), torch.zeros(1, channels, side, side))
            row[f"{maps}: parameters"] = f"{sum(p.numel() for p in built.parameters()):,}"
            row[f"{maps}: multiply-adds, millions"] = f"{counter.get_total_flops() / 2e6:,.0f}"
        rows.append(row)
    return rows
