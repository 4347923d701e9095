"""What stands for the derivative of a spike, in training and in attacks. The spikes themselves do not depend on it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["ADAPTIVE", "ENSEMBLE", "RECTANGLE", "REDUCED", "Surrogate", "SurrogateKind"]

SurrogateKind = Literal[
    "rectangle",
    "triangle",
    "exponential",
    "arctan",
    "fast sigmoid",
    "straight-through",
    "membrane",
    "rate",
    "adaptive",
    "averaged",
]


@dataclass(frozen=True)
class Surrogate:
    """A rule by which a gradient passes a spiking neuron whose membrane u meets a threshold; d is u - threshold.

    .. code-block:: text

        rectangle         1 / width where |d| < width / 2 (Esser et al. 2016, STBP, MLF)
        triangle          max(0, width - |d|) / width^2
        exponential       scale * exp(-|d| / width)
        arctan            1 / (1 + (pi d / width)^2), snntorch's default at width 1
        fast sigmoid      1 / (1 + |d| / width)^2
        straight-through  1
        membrane          the density at d of a normal distribution with mean s / 2 and deviation s, where s is the
                          deviation of the membranes so far, of one channel of one image (in the manner of PDSG,
                          https://arxiv.org/abs/2503.03272, which takes it over the whole batch)
        rate              no recursion over time: the gradient passes neurons that fire at all (in the manner of RGA,
                          Bu et al., CVPR 2023, and of BPTR)
        adaptive          1 / w / (1 + (pi d / w)^2) with w = width (m + 1.5 a), where m is the mean of |d| over the
                          steps of this neuron, and a the mean of ||d| - m| (in the manner of ASSG,
                          https://arxiv.org/abs/2512.22522, which takes both means over the steps of the attack)
        averaged          no recursion over time: each step gets the mean over all steps of what passes a triangle (in
                          the manner of HART, https://openreview.net/forum?id=xv8iGxENyI)

    ``scale`` multiplies the exponential alone. With ``reset`` the gradient passes the reset of a membrane as well, as
    it does in the released code of multi-level firing; else the reset counts as a constant, as in snntorch. Raises
    ValueError for an unknown kind, for a width or scale that is not positive and finite, and for ``reset`` where there
    is no recursion over time.

    >>> Surrogate("triangle", 2.0).slope(torch.tensor([-2.0, 0.0, 1.0]))
    tensor([0.0000, 0.5000, 0.2500])
    """

    kind: SurrogateKind = "rectangle"
    width: float = 1.0
    scale: float = 1.0
    reset: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(SurrogateKind):
            raise ValueError(f"no surrogate {self.kind!r}; there are {', '.join(get_args(SurrogateKind))}")
        for name in ("width", "scale"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {value}")
        if self.reset and self.kind in ("rate", "averaged"):
            raise ValueError(f"{self.kind} has no recursion over time, so that nothing passes a reset")

    @property
    def pointwise(self) -> bool:
        """Whether the rule looks at one membrane at one time step alone."""
        return self.kind not in ("membrane", "rate", "adaptive", "averaged")

    def slope(self, distance: Tensor) -> Tensor:
        """ds/du where membranes lie ``distance`` above their threshold.

        Raises ValueError for a rule that looks at the whole time of a neuron.
        """
        size = distance.abs()
        match self.kind:
            case "rectangle":
                return (size < self.width / 2).to(distance.dtype) / self.width
            case "triangle":
                return (self.width - size).clamp_min(0) / self.width**2
            case "exponential":
                return self.scale * torch.exp(-size / self.width)
            case "arctan":
                return 1 / (1 + (math.pi / self.width * size).square())
            case "fast sigmoid":
                return 1 / (1 + size / self.width).square()
            case "straight-through":
                return torch.ones_like(distance)
        raise ValueError(f"{self.kind} has no slope: it is a rule for the whole of a neuron's time")

    def __str__(self) -> str:
        width = "" if self.kind in ("straight-through", "membrane", "rate") else f" {self.width:g}"
        scaled = f", scale {self.scale:g}" if self.scale != 1 else ""
        return f"{self.kind}{width}{scaled}{', through the reset' if self.reset else ''}"


RECTANGLE = Surrogate("rectangle", 1.0)
"""What multi-level firing is trained with."""

ADAPTIVE = Surrogate("adaptive", 0.65)
"""As wide as ASSG's code makes it at A / 2 = 0.435."""


def _named(*surrogates: Surrogate) -> dict[str, Surrogate]:
    return {str(surrogate): surrogate for surrogate in surrogates}


REDUCED: Mapping[str, Surrogate] = _named(
    RECTANGLE,
    Surrogate("triangle", 1.0),
    Surrogate("triangle", 2.0),
    Surrogate("rectangle", 2.0),
    Surrogate("straight-through"),
    Surrogate("rate"),
    Surrogate("membrane"),
    ADAPTIVE,
)
"""Eight surrogates with which to attack a spiking network, for a small budget."""

ENSEMBLE: Mapping[str, Surrogate] = _named(
    *(Surrogate("triangle", width) for width in (0.25, 0.5, 1.0, 2.0, 3.0)),
    *(Surrogate("exponential", width, scale) for scale in (1.0, 0.3) for width in (2.0, 1.0, 0.5)),
    *(Surrogate("rectangle", width) for width in (0.25, 0.5, 1.0, 2.0, 4.0)),
    Surrogate("arctan"),
    Surrogate("straight-through"),
    Surrogate("rate"),
    Surrogate("membrane"),
    ADAPTIVE,
    Surrogate("averaged", 2.0),
)
"""Twenty-two surrogates, with shapes and widths after the ensemble of RobustSNNConversion
(https://arxiv.org/abs/2311.09266).
"""
