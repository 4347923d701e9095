"""Attacks made of another attack: towards one class after the other, over several budgets, or from a found start."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Attack, describe, norm_of
from advdef.attacks.losses import margin, wrong_classes
from advdef.attacks.restarts import TOGETHER
from advdef.contract import ask, borrowed, check_logits, cleaned, counts_passes, slope, validate
from advdef.norms import BallNorm, Norm, size

__all__ = ["ClassOrder", "Search", "each_class", "minimal", "warm_started"]

ClassOrder = Literal["likely", "malt"]

_DUAL: Mapping[Norm, Norm] = {"Linf": "L1", "L2": "L2", "L1": "Linf", "L0": "Linf"}
_BEYOND = 1.05  # so much farther than the linear boundary the search outwards begins
_SMALLEST = 1e-4  # and never at less: what begins at 0 cannot be doubled
_COMPARED = 100  # most classes whose gradients are asked for, as in MALT


@torch.inference_mode(False)
def each_class(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    attack: Attack,
    classes: int = 9,
    order: ClassOrder = "likely",
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run a targeted attack towards each of the nearest wrong classes; any wrong class counts as success.

    The untargeted loss is drawn to the nearest class; raising one class at a time finds what that runs past (APGD-T of
    https://arxiv.org/abs/2003.01690). Of all runs, each image's result with the largest margin is returned. For all
    classes an image has the same random starts. Classes that fit into a batch of 128 are tried at once, with the
    results that they have one after the other, unless the model counts its passes to draw random numbers.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball in the norm of ``attack``; a number, or one per image (N,).
        attack: A partial of one that takes ``targets``, such as ``partial(pgd, loss="margin")``.
        classes: How many of the wrong classes are tried; more than K - 1 means all.
        order: Which class is nearest. "likely": the one with the largest logit. "malt": the one with the smallest
            lead of the label, divided by the dual norm of that lead's gradient: its distance if the model were linear
            (MALT, https://arxiv.org/abs/2407.02240). That costs a backward pass for each class, at most 100.
        stop_early: Drop an image from all further runs once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`.
    """
    images, labels, budget = validate(images, labels, eps, norm=norm_of(attack) or "Linf")
    budget = budget.flatten()
    if classes < 1:
        raise ValueError(f"classes must be at least 1, not {classes}")
    if order not in get_args(ClassOrder):
        raise ValueError(f"no order {order!r}; there are {', '.join(get_args(ClassOrder))}")
    best = images.clone()
    with borrowed(model):
        with torch.no_grad():
            logits = ask(model, images)
        check_logits(logits, labels)
        best_margin = margin(logits, labels)
        targets = wrong_classes(logits, labels)
        if order == "malt":
            attacked = torch.nonzero((best_margin <= 0) | (not stop_early))[:, 0]
            targets = targets[:, :_COMPARED]
            if len(attacked):
                near = _nearest_first(
                    model, images[attacked], labels[attacked], targets[attacked], norm_of(attack) or "Linf"
                )
                targets[attacked] = near
        source = torch.default_generator if generator is None else generator
        state, left = source.get_state(), targets[:, :classes]
        while left.shape[1]:
            rows = torch.arange(len(images), device=images.device)
            if stop_early:
                rows = rows[best_margin <= 0]
            if len(rows) == 0:
                break
            count = 1 if counts_passes(model) else max(1, TOGETHER // len(rows))
            now, left = left[:, :count], left[:, count:]
            several = rows.repeat(now.shape[1])
            source.set_state(state)
            found = attack(
                model, images[several], labels[several], eps=budget.expand(len(images))[several],
                targets=now[rows].T.flatten(), any_wrong=True, stop_early=stop_early,
                generator=generator,
            )  # fmt: skip
            with torch.no_grad():
                reached = margin(ask(model, found), labels[several]).unflatten(0, (-1, len(rows)))
            won, chosen = reached > 0, reached.argmax(0)
            if stop_early:  # the first class that succeeded, as if the later ones had not been tried
                chosen = torch.where(won.any(0), won.int().argmax(0), chosen)
            each = torch.arange(len(rows), device=rows.device)
            found, reached = found.unflatten(0, (-1, len(rows)))[chosen, each], reached[chosen, each]
            better = reached > best_margin[rows]
            best[rows] = torch.where(better[:, None, None, None], found, best[rows])
            best_margin[rows] = torch.where(better, reached, best_margin[rows])
    return best


def _nearest_first(model: nn.Module, images: Tensor, labels: Tensor, targets: Tensor, norm: Norm) -> Tensor:
    """Wrong classes (N, T), sorted by how far away they would be in ``norm`` if the model were linear."""
    with torch.enable_grad():  # the caller may have switched it off
        point = images.detach().requires_grad_()
        logits = ask(model, point)
        leads = logits.gather(1, labels[:, None]) - logits.gather(1, targets)
        slopes = []
        for number, lead in enumerate(leads.unbind(1)):
            found = None
            if lead.requires_grad:
                more = number < leads.shape[1] - 1
                (found,) = torch.autograd.grad(lead.sum(), point, retain_graph=more, allow_unused=True)
            slopes.append(size(cleaned(found, point), _DUAL[norm]))
    steep = torch.stack(slopes, 1).clamp_min(torch.finfo(point.dtype).tiny)
    return targets.gather(1, (leads.detach() / steep).argsort(dim=1, stable=True))


def _linear_distance(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm) -> Tensor:
    """How far away (N,) the boundary would be in ``norm`` if the model were linear; infinite without a gradient."""
    with torch.enable_grad():  # the caller may have switched it off
        point = images.detach().requires_grad_()
        lead = margin(ask(model, point), labels)
        steep = size(slope(lead.sum(), point), _DUAL[norm])
    return (-lead.detach() / steep).nan_to_num(torch.inf, posinf=torch.inf)


Search = Literal["bisection", "upwards", "outwards"]


@torch.inference_mode(False)
def minimal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    attack: Attack,
    search: Search = "bisection",
    trials: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The closest misclassified image that ``attack`` finds in balls of different radius, up to ``eps``.

    An image for which no radius succeeds comes back unchanged, and so does one that the model gets wrong anyway.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Largest radius to try, in the norm of ``attack``; a number, or one per image (N,). Infinity is allowed.
        attack: A partial of one that takes an eps per image, such as ``partial(pgd, steps=40, stop_early=True)``. It
            sees parts of the batch, so it cannot have ``targets``.
        search: "bisection" tries eps and, where that succeeds, halves the interval again and again. It never returns to
            a radius that failed, so an attack that depends on luck should have restarts. "upwards" tries equidistant
            radii from below until the first success. "outwards" begins a little beyond where the boundary would be if
            the model were linear, doubles until the first success, and halves the interval from there: for few trials.
        trials: Number of halvings, or of radii; at least 1.
        generator: Source of all random numbers. Default: torch's own.

    The contract is otherwise that of :mod:`advdef.attacks.gradient`. Raises TypeError for an attack that is no partial,
    ValueError for one whose norm is neither Linf nor L2.
    """
    if not isinstance(attack, partial):
        raise TypeError("attack must be a partial of an attack, such as functools.partial(pgd, stop_early=True)")
    norm = norm_of(attack)
    if norm is None or norm not in get_args(BallNorm):
        raise ValueError(f"the attack takes no eps in {' or '.join(get_args(BallNorm))}, but in {norm or 'no norm'}")
    if search not in get_args(Search):
        raise ValueError(f"no search {search!r}; there are {', '.join(get_args(Search))}")
    if trials < 1:
        raise ValueError(f"trials must be at least 1, not {trials}")
    images, labels, budget = validate(images, labels, eps, norm=norm, unbounded=True)
    best, closest = images.clone(), torch.full_like(labels, torch.inf, dtype=images.dtype)
    # no two images are farther apart than this
    largest = budget.flatten().expand(len(images)).clamp(max=1.0 if norm == "Linf" else images[0].numel() ** 0.5)

    def attempt(rows: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Attack some images; note what succeeds; return which did and how far they moved."""
        found = attack(model, images[rows], labels[rows], eps=radius, generator=generator)
        with torch.no_grad():
            logits = ask(model, found)
        # the search ends at the boundary itself: ask for more than rounding, which another batch size or device changes
        wins = margin(logits, labels[rows]) > 100 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
        distance = size(found - images[rows], norm)
        closer = wins & (distance < closest[rows])  # an attack in a larger ball may have ended closer to the image
        best[rows[closer]], closest[rows[closer]] = found[closer], distance[closer]
        return wins, distance

    with borrowed(model):
        with torch.no_grad():
            logits = ask(model, images)
        check_logits(logits, labels)
        rows = torch.nonzero(margin(logits, labels) <= 0)[:, 0]
        if search == "upwards":
            for trial in range(1, trials + 1):
                if len(rows) == 0:
                    break
                wins, _ = attempt(rows, largest[rows] * (trial / trials))
                rows = rows[~wins]
        elif search == "outwards" and len(rows):
            radius = _BEYOND * _linear_distance(model, images[rows], labels[rows], norm)
            radius = radius.clamp_min(_SMALLEST).minimum(largest[rows])
            low, high = torch.zeros_like(radius), torch.full_like(radius, torch.inf)
            for _ in range(trials):
                wins, distance = attempt(rows, radius)
                low, high = torch.where(wins, low, radius), torch.where(wins, distance, high)
                going = high.isfinite() | (radius < largest[rows])
                rows, low, high, radius = rows[going], low[going], high[going], radius[going]
                if len(rows) == 0:
                    break
                radius = torch.where(high.isfinite(), (low + high) / 2, (2 * radius).minimum(largest[rows]))
        elif len(rows):
            wins, distance = attempt(rows, largest[rows])
            rows, high = rows[wins], distance[wins]
            low = torch.zeros_like(high)
            for _ in range(trials if len(rows) else 0):
                middle = (low + high) / 2
                wins, distance = attempt(rows, middle)
                # what succeeded may lie well inside the ball that was tried
                low, high = torch.where(wins, low, middle), torch.where(wins, distance, high)
    return best


def warm_started(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    source: nn.Module,
    first: Attack,
    attack: Attack,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run ``attack`` on ``model`` from the points that another attack reached on a relative of it.

    Where the way from the image itself is flat or leads astray, a point that fools a relative may be a better start
    (https://arxiv.org/abs/2002.08347 uses this throughout).

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Radius of the ball for both attacks; a number, or one per image (N,).
        source: The relative: a surrogate of ``model``, say, or its bare classifier.
        first: The attack that is run on ``source``.
        attack: A partial of one that takes a ``start``, as :func:`advdef.attacks.pgd` and :func:`advdef.attacks.apgd`
            do.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises TypeError for an ``attack`` that takes no ``start``.
    """
    if "start" not in inspect.signature(attack).parameters:
        raise TypeError(f"attack must take a start, as pgd and apgd do; {describe(attack)} does not")
    start = first(source, images, labels, eps=eps, generator=generator)
    return attack(model, images, labels, eps=eps, start=start.detach(), generator=generator)
