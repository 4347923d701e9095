"""Sensitive Neuron Stabilizing (SNS): adversarial training that keeps the most sensitive neurons still.

Zhang et al., https://arxiv.org/abs/1909.06978. The idea is the paper's; the form of the loss and all its constants are
our reconstruction. No weakness of SNS itself is published; pairing losses of its kind were broken where they replace
adversarial training (https://arxiv.org/abs/1807.10272).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.data import Split
from advdef.papers.sensitivity.measure import Pairs, Which, select, sensitivity
from advdef.taps import check_layers, default_taps
from advdef.training import Branches, fit_pairs
from advdef.training.adversarial import ascend

__all__ = ["Distance", "stabilizing_loss", "train_sns"]

Distance = Literal["l1", "l2", "cosine"]

_FLOOR = 1e-3  # of a channel's mean activation, where distances are divided by it


def train_sns(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    weight: float = 1.0,
    which: Which = "top",
    ratio: float = 0.1,
    layers: Sequence[str] | None = None,
    distance: Distance = "l1",
    relative: bool = False,
    detach_clean: bool = False,
    match: bool = True,
    reselect_every: int | None = 1,
    probe: int = 1024,
    probe_steps: int = 10,
    step_size: float = 0.25,
    **options: Any,
) -> dict[str, Tensor]:
    """Adversarial training that also keeps chosen neurons still: ``weight`` times their change between x and x' is
    added.

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Its gradient steps.
        epochs: Passes over the split.
        generator: Source of all random numbers.
        weight: Weight of the change in the loss.
        which: Which neurons are chosen, by sensitivity: "top" (SNS), "bottom", "random", or "all" (vulnerability
            suppression, https://arxiv.org/abs/1908.04355).
        ratio: Which share of each layer's neurons is chosen.
        layers: The layers that count. Default: those in the model's ``taps``.
        distance: How a change is measured; see :func:`stabilizing_loss`.
        relative: Whether it is divided by the clean activation; see there. Sensitivity is then relative, too.
        detach_clean: Whether the clean branch takes no gradient; see there.
        match: Scale each layer's term by how much more sensitive its top neurons are than the chosen ones, so that all
            choices weigh equally (in l1, and nearly in the other distances).
        reselect_every: Neurons are chosen anew every so many epochs, counted from the first with a weight; None: once.
        probe: Sensitivity is measured on PGD pairs of so many images, the first of the split.
        probe_steps: Steps of that PGD.
        step_size: Size of a step, of both attacks, relative to eps.
        **options: Go to :func:`advdef.training.fit_pairs`, ``alpha`` and ``ramp`` among them.

    Returns ``loss`` (epochs,) and for each layer, with one row per selection, ``sensitivity.<layer>`` (selections, C)
    and ``chosen.<layer>`` (selections, k). Raises ValueError for a layer that the model does not have, or another
    setting that makes no sense.
    """
    names = check_layers(model, default_taps(model) if layers is None else layers)
    if reselect_every is not None and reselect_every < 1:
        raise ValueError(f"reselect_every must be at least 1, or None for once, not {reselect_every}")
    if probe < 1 or probe_steps < 1:
        raise ValueError(f"probe and probe_steps must be at least 1, not {probe} and {probe_steps}")
    _check(distance, relative)
    select({}, ratio=ratio, which=which)  # raises now what it would raise after the ramp
    seen = split.head(min(probe, len(split)))
    images, labels = seen.float_images(), seen.labels
    path: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # at each selection: sensitivities, and the chosen
    scales: dict[str, Tensor] = {}
    first = -1

    def choose(epoch: int, now: float) -> None:
        nonlocal first
        if now == 0:
            return
        first = epoch if first < 0 else first
        if path and (reselect_every is None or (epoch - first) % reselect_every):
            return
        # its own draws, other ones for each seed and epoch: the choice must not shift those of training
        draws = torch.Generator().manual_seed(1_000_003 * (generator.initial_seed() + 1) + epoch)
        climb = partial(ascend, eps=eps, steps=probe_steps, step_size=step_size, generator=draws)
        adversarial = torch.cat(
            [
                climb(model, x, partial(_cross_entropy, labels=y))
                for x, y in zip(images.split(250), labels.split(250), strict=True)
            ]
        )
        pairs = Pairs(images, adversarial, labels)
        sigma = sensitivity(model, pairs, definition="relative" if relative else "absolute", layers=names)
        for layer, values in sigma.items():
            if not bool(values.isfinite().all()):
                raise FloatingPointError(f"sensitivities of layer {layer!r} are not finite")
        chosen = select(sigma, ratio=ratio, which=which, generator=draws)
        path.append((sigma, {name: rows.to(images.device) for name, rows in chosen.items()}))
        for name, own in select(sigma, ratio=ratio).items():
            share = sigma[name][own].mean() / sigma[name][chosen[name]].mean().clamp_min(1e-12)
            # neurons that hardly ever fire would else be pushed without bound
            scales[name] = (share.clamp(max=100) if match else torch.ones_like(share)).float().to(images.device)

    change = partial(stabilizing_loss, distance=distance, relative=relative, detach_clean=detach_clean)

    def penalty(branches: Branches) -> Tensor:
        clean, moved = branches.clean_maps, branches.adversarial_maps
        return torch.stack([scales[n] * change(clean[n], moved[n], rows) for n, rows in path[-1][1].items()]).sum()

    history = fit_pairs(
        model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, weight=weight, penalty=penalty,
        layers=names, before_epoch=choose, step_size=step_size, **options,
    )  # fmt: skip
    for name in names if path else ():
        history[f"sensitivity.{name}"] = torch.stack([sigma[name].float() for sigma, _ in path])
        history[f"chosen.{name}"] = torch.stack([chosen[name] for _, chosen in path])
    return history


def stabilizing_loss(
    clean: Tensor,
    adversarial: Tensor,
    chosen: Tensor,
    *,
    distance: Distance = "l1",
    relative: bool = False,
    detach_clean: bool = False,
) -> Tensor:
    """Change of the chosen neurons (k,) of a layer (N, C) or (N, C, H, W): the mean over the batch and over them.

    ``distance`` is "l1" (definition ``absolute`` of the sensitivity, as a loss), "l2" (squared differences) or "cosine"
    (one minus the similarity of the maps, which says little about a unit of a dense layer). ``relative`` divides each
    neuron's distance by its mean clean activation; the gradient flows through that too, so that shrinking activations
    gains nothing. ``detach_clean`` lets no gradient through the clean branch.

    Raises ValueError for an unknown distance, and for a relative cosine, which has no scale to be relative to.

    >>> x = torch.tensor([[1.0, 2.0]])
    >>> float(stabilizing_loss(x, x + 0.5, torch.tensor([0])))
    0.5
    """
    _check(distance, relative)
    a, b = (maps if maps.dim() == 4 else maps[..., None, None] for maps in (clean, adversarial))
    if a.dtype in (torch.float16, torch.bfloat16):  # under autocast, where small differences would be rounded away
        a, b = a.float(), b.float()
    if detach_clean:
        a = a.detach()
    if distance == "cosine":
        return 1 - F.cosine_similarity(a.flatten(2), b.flatten(2), dim=2, eps=1e-6).index_select(1, chosen).mean()
    moved = (b - a).abs() if distance == "l1" else (b - a).square()
    # a sum, and the choice after it: gradients of a mean or of chosen maps lose the layout of channels_last, and then
    # every convolution below pays for it
    moved = moved.sum((2, 3)).index_select(1, chosen).mean(0) / moved[0, 0].numel()
    if relative:
        level = a.abs().mean((0, 2, 3)).index_select(0, chosen) + _FLOOR
        moved = moved / (level if distance == "l1" else level.square())
    return moved.mean()


def _check(distance: str, relative: bool) -> None:
    if distance not in get_args(Distance):
        raise ValueError(f"no distance {distance!r}; there are {', '.join(get_args(Distance))}")
    if relative and distance == "cosine":
        raise ValueError("a cosine is relative already: choose l1 or l2")


def _cross_entropy(logits: Tensor, *, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")
