"""The cheapest attack on a defence that looks up what to add: take it off, and let the defence add it back."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.attacks.objective import Offset, asked, for_each_class
from advdef.norms import BallNorm, ball

__all__ = ["precompensated"]


@torch.inference_mode(False)
def precompensated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    offset: Offset,
    shares: Sequence[float] = (0.0, 0.5, 1.0),
    classes: int = 3,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Craft x* for a class on the bare ``network``, with as large a lead as it can get, and submit x* - share * offset.

    ``offset(points (N, C, H, W), classes (N,))`` is what the defence adds to points that it takes for that class; it is
    asked once, at x*. What is submitted is moved into the eps-ball and [0, 1]: where x* has used up its budget, an
    offset back towards the image cannot be taken off. Share 0 is x* itself; between 0 and 1 what the look-up sees and
    what it makes of it both stay near x*. x* is PGD on the margin of each of the ``classes`` most likely wrong
    classes of the clean image, those after the first for what ``model`` still gets right. ``model`` only judges, and is
    asked once for each share and class. The other options and the contract are those of :func:`advdef.attacks.pgd`.

    Raises ValueError for ``classes`` below 1, shares that are none, negative or not finite, and an offset that has not
    the shape of the points.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> x = precompensated(network, image, label, eps=0.1, network=network, offset=lambda x, t: 0 * x, steps=3)
    >>> float((x - image).abs().max()) <= 0.1 + 1e-6
    True
    """
    if not shares or not all(0 <= share < float("inf") for share in shares):
        raise ValueError(f"shares must be finite and not negative, and at least one, not {tuple(shares)}")

    def attempt(images: Tensor, labels: Tensor, eps: Tensor, targets: Tensor) -> Iterator[Tensor]:
        crafted = pgd(
            network, images, labels, eps=eps, norm=norm, steps=steps, step_size=step_size, restarts=restarts,
            loss="margin", targets=targets, random_start=random_start, generator=generator,
        )  # fmt: skip
        added = asked(offset, crafted, targets)
        around = ball(images, eps[:, None, None, None], norm)
        return (around.project(crafted - share * added) for share in shares)

    return for_each_class(
        model, images, labels, eps=eps, network=network, likely=network, classes=classes, attempt=attempt,
        norm=norm, stop_early=stop_early,
    )  # fmt: skip
