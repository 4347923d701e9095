"""What no attack can break: interval bounds through a network."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.contract import check_logits
from advdef.devices import exact

__all__ = ["certified"]


def certified(network: nn.Module, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """For which images (N,) the label wins whatever the input between ``low`` and ``high``, both (N, C, H, W).

    Interval bound propagation (https://arxiv.org/abs/1810.12715), with the last linear layer folded into the margins.
    For the box of levels that a hard quantiser can show (:meth:`advdef.papers.qusecnets.quantizer.Quantizer.interval`),
    the share of such images bounds the robust accuracy of the quantised network from below. The bounds are computed in
    float64 and must exceed what the rounding of the network's own precision could change; that of a convolution that
    does not sum products as they are written (Winograd's) is not covered.

    Raises TypeError for a network that is not a sequence of Conv2d, ReLU, Flatten and Linear layers with a Linear last
    one; ValueError where ``low`` exceeds ``high``, and for labels out of range.
    """
    if bool((low > high).any()):
        raise ValueError("low exceeds high: the box is empty")
    layers = [m for m in network.modules() if not list(m.children())]
    if not isinstance(layers[-1], nn.Linear):
        raise TypeError(f"the last layer must be Linear, not {type(layers[-1]).__name__}")
    with torch.no_grad():
        logits, plain = network(low), low
        for layer in layers:
            plain = layer(plain)
        if plain.shape != logits.shape or not torch.allclose(plain, logits, rtol=1e-3, atol=1e-4):
            raise TypeError(f"{type(network).__name__} does not run its layers one after another, each of them once")
        check_logits(logits, labels)
        # in float64, with a bound on how far float32 may be off: what rounding could have made is not proven
        bounds = _Bounds.between(low, high)
        for layer in layers[:-1]:
            bounds = bounds.after(layer)
        last = bounds.after(layers[-1])
        weight = exact(layers[-1].weight)
        true = labels.to(weight.device)
        # each row: true class minus another class, as one linear map, so that shared terms cancel
        apart = weight[true][:, None] - weight[None]
        bias = weight.new_zeros(len(weight)) if layers[-1].bias is None else exact(layers[-1].bias)
        margins = (apart @ bounds.centre[..., None])[..., 0] - (apart.abs() @ bounds.radius[..., None])[..., 0]
        margins = margins + bias[true][:, None] - bias[None]
        doubt = last.error + last.error.gather(1, true[:, None])
        return (margins > doubt).scatter(1, true[:, None], True).all(1).to(labels.device)


@dataclass(frozen=True)
class _Bounds:
    """Values within ``radius`` of ``centre``, computed by the network with an ``error``; all (N, ...), float64."""

    centre: Tensor
    radius: Tensor
    error: Tensor
    rounding: float  # the relative error of one operation of the network

    @staticmethod
    def between(low: Tensor, high: Tensor) -> "_Bounds":
        bottom, top = exact(low), exact(high)
        rounding = torch.finfo(low.dtype).eps  # twice that of one operation
        return _Bounds((bottom + top) / 2, (top - bottom) / 2, torch.zeros_like(bottom), rounding)

    def after(self, layer: nn.Module) -> "_Bounds":
        """The bounds after a layer. A sum of n products is off by at most n + 1 roundings of the sum of their sizes."""
        if isinstance(layer, nn.Flatten):
            return _Bounds(layer(self.centre), layer(self.radius), layer(self.error), self.rounding)
        if isinstance(layer, nn.ReLU):
            lower, upper = (self.centre - self.radius).relu(), (self.centre + self.radius).relu()
            return _Bounds((lower + upper) / 2, (upper - lower) / 2, self.error, self.rounding)
        if isinstance(layer, nn.Linear):
            apply: Callable[..., Tensor] = F.linear
        elif isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise TypeError(f"no interval bounds for a convolution with padding mode {layer.padding_mode!r}")
            apply = partial(
                F.conv2d, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups
            )
        else:
            raise TypeError(f"no interval bounds for {type(layer).__name__}")
        weight, bias = exact(layer.weight), None if layer.bias is None else exact(layer.bias)
        size = weight.abs()
        largest = apply(self.centre.abs() + self.radius + self.error, size, None if bias is None else bias.abs())
        error = apply(self.error, size) + (weight[0].numel() + 2) * self.rounding * largest
        return _Bounds(apply(self.centre, weight, bias), apply(self.radius, size), error, self.rounding)
