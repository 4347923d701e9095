"""The way of an attack: loss, margin and size of the perturbation at every point that it asks about."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from advdef.attacks.attack import Attack, norm_of
from advdef.attacks.losses import Goal, LossName, margin
from advdef.contract import logits_of, own
from advdef.draws import fresh_seed
from advdef.norms import size

__all__ = ["Trace", "traced"]


@dataclass(frozen=True)
class Trace:
    """The way of an attack: a row for each time that it asked the model, a column for each image.

    Attributes:
        loss: (S, N): the loss at the points that were asked about. NaN where an image was asked about less often.
        margin: (S, N): the margin there, positive where the model is wrong.
        size: (S, N): how far the points are from the image, in the norm of the attack; in
            Linf where it names none, as those that count pixels.
        adversarial: (N, C, H, W): what the attack returned.
    """

    loss: Tensor
    margin: Tensor
    size: Tensor
    adversarial: Tensor


@torch.inference_mode(False)
def traced(
    attack: Attack,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    loss: LossName = "ce",
    generator: torch.Generator | None = None,
) -> Trace:
    """Run an attack, and note what ``model`` says at every point at which the attack asks it, for each image.

    An attack that always asks about the whole batch runs once. One that asks about parts of it, as it stops early or
    starts again, runs anew for each image alone, so that it is clear whose point is seen; with the same random numbers
    the image ends where it would in a batch. The loss of a deployed defence without a gradient is a flat line, where
    that of its surrogate rises.

    Args:
        attack: What is run: a partial of an attack. It must ask ``model`` itself, not only a network inside it.
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: The budget of the attack; a number, or one per image (N,).
        loss: The loss that is noted: "ce", "margin" or "dlr".
        generator: Source of the seed of the attack's random numbers. Default: torch's own.

    Raises ValueError for an attack that does not ask the model. The model must take a forward hook.
    """
    images, labels, seed = own(images), own(labels), fresh_seed(generator)

    def run(rows: slice) -> tuple[list[Tensor], Tensor]:
        """Loss, margin and size (S, n) of these images, and what the attack returned for them."""
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        mine, theirs = images[rows], labels[rows]

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
            points, logits = inputs[0].detach(), logits_of(output).detach()
            if len(mine) not in (1, len(points)):
                raise _Parts
            start, goal = mine.expand_as(points), theirs.expand(len(points))  # one image may be asked about at several
            far = size(points - start, norm_of(attack) or "Linf")
            seen.append((Goal(goal).loss(loss, logits), margin(logits, goal), far))

        handle = model.register_forward_hook(note)
        try:
            budget = eps[rows] if isinstance(eps, Tensor) and eps.dim() else eps
            found = attack(model, mine, theirs, eps=budget, generator=torch.Generator().manual_seed(seed))
        finally:
            handle.remove()
        if not seen:
            raise ValueError("the attack never asks this model: trace it on the network that it asks")
        gather = torch.cat if len(mine) == 1 else torch.stack
        values = [gather(column).view(-1, len(mine)) for column in zip(*seen, strict=True)]
        return values, found

    try:
        noted, found = run(slice(None))
    except _Parts:
        alone = [run(slice(row, row + 1)) for row in range(len(images))]
        found = torch.cat([result for _, result in alone])
        columns = zip(*(values for values, _ in alone), strict=True)
        noted = [pad_sequence([each[:, 0] for each in column], padding_value=torch.nan) for column in columns]
    return Trace(noted[0], noted[1], noted[2], found)


class _Parts(Exception):
    """The attack asks about parts of the batch."""
