"""What a search for holes begins with, a defence as a page judges it, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from advdef.defenses.base import Defense
from advdef.evaluation.outcomes import Outcome

__all__ = ["Hunt", "Judged", "Tried"]


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


@dataclass(frozen=True)
class Tried:
    """What one way did: its name and length, how many images it was tried on, how many of them broke, and the cost."""

    name: str
    steps: int
    images: int
    broke: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Hunt:
    """What a search found.

    Attributes:
        left: (N,) booleans: the images that were searched, those that the adaptive attacker had left.
        broken: (N,) booleans: those of them that the deployed defence gets wrong now, asked once more.
        attacked: (N, C, H, W): what broke them; elsewhere the best point that was found, or the image.
        by: For each broken image, by its place, the way that broke it.
        tried: Every way that was tried, in order.
        ended: Why the search ended.
    """

    left: Tensor
    broken: Tensor
    attacked: Tensor
    by: dict[int, str]
    tried: tuple[Tried, ...]
    ended: str
