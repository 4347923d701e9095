"""The longer tables of the page; each function takes what was measured and gives a data frame, as it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor, nn

from advdef.devices import exact
from advdef.evaluation import Results, correct
from advdef.evaluation.results import WORST_CASE
from advdef.papers.sensitivity.comparison import Gain
from advdef.papers.sensitivity.experiments import OCCLUDED, Mode
from advdef.papers.sensitivity.measure import Pairs, SensitivityMeter
from advdef.papers.sensitivity.migration import Migration
from advdef.papers.sensitivity.readings import before_relu, common_share, rank_agreement
from advdef.selection import select
from advdef.statistics import Interval

__all__ = [
    "table_of_breaks", "table_of_costs", "table_of_gains", "table_of_means", "table_of_migration", "table_of_occlusion",
    "table_of_places", "table_of_substitution",
]  # fmt: skip


def table_of_places(networks: Mapping[str, tuple[nn.Module, Pairs, SensitivityMeter]]) -> pd.DataFrame:
    """How D1 before the ReLU and after it agree; each network with its pairs and the meter that has seen them."""
    rows = []
    for k, (model, pairs, meter) in networks.items():
        before, every = before_relu(model, pairs), meter.compute()
        after = {layer: every[layer] for layer in before}
        share = common_share(select(before, ratio=0.1), select(after, ratio=0.1))
        row = {
            "network": k,
            "pairs (correct images)": len(pairs),
            "of these turned": int((~correct(model, pairs.adversarial, pairs.labels)).sum()),
            "rank correlation, before and after ReLU": f"{rank_agreement(before, after):.2f}",
            "common share of the top tenth (Jaccard)": f"{share:.2f}",
            "quiet neurons": f"{sum(meter.quiet().values())} of {sum(map(len, every.values()))}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_substitution(
    restored: Mapping[str, Mapping[str, Tensor]], leads: Mapping[tuple[str, str], Interval]
) -> pd.DataFrame:
    """Restored accuracy by network and control, and how far the most sensitive neurons lead the controls but the last.

    ``restored[network][control]`` is (shares, layers, N), ``leads`` are by network and control.
    """
    rows = []
    for k, found in restored.items():
        row: dict[str, object] = {"network": k, "images": next(iter(found.values())).shape[-1]}
        row |= {control: _percent(right) for control, right in found.items()}
        row |= {f"lead over {control}": f"{leads[k, control]:+}" for control in list(found)[1:-1]}
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_occlusion(
    lost: Mapping[str, Mapping[tuple[Mode, str], Mapping[str, Tensor]]],
    costs: Mapping[tuple[str, Mode, str], Mapping[str, Interval]],
) -> pd.DataFrame:
    """Accuracy without some neurons, and what the most sensitive cost more than each control: a row per measurement.

    ``lost[network]`` is what :func:`~advdef.papers.sensitivity.experiments.occluded_accuracy` gives.
    """
    rows = []
    for (k, mode, what), cost in costs.items():
        row = {"network": k, "set to": mode, "accuracy": what}
        row |= {f"without {which} %": _percent(lost[k][mode, which][what]) for which in OCCLUDED}
        row |= {f"sensitive cost more than {control} by": f"{found:+}" for control, found in cost.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_means(results: Results) -> pd.DataFrame:
    """Accuracy in %, mean and standard deviation over seeds: a line per method, a column per attack or worst case.

    >>> import torch
    >>> found = Results()
    >>> for seed, right in enumerate((True, False)):
    ...     where = dict(part="single", dataset="digits", model="CNN", defence="AT", attack="PGD", eps=0.1, seed=seed)
    ...     found.add_hits(torch.tensor([right] * 4), threat="direct", **where)
    >>> table_of_means(found).to_dict("list")
    {'method': ['AT'], 'seeds': [2], 'PGD %': ['50.0 ± 70.7']}
    """
    lines: dict[str, dict[str, list[float]]] = {}
    for row in results:
        head = row["threat"] if row["attack"] in ("none", WORST_CASE) else row["attack"]
        lines.setdefault(row["defence"], {}).setdefault(head, []).append(100 * row["correct"] / row["n"])
    rows = []
    for method, found in lines.items():
        cells: dict[str, object] = {"method": method, "seeds": max(map(len, found.values()))}
        for head, shares in found.items():
            spread = f" ± {np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
            cells[f"{head} %"] = f"{np.mean(shares):.1f}{spread}"
        rows.append(cells)
    return pd.DataFrame(rows)


def table_of_gains(gains: Mapping[tuple[str, str], Gain]) -> pd.DataFrame:
    """What one method gains over another, in points."""
    rows = []
    for (method, other), gain in gains.items():
        row = {
            "difference": f"{method} − {other}",
            "points": f"{gain.interval:+}",
            "by seed": ", ".join(f"{100 * value:+.1f}" for value in gain.by_seed),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_breaks(results: Results) -> pd.DataFrame:
    """How many images only the adaptive attacker broke, and by which attacks, in their order, by method."""
    rows = []
    for method in results.values("defence"):
        mine = results.select(defence=method)
        broke = {row["attack"]: row["broken"] for row in mine.select(threat="adaptive") if row.get("broken")}
        row = {
            "method": method,
            "left by direct": mine.one(threat="direct", attack=WORST_CASE)["correct"],
            "then broken by": ", ".join(f"{attack} ({n})" for attack, n in broke.items()) or "none",
            "left": mine.one(threat="adaptive", attack=WORST_CASE)["correct"],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_migration(found: Mapping[str, Migration]) -> pd.DataFrame:
    """Where the change goes that training suppresses, by training."""
    rows = []
    for training, m in found.items():
        row = {
            "training": training,
            "choices": m.selections,
            "two in a row share (Jaccard)": "–" if m.turnover is None else f"{m.turnover:.2f}",
            "neurons ever chosen": f"{100 * m.ever:.0f} %",
            "inside when last chosen": f"{100 * m.then:.1f} %",
            "inside at the end, D1": f"{100 * m.now:.1f} %",
            "inside at the end, D4": f"{100 * m.now_standardized:.1f} %",
            "still in the top tenth (Jaccard)": f"{m.kept:.2f}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_costs(results: Results, costs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What training each method took, by its ``costs``, and attacking it with so many budgets.

    Passes are counted in images.
    """
    rows = []
    for cost in costs:
        attacks = results.select(defence=cost["defence"])
        total = {what: sum(row.get(what, 0) for row in attacks) for what in ("seconds", "forwards", "backwards")}
        row = {
            "method": cost["defence"],
            "training s": f"{cost['training_seconds']:.0f}",
            "budgets": len(attacks.values("eps")),
            "three attackers s": f"{total['seconds']:.0f}",
            "forward passes": f"{total['forwards']:,}",
            "backward passes": f"{total['backwards']:,}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _percent(shares: Tensor) -> str:
    return f"{100 * exact(shares).mean().item():.1f}"
