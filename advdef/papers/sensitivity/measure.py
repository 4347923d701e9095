"""How much each neuron changes under attack: neuron sensitivity (https://arxiv.org/abs/1909.06978), in seven readings.

A neuron is a channel of a layer (N, C, H, W), or a unit of a layer (N, C). The paper compares its output on benign
images with that on their adversarial partners, averaged over such dual pairs.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Attack
from advdef.contract import borrowed
from advdef.papers.sensitivity.keeping import kept_call
from advdef.papers.sensitivity.meter import Definition, SensitivityMeter
from advdef.papers.sensitivity.pairs import Keep, Pairs, make_pairs
from advdef.selection import Which, channel_mask, jaccard, layer_score, same_layers, select
from advdef.taps import check_layers, default_taps, tapped

__all__ = [
    "Definition",
    "Keep",
    "Pairs",
    "SensitivityMeter",
    "Which",
    "channel_mask",
    "jaccard",
    "layer_score",
    "make_pairs",
    "measure",
    "measure_under",
    "select",
    "sensitivity",
]


def measure(
    model: nn.Module,
    pairs: Pairs,
    *,
    layers: Iterable[str] | None = None,
    batch_size: int = 250,
    resume: Path | None = None,
) -> SensitivityMeter:
    """A meter that has seen all pairs, for the named layers (default: those in the model's ``taps``).

    The model is asked in evaluation mode. A folder ``resume`` keeps what the meter holds. Raises what
    :func:`advdef.taps.tapped` raises, and ValueError for a layer that takes no part in the forward pass.
    """
    names = check_layers(model, default_taps(model) if layers is None else layers)
    asked: dict[str, Any] = dict(model=model, pairs=pairs, layers=names, batch_size=batch_size)
    return SensitivityMeter.of(kept_call(resume, _sums, device=pairs.images.device, **asked))


def measure_under(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    eps: float,
    generator: torch.Generator | None = None,
    resume: Path | None = None,
) -> SensitivityMeter:
    """:func:`measure` on the pairs that :func:`make_pairs` makes of the images that the model gets right.

    Args:
        model: What is attacked and measured, in the layers of its ``taps``.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        attack: The attack.
        eps: Its budget, in its own norm.
        generator: What random attacks draw from.
        resume: A folder that keeps what the meter holds, and not the pairs, which are large; this needs a
            ``generator``.

    Raises what the two raise.
    """
    asked: dict[str, Any] = dict(model=model, images=images, labels=labels, attack=attack, eps=eps, generator=generator)
    return SensitivityMeter.of(kept_call(resume, _sums_under, device=images.device, **asked))


def _sums(*, model: nn.Module, pairs: Pairs, layers: Sequence[str], batch_size: int) -> dict[str, Tensor]:
    meter = SensitivityMeter()
    with borrowed(model, quiet=True), torch.no_grad(), tapped(model, layers) as seen:
        for images, partners in zip(pairs.images.split(batch_size), pairs.adversarial.split(batch_size), strict=True):
            model(images)
            clean = dict(seen)
            same_layers("a forward pass", clean, dict.fromkeys(layers))
            model(partners)
            meter.update(clean, seen)
    return meter.tensors()


def _sums_under(*, model: nn.Module, images: Tensor, labels: Tensor, **attacked: Any) -> dict[str, Tensor]:
    return measure(model, make_pairs(model, images, labels, **attacked)).tensors()


def sensitivity(
    model: nn.Module,
    pairs: Pairs,
    *,
    definition: Definition = "absolute",
    layers: Iterable[str] | None = None,
    batch_size: int = 250,
) -> dict[str, Tensor]:
    """Sensitivities (C,) by layer in one definition; see :func:`measure` and :class:`SensitivityMeter`."""
    return measure(model, pairs, layers=layers, batch_size=batch_size).compute(definition)
