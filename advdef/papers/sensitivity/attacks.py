"""Attacks on features: towards an image of another class, through a few chosen neurons, or around them."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from advdef.attacks.composed import each_class
from advdef.attacks.losses import Goal, margin
from advdef.contract import validate
from advdef.draws import fresh_seed, image_keys, uniform
from advdef.norms import BallNorm
from advdef.papers.sensitivity.ascent import FeatureObjective, Features, ascend_features, check_neurons, typical

__all__ = ["feature_adversary", "feature_routing", "neuron_targeted"]


@torch.inference_mode(False)
def feature_adversary(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    guides: Tensor,
    guide_labels: Tensor,
    layers: Sequence[str],
    network: nn.Module | None = None,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 5,
    random_start: bool = False,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Move the features of an image towards those of a guide, an image of another class.

    Adversarial manipulation of deep representations (https://arxiv.org/abs/1511.05122), by signed gradients in place of
    L-BFGS. The distance that is descended is the mean squared difference of a layer's activations, relative to their
    mean size on the guide, summed over ``layers``. For each image and restart a guide is drawn. The iterate of the
    largest margin is returned, whatever its distance.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        guides: (M, C, H, W), in [0, 1]: where guides are drawn from.
        guide_labels: (M,), int64: their labels.
        layers: Names of layers of ``network``.
        network: A network that runs once in each pass of ``model``. Default: the model itself.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for an unknown layer, guides of another
    shape than the images, and a label for which there is no guide.
    """
    images, labels, _ = validate(images, labels, eps, norm=norm)
    guides, guide_labels, _ = validate(guides, guide_labels, 0.0)
    if guides.shape[1:] != images.shape[1:]:
        raise ValueError(f"guides must be like images, {tuple(images.shape[1:])}, not {tuple(guides.shape[1:])}")
    allowed = labels[:, None] != guide_labels.to(labels.device)
    if not bool(allowed.any(1).all()):
        raise ValueError(f"all guides are of class {int(guide_labels[0])}, which is the label of an image")

    seed, restart = fresh_seed(generator), count()

    def draw(rows: Tensor) -> Tensor:
        luck = uniform(image_keys(images[rows], seed, next(restart)), (len(guides),))
        drawn = luck.masked_fill(~allowed[rows], -1.0).argmax(1)
        return guides[drawn.to(guides.device)].to(images)

    def objective(step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
        value = torch.zeros_like(logits[:, 0])
        for layer, guide in kept.items():
            apart = (seen[layer] - guide).flatten(1) / typical(guide)[:, None]
            value = value - apart.square().mean(1)
        return value

    return ascend_features(
        model, images, labels, eps=eps, begin=lambda *_: objective, reference=draw, layers=layers, network=network,
        norm=norm, steps=steps, step_size=step_size, restarts=restarts, random_start=random_start,
        stop_early=stop_early, generator=generator,
    )  # fmt: skip


def neuron_targeted(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    layer: str,
    head: Tensor,
    units: Tensor,
    classes: int = 9,
    network: nn.Module | None = None,
    norm: BallNorm = "Linf",
    steps: int = 30,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Raise what some units of a layer contribute to a wrong class, for the most likely wrong classes in turn.

    Towards class t, for an image of class y, the objective is the sum over the units u of (head[t, u] - head[y, u]) *
    u. (In https://arxiv.org/abs/2003.09372 a loss on a single sensitive neuron attacks nearly as well as one on the
    whole model.) Any wrong class counts as success.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        layer: A layer of ``network`` that gives units (N, C).
        head: (K, C): the weights that make logits of these units.
        units: (k,), int64: which units count.
        classes: How many wrong classes are tried, at least 1; more than K - 1 means all.
        network: A network that runs once in each pass of ``model``. Default: the model itself.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs towards each class, at least 1. Those after the first begin at random points, and
            attack what ``model`` still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for an unknown layer, for one that does
    not give (N, C), for a head that does not fit it and the logits, and for units that it does not have.
    """
    if not len(units):
        raise ValueError("no units")

    def begin(kept: Features, logits: Tensor) -> FeatureObjective:
        features = kept[layer]
        if features.dim() != 2:
            raise ValueError(f"layer {layer!r} must give units (N, C), not maps {tuple(features.shape)}")
        check_neurons("units", units, features.shape[1])
        if head.shape != (logits.shape[1], features.shape[1]):
            wanted = (logits.shape[1], features.shape[1])
            raise ValueError(f"head must have shape {wanted}, classes and units of {layer!r}, not {tuple(head.shape)}")
        inside = units.to(features.device)
        weights = head.detach().to(features)[:, inside]

        def objective(step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
            return ((weights[goal.targets] - weights[goal.labels]) * seen[layer][:, inside]).sum(1)

        return objective

    attack = partial(
        ascend_features, begin=begin, layers=(layer,), network=network, norm=norm, steps=steps, step_size=step_size,
        restarts=restarts, random_start=random_start,
    )  # fmt: skip
    return each_class(
        model, images, labels, eps=eps, attack=attack, classes=classes, stop_early=stop_early, generator=generator
    )


def feature_routing(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    chosen: Mapping[str, Tensor],
    gamma: float = 1.0,
    eta: float = 0.0,
    network: nn.Module | None = None,
    norm: BallNorm = "Linf",
    steps: int = 100,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    stop_early: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend the margin, and with it the change of those neurons that training did not hold still.

    Sensitive Neuron Stabilizing (https://arxiv.org/abs/1909.06978) holds the ``chosen`` neurons still; this attack goes
    around them. Let d(l, m) be the mean size of the change of neuron m of layer l since the clean image. Two thirds of
    the steps ascend

        margin / s + sum over l of (gamma * mean of d(l, m), m not chosen, - eta * mean of d(l, m), m chosen) / s(l)

    and the last third the margin alone. The divisors make gamma and eta independent of the scale of model and layers,
    and are constants of the gradient: s is the mean absolute deviation of the logits at the point, s(l) the mean size
    of the layer's activations on the clean image.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units; a number, or one per image (N,).
        chosen: The neurons that were held still: int64 indices (k,) by layer of ``network``.
        gamma: Weight of the change of all other neurons; 0 or more.
        eta: Weight by which a change of the chosen ones counts against it; 0 or more.
        network: A network that runs once in each pass of ``model``. Default: the model itself.
        norm: "Linf" or "L2".
        steps: Number of gradient steps in each run, at least 1.
        step_size: Size of a step, relative to eps; positive. Default: 2.5 / steps, at most 1.
        restarts: Number of runs, at least 1. Those after the first begin at random points, and attack what ``model``
            still gets right.
        random_start: Begin the first run at a random point of the ball; else at the image.
        stop_early: Drop an image from the batch once ``model`` gets it wrong.
        generator: Source of all random numbers. Default: torch's own.

    The contract is that of :mod:`advdef.attacks.gradient`. Raises ValueError for an unknown layer, an index that it
    does not have, and a gamma or eta that is negative or not finite.

    >>> _ = torch.manual_seed(1)  # with neurons that are active
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> found = feature_routing(model, image, label, eps=0.1, chosen={"2": torch.tensor([0])}, steps=6)
    >>> float((found - image).abs().max()) <= 0.1 + 1e-6
    True
    """
    for name, weight in (("gamma", gamma), ("eta", eta)):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{name} must be finite and not negative, not {weight}")

    def begin(kept: Features, logits: Tensor) -> FeatureObjective:
        weights = {layer: _weights(layer, features, chosen[layer], gamma, eta) for layer, features in kept.items()}

        def objective(step: int, seen: Features, kept: Features, logits: Tensor, goal: Goal) -> Tensor:
            value = margin(logits, goal.labels) / typical(logits - logits.mean(1, keepdim=True))
            if 3 * (step + 1) > 2 * steps:
                return value
            for layer, clean in kept.items():
                moved = (seen[layer] - clean).abs().reshape(*clean.shape[:2], -1).mean(2)
                value = value + moved @ weights[layer] / typical(clean)
            return value

        return objective

    return ascend_features(
        model, images, labels, eps=eps, begin=begin, layers=tuple(chosen), network=network, norm=norm, steps=steps,
        step_size=step_size, restarts=restarts, random_start=random_start, stop_early=stop_early, generator=generator,
    )  # fmt: skip


def _weights(layer: str, features: Tensor, chosen: Tensor, gamma: float, eta: float) -> Tensor:
    """(C,): the factor of each neuron's change in the objective."""
    check_neurons(f"the chosen neurons of {layer!r}", chosen, features.shape[1])
    held = torch.zeros(features.shape[1], device=features.device, dtype=features.dtype)
    held[chosen.to(held.device)] = 1
    return gamma * (1 - held) / (1 - held).sum().clamp_min(1) - eta * held / held.sum().clamp_min(1)
