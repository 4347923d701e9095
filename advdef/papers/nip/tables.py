"""Rows of the tables on NIP's page: what was found, by the heads of the columns."""

from collections.abc import Collection, Mapping

import pandas as pd
from torch import Tensor

from advdef.evaluation import Cost, Outcome, Results, Threat
from advdef.papers.nip.measure import Reach
from advdef.papers.nip.repair import Repair, mean_success, success
from advdef.statistics import Interval, mcnemar, mean_interval, paired_difference, wilson
from advdef.training import Training

__all__ = [
    "oracle_row",
    "passes_row",
    "percent",
    "reach_row",
    "repair_row",
    "shift_row",
    "success_table",
    "threat_row",
    "training_row",
    "without_row",
]

Row = dict[str, str]


def percent(found: Tensor | Interval | None) -> str:
    """The share of hits (N,), or the value of an interval, in percent with one decimal; a dash for None.

    >>> import torch
    >>> percent(torch.tensor([True, False, False, False])), percent(Interval(0.5, 0.4, 0.6)), percent(None)
    ('25.0', '50.0', '–')
    """
    if found is None:
        return "–"
    return f"{100 * (found.value if isinstance(found, Interval) else found.float().mean()):.1f}"


def training_row(done: Training, right: Tensor) -> Row:
    """A trained network, and its hits (N,) on clean images."""
    return {
        "parameters": f"{sum(p.numel() for p in done.model.parameters()):,}",
        "clean accuracy %": f"{wilson(int(right.sum()), len(right))}",
        "trained in s": f"{done.seconds:.0f}",
    }


def reach_row(found: Reach) -> Row:
    """What an attack does to the bare classifier."""
    sizes = {"median Linf x 255": f"{255 * found.linf:.1f}", "median L2": f"{found.l2:.2f}"}
    return {"images": str(len(found.fooled)), "fooled %": f"{100 * found.share:.0f}"} | sizes


def shift_row(found: Mapping[str, Tensor]) -> Row:
    """Means of what :func:`advdef.papers.nip.measure.front_and_tail_shifts` finds, changes with 95 % intervals."""
    row = {"images": str(int((~found["front"].isnan()).sum()))}
    for part, values in found.items():
        mean = mean_interval(values)
        row[part] = f"{mean.value:+.2f} [{mean.low:+.2f}, {mean.high:+.2f}]"
        if part.endswith(("size", "activation of matched")):
            row[part] = f"{mean.value:.2f}"
    return row


def oracle_row(found: Mapping[str, Tensor]) -> Row:
    """What the released protocol and its controls restore, and whether its direction does more than white noise."""
    v0, noise = found["V0 oracle"], found["white noise, oracle sign"]
    row = {"fooled images": str(len(v0))} | {f"{control} %": percent(hits) for control, hits in found.items()}
    test = mcnemar(v0, noise)
    row["V0 − noise, points"] = f"{paired_difference(v0, noise):+}"
    row["only V0 / only noise"] = f"{test.only_treated} / {test.only_control}"
    return row | {"McNemar p": f"{test.p:.2g}"}


def without_row(
    smallest: Mapping[str, Tensor], alone: Interval | None, fixed: Mapping[str, Tensor], *, eps: str
) -> Row:
    """What V0 restores of PGD-min; what is left with another direction, without the answer, and under a fixed eps.

    ``smallest`` and ``fixed`` are what :func:`advdef.papers.nip.measure.oracle_and_controls` finds under PGD-min and
    under PGD with the written ``eps``; the latter is empty where that fools nobody. ``alone`` is the success of V1 with
    V0's settings.
    """
    shares = {
        "V0, as released": smallest["V0 oracle"],
        "noise instead of the direction": smallest["white noise, oracle sign"],
        "V0 without the answer's sign": smallest["V0, plus only"],
        "own image's direction, no answer (V1)": alone,
        f"V0, attack with fixed eps {eps}": fixed.get("V0 oracle"),
    }
    return {f"{head} %": percent(share) for head, share in shares.items()}


def repair_row(found: Mapping[tuple[str, float | None], Repair], budgets: tuple[float, float, float]) -> Row:
    """What a defence makes of benign images, of PGD-min, and of PGD at three ``budgets``: half, main and twice.

    ``found`` is by (attack, eps), where eps is None for "PGD-min".
    """
    smallest, half = found["PGD-min", None], found["PGD", budgets[0]]
    row = {
        "benign accuracy %": f"{smallest.benign_accuracy}",
        "benign labels changed %": percent(smallest.changed),
        "PGD-min: DSR %": f"{smallest.dsr or '–'}",
        "(released count) %": f"{smallest.dsr_released}",
    }
    for size, eps in zip(("half", "main", "twice"), budgets, strict=True):
        row[f"PGD, {size} eps: right %"] = percent(found["PGD", eps].robust)
    return row | {"damage %": percent(half.damage)}


def success_table(results: Results, *, eleven: Collection[str]) -> pd.DataFrame:
    """Success of each defence by attack, and its mean over ``eleven`` of them and over all, with 95 % intervals.

    The results are those of :func:`advdef.papers.nip.repair.success`, for many attacks, and for several networks.
    """
    attacks = [attack for attack in results.values("attack") if attack != "none"]
    columns, rows = ("dataset", "model", "defence"), []
    for dataset, model, defence in dict.fromkeys(tuple(row[column] for column in columns) for row in results):
        found = results.select(dataset=dataset, model=model)
        row = dict(zip(columns, (dataset, model, defence), strict=True))
        for attack in attacks:
            share = success(found, defence, attack)
            row[attack] = f"{100 * share.value:.0f}" if share else "–"
        for chosen in (eleven, attacks):
            pooled = mean_success(found.select(attack=("none", *chosen)), defence)
            row[f"all {len(chosen)}"] = f"{mean_interval(pooled)}" if (~pooled.isnan()).sum() > 1 else "–"
        rows.append(row)
    return pd.DataFrame(rows)


def threat_row(found: Mapping[Threat, Outcome], gain: Interval | None) -> Row:
    """What three attackers leave, and the gain over what the adaptive one leaves of the undefended classifier."""
    row = {"benign %": percent(found["direct"].clean)}
    row |= {f"{threat} %": f"{outcome.interval}" for threat, outcome in found.items()}
    return row | {"adaptive − undefended": f"{gain:+}" if gain else "–"}


def passes_row(found: Cost, bare: Cost, *, batch: int) -> Row:
    """Passes and milliseconds for one image, the latter alone, in batches and beside those of the bare classifier."""
    return {
        "forward passes": f"{found.forwards:g}",
        "backward passes": f"{found.backwards:g}",
        "one image, ms": f"{found.alone:.2f}",
        f"in batches of {batch}, ms": f"{found.batched:.3f}",
        "times the bare classifier": f"{found.batched / bare.batched:.1f}",
    }
