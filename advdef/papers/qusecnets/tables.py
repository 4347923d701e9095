"""Rows of the tables on QuSecNets' page: what was found, by the heads of the columns."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from advdef.evaluation import Outcome, Threat
from advdef.papers.qusecnets.defence import Quantized
from advdef.statistics import Interval, over_seeds_and_images, wilson
from advdef.training import Training

__all__ = ["abstract_row", "clean_row", "gain_rows", "trainable_row"]

Row = dict[str, str]


def clean_row(right: Tensor, defence: nn.Module, done: Training | None) -> Row:
    """Hits (N,) on clean images, where the thresholds lie, and how long training took; dashes where there is none."""
    thresholds = defence.quantizer.thresholds.tolist() if isinstance(defence, Quantized) else []
    return {
        "clean accuracy %": f"{wilson(int(right.sum()), len(right))}",
        "thresholds": ", ".join(f"{t:.2f}" for t in thresholds) or "–",
        "trained in s": "–" if done is None else f"{done.seconds:.0f}",
    }


def abstract_row(span: tuple[float, float], defences: Collection[str]) -> Row:
    """The range of gains, as shares, that the abstract gives for these defences."""
    low, high = span
    told = dict.fromkeys(defences, f"{100 * low:+.0f} … {100 * high:+.0f} [paper]")
    return {"attacker": "[paper] not said", "attack": "the paper's set"} | told


def gain_rows(
    gains: Mapping[tuple[Threat, str, str], Interval],
    undefended: Mapping[Threat, Outcome],
    span: tuple[float, float] | None,
) -> list[Row]:
    """A row for each attacker and attack: gains, and where they lie against the abstract's range, if it gives one.

    ``gains`` are those of :func:`advdef.papers.qusecnets.measure.gains_over_undefended`, ``undefended`` is what the
    same attacks left of the network alone.
    """
    rows: dict[tuple[Threat, str], Row] = {}
    for (threat, attack, defence), gain in gains.items():
        left = undefended[threat].survivors(attack)
        start = {"attacker": threat, "attack": attack, "undefended %": f"{100 * left.float().mean():.1f}"}
        rows.setdefault((threat, attack), start)[defence] = f"{gain:+} {_place(gain, span)}"
    return list(rows.values())


def _place(gain: Interval, span: tuple[float, float] | None) -> str:
    if span is None:
        return ""
    low, high = span
    return "below" if gain.high < low else "above" if gain.low > high else "inside"


def trainable_row(trainable: Tensor, constant: Tensor) -> Row:
    """What trainable thresholds (TQ) gain over constant ones (CQ), both (S, N) shares of the eps of S seeds."""
    by_seed = (trainable - constant).mean(1).tolist()
    return {
        "CQ %": f"{100 * constant.mean():.1f}",
        "TQ %": f"{100 * trainable.mean():.1f}",
        "TQ − CQ, points": f"{over_seeds_and_images(trainable, constant):+}",
        "by seed": ", ".join(f"{100 * share:+.1f}" for share in by_seed),
    }
