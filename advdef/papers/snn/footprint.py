"""What a network needs besides time: parameters, multiply-adds, spikes, and memory for its gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.evaluation import multiply_adds
from advdef.papers.snn.neurons import Firing

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True)
class Footprint:
    """What a network needs: its parameters and, for one image, operations, spikes and memory.

    Attributes:
        parameters: How many numbers are learnt.
        multiply_adds: Multiply-adds of a forward pass.
        spikes: Spikes of a forward pass.
        kept_bytes: Bytes that a forward pass keeps for the backward pass.
    """

    parameters: int
    multiply_adds: float
    spikes: float
    kept_bytes: float


def footprint(model: nn.Module, images: Tensor) -> Footprint:
    """Count what ``model`` needs on images (N, C, H, W), all time steps together; it must give one row per image.

    Multiply-adds are those of convolutions and linear layers as they are carried out here. A neuron that fires at three
    levels at once counts for three spikes. The bytes are those of the tensors that autograd stores, parameters aside,
    each counted once.
    """
    spikes = 0.0
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal spikes
        spikes += output.sum().item()

    held: list[torch.UntypedStorage] = []  # an address is not used again while its storage lives

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in kept:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(storage)
        return tensor

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, Firing)]
    try:
        with borrowed(model, quiet=True):
            operations = multiply_adds(model, images)
            total = spikes
            point = images.detach().clone().requires_grad_()
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                model(point)
    finally:
        for handle in handles:
            handle.remove()
    n = len(images)
    return Footprint(sum(p.numel() for p in model.parameters()), operations, total / n, sum(kept.values()) / n)
