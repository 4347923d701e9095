"""A defence as a page judges it: what a search for holes begins with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from advdef.defenses.base import Defense
from advdef.evaluation.outcomes import Outcome

__all__ = ["Judged"]


@dataclass(frozen=True, eq=False)
class Judged:
    """A defence, the images that attackers met it on, and what the adaptive one left.

    Attributes:
        name: What the page calls it.
        defence: The defence as deployed.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        adaptive: The adaptive attacker's outcome on these images, by budget.
        relatives: Other networks, by name: what fools them is a start.
    """

    name: str
    defence: Defense
    images: Tensor
    labels: Tensor
    adaptive: Mapping[float, Outcome]
    relatives: Mapping[str, nn.Module] = field(default_factory=dict)
