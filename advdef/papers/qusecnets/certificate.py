"""What no attack can break: interval bounds through a network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.contract import check_logits

__all__ = ["certified"]


def certified(network: nn.Module, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """For which images (N,) the label wins whatever the input between ``low`` and ``high``, both (N, C, H, W).

    Interval bound propagation (https://arxiv.org/abs/1810.12715), with the last linear layer folded into the margins.
    For the box of levels that a hard quantiser can show (:meth:`advdef.papers.qusecnets.quantizer.Quantizer.interval`),
    the share of such images bounds the robust accuracy of the quantised network from below.

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
        centre, radius = (low + high) / 2, (high - low) / 2
        for layer in layers[:-1]:
            if isinstance(layer, nn.Conv2d):
                if layer.padding_mode != "zeros":
                    raise TypeError(f"no interval bounds for a convolution with padding mode {layer.padding_mode!r}")
                size, stride, padding = layer.weight.abs(), layer.stride, layer.padding
                radius = F.conv2d(radius, size, None, stride, padding, layer.dilation, layer.groups)
                centre = layer(centre)
            elif isinstance(layer, nn.Linear):
                centre, radius = layer(centre), F.linear(radius, layer.weight.abs())
            elif isinstance(layer, nn.ReLU):
                lower, upper = (centre - radius).relu(), (centre + radius).relu()
                centre, radius = (lower + upper) / 2, (upper - lower) / 2
            elif isinstance(layer, nn.Flatten):
                centre, radius = layer(centre), layer(radius)
            else:
                raise TypeError(f"no interval bounds for {type(layer).__name__}")
        last = layers[-1]
        # each row: true class minus another class, as one linear map, so that shared terms cancel
        weight = last.weight[labels][:, None] - last.weight[None]
        bias = weight.new_zeros(len(last.weight)) if last.bias is None else last.bias
        offset = bias[labels][:, None] - bias[None]
        margins = (weight @ centre[..., None])[..., 0] + offset - (weight.abs() @ radius[..., None])[..., 0]
        margins.scatter_(1, labels[:, None], float("inf"))
        return (margins > 0).all(1)
