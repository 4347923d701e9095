"""Attacks from foolbox that look for the smallest perturbation, by gradients or by decisions alone.

The signature is that of :mod:`advdef.attacks.gradient`. Here ``eps``, a number or one per image (N,), is the largest
size in ``norm`` that counts, and may be infinite. Where foolbox found an image at most ``eps`` away that the model,
asked once more, gets wrong, it is returned; elsewhere, and where the model is wrong anyway, the image itself.

Raises what the gradient attacks raise, and ImportError when the extra ``eval`` is not installed. Attacks by decisions
need a model that gives the same image the same class each time, and raise ValueError where they notice that it does
not.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advdef.attacks.libraries.verified import needs, reached, verified
from advdef.attacks.losses import Goal
from advdef.contract import validate
from advdef.norms import BallNorm, Norm, size, spread

__all__ = ["boundary", "carlini_wagner", "ddn", "deepfool", "ead", "hop_skip_jump", "pointwise"]

Start = Literal["blend", "swap"]


def carlini_wagner(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "L2",
    steps: int = 200,
    binary_search_steps: int = 9,
    step_size: float = 0.01,
    confidence: float = 0.0,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Carlini & Wagner's L2 attack (https://arxiv.org/abs/1608.04644).

    It minimises the distance plus a weighted loss, and searches for the weight.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: The norm of eps; the attack itself minimises L2.
        steps: Steps of Adam for each weight. Foolbox's default is 10,000.
        binary_search_steps: How many weights are tried.
        step_size: Learning rate of Adam.
        confidence: Lead, in logits, that the wrong class must have.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.
    """
    attack = _attacks(steps=steps, binary_search_steps=binary_search_steps).L2CarliniWagnerAttack(
        steps=steps, binary_search_steps=binary_search_steps, stepsize=step_size, confidence=confidence,
        abort_early=False,
    )  # fmt: skip
    # at the ends of [0, 1] foolbox's tanh is flat: in 200 steps a pixel that is exactly 0 or 1 would hardly move
    return _smallest(model, images, labels, attack, eps=eps, norm=norm, targets=targets, room=0.02, generator=generator)


