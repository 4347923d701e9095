"""Neuron influence, and the perturbation that strengthens neurons of large influence and weakens those of small.

NIP (https://arxiv.org/abs/2112.13060) adds such a perturbation to an image before it is classified. The definitions
here are those of the code that its authors released in 2021
(https://github.com/Allen-piexl/NIP-Neuron-level-Inverse-Perturbation). They are for one layer, whose output, (N, C) or
(N, C, H, W), is flattened to D features a(x)::

    influence    I_j(x) = a_j(x) * d z_c / d a_j(x)
    weights      w_j = +1 in the front, -1 in the tail, else 0
    direction    r(x) = g / (RMS(g) + 1e-5), g the gradient of sum_j w_j a_j at x

z_c is the logit (in the code: the probability) of a class c. The front are the features of largest influence, the tail
those of the smallest.

A direction has root mean square 1 over the pixels of the image. Where a network is piecewise linear (ReLU,
max-pooling), so is a(x): for fixed weights r does not change inside a piece.

Models are asked in evaluation mode, and no parameter or ``.grad`` is touched.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.norms import rms_normalised
from advdef.taps import check_layers, default_taps, tapped

__all__ = [
    "Score",
    "Tail",
    "Traced",
    "class_directions",
    "feature_layer",
    "front_and_tail",
    "influence",
    "inverse_direction",
    "trace",
]

Score = Literal["logit", "probability"]
Tail = Literal["lowest", "skipping"]


@contextmanager
def _gradients() -> Iterator[None]:
    """Gradients on inside the block, whatever the caller has switched off: a defence computes them at inference."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _usable(value: Tensor) -> Tensor:
    """A tensor made in inference mode never takes part in autograd; a copy does."""
    return value.clone() if value.is_inference() else value


@dataclass(frozen=True)
class Traced:
    """A forward pass with its graph: the ``point`` that was asked, the layer's ``output``, the ``logits`` (N, K)."""

    point: Tensor
    output: Tensor
    logits: Tensor

    @property
    def features(self) -> Tensor:
        """The layer's output, flattened to (N, D)."""
        return self.output.flatten(1)

    @_gradients()
    def influence(self, classes: Tensor, *, score: Score = "logit", create_graph: bool = False) -> Tensor:
        """The signed influence (N, D) of the features on the score of ``classes`` (N,), as the module defines it.

        With ``create_graph`` it can be differentiated.
        """
        if score not in get_args(Score):
            raise ValueError(f"no score {score!r}; there are {', '.join(get_args(Score))}")
        values = self.logits if score == "logit" else self.logits.softmax(1)
        # images do not influence each other in evaluation mode, so one backward pass of the sum serves all
        chosen = values.gather(1, _usable(classes)[:, None]).sum()
        (slopes,) = torch.autograd.grad(chosen, self.output, retain_graph=True, create_graph=create_graph)
        found = self.features * slopes.flatten(1)
        return found if create_graph else found.detach()

    @_gradients()
    def direction(self, weights: Tensor, *, create_graph: bool = False) -> Tensor:
        """The direction (N, C, H, W), of root mean square 1, along which the features grow as ``weights`` say: (N, D)
        or (D,).

        With ``create_graph`` it can be differentiated. Raises ValueError where no gradient leads from the features to
        the image.
        """
        # weights that depend on the image are not differentiated for the direction, but with create_graph through it
        outer = weights.expand_as(self.features).reshape(self.output.shape)
        gradient = None
        if self.output.requires_grad:
            (gradient,) = torch.autograd.grad(
                self.output, self.point, outer, retain_graph=True, create_graph=create_graph, allow_unused=True
            )
        if gradient is None:
            raise ValueError("a hard decision cuts the features off from the image: it has no inverse perturbation")
        return rms_normalised(gradient)


def feature_layer(model: nn.Module, layer: str | None = None) -> str:
    """``layer``, checked, or the last one in the model's ``taps``: what its (first) linear layer reads.

    Raises ValueError for a layer that the model does not have.
    """
    return check_layers(model, [default_taps(model)[-1] if layer is None else layer])[0]


def trace(model: nn.Module, images: Tensor, *, layer: str | None = None) -> Traced:
    """A forward pass at images (N, C, H, W) that keeps its graph, even where the caller has switched gradients off.

    If the images require a gradient, what is computed from the pass with ``create_graph`` has a graph back to them.
    Raises ValueError for an unknown layer and for one that takes no part in the pass.
    """
    name = feature_layer(model, layer)
    with _gradients(), borrowed(model, quiet=True), tapped(model, [name]) as seen:
        point = _usable(images)
        point = point if point.requires_grad else point.detach().requires_grad_()
        logits = model(point)
        if name not in seen:
            raise ValueError(f"layer {name!r} takes no part in a forward pass")
        return Traced(point, seen[name], logits)


