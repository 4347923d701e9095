"""A faster way, on CPUs, to the gradient of two kinds of convolution at their input.

torch's own kernel for that gradient works on blocks of 16 channels, and an image has one or three: at the first layer
of a small network it takes longer than all the rest of the backward pass. A matrix product with the weights, whose
columns are then added up at their places (``torch.nn.functional.fold``), gives the same but for rounding. So it
does, without the second part, where the kernel is as large as what it sees. And a grey image, which lies in both of
torch's layouts, is said to lie in that of the weights. What the layers compute in the forward pass is the same bit for
bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["quick_gradients"]

_FEW = 4  # input channels


@contextmanager
def quick_gradients(model: nn.Module) -> Iterator[None]:
    """Inside the block, convolutions of the model pass gradients as said above: those with up to four input channels,
    and those that see all of their input at once.

    It concerns float32 on a CPU, and a layer that is ``nn.Conv2d`` itself, with padding by zeros; all others, and
    models that torch has compiled or traced, stay as they are.
    """
    changed = []
    try:
        modules = list(model.modules())
        if not any(type(module).__name__ == "OptimizedModule" for module in modules):  # what torch.compile makes
            for module in modules:
                if type(module) is nn.Conv2d and _is_concerned(module):
                    module.forward = partial(_forward, module)  # type: ignore[method-assign]
                    changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def _is_concerned(layer: nn.Conv2d) -> bool:
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    wide = max(layer.kernel_size) > 1 and "forward" not in vars(layer)
    return plain and wide and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _forward(layer: nn.Conv2d, maps: Tensor) -> Tensor:
    maps = _lying(maps, layer.weight)
    asked = torch.is_grad_enabled() and maps.requires_grad and not torch._C._are_functorch_transforms_active()
    quick = asked and maps.dim() == 4 and maps.device.type == "cpu"
    if not quick or not (layer.in_channels <= _FEW or _sees_all(maps, layer.weight, layer.padding, layer.dilation)):
        return layer._conv_forward(maps, layer.weight, layer.bias)
    # a view, of which one can ask whether its gradient is wanted; of the parameter itself one cannot
    weight = layer.weight.view_as(layer.weight)
    bias = None if layer.bias is None else layer.bias.view_as(layer.bias)
    found: Tensor = _Convolution.apply(maps, weight, bias, layer.stride, layer.padding, layer.dilation)
    return found


def _lying(maps: Tensor, weight: Tensor) -> Tensor:
    """Maps of one channel lie in both layouts; where the weights are channels last they are said to be so, too.

    Else the layer's outputs are contiguous, and each pass lays them out anew for the next layer.
    """
    if maps.dim() != 4 or maps.shape[1] != 1 or weight.stride(1) != 1 or not maps.is_contiguous():
        return maps
    return maps.view(len(maps), *maps.shape[2:], 1).permute(0, 3, 1, 2)


def _sees_all(maps: Tensor, weight: Tensor, padding: Any, dilation: Any) -> bool:
    return maps.shape[2:] == weight.shape[2:] and set(padding) == {0} and set(dilation) == {1}


class _Convolution(torch.autograd.Function):
    """A convolution whose backward pass can be differentiated, and computes no gradient that nobody wants."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
    ) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.settings = stride, padding, dilation
        return F.conv2d(maps, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (maps, weight) = gradients, ctx.saved_tensors
        stride, padding, dilation = ctx.settings
        at_maps = at_weight = at_bias = None
        if _is_wanted(ctx, 0):
            if _sees_all(maps, weight, padding, dilation):
                at_maps = _spread(gradient, weight)
            else:
                columns = weight.reshape(weight.shape[0], -1).t() @ gradient.reshape(*gradient.shape[:2], -1)
                at_maps = F.fold(columns, maps.shape[2:], weight.shape[2:], dilation, padding, stride)
        if _is_wanted(ctx, 1):
            _, at_weight, _ = torch.ops.aten.convolution_backward(
                gradient, maps, weight, None, stride, padding, dilation, False, (0, 0), 1, (False, True, False)
            )
        if _is_wanted(ctx, 2):
            at_bias = gradient.sum((0, 2, 3))
        return at_maps, at_weight, at_bias, None, None, None


def _spread(gradient: Tensor, weight: Tensor) -> Tensor:
    """The weights of all outputs (K, C, H, W), by their gradients (N, K, 1, 1): (N, C, H, W), lying as the weights."""
    shares = gradient.reshape(*gradient.shape[:2])
    if weight.is_contiguous() or not weight.is_contiguous(memory_format=torch.channels_last):
        return (shares @ weight.reshape(len(weight), -1)).reshape(-1, *weight.shape[1:])
    lying = weight.permute(0, 2, 3, 1)
    return (shares @ lying.reshape(len(weight), -1)).reshape(-1, *lying.shape[1:]).permute(0, 3, 1, 2)


def _is_wanted(ctx: Any, place: int) -> bool:
    """Whether the backward pass under way needs the gradient of an argument."""
    if not ctx.needs_input_grad[place]:
        return False
    try:
        wanted: bool = torch._C._will_engine_execute_node(ctx.next_functions[place][0])
    except (AttributeError, RuntimeError, TypeError):  # it cannot tell
        return True
    return wanted
