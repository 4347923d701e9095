"""Parts of spiking networks besides neurons. In all maps time is folded into the batch, time first."""

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SqueezeExcitation", "ThresholdNorm", "over_time"]


def over_time(maps: Tensor, steps: int) -> Tensor:
    """The mean over time (N, ...) of maps (T * N, ...) of T ``steps``."""
    return maps.unflatten(0, (steps, -1)).mean(0)


class ThresholdNorm(nn.BatchNorm2d):
    """tdBN (https://arxiv.org/abs/2011.05280): batch normalisation, also over time, to the size of a threshold.

    gamma * threshold * (x - mean) / sqrt(variance + eps) + beta. The released code adds eps outside of the root.
    """

    def __init__(self, channels: int, threshold: float) -> None:
        super().__init__(channels)
        self.threshold = threshold

    def extra_repr(self) -> str:
        """Channels and the threshold."""
        return f"{self.num_features}, threshold={self.threshold:g}"

    def forward(self, maps: Tensor) -> Tensor:
        """Normalised maps."""
        return F.batch_norm(
            maps, self.running_mean, self.running_var, self.threshold * self.weight, self.bias, self.training,
            self.momentum or 0.0, self.eps,
        )  # fmt: skip


class SqueezeExcitation(nn.Module):
    """Each channel times a gate in (0, 1) that is computed from the means of all channels.

    https://arxiv.org/abs/1709.01507. As time lies in the batch, each time step has gates of its own.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        """Weighted maps."""
        weighted: Tensor = maps * self.gate(maps.mean((2, 3)))[:, :, None, None]
        return weighted
