"""The attack made for a defence that looks up what to add to an image by the class that it is predicted as."""

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal
from advdef.attacks.objective import Offset, ascend_objective, asked, for_each_class
from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask
from advdef.norms import BallNorm

__all__ = ["two_conditions"]


@torch.inference_mode(False)
def two_conditions(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    offset: Offset,
    classes: int = 3,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend the lead of a class on x and on clip(x + offset(x, class), 0, 1), whichever of the two is smaller.

    Where both are classified as that class, the look-up is wrong and what it adds does not help. ``offset(points
    (N, C, H, W), classes (N,))`` is asked anew at each step, without gradient, and taken for a constant; the clip is
    the identity in the gradient. Tried are the ``classes`` most likely wrong classes by ``network`` on the clean image,
    those after the first on what ``model`` still gets right; any wrong class counts as success. ``model`` only judges.
    The other options and the contract are those of :func:`advdef.attacks.pgd`.

    Raises ValueError for ``classes`` below 1 and an offset that has not the shape of the points.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> x = two_conditions(network, image, label, eps=0.1, network=network, offset=lambda x, t: 0 * x, steps=3)
    >>> float((x - image).abs().max()) <= 0.1 + 1e-6
    True
    """

    def objective(points: Tensor, goal: Goal) -> Tensor:
        assert goal.targets is not None
        moved = points + asked(offset, points, goal.targets)
        both = torch.cat([points, replace_gradient(moved.clamp(0, 1), moved)])
        aims = goal.of(torch.arange(len(points), device=points.device).repeat(2))
        return aims.loss("margin", ask(network, both)).view(2, -1).amin(0)

    def attempt(images: Tensor, labels: Tensor, eps: Tensor, targets: Tensor) -> list[Tensor]:
        found = ascend_objective(
            model, images, labels, eps=eps, objective=objective, network=network, norm=norm, steps=steps,
            step_size=step_size, restarts=restarts, random_start=random_start, stop_early=stop_early,
            generator=generator, targets=targets, any_wrong=True,
        )  # fmt: skip
        return [found]

    return for_each_class(
        model, images, labels, eps=eps, network=network, likely=network, classes=classes, attempt=attempt,
        norm=norm, stop_early=stop_early,
    )  # fmt: skip
