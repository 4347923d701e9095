"""Adversarial training and its relatives: one schedule and one inner attack; only the loss differs.

    loss = alpha CE(F(x), y) + (1 - alpha) CE(F(x'), y) + weight * penalty(F(x), F(x'))

Here x' comes from a few steps of PGD on the current network in evaluation mode. Where the loss needs F(x) and F(x'),
both go through the network as one batch, so that batch normalisation treats them alike; where it needs F(x') alone, x
is left out.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.data import Split
from advdef.draws import fresh_seed, image_keys
from advdef.norms import ball
from advdef.taps import tapped
from advdef.training.loop import fit

__all__ = ["Branches", "Penalty", "ascend", "fit_pairs", "train_alp", "train_at", "train_trades"]


@dataclass(frozen=True)
class Branches:
    """What a network makes of a batch and of its adversarial partners: logits (N, K), and outputs of tapped layers."""

    clean: Tensor
    adversarial: Tensor
    clean_maps: dict[str, Tensor]
    adversarial_maps: dict[str, Tensor]


Penalty = Callable[[Branches], Tensor]
"""A function of the branches that returns the scalar to be kept small, a mean over the batch."""


def train_at(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    alpha: float = 0.0,
    **options: Any,
) -> dict[str, Tensor]:
    """PGD adversarial training (https://arxiv.org/abs/1706.06083).

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Gradient steps of the inner attack, at least 1.
        epochs: Passes over the split.
        generator: Source of all random numbers.
        alpha: Weight of the clean images in the loss: 0 for attacked images alone, 0.5 for both alike.
        **options: Go to :func:`fit_pairs`.

    Returns ``{"loss": (epochs,)}``, and raises what :func:`fit_pairs` raises.
    """
    return fit_pairs(model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, alpha=alpha, **options)


def train_alp(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    weight: float = 0.5,
    **options: Any,
) -> dict[str, Tensor]:
    """Adversarial logit pairing (https://arxiv.org/abs/1803.06373): AT plus the squared distance of the logits.

    Logit pairing without adversarial training was broken by https://arxiv.org/abs/1807.10272.

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Gradient steps of the inner attack, at least 1.
        epochs: Passes over the split.
        generator: Source of all random numbers.
        weight: Weight of the distance. Its squares are summed over the K classes, so a weight here is worth K times one
            for their mean.
        **options: Go to :func:`fit_pairs`.

    Returns ``{"loss": (epochs,)}``, and raises what :func:`fit_pairs` raises.
    """
    return fit_pairs(
        model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, weight=weight,
        penalty=squared_logit_distance, **options,
    )  # fmt: skip


def train_trades(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    weight: float = 6.0,
    **options: Any,
) -> dict[str, Tensor]:
    """TRADES (https://arxiv.org/abs/1901.08573): CE on clean images plus ``weight`` times KL(F(x) || F(x')).

    The inner attack ascends that divergence, from a point next to the image, as its gradient is zero at the image
    itself.

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Gradient steps of the inner attack, at least 1.
        epochs: Passes over the split.
        generator: Source of all random numbers.
        weight: Weight of the divergence.
        **options: Go to :func:`fit_pairs`.

    Returns ``{"loss": (epochs,)}``, and raises what :func:`fit_pairs` raises.
    """
    return fit_pairs(
        model, split, eps=eps, steps=steps, epochs=epochs, generator=generator, alpha=1.0, weight=weight,
        penalty=divergence, attack_penalty=True, **options,
    )  # fmt: skip


def squared_logit_distance(branches: Branches) -> Tensor:
    """Mean of ||F(x) - F(x')||^2 over the batch."""
    return (branches.clean - branches.adversarial).square().sum(1).mean()


def divergence(branches: Branches) -> Tensor:
    """Mean of KL(softmax F(x) || softmax F(x')) over the batch."""
    return _kl(branches.clean, branches.adversarial).mean()


def fit_pairs(
    model: nn.Module,
    split: Split,
    *,
    eps: float,
    steps: int,
    epochs: int,
    generator: torch.Generator,
    step_size: float = 0.25,
    alpha: float = 0.0,
    weight: float = 0.0,
    penalty: Penalty | None = None,
    layers: Sequence[str] = (),
    attack_penalty: bool = False,
    ramp: int = 0,
    eps_ramp: int = 0,
    through: Callable[[nn.Module], nn.Module] | None = None,
    before_epoch: Callable[[int, float], None] | None = None,
    held: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """Train with the loss of :mod:`advdef.training.adversarial`; returns ``{"loss": (epochs,)}``.

    With ``held``, also "held": (epochs,), the share of the images held out that was right under attack after each
    epoch. It shows whether more epochs would help, and the weights of the best epoch stay
    (https://arxiv.org/abs/2002.11569: a network that goes on learning may lose robustness again).

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        eps: Linf budget of the inner attack, in pixel units.
        steps: Gradient steps of the inner attack, at least 1.
        epochs: Passes over the split.
        generator: Source of all random numbers.
        step_size: Size of a step of the inner attack, relative to eps.
        alpha: Weight, from 0 to 1, of the cross-entropy on clean images; the rest is that of the attacked ones.
        weight: Weight of the penalty. Default: none.
        penalty: What is kept small besides; needed where the weight is above 0.
        layers: Names of the layers whose outputs the penalty gets to see.
        attack_penalty: Whether the inner attack ascends KL(F(x) || F(x')) in place of the cross-entropy.
        ramp: Over how many epochs the weight rises: in epoch e it is ``weight * min(1, e / ramp)``. Default: it is
            whole from the beginning.
        eps_ramp: Over how many epochs the budget rises: in epoch e it is ``eps * min(1, (e + 1) / eps_ramp)``. Without
            it small networks on binary-like images stay at chance. Default: it is whole from the beginning.
        through: Makes of the model what the inner attack differentiates. Default: the model itself; a surrogate of it
            where the model has no useful gradient.
        before_epoch: Called with the number of the epoch, from 0, and its weight before it begins.
        held: How many images of the split, the last ones, are held out: they are attacked after each epoch at the
            whole budget, with twice the steps. Default: none.
        **options: Go to :func:`advdef.training.fit`.

    Raises ValueError for settings that make no sense, and what ``fit`` raises.
    """
    ramps = min(ramp, eps_ramp)
    if not (0 <= alpha <= 1 and 0 <= weight < float("inf") and eps >= 0 and step_size > 0) or steps < 1 or ramps < 0:
        seen = f"alpha {alpha}, weight {weight}, ramp {ramp}, eps_ramp {eps_ramp}, eps {eps}, steps {steps}"
        needed = "alpha must lie in [0, 1], weight, ramps and eps from 0, steps from 1, step_size > 0"
        raise ValueError(f"{needed}: {seen}, step_size {step_size}")  # nor may any be NaN
    if weight > 0 and penalty is None:
        raise ValueError("a weight needs a penalty")
    if not 0 <= held < len(split):
        raise ValueError(f"of {len(split)} images from 0 to {len(split) - 1} can be held out, not {held}")
    now, budget, used = weight, eps, len(split) - held
    kept, split = _HeldOut(Split(split.images[used:], split.labels[used:])), split.head(used)

    def look() -> None:
        kept.look(model, model if through is None else through(model), eps=eps, steps=2 * steps, step_size=step_size)

    def begin(epoch: int) -> None:
        nonlocal now, budget
        if held and epoch:
            look()
        now = weight * min(1.0, epoch / ramp) if ramp else weight
        budget = eps * min(1.0, (epoch + 1) / eps_ramp) if eps_ramp else eps
        if before_epoch is not None:
            before_epoch(epoch, now)

    def objective(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        if alpha == 1 and now == 0:
            return F.cross_entropy(model(images).float(), labels)
        target = model if through is None else through(model)
        attacked = _kl_from(target, images) if attack_penalty else _ce_to(labels)
        start = 0.001 * torch.randn(images.shape, generator=generator) if attack_penalty else None
        adversarial = ascend(
            target, images, attacked, eps=budget, steps=steps, step_size=step_size, start=start, generator=generator
        )
        if alpha == 0 and now == 0:
            return F.cross_entropy(model(adversarial).float(), labels)
        taps: AbstractContextManager[dict[str, Tensor]] = tapped(model, layers) if layers else nullcontext({})
        with taps as maps:
            clean, attacked_logits = model(torch.cat([images, adversarial])).float().chunk(2)
        halves = {name: values.chunk(2) for name, values in maps.items()}
        loss = alpha * F.cross_entropy(clean, labels) + (1 - alpha) * F.cross_entropy(attacked_logits, labels)
        if penalty is not None and now > 0:
            first, second = ({name: pair[i] for name, pair in halves.items()} for i in (0, 1))
            loss = loss + now * penalty(Branches(clean, attacked_logits, first, second))
        return loss

    losses = fit(model, split, epochs=epochs, generator=generator, objective=objective, before_epoch=begin, **options)
    if not held:
        return {"loss": torch.tensor(losses)}
    look()
    model.load_state_dict(kept.best)
    return {"loss": torch.tensor(losses), "held": torch.tensor(kept.robust)}


class _HeldOut:
    """Images that nobody trains on, what share of them was right under attack so far, and the weights of the best."""

    def __init__(self, split: Split) -> None:
        self.split, self.robust, self.best = split, list[float](), dict[str, Tensor]()

    def look(self, model: nn.Module, target: nn.Module, *, eps: float, steps: int, step_size: float) -> None:
        """Attack the images through ``target``, and keep the model's weights if it was never better."""
        draws, right = torch.Generator().manual_seed(0), 0
        for images, labels in self.split.batches(250):
            found = ascend(target, images, _ce_to(labels), eps=eps, steps=steps, step_size=step_size, generator=draws)
            with borrowed(model, quiet=True, exact=False), torch.no_grad():
                right += int((model(found).argmax(1) == labels).sum())
        self.robust.append(right / len(self.split))
        if self.robust[-1] >= max(self.robust):
            self.best = {name: value.detach().clone() for name, value in model.state_dict().items()}


def ascend(
    model: nn.Module,
    images: Tensor,
    value: Callable[[Tensor], Tensor],
    *,
    eps: float,
    steps: int,
    step_size: float,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The inner attack of training: PGD on ``value(logits)``, without checks, of which the last iterate counts.

    For training alone; evaluation uses :mod:`advdef.attacks`.

    Args:
        model: The network as it is now; asked in evaluation mode.
        images: (N, C, H, W), in [0, 1].
        value: What is ascended: logits (N, K) -> (N,).
        eps: Linf budget, in pixel units.
        steps: Number of gradient steps.
        step_size: Size of a step, relative to eps.
        start: (N, C, H, W): the perturbation to begin with. Default: a random point of the ball.
        generator: Source of the random point.
    """
    around = ball(images, torch.full((1, 1, 1, 1), eps, dtype=images.dtype, device=images.device), "Linf")
    if start is None:
        point = around.sample(image_keys(images, fresh_seed(generator)))
    else:
        point = images + start.to(images.device)
    point = around.project(point)
    with borrowed(model, quiet=True, exact=False):
        for _ in range(steps):
            point.requires_grad_()
            (slope,) = torch.autograd.grad(value(model(point).float()).sum(), point)
            point = around.project(point.detach() + step_size * eps * around.ascent(slope))
    return point


def _ce_to(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda logits: F.cross_entropy(logits, labels, reduction="none")


def _kl_from(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    with borrowed(model, quiet=True, exact=False):
        # not under no_grad: autocast of an older torch keeps the weights cast there, without a way to their gradient
        clean = model(images).float().detach()
    return lambda logits: _kl(clean, logits)


def _kl(clean: Tensor, other: Tensor) -> Tensor:
    return F.kl_div(other.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
