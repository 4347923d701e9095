"""Attacks of other libraries, none of them taken at its word.

A library's attack gets a :class:`StandIn` of the model and only the images that the model gets right, with torch's and
numpy's random numbers seeded for it. Of what it returns, :func:`verified` keeps what lies within the budget and fools
the model when it is asked once more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal
from advdef.contract import ask, borrowed, check_logits, cleaned, own
from advdef.draws import fresh_seed, seeded
from advdef.norms import per_image, spread

__all__ = ["PeerSearch", "StandIn", "needs", "reached", "verified"]

PeerSearch = Callable[[nn.Module, Tensor, Goal, Tensor, int], tuple[Tensor, Tensor]]
"""Called as ``search(model, images, goal, eps, seed)``; returns images, and (N,) booleans which of them may be kept."""


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Make a failed import inside the block say how to install it."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"this attack needs {package}: pip install {package}") from error


def reached(logits: Tensor, goal: Goal) -> Tensor:
    """Which images (N,) have reached their goal: the decision is the target or, without targets, is not the label."""
    decision = logits.argmax(1)
    return decision != goal.labels if goal.targets is None else decision == goal.targets


@torch.inference_mode(False)
def verified(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    search: PeerSearch,
    *,
    eps: Tensor,
    targets: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """What ``search`` finds for each image, where it may be kept and fools the model; elsewhere the image itself.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        search: The library's attack. It gets no image that has reached its goal already, and none with eps 0.
        eps: (1, 1, 1, 1) or (N, 1, 1, 1), as :func:`advdef.contract.validate` returns it.
        targets: (N,), int64: the class that each image is to be taken for; None for any but its label.
        generator: Source of the seed for the library's random numbers; None for torch's own.
    """
    goal = Goal(labels, None if targets is None else own(targets))
    found, allowed = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    with borrowed(model), torch.no_grad():
        logits = ask(model, images)
        check_logits(logits, labels)
        goal.check(logits)
        rows = (~reached(logits, goal) & (eps.flatten() > 0)).nonzero()[:, 0]
        if len(rows) == 0:
            return found
        seed = fresh_seed(generator) % 2**31
        # libraries rely on torch's defaults
        with seeded(seed, images.device), torch.enable_grad(), images.device, _single_precision():
            peer = StandIn(model, images.dtype).eval()
            found[rows], allowed[rows] = search(peer, images[rows], goal.of(rows), per_image(eps, rows), seed)
        # the whole batch is asked, as an evaluation asks: batches of another size round differently
        found = torch.where(spread(allowed), found, images)
        return torch.where(spread(allowed & reached(ask(model, found), goal)), found, images)


@contextmanager
def _single_precision() -> Iterator[None]:
    """Make float32 torch's default type inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class StandIn(nn.Module):
    """The model as a library gets it: the same values, and a gradient with respect to the images alone.

    Libraries call ``.backward()``, which would write into every parameter's ``.grad``; they fail where the model cuts
    the graph; and some write into the logits. ``dtype`` is that of the images which the model takes, whatever type the
    library works in.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple it is no submodule, which .to() or .eval() would reach
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        """Logits, in the images' own precision."""
        if len(images) == 0:  # Square asks about nothing when only ties are left
            return self(images.new_zeros(1, *images.shape[1:]))[:0]
        logits: Tensor = _Asked.apply(images.to(self._dtype), self._model[0])
        return logits.to(images.dtype)


class _Asked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, model: nn.Module) -> Tensor:
        with torch.set_grad_enabled(ctx.needs_input_grad[0]):
            ctx.point = images.detach().requires_grad_(ctx.needs_input_grad[0])
            ctx.logits = ask(model, ctx.point)
        return ctx.logits.detach().clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        gradient = None
        if ctx.logits.requires_grad:
            (gradient,) = torch.autograd.grad(ctx.logits, ctx.point, slopes, retain_graph=True, allow_unused=True)
        return cleaned(gradient, ctx.point), None
