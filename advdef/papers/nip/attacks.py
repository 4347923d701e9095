"""Attacks on defences that add something to an image: by the class they take it for, or by trying many things."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.gradient import pgd
from advdef.attacks.losses import Goal
from advdef.attacks.objective import Offset, ascend_objective, asked, for_each_class
from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import BallNorm, ball

__all__ = ["CandidateLoss", "candidates", "precompensated", "two_conditions"]

CandidateLoss = Literal["sum", "worst", "agree"]

_FORWARD = 1024  # most candidates in one forward pass, unless a single image has more


@torch.inference_mode(False)
def candidates(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    network: nn.Module,
    offsets: Tensor,
    loss: CandidateLoss = "sum",
    sampled: int | None = None,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack all images clip(x + offset, 0, 1) at once, whichever of them a defence goes by.

    In the gradient the clip is the identity (BPDA, https://arxiv.org/abs/1802.00420).

    Args:
        model: The defence; it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        network: The bare classifier, whose loss on the candidates is ascended.
        offsets: (J, C, H, W), in pixel units: all that the defence may add.
        loss: What is ascended: "sum", the sum of the candidates' cross-entropies; "worst", their smallest margin, which
            is positive when all of them are wrong; or "agree", the smallest lead of one wrong class, that with the
            largest mean logit over the candidates of the clean image.
        sampled: Use so many candidates, 1 to J, drawn anew for each point. Default: all J.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for offsets unlike the images or not
    finite, an unknown loss, and ``sampled`` outside 1..J.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> x = candidates(network, image, label, eps=0.1, network=network, offsets=torch.zeros(3, 1, 2, 2), steps=3)
    >>> float((x - image).abs().max()) <= 0.1 + 1e-6
    True
    """
    if loss not in get_args(CandidateLoss):
        raise ValueError(f"no loss {loss!r}; there are {', '.join(get_args(CandidateLoss))}")
    if offsets.dim() != 4 or len(offsets) == 0 or offsets.shape[1:] != images.shape[1:]:
        raise ValueError(f"offsets must be (J, {', '.join(map(str, images.shape[1:]))}), not {tuple(offsets.shape)}")
    if not bool(torch.isfinite(offsets).all()):
        raise ValueError("offsets must be finite")
    if sampled is not None and not 1 <= sampled <= len(offsets):
        raise ValueError(f"sampled must lie in 1..{len(offsets)}, the number of offsets, not {sampled}")
    offsets = offsets.detach().to(images)
    each = len(offsets) if sampled is None else sampled
    at_once = max(1, _FORWARD // each)

    seed = 0 if sampled is None else fresh_seed(generator)

    def judged(points: Tensor) -> Tensor:
        """Logits (N * J, K), or of the ``sampled`` candidates alone."""
        drawn = offsets
        if sampled is not None:
            drawn = offsets[uniform(image_keys(points, seed), (len(offsets),)).argsort(1)[:, :sampled]]
        added = (points[:, None] + drawn).flatten(0, 1)
        return ask(network, replace_gradient(added.clamp(0, 1), added))

    def objective(points: Tensor, goal: Goal) -> Tensor:
        aims = goal.of(torch.arange(len(points), device=points.device).repeat_interleave(each))
        values = aims.loss("ce" if loss == "sum" else "margin", judged(points)).view(-1, each)
        return values.sum(1) if loss == "sum" else values.amin(1)

    ascend = partial(
        ascend_objective, objective=objective, network=network, norm=norm, steps=steps, step_size=step_size,
        restarts=restarts, random_start=random_start, stop_early=stop_early, generator=generator, at_once=at_once,
    )  # fmt: skip
    if loss != "agree":
        return ascend(model, images, labels, eps=eps)

    def mean(points: Tensor) -> Tensor:
        return torch.cat([judged(part).unflatten(0, (-1, each)).mean(1) for part in points.split(at_once)])

    return for_each_class(
        model, images, labels, eps=eps, network=network, likely=mean, classes=1, norm=norm, stop_early=stop_early,
        attempt=lambda x, y, eps, targets: [ascend(model, x, y, eps=eps, targets=targets, any_wrong=True)],
    )  # fmt: skip


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
    """Craft x* on the bare network, and submit x* - share * offset: what the defence will add is taken off beforehand.

    x* is made by PGD on the margin of a wrong class, for the most likely wrong classes of the clean image in turn;
    classes after the first are tried for what ``model`` still gets right. What is submitted is moved into the ball and
    [0, 1], so where x* has used up its budget, an offset that leads back towards the image cannot be taken off.

    Args:
        model: The defence; it only judges, and is asked once for each share and class.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        network: The bare classifier.
        offset: What the defence adds to points (N, C, H, W) that it takes for classes (N,); asked once, at x*.
        shares: How much of the offset is taken off, each tried in turn, 0 or more. 0 submits x* itself; between 0 and
            1, both what the look-up sees and what it makes of that stay near x*.
        classes: How many wrong classes are tried, at least 1.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run of PGD, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs of PGD towards each class, at least 1. Those after the first begin at random points,
            and attack the images that ``network`` does not take for that class yet.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Leave out, from the start, the images that ``model`` gets wrong anyway.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for ``classes`` below 1, shares that are
    none, negative or not finite, and an offset of another shape than the points.

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
        model, images, labels, eps=eps, network=network, likely=partial(ask, network), classes=classes, attempt=attempt,
        norm=norm, stop_early=stop_early,
    )  # fmt: skip


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
    """Make a wrong class win both before and after the defence adds what it has for that class.

    Ascended is the smaller of two leads of the class: on x, and on clip(x + offset(x, class), 0, 1). Where both are
    positive, the look-up is wrong, and what it adds does not help. The most likely wrong classes of the clean image are
    tried in turn, those after the first for what ``model`` still gets right; any wrong class counts as success.

    Args:
        model: The defence; it only judges.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        network: The bare classifier.
        offset: What the defence adds to points (N, C, H, W) that it takes for classes (N,). It is asked anew at each
            step, and is a constant of the gradient, in which the clip is the identity.
        classes: How many wrong classes are tried, at least 1.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs towards each class, at least 1. Those after the first begin at random points, and
            attack what ``model`` still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for ``classes`` below 1 and an offset of
    another shape than the points.

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
        model, images, labels, eps=eps, network=network, likely=partial(ask, network), classes=classes, attempt=attempt,
        norm=norm, stop_early=stop_early,
    )  # fmt: skip
