"""Rows of the tables on TRN's page that take more than a few lines."""

from collections.abc import Collection
from itertools import product

import torch
from torch.utils.flop_counter import FlopCounterMode

from advdef.evaluation import Cost, Results
from advdef.papers.trn.ladder import RUNGS
from advdef.papers.trn.maps import MapLabel
from advdef.papers.trn.measure import MapStudy, lead_over, share_withstood
from advdef.papers.trn.models import SIZES, TwoStreamRestorer
from advdef.statistics import Interval

__all__ = ["ablation_row", "cost_row", "growth_rows", "headline_row", "ladder_row", "map_row", "stream_row"]

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


def ablation_row(results: Results, variant: str, attacks: Collection[str]) -> dict[str, str]:
    """Accuracy of a variant of TRN, in the mean over its seeds, and the difference to TRN on the mean of ``attacks``.

    ``results`` are the rows of all variants; only TRN has no difference.
    """
    mine, trn = (results.select(defence=name) for name in (variant, "TRN"))
    shown = {"clean": ["none"]} | {name: [name] for name in ("FGSM", "PGD", "PGD, 1.5 eps")} | {"mean of five": attacks}
    shares = {name: share_withstood(mine, wanted) for name, wanted in shown.items()}
    row = {f"{name} %": f"{100 * share.mean():.1f}" for name, share in shares.items()}
    seeds = ", ".join(f"{100 * share:.1f}" for share in shares["mean of five"].mean(1))
    lead = "–" if variant == "TRN" else f"{lead_over(shares['mean of five'], share_withstood(trn, attacks)):+}"
    return row | {"by seed": seeds, "− TRN": lead}


def stream_row(lead: Interval) -> dict[str, str]:
    """Whether the gradient stream helps, by the lead of TRN over the network without it."""
    helps = "helps" if lead.low > 0 else "hurts" if lead.high < 0 else "cannot be told from this interval"
    return {"TRN − image only": f"{lead:+}", "the gradient stream": helps}


def ladder_row(results: Results) -> dict[str, str]:
    """Accuracy of one defence at one eps: before the attacks, after each rung and in the worst case.

    ``results`` are worst cases, each rung's with its name as the part; and, with the part "worst", that of the adaptive
    attacker and the clean images.
    """
    climbed, worst = results.values("part"), results.select(part="worst")
    row = {"clean %": _percent(worst.interval(threat="clean"))}
    row |= {rung: _percent(results.interval(part=rung)) if rung in climbed else "–" for rung in RUNGS}
    return row | {"worst case %": f"{worst.interval(threat='adaptive')}"}


def headline_row(results: Results) -> dict[str, str]:
    """How TRN looks to attackers who know more and more of it, beside others; rows as in :func:`ladder_row`."""
    shown = {
        "undefended, PGD %": ("none", "R0"),
        "TRN, R0: attack ignores it %": ("TRN", "R0"),
        "TRN, R1: identity %": ("TRN", "R1"),
        "TRN, R2: detached map %": ("TRN", "R2"),
    }
    row = {head: _percent(results.interval(defence=k, part=rung)) for head, (k, rung) in shown.items()}
    everything = results.select(part="worst", threat="adaptive")
    for name, defence in (("TRN", "TRN"), ("no map", "image only"), ("Fast-AT", "Fast-AT")):
        row[f"{name}, everything %"] = _percent(everything.interval(defence=defence))
    return row


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.0f}"


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
