"""The figures of TRN's page."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from advdef.evaluation import Results
from advdef.papers.trn.ladder import RUNGS
from advdef.papers.trn.maps import GradientMap, OracleMap, SobelMap
from advdef.plotting import COLOURS, WIDTH, image_grid, interval_line, legend_below, percent_axis, visible_change
from advdef.statistics import Interval

__all__ = [
    "accuracy_by_eps",
    "accuracy_by_rung",
    "accuracy_by_steps",
    "class_turns",
    "example_grid",
    "held_out_losses",
    "map_pictures",
    "map_sizes",
    "restored_pictures",
]


def map_pictures(classifier: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
    """Clean and attacked images (N, C, H, W), the perturbation, and maps at the attacked ones, scaled to be seen."""
    changes = {
        "δ": adversarial - images,
        "true": OracleMap(classifier)(adversarial, labels=labels),
        "average": GradientMap(classifier)(adversarial),
        "predicted": GradientMap(classifier, "predicted")(adversarial),
        "Sobel": SobelMap()(adversarial),
    }
    return {"clean": images, "attacked": adversarial} | {k: visible_change(v) for k, v in changes.items()}


def restored_pictures(images: Tensor, adversarial: Tensor, restored: Tensor) -> dict[str, Tensor]:
    """Clean, attacked and restored images (N, C, H, W), what was subtracted, and what is left, scaled to be seen."""
    changes = {"subtracted": adversarial - restored, "restored\n− clean": restored - images}
    shown = {"clean": images, "attacked": adversarial, "restored": restored}
    return shown | {k: visible_change(v) for k, v in changes.items()}


def class_turns(names: Sequence[str], labels: Tensor, *logits: Tensor) -> list[list[str]]:
    """For each image, class names: of its label (N,), then of the largest of each ``logits`` (N, K) in turn."""
    turns = torch.stack([labels, *(values.argmax(1) for values in logits)], 1)
    return [[names[number] for number in turn] for turn in turns.tolist()]


def example_grid(examples: Sequence[Mapping[str, Tensor]], *, classes: Sequence[Sequence[str]]) -> Figure:
    """Rows of images by name: those of each data set (N, C, H, W), which may differ in size, beside each other.

    ``classes`` (see :func:`class_turns`) of each image stand above its column.
    """
    rows = {name: [image for pictures in examples for image in pictures[name]] for name in examples[0]}
    return image_grid(rows, columns=[" →\n".join(turn) for turn in classes])


def held_out_losses(losses: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> Figure:
    """A panel per title, a line per variant: the loss after each epoch (epochs,), its mean over the seeds given."""
    figure, axes = plt.subplots(1, len(losses), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    for panel, (title, variants) in zip(axes[0], losses.items(), strict=True):
        for variant, runs in variants.items():
            line = torch.stack(list(runs)).mean(0)
            panel.plot(range(1, len(line) + 1), line, marker=".", color=COLOURS[variant], label=variant)
        panel.set(xlabel="epoch", title=title)
        panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3)
    axes[0][0].set_ylabel("held-out loss")
    return figure


def map_sizes(sizes: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """A panel per data set, a histogram per map: the logarithm of the sizes (N,) of maps."""
    figure, axes = plt.subplots(1, len(sizes), figsize=(min(WIDTH, 3.6 * len(sizes)), 3), squeeze=False)
    for panel, (title, maps) in zip(axes[0], sizes.items(), strict=True):
        logarithms = {label: values.clamp_min(1e-30).log10().cpu() for label, values in maps.items()}
        ends = torch.cat(list(logarithms.values())).aminmax()
        bins = torch.linspace(float(ends.min), float(ends.max), 60).numpy()
        for label, values in logarithms.items():
            tone = COLOURS["TRN" if label == "average" else label]
            panel.hist(values.numpy(), bins=bins, color=tone, alpha=0.7, label=label)
        panel.set(xlabel="log10 of the mean absolute value", title=title)
    axes[0][0].set_ylabel("images")
    axes[0][0].legend()
    return figure


def accuracy_by_eps(results: Results, *, trained: Sequence[float]) -> Figure:
    """A panel per data set, a line with its 95 % band per defence: accuracy against eps.

    ``trained`` holds the largest eps of training for each panel, where a dashed line stands.
    """
    datasets = [results.select(dataset=name) for name in results.values("dataset")]
    size = (min(WIDTH, 3.6 * len(datasets)), 3.6)
    figure, axes = plt.subplots(1, len(datasets), figsize=size, sharey=True, squeeze=False)
    for panel, rows, end in zip(axes[0], datasets, trained, strict=True):
        budgets = sorted(rows.values("eps"))
        for defence in rows.values("defence"):
            found = [rows.interval(defence=defence, eps=eps) for eps in budgets]
            interval_line(panel, budgets, found, colour=COLOURS[defence], label=defence)
        panel.axvline(end, color="0.4", ls="--", lw=0.8)
        title = f"{rows.rows[0]['dataset']}, {rows.rows[0]['model']}"
        panel.set(title=title, xlabel="eps", ylim=(-0.03, 1.03))
    percent_axis(axes[0][0].yaxis, "accuracy")
    legend_below(figure, axes[0][0], columns=5)
    return figure


def accuracy_by_rung(results: Mapping[str, Results]) -> Figure:
    """Bars for each data set: accuracy after each rung and in the worst case; no rung, no bar.

    ``results[dataset]`` are rows as in :func:`advdef.papers.trn.tables.ladder_row`.
    """
    figure, panel = plt.subplots(figsize=(WIDTH, 3))
    width, tones = 0.8 / len(results), [COLOURS[name] for name in ("TRN", "HGD-style", "image only")]
    for number, (dataset, found) in enumerate(results.items()):
        heights = dict.fromkeys(RUNGS, Interval(math.nan, math.nan, math.nan))
        heights |= {rung: found.interval(part=rung) for rung in RUNGS if rung in found.values("part")}
        heights["all"] = found.interval(part="worst", threat="adaptive")
        at = [place + (number - (len(results) - 1) / 2) * width for place in range(len(heights))]
        values = [height.value for height in heights.values()]
        bars = panel.bar(at, values, width, color=tones[number % len(tones)], label=dataset)
        panel.bar_label(bars, [f"{100 * value:.0f}" for value in values], padding=2)
        panel.vlines(at, [i.low for i in heights.values()], [i.high for i in heights.values()], color="0.3", lw=0.8)
    panel.set_xticks(range(len(RUNGS) + 1), [*RUNGS, "all"])
    panel.set(ylim=(0, 1.05))
    percent_axis(panel.yaxis, "accuracy")
    panel.legend()
    return figure


def accuracy_by_steps(results: Results) -> Figure:
    """A line for each of the first five rungs: accuracy against the number of steps, from rows with both."""
    names = ("oblivious", "identity", "detached map", "end to end", "smooth twin")
    tones, styles = ("0.6", "#E69F00", "#D55E00", "#0072B2", "#009E73"), (":", "--", "-", "-.", "-.")
    counts = results.values("steps")
    figure, panel = plt.subplots(figsize=(6, 3.4))
    for rung, name, tone, style in zip(RUNGS, names, tones, styles, strict=False):
        left = [results.interval(rung=rung, steps=n) for n in counts]
        interval_line(panel, counts, left, style=style, marker="o", colour=tone, label=f"{rung} {name}")
    panel.set(xscale="log", xlabel="steps", ylim=(-0.03, 1.03))
    percent_axis(panel.yaxis, "accuracy")
    panel.set_xticks(counts, [str(steps) for steps in counts])
    panel.minorticks_off()
    panel.legend()
    return figure
