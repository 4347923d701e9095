"""What no attack can break: interval bounds through a network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["certified"]


def certified(network: nn.Module, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """(N,) booleans: the label wins for every input between ``low`` and ``high`` (both (N, C, H, W), low <= high).

    Interval bound propagation (https://arxiv.org/abs/1810.12715), with the last linear layer folded into the margins.
    On the box of levels that a hard quantiser can reach (:meth:`advdef.defenses.Quantizer.interval`) this bounds the
    quantised network's robust accuracy from below. Raises TypeError for a layer other than Conv2d, ReLU, Flatten and
    Linear, ValueError for a box that is empty somewhere.
    """
    if bool((low > high).any()):
        raise ValueError("low exceeds high: the box is empty")
    layers = [m for m in network.modules() if not list(m.children())]
    if not isinstance(layers[-1], nn.Linear):
        raise TypeError(f"the last layer must be Linear, not {type(layers[-1]).__name__}")
    with torch.no_grad():
        centre, radius = (low + high) / 2, (high - low) / 2
        for layer in layers[:-1]:
            if isinstance(layer, nn.Conv2d):
                radius = F.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding, layer.dilation, layer.groups)
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
        offset = last.bias[labels][:, None] - last.bias[None]
        margins = (weight @ centre[..., None])[..., 0] + offset - (weight.abs() @ radius[..., None])[..., 0]
        margins.scatter_(1, labels[:, None], float("inf"))
        return (margins > 0).all(1)
