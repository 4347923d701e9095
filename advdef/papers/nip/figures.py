"""The figures of the page on NIP."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from advdef.evaluation import Results
from advdef.papers.nip.repair import success
from advdef.plotting import COLOURS, WIDTH, image_grid, interval_line, legend_below, percent_axis, visible_change
from advdef.statistics import Interval, mean_interval, wilson

__all__ = ["elastic_steps", "shifts_by_attack", "tradeoffs", "what_is_added", "what_the_oracle_restores"]


def shifts_by_attack(shifts: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """Mean change of front and tail under each attack, beside its two controls, with 95 % intervals.

    ``shifts`` has what :func:`advdef.papers.nip.measure.front_and_tail_shifts` finds, by attack.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.36 * len(shifts) + 1.2), sharey=True)
    styles = (
        ("", "o", COLOURS["V0 oracle"], "attack", 0.2),
        (", matched", "s", "0.55", "attack, matched random features", 0.0),
        (", noise", "^", COLOURS["V2 mean-logit"], "noise of equal length", -0.2),
    )
    for panel, part in zip(axes, ("front", "tail"), strict=True):
        for suffix, marker, colour, label, height in styles:
            for line, found in enumerate(shifts.values()):
                if part + suffix not in found:
                    continue
                mean = mean_interval(found[part + suffix])
                panel.errorbar(
                    mean.value, line + height, xerr=[[mean.value - mean.low], [mean.high - mean.value]], fmt=marker,
                    color=colour, label=label if line == 0 else None, capsize=2,
                )  # fmt: skip
        panel.axvline(0, color="0.3", lw=0.8)
        panel.set(xlabel=f"change of the {part} (mean activation = 1)")
    axes[0].set_yticks(range(len(shifts)), list(shifts))
    axes[0].invert_yaxis()
    legend_below(figure, axes[0], columns=3)
    return figure


def what_the_oracle_restores(restored: Mapping[str, Mapping[float, Mapping[str, Tensor]]]) -> Figure:
    """Share of clean predictions that return, against the step: a panel per attack, a line per control.

    ``restored[attack][step]`` is what :func:`advdef.papers.nip.measure.oracle_and_controls` finds.
    """
    figure, axes = plt.subplots(1, len(restored), figsize=(WIDTH, 3.6), sharey=True)
    for panel, (attack, by_step) in zip(axes, restored.items(), strict=True):
        for control in next(iter(by_step.values()), ()):
            plus_only = control.endswith("plus only")
            alike = "V0 oracle" if control.startswith("V0") else "white noise, oracle sign"
            colour = COLOURS[alike if plus_only else control.split(" of ")[0]]
            hits = [by_step[step][control] for step in sorted(by_step)]
            shares = [wilson(int(right.sum()), len(right)) for right in hits]
            style = ":" if plus_only else "-"
            interval_line(panel, sorted(by_step), shares, style=style, marker="o", colour=colour, label=control)
        panel.set(xscale="log", xlabel="step (RMS, in pixels)", title=attack, ylim=(-0.03, 1.03))
    percent_axis(axes[0].yaxis, "clean prediction restored")
    legend_below(figure, axes[0], columns=3)
    return figure


def tradeoffs(results: Results, *, eps: str) -> Figure:
    """Benign accuracy against success on PGD-min and against accuracy under PGD: a line per defence over its steps.

    The results are those without an attack, under "PGD-min" and under "PGD" of each defence at each "step", from the
    smallest to the largest, and of "none" at step 0; ``eps`` is the budget of PGD as it is written.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.8), sharey=True)
    for name in [name for name in results.values("defence") if name != "none"]:
        steps = [results.select(step=(0.0, step)) for step in results.select(defence=name).values("step")]
        benign = [found.interval(defence=name, threat="clean") for found in steps]
        shares = [success(found, name, "PGD-min") for found in steps]
        restored = [share or Interval(0.0, 0.0, 0.0) for share in shares]
        held = [found.interval(defence=name, attack="PGD") for found in steps]
        for panel, gained in ((left, restored), (right, held)):
            style = "-" if name.startswith("V") else ":"
            places = [i.value for i in gained], [i.value for i in benign]
            panel.plot(*places, style, marker="o", color=COLOURS[name], label=name)
            for across, up in zip(gained, benign, strict=True):
                bars = {"color": COLOURS[name], "alpha": 0.3, "linewidth": 0.8}
                panel.hlines(up.value, across.low, across.high, **bars)
                panel.vlines(across.value, up.low, up.high, **bars)
    for panel in (left, right):
        panel.axhline(results.interval(defence="none", threat="clean").value, color="0.3", lw=0.8)
    percent_axis(left.xaxis, "defence success rate on PGD-min")
    percent_axis(left.yaxis, "benign accuracy")
    percent_axis(right.xaxis, f"accuracy under PGD, eps {eps}")
    legend_below(figure, right)
    return figure


def elastic_steps(results: Results) -> Figure:
    """Accuracy against eps: a panel per network, a line per way to choose the step.

    The defences are "none", "stable step", "oracle step" and each fixed step ("step ...").
    """
    networks = list(dict.fromkeys((row["dataset"], row["model"]) for row in results))
    size = (min(WIDTH, 3.2 * len(networks)), 3.4)
    figure, axes = plt.subplots(1, len(networks), figsize=size, sharey=True, squeeze=False)
    own = {"oracle step": COLOURS["V0 oracle"], "none": "k", "stable step": COLOURS["V2 stable step"]}
    for panel, (dataset, model) in zip(axes[0], networks, strict=True):
        found = results.select(dataset=dataset, model=model)
        budgets = found.values("eps")
        for number, name in enumerate(found.values("defence")):
            shares = [found.interval(defence=name, eps=eps) for eps in budgets]
            colour = own.get(name) or str(round(0.75 - 0.08 * number, 2))  # a grey, darker from step to step
            width = 1 if name.startswith("step") else 2
            interval_line(panel, budgets, shares, colour=colour, label=name, width=width)
        panel.set(title=f"{dataset}, {model}", xlabel="eps", ylim=(-0.03, 1.03))
    percent_axis(axes[0][0].yaxis, "accuracy under PGD")
    legend_below(figure, axes[0][0], columns=5)
    return figure


def what_is_added(
    images: Tensor,
    attacked: Tensor,
    directions: Mapping[str, Tensor],
    edited: Mapping[str, Tensor],
    *,
    columns: Sequence[str],
) -> Figure:
    """Images, attacked and ``edited`` ones (by variant), and between them the attack and the directions, to be seen.

    All are (N, C, H, W), with a title each in ``columns``.
    """
    changes = {"attack": attacked - images, **directions}
    rows = {"clean": images, "attacked": attacked} | {name: visible_change(change) for name, change in changes.items()}
    rows |= {f"defended\n({name})": result for name, result in edited.items()}
    return image_grid(rows, columns=columns)
