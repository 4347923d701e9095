"""What attacks are compared on: a network without a defence, and a linear classifier whose distances are known."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from advdef.models import CleverhansCNN
from advdef.norms import BallNorm

__all__ = ["linear_subject", "subject_network"]


def subject_network(shape: tuple[int, int, int], classes: int, *, small: bool = False) -> nn.Module:
    """The Cleverhans CNN for images (C, H, W), or a smaller one of two convolutions, for sides from 9 pixels."""
    if not small:
        return CleverhansCNN(shape, classes)
    height, width = (((side + 1) // 2 - 5) // 2 + 1 for side in shape[1:])
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * height * width, classes),
    )


def linear_subject(generator: Generator) -> tuple[nn.Module, dict[BallNorm, tuple[Tensor, Tensor, Tensor]]]:
    """A linear classifier of two classes, and by norm images (N, 1, 6, 6), their classes (N,) and distances (N,).

    The distance is the eps at which the class changes: the difference of the logits over the dual norm of that of the
    weights. Only images are kept on whose way no pixel meets 0 or 1.
    """
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    points = 0.4 + 0.2 * torch.rand(256, 1, 6, 6, generator=generator)
    with torch.no_grad():
        weight, bias = linear[1].parameters()
        weight.copy_(torch.randn(weight.shape, generator=generator))
        bias.copy_(-0.5 * weight.sum(1))  # so that both classes are near
        logits = linear(points)
    found: dict[BallNorm, tuple[Tensor, Tensor, Tensor]] = {}
    duals: dict[BallNorm, Any] = {"Linf": 1, "L2": 2}
    for norm, dual in duals.items():
        distance = ((logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm(p=dual)).detach()
        inner = (distance > 1e-3) & (distance < 0.6)
        found[norm] = points[inner], logits.argmax(1)[inner], distance[inner]
    return linear, found
