"""A faster way, on CPUs, to the gradient at the images: that of a convolution with few inputs, as the first one is.

torch's own kernel for it works on blocks of 16 channels, and an image has one or three: at the first layer of a small
network it takes longer than all the rest of the backward pass. A matrix product with the weights, whose columns are
then added up at their places (:func:`torch.nn.functional.fold`), gives the same but for rounding. What the layer
computes in the forward pass is the same bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["few_inputs"]

_FEW = 4  # input channels


@contextmanager
def few_inputs(model: nn.Module) -> Iterator[None]:
    """Inside the block, convolutions of the model that have up to four input channels pass gradients as said above.

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
    small = layer.in_channels <= _FEW and max(layer.kernel_size) > 1 and "forward" not in vars(layer)
    return plain and small and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _forward(layer: nn.Conv2d, images: Tensor) -> Tensor:
    asked = torch.is_grad_enabled() and images.requires_grad and not torch._C._are_functorch_transforms_active()
    if not (asked and images.dim() == 4 and images.device.type == "cpu"):
        return layer._conv_forward(images, layer.weight, layer.bias)
    # a view, of which one can ask whether its gradient is wanted; of the parameter itself one cannot
    weight = layer.weight.view_as(layer.weight)
    bias = None if layer.bias is None else layer.bias.view_as(layer.bias)
    found: Tensor = _Convolution.apply(images, weight, bias, layer.stride, layer.padding, layer.dilation)
    return found


class _Convolution(torch.autograd.Function):
    """A convolution whose backward pass can be differentiated, and computes no gradient that nobody wants."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.settings = stride, padding, dilation
        return F.conv2d(images, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (images, weight) = gradients, ctx.saved_tensors
        stride, padding, dilation = ctx.settings
        at_images = at_weight = at_bias = None
        if _is_wanted(ctx, 0):
            columns = weight.reshape(weight.shape[0], -1).t() @ gradient.reshape(*gradient.shape[:2], -1)
            at_images = F.fold(columns, images.shape[2:], weight.shape[2:], dilation, padding, stride)
        if _is_wanted(ctx, 1):
            _, at_weight, _ = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, stride, padding, dilation, False, (0, 0), 1, (False, True, False)
            )
        if _is_wanted(ctx, 2):
            at_bias = gradient.sum((0, 2, 3))
        return at_images, at_weight, at_bias, None, None, None


def _is_wanted(ctx: Any, place: int) -> bool:
    """Whether the backward pass under way needs the gradient of an argument."""
    if not ctx.needs_input_grad[place]:
        return False
    try:
        wanted: bool = torch._C._will_engine_execute_node(ctx.next_functions[place][0])
    except (AttributeError, RuntimeError, TypeError):  # it cannot tell
        return True
    return wanted
