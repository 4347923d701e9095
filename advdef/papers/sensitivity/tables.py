"""The longer tables of the page; each function takes what was measured and gives a data frame, as it is shown."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from advdef.evaluation import Outcome, Threat, correct
from advdef.papers.sensitivity.comparison import Gain
from advdef.papers.sensitivity.experiments import Mode
from advdef.papers.sensitivity.measure import Pairs, SensitivityMeter
from advdef.papers.sensitivity.migration import Migration
from advdef.papers.sensitivity.readings import before_relu, common_share, rank_agreement
from advdef.selection import Which, select
from advdef.statistics import Interval

__all__ = [
    "table_of_attacks", "table_of_breaks", "table_of_costs", "table_of_gains", "table_of_means", "table_of_migration",
    "table_of_occlusion", "table_of_places", "table_of_substitution", "table_of_threats",
]  # fmt: skip

Worst = Mapping[str, Mapping[Threat, Outcome]]
"""Method -> attacker -> worst case."""


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
    lost: Mapping[str, Mapping[tuple[Mode, Which], Mapping[str, Tensor]]],
    costs: Mapping[tuple[str, Mode, str], Interval],
) -> pd.DataFrame:
    """Accuracy without some neurons, and what the most sensitive cost more than random ones: a row for each of these.

    ``lost[network]`` is what :func:`~advdef.papers.sensitivity.experiments.occluded_accuracy` gives.
    """
    rows = []
    for (k, mode, what), cost in costs.items():
        row = {
            "network": k,
            "set to": mode,
            "accuracy": what,
            "without most sensitive %": _percent(lost[k][mode, "top"][what]),
            "without random %": _percent(lost[k][mode, "random"][what]),
            "without least sensitive %": _percent(lost[k][mode, "bottom"][what]),
            "sensitive cost more than random by": f"{cost:+}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_means(hits: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> pd.DataFrame:
    """Accuracy in %, mean and standard deviation over seeds: ``hits[method][attack]`` has (N,) for each seed.

    >>> import torch
    >>> right, wrong = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    >>> table_of_means({"AT": {"PGD": [right, wrong]}, "VS": {"PGD": [right]}}).to_dict("list")
    {'method': ['AT', 'VS'], 'seeds': [2, 1], 'PGD %': ['50.0 ± 70.7', '100.0']}
    """
    rows = []
    for method, found in hits.items():
        row: dict[str, object] = {"method": method, "seeds": len(next(iter(found.values())))}
        for attack, seeds in found.items():
            shares = [100 * right.double().mean().item() for right in seeds]
            spread = f" ± {np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
            row[f"{attack} %"] = f"{np.mean(shares):.1f}{spread}"
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_threats(worst: Worst) -> pd.DataFrame:
    """Accuracy under each attacker with its interval, by method."""
    rows = []
    for method, outcomes in worst.items():
        row = {"method": method, "clean %": _percent(outcomes["direct"].clean)}
        rows.append(row | {f"{threat} %": f"{outcome.interval}" for threat, outcome in outcomes.items()})
    return pd.DataFrame(rows)


def table_of_gains(gains: Mapping[tuple[str, str], Gain]) -> pd.DataFrame:
    """What one method gains over another, in points."""
    rows = []
    for (method, other), gain in gains.items():
        row = {
            "difference": f"{method} − {other}",
            "over seeds, points": f"{gain.over_seeds:+}",
            "by seed": ", ".join(f"{100 * value:+.1f}" for value in gain.by_seed),
            "over images, points": f"{gain.over_images:+}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_breaks(worst: Worst) -> pd.DataFrame:
    """How many images only the adaptive attacker broke, and by which attacks, in their order."""
    rows = []
    for method, outcomes in worst.items():
        broke = {f.name: int(f.broken.sum()) for f in outcomes["adaptive"].findings if f.broken.any()}
        row = {
            "method": method,
            "left by direct": int(outcomes["direct"].robust.sum()),
            "then broken by": ", ".join(f"{attack} ({n})" for attack, n in broke.items()) or "none",
            "left": int(outcomes["adaptive"].robust.sum()),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def table_of_attacks(outcomes: Mapping[str, Outcome], *, digits: int = 1) -> pd.DataFrame:
    """Accuracy in % under each attack alone, by method; each outcome is an exhaustive one."""
    rows = []
    for method, outcome in outcomes.items():
        row = {"method": method, "clean %": _percent(outcome.clean, digits)}
        rows.append(row | {f.name: _percent(outcome.survivors(f.name), digits) for f in outcome.findings})
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


def table_of_costs(worst: Worst, training_seconds: Mapping[str, float]) -> pd.DataFrame:
    """What training each method and attacking it took; passes are counted in images."""
    rows = []
    for method, outcomes in worst.items():
        findings = [finding for outcome in outcomes.values() for finding in outcome.findings]
        row = {
            "method": method,
            "training s": f"{training_seconds[method]:.0f}",
            "three attackers s": f"{sum(f.seconds for f in findings):.0f}",
            "forward passes": f"{sum(f.forwards for f in findings):,}",
            "backward passes": f"{sum(f.backwards for f in findings):,}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _percent(shares: Tensor, digits: int = 1) -> str:
    return f"{100 * shares.double().mean().item():.{digits}f}"