def ead(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "L1",
    steps: int = 200,
    binary_search_steps: int = 9,
    step_size: float = 0.01,
    sparsity: float = 0.01,
    decision_rule: Literal["L1", "EN"] = "L1",
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Elastic-net attack (https://arxiv.org/abs/1709.04114): minimises L2 and L1 together, the latter by shrinkage.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: The norm of eps.
        steps: Steps for each weight of the loss.
        binary_search_steps: How many weights of the loss are tried.
        step_size: Size of the first step.
        sparsity: Weight of L1, the paper's beta.
        decision_rule: Whether of what it finds it keeps the smallest in "L1" or in the elastic-net distance, "EN".
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.
    """
    attack = _attacks(steps=steps, binary_search_steps=binary_search_steps).EADAttack(
        steps=steps, binary_search_steps=binary_search_steps, initial_stepsize=step_size, regularization=sparsity,
        decision_rule=decision_rule, abort_early=False,
    )  # fmt: skip
    return _smallest(model, images, labels, attack, eps=eps, norm=norm, targets=targets, generator=generator)


def deepfool(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "L2",
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DeepFool (https://arxiv.org/abs/1511.04599): steps to the nearest decision boundary of the linearised model.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: "L2" or "Linf": that of eps, and which form of the attack is run.
        steps: Most steps, at least 1.
        candidates: Among how many of the most likely classes, the image's own included, the nearest is sought; at least
            2.
        overshoot: By which share a step goes beyond the boundary.
        generator: Source of all random numbers. Default: torch's own.
    """
    attacks = _attacks(steps=steps)
    if candidates < 2:
        raise ValueError(f"candidates must be at least 2, the image's own class and another, not {candidates}")
    kind = {"L2": attacks.L2DeepFoolAttack, "Linf": attacks.LinfDeepFoolAttack}
    if norm not in kind:
        raise ValueError(f"no DeepFool in norm {norm!r}; there are {', '.join(kind)}")
    attack = kind[norm](steps=steps, candidates=candidates, overshoot=overshoot)
    return _smallest(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def ddn(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "L2",
    steps: int = 100,
    start_norm: float = 1.0,
    gamma: float = 0.05,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Decoupled direction and norm (https://arxiv.org/abs/1811.09600): follows the gradient on a sphere of changing
    radius.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: The norm of eps; the attack itself minimises L2.
        steps: Number of gradient steps, at least 1.
        start_norm: The first radius (L2).
        gamma: By which share the radius shrinks after a success, and grows after a failure.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.
    """
    attack = _attacks(steps=steps).DDNAttack(steps=steps, init_epsilon=start_norm, gamma=gamma)
    return _smallest(model, images, labels, attack, eps=eps, norm=norm, targets=targets, generator=generator)


def boundary(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "L2",
    steps: int = 5000,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Boundary attack (https://arxiv.org/abs/1712.04248), by decisions alone: a random walk along the boundary.

    Args:
        model: Maps images to logits (N, K), of which only the decision is used.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: The norm of eps; the attack itself minimises L2.
        steps: Steps of the walk, each of which asks the model once. Foolbox's default is 25,000.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.
    """
    attack = _attacks(steps=steps).BoundaryAttack(steps=steps)
    return _smallest(
        model, images, labels, attack, eps=eps, norm=norm, targets=targets, start="blend", generator=generator
    )


def hop_skip_jump(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: BallNorm = "L2",
    steps: int = 20,
    first_evaluations: int = 100,
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """HopSkipJump (https://arxiv.org/abs/1904.02144), by decisions alone: estimates the gradient at the boundary.

    Args:
        model: Maps images to logits (N, K), of which only the decision is used.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: "L2" or "Linf": that of eps, and what the attack minimises.
        steps: Number of steps, at least 1. Foolbox's default is 64.
        first_evaluations: Step k asks the model this many times sqrt(k) for its estimate.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.
    """
    attacks = _attacks(steps=steps, first_evaluations=first_evaluations)
    constraint = {"L2": "l2", "Linf": "linf"}
    if norm not in constraint:
        raise ValueError(f"no HopSkipJump in norm {norm!r}; there are {', '.join(constraint)}")
    attack = attacks.HopSkipJumpAttack(
        steps=steps, initial_gradient_eval_steps=first_evaluations, constraint=constraint[norm]
    )

    def gradients(is_adversarial: Callable[[Any], Any], points: Any, evaluations: int, radius: Any) -> Any:
        """As foolbox does it, but with norms of each image: those over the whole batch get worse with its size."""
        point = points.raw
        moves = votes = sides = torch.zeros_like(point)
        for _ in range(evaluations):
            noise = torch.randn_like(point) if norm == "L2" else 2 * torch.rand_like(point) - 1
            nearby = (point + noise * spread(radius.raw / size(noise, "L2"))).clamp(0, 1)
            side = spread(2 * is_adversarial(type(points)(nearby)).raw.to(point.dtype) - 1)
            moves, votes, sides = moves + nearby - point, votes + side * (nearby - point), sides + side
        gradient = votes - torch.where(sides.abs() == evaluations, 0, sides / evaluations) * moves
        return type(points)(gradient / spread(size(gradient, "L2")).clamp_min(torch.finfo(point.dtype).tiny))

    attack.approximate_gradients = gradients
    return _smallest(
        model, images, labels, attack, eps=eps, norm=norm, targets=targets, start="blend", generator=generator
    )


def pointwise(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "L0",
    targets: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pointwise attack (https://arxiv.org/abs/1805.09190), by decisions alone: resets the values of a far start one by
    one.

    In another norm than L0 it then moves each remaining value back as far as it can. Each round asks the model once for
    every value that still differs.

    Args:
        model: Maps images to logits (N, K), of which only the decision is used.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``; a number, or one per image (N,). Infinity is allowed.
        norm: The norm of eps.
        targets: (N,), int64: the class that each image is to be taken for. Default: any but its label.
        generator: Source of all random numbers. Default: torch's own.
    """
    attack = _attacks().PointwiseAttack(l2_binary_search=norm != "L0")
    return _smallest(
        model, images, labels, attack, eps=eps, norm=norm, targets=targets, start="swap", generator=generator
    )


def _attacks(**counts: int) -> Any:
    """Foolbox's attacks; raises ValueError unless every count is positive."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")
    with needs("foolbox"), _contained():
        from foolbox import attacks
    return attacks


def _smallest(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Any,
    *,
    eps: float | Tensor,
    norm: Norm,
    targets: Tensor | None = None,
    start: Start | None = None,
    room: float = 0.0,
    generator: torch.Generator | None,
) -> Tensor:
    """Run a foolbox attack, and keep what lies within eps.

    ``start`` is for attacks by decisions: how the point that they begin at is moved towards the image. The attack may
    leave [0, 1] by ``room``; the model never sees that, as what it gets is cut to [0, 1].
    """
    from foolbox import Misclassification, PyTorchModel, TargetedMisclassification

    images, labels, budget = validate(images, labels, eps, norm=norm, unbounded=True)

    def search(peer: nn.Module, images: Tensor, goal: Goal, eps: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        found, success = images.clone(), torch.zeros_like(goal.labels, dtype=torch.bool)
        rows, options = torch.ones_like(success), {}
        if start is not None:
            starts, rows = _starts(peer, images, goal, start, generator)
            if not bool(rows.any()):
                return images, success
            options["starting_points"] = _nearer(peer, images[rows], starts[rows], goal.of(rows), start, generator)
        mine = goal.of(rows)
        wanted = Misclassification(mine.labels) if mine.targets is None else TargetedMisclassification(mine.targets)
        bounded = PyTorchModel(nn.Sequential(_Clamp(), peer).eval(), bounds=(-room, 1 + room), device=images.device)
        try:
            with _contained():
                _, found[rows], success[rows] = attack(bounded, images[rows], wanted, epsilons=None, **options)
        except (AssertionError, ValueError) as error:
            if start is None:
                raise
            raise ValueError("an attack by decisions needs a model that decides alike each time") from error
        found = found.clamp(0, 1)
        # where Carlini & Wagner's or EAD's search fails foolbox returns black, which many a model gets wrong
        allowed = success & found.isfinite().flatten(1).all(1) & found.flatten(1).any(1)
        return found, allowed & (size(found - images, norm) <= eps.flatten())

    return verified(model, images, labels, search, eps=budget, targets=targets, generator=generator)


class _Clamp(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.clamp(0, 1)


def _starts(
    peer: nn.Module, images: Tensor, goal: Goal, start: Start, generator: torch.Generator | None, tries: int = 100
) -> tuple[Tensor, Tensor]:
    """For each image a point that reaches its goal, from the batch or from noise, and (N,) whether there is one.

    Foolbox's own search gives up on all images when it finds none for one of them.
    """
    starts, known = images, torch.zeros_like(goal.labels, dtype=torch.bool)
    for attempt in range(tries):
        # a few pixels of black and white noise do more than a few of another image
        if attempt == (1 if start == "swap" else 0):
            pool = images
        else:
            noise = torch.rand(images.shape, generator=generator, dtype=images.dtype, device="cpu")
            pool = (noise if attempt % 2 else noise.round()).to(images.device)
        decisions = peer(pool).argmax(1)
        fits = decisions != goal.labels[:, None] if goal.targets is None else decisions == goal.targets[:, None]
        nearest = torch.cdist(images.flatten(1), pool.flatten(1)).masked_fill(~fits, float("inf")).argmin(1)
        new = fits.any(1) & ~known
        starts, known = torch.where(spread(new), pool[nearest], starts), known | new
        if bool(known.all()):
            break
    return starts, known


def _nearer(
    peer: nn.Module, images: Tensor, starts: Tensor, goal: Goal, start: Start, generator: torch.Generator | None
) -> Tensor:
    """The starts, moved towards the images as far as ten halvings of the way allow: blended, or pixel by pixel."""
    shape = (len(images), 1, *images.shape[2:])
    order = torch.rand(shape, generator=generator, dtype=images.dtype, device="cpu").to(images.device)
    low, high = torch.zeros_like(order[:, :1, :1, :1]), torch.ones_like(order[:, :1, :1, :1])
    nearest = starts
    for _ in range(10):
        middle = (low + high) / 2
        point = torch.lerp(images, starts, middle) if start == "blend" else torch.where(order < middle, starts, images)
        won = spread(reached(peer(point), goal))
        nearest = torch.where(won, point, nearest)
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
    return nearest


@contextmanager
def _contained() -> Iterator[None]:
    """Silence the warning that importing foolbox causes, and keep foolbox from giving the root logger a handler."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Please import `gaussian_filter`", DeprecationWarning)
            yield
    finally:
        root.removeHandler(handler)
