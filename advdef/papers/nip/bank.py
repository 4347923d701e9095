"""The dictionary of NIP: directions of inverse perturbations, one per class, learnt from benign training images.

The abstracts of NIP (https://arxiv.org/abs/2112.13060) say that influence is calculated from benign examples; the
released code keeps a log for each image and looks nothing up. How a dictionary is fitted here, and its controls, are
ours.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef import store
from advdef.contract import borrowed
from advdef.data import Split
from advdef.norms import rms_normalised
from advdef.papers.nip.influence import Score, feature_layer, front_and_tail, trace

__all__ = ["DirectionBank", "fit_bank", "fitted", "phase_scrambled", "random_bank"]


@dataclass(frozen=True, eq=False, repr=False)
class DirectionBank:
    """What is known of K classes at a layer of D features; a direction has root mean square 1 over the image.

    Raises ValueError for tensors whose shapes do not fit together.

    Attributes:
        layer: The name of the layer.
        weights: (K, D): +1 for features of the front, -1 for those of the tail, 0 for the others.
        directions: (K, C, H, W): the mean direction of each class.
        samples: (K, M, C, H, W): directions of single images of each class.
        mean: (K,): of the weighted sum of features, over benign images of the class.
        deviation: (K,): its standard deviation over them.
    """

    layer: str
    weights: Tensor
    directions: Tensor
    samples: Tensor
    mean: Tensor
    deviation: Tensor

    def __post_init__(self) -> None:
        k, shape = len(self.weights), self.directions.shape[1:]
        wanted = {"weights": 2, "directions": 4, "samples": 5, "mean": 1, "deviation": 1}
        for name, dimensions in wanted.items():
            value = getattr(self, name)
            if value.dim() != dimensions or len(value) != k:
                raise ValueError(f"{name} of {k} classes have {dimensions} dimensions, not shape {tuple(value.shape)}")
        if self.samples.shape[2:] != shape or not self.samples.shape[1]:
            there = ", ".join(map(str, shape))
            raise ValueError(f"samples must be (K, M, {there}) with M > 0, not {tuple(self.samples.shape)}")

    def __repr__(self) -> str:
        classes, kept = self.samples.shape[:2]
        shape = "x".join(map(str, self.directions.shape[1:]))
        return f"DirectionBank({classes} classes, {kept} samples each of {shape}, layer {self.layer!r})"

    def to(self, device: torch.device | str) -> "DirectionBank":
        """The bank on a device."""
        return _mapped(self, lambda value: value.to(device))


def fit_bank(
    model: nn.Module,
    split: Split,
    *,
    layer: str | None = None,
    share: float = 0.05,
    per_class: int = 200,
    kept: int = 10,
    score: Score = "logit",
    batch_size: int = 500,
) -> DirectionBank:
    """Fit a bank on training images that the model classifies correctly.

    For each class, the mean influence of the features on its score gives the weights: +1 for the largest ones, -1 for
    the smallest. Under these weights each image has its direction. The direction of the class is their mean,
    normalised; the first ones are its samples.

    Args:
        model: The classifier.
        split: Where images are taken from; training data.
        layer: The layer of the features. Default: the last in the model's ``taps``.
        share: Which share of the features is the front, and which the tail.
        per_class: How many correctly classified images of each class are used, the first of the split.
        kept: How many of their directions are kept as samples.
        score: Influence is that on the "logit" or on the "probability" of the class.
        batch_size: Images classified at a time.

    Raises ValueError for a class with fewer than ``kept`` (at least 2) correctly classified images.
    """
    if not 1 <= kept <= per_class or per_class < 2:
        raise ValueError(f"need 1 <= kept <= per_class and per_class > 1, not {kept} of {per_class}")
    name = feature_layer(model, layer)
    predicted = _predictions(model, split, batch_size)
    found: list[tuple[Tensor, ...]] = []
    for c in range(predicted.shape[1]):
        rows = torch.nonzero((split.labels == c) & (predicted.argmax(1) == c))[:per_class, 0]
        if len(rows) < max(2, kept):
            raise ValueError(
                f"class {c} has {len(rows)} correctly classified images, and a bank needs {max(2, kept)}: more images "
                "of it are needed, or a classifier that was trained for longer"
            )
        images = Split(split.images[rows], split.labels[rows]).float_images()
        traced = trace(model, images, layer=name)
        values = traced.influence(split.labels[rows], score=score).mean(0, keepdim=True)
        weights = front_and_tail(values, front=share, tail=share)[0]
        directions = traced.direction(weights)
        sums = (traced.features.detach() * weights).sum(1)
        found.append((weights, rms_normalised(directions.mean(0)), directions[:kept], sums.mean(), sums.std()))
    return DirectionBank(name, *(torch.stack(parts) for parts in zip(*found, strict=True)))


def fitted(
    model: nn.Module, split: Split, *, per_class: int, kept: int, resume: Path | None = None
) -> tuple[DirectionBank, float]:
    """A bank that :func:`fit_bank` fits, and the seconds that it took, whenever that was.

    ``resume`` is a folder that keeps it.
    """
    fit = partial(fit_bank, model, split, per_class=per_class, kept=kept)
    if resume is None:
        started = time.perf_counter()
        return fit(), time.perf_counter() - started

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = dict(vars(fit()))
        return found, {"layer": found.pop("layer")}

    entry = store.kept(resume, store.key("bank", fit=fit), make, label="bank")
    return DirectionBank(entry.facts["layer"], **entry.tensors).to(split.images.device), entry.seconds


def _predictions(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    with borrowed(model, quiet=True), torch.no_grad():
        return torch.cat([model(images) for images, _ in split.batches(batch_size)])


def random_bank(bank: DirectionBank, *, generator: torch.Generator) -> DirectionBank:
    """A control that knows nothing: the directions of a bank are replaced by white Gaussian noise."""

    def drawn(value: Tensor) -> Tensor:
        return rms_normalised(torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device))

    return replace(bank, directions=drawn(bank.directions), samples=drawn(bank.samples))


def phase_scrambled(bank: DirectionBank, *, generator: torch.Generator) -> DirectionBank:
    """A control that knows the spectra: each direction keeps its amplitudes and colours, but not where anything is.

    Random phases, those of white noise, are added in Fourier space, the same in all channels of a direction.
    """

    def scrambled(value: Tensor) -> Tensor:
        noise = torch.randn(*value.shape[:-3], 1, *value.shape[-2:], generator=generator, dtype=value.dtype)
        phases = torch.fft.rfft2(noise.to(value.device)).sgn()
        return rms_normalised(torch.fft.irfft2(torch.fft.rfft2(value) * phases, s=value.shape[-2:]))

    return replace(bank, directions=scrambled(bank.directions), samples=scrambled(bank.samples))


def _mapped(bank: DirectionBank, change: Callable[[Tensor], Tensor]) -> DirectionBank:
    tensors = {field.name: getattr(bank, field.name) for field in fields(bank) if field.name != "layer"}
    return DirectionBank(bank.layer, **{name: change(value) for name, value in tensors.items()})
