"""The same function with other activations: why a sensitivity that depends on the scale of a neuron means little."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from advdef.taps import check_layers

__all__ = ["rescaled"]


def rescaled(model: nn.Module, norm: str, following: str, factors: Tensor) -> nn.Module:
    """A copy in which neuron m of the layer ``norm`` is multiplied by ``factors[m]`` (C,), and the model does the same.

    As ReLU(c x) = c ReLU(x) for c > 0, weight and bias of ``norm`` (batch normalisation, or a Conv2d or Linear without
    one) are multiplied and what ``following`` (Conv2d or Linear) multiplies the neuron with is divided. The function
    stays the same if nothing but ReLU, pooling, flattening and dropout lies between the two, and no other layer reads
    the neurons; whether that is so is not checked here. Dinh et al. (https://arxiv.org/abs/1703.04933) did so to the
    sharpness of minima.

    Raises ValueError for an unknown layer, for factors that are not positive and finite or do not fit the layers;
    TypeError for layers of another kind.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> other = rescaled(model, "0", "2", torch.tensor([2.0, 4.0, 0.5]))
    >>> inputs = torch.rand(5, 2)
    >>> bool((other(inputs) == model(inputs)).all()), bool((other[0](inputs) == model[0](inputs)).all())
    (True, False)
    """
    copy = deepcopy(model)
    writes, reads = (copy.get_submodule(name) for name in check_layers(model, (norm, following)))
    if not isinstance(writes, _BatchNorm | nn.Conv2d | nn.Linear) or writes.weight is None:
        raise TypeError(f"{norm!r} must be a Conv2d, Linear or batch normalisation with weights, not {writes}")
    if not isinstance(reads, nn.Conv2d | nn.Linear) or getattr(reads, "groups", 1) != 1:
        raise TypeError(f"{following!r} must be a Linear or a Conv2d of one group, not {reads}")
    neurons, inputs = writes.weight.shape[0], reads.weight.shape[1]
    fit = inputs % neurons == 0 if isinstance(reads, nn.Linear) else inputs == neurons
    if factors.shape != (neurons,) or not fit:
        raise ValueError(
            f"{norm!r} has {neurons} neurons and {following!r} {inputs} inputs: no factors {tuple(factors.shape)} fit"
        )
    if not bool(((factors > 0) & factors.isfinite()).all()):
        raise ValueError(f"factors must be positive and finite; seen: {float(factors.min())} to {float(factors.max())}")
    with torch.no_grad():
        scale = factors.to(writes.weight)
        writes.weight.mul_(_along(scale, writes.weight, 0))
        if writes.bias is not None:
            writes.bias.mul_(scale)
        # a Linear after a flattened map reads each channel through several inputs, which lie side by side
        reads.weight.div_(_along(scale.repeat_interleave(inputs // neurons), reads.weight, 1))
    return copy


def _along(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    shape = [1] * weight.dim()
    shape[dim] = -1
    return values.reshape(shape)