def influence(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    layer: str | None = None,
    score: Score = "logit",
) -> Tensor:
    """Influence (N, D) of the features of images (N, C, H, W) on ``classes`` (N,), by default those predicted.

    >>> from advdef.models import LeNet5
    >>> influence(LeNet5((1, 28, 28), 10), torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 400])
    """
    with _gradients():
        traced = trace(model, images, layer=layer)
        return traced.influence(traced.logits.argmax(1) if classes is None else classes, score=score)


def front_and_tail(values: Tensor, *, front: int | float, tail: int | float, tail_slice: Tail = "lowest") -> Tensor:
    """Weights (N, D) by influence (N, D): +1 for the features with the largest, -1 for those with the smallest, else 0.

    ``front`` and ``tail`` are numbers of features or, as floats in (0, 1), shares of D, rounded up. ``tail_slice`` says
    which features the tail is: "lowest", the ``tail`` lowest (one of the two released scripts); or "skipping", the
    ``tail`` next ones above the ``front`` lowest (the other script; ascending ranks 5 to 9 where both are 5). Of equal
    values, the first counts as the largest.

    Raises ValueError unless front and tail fit into D without overlap.

    >>> front_and_tail(torch.tensor([[0.3, -0.2, 0.9, 0.0, 0.1]]), front=1, tail=2)
    tensor([[ 0., -1.,  1., -1.,  0.]])
    """
    if tail_slice not in get_args(Tail):
        raise ValueError(f"no tail slice {tail_slice!r}; there are {', '.join(get_args(Tail))}")
    count = values.shape[1]
    first, last = (_size(name, size, count) for name, size in (("front", front), ("tail", tail)))
    skipped = first if tail_slice == "skipping" else 0
    if first + skipped + last > count:
        raise ValueError(f"front {first} and tail {last} ({tail_slice}) do not fit into {count} features")
    weights = torch.zeros_like(values)
    order = values.argsort(dim=1, descending=True, stable=True)  # one order for both, so that ties are never in both
    end = count - skipped
    return weights.scatter(1, order[:, :first], 1.0).scatter(1, order[:, end - last : end], -1.0)


def _size(name: str, size: int | float, count: int) -> int:
    if isinstance(size, float):
        if not 0 < size < 1:
            raise ValueError(f"{name} as a share must lie in (0, 1), not {size}; as a number of features, be an int")
        return math.ceil(size * count - 1e-9)  # a hair less, as 0.07 * 100 is a hair more than 7
    if size < 0:
        raise ValueError(f"{name} must not be negative: {size}")
    return size


def inverse_direction(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    front: int | float = 5,
    tail: int | float = 5,
    tail_slice: Tail = "lowest",
    layer: str | None = None,
    score: Score = "logit",
) -> Tensor:
    """The direction (N, C, H, W) of the inverse perturbation of each image, of root mean square 1.

    Takes one forward and two backward passes for the whole batch, the first of these no deeper than the layer.

    Args:
        model: The classifier.
        images: (N, C, H, W), in [0, 1].
        classes: (N,): the classes to strengthen. Default: those predicted.
        front: How many features, or as a float which share of them, count as the front.
        tail: The same for the tail.
        tail_slice: Which features the tail is; see :func:`front_and_tail`.
        layer: The layer of the features. Default: the last in the model's ``taps``.
        score: Influence is that on the "logit" or on the "probability" of the class.
    """
    with _gradients():
        traced = trace(model, images, layer=layer)
        wanted = traced.logits.argmax(1) if classes is None else classes
        values = traced.influence(wanted, score=score)
        return traced.direction(front_and_tail(values, front=front, tail=tail, tail_slice=tail_slice)).detach()


def class_directions(
    model: nn.Module, images: Tensor, weights: Tensor, *, layer: str | None = None, chunk: int = 16
) -> Tensor:
    """The directions (K, N, C, H, W) of images (N, C, H, W) under K weightings (K, D) of the features.

    All come from one forward pass; the backward passes are batched, ``chunk`` weightings at a time to limit memory.
    """
    with _gradients():
        traced = trace(model, images, layer=layer)
        found = []
        for part in weights.split(chunk):
            outputs = part[:, None, :].expand(-1, len(images), -1)
            (gradients,) = torch.autograd.grad(
                traced.features, traced.point, grad_outputs=outputs, is_grads_batched=True, retain_graph=True
            )
            found.append(rms_normalised(gradients))
        return torch.cat(found)
