"""What every defence of a page answers to a few images, attacked and not, and what it made of them before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from advdef.contract import ask, borrowed
from advdef.defenses.base import Defense, reseed
from advdef.draws import seeded

__all__ = ["Answered", "answered"]

_BATCH = 10  # a defence that asks about many edits of an image does so in one call, then


@dataclass(frozen=True, eq=False)
class Answered:
    """What D defences answer to K images: as they are, and as each of S attackers left them.

    Attributes:
        defences: Their names, in order.
        classes: (1 + S, D, K), int16: the answers; first to the images as they are.
        percent: (1 + S, D, K), uint8: the probabilities of these classes, in percent.
        seen: For each defence that changes images, what it makes of them before its network sees them: first of the
            images as they are, then of those made by each of the attackers of this defence. By name, (1 + attackers, K,
            C, H, W), uint8.
    """

    defences: tuple[str, ...]
    classes: Tensor
    percent: Tensor
    seen: Mapping[str, Tensor] = field(default_factory=dict)

    def head(self, count: int) -> Answered:
        """The answers to the first ``count`` images alone."""
        seen = {name: images[:, :count] for name, images in self.seen.items()}
        return Answered(self.defences, self.classes[..., :count], self.percent[..., :count], seen)


def answered(defences: Mapping[str, nn.Module], images: Tensor, attacked: Sequence[tuple[str, Tensor]]) -> Answered:
    """Ask each defence about images (K, C, H, W) and about what attackers made of them.

    ``attacked`` has a pair for each attacker: the name of the defence that it attacked, and what it made of the images,
    (K, C, H, W). Random defences are asked once, with draws that do not depend on what was asked before.
    """
    every = torch.cat([images, *(moved for _, moved in attacked)])
    different, which = torch.unique(every, dim=0, return_inverse=True)  # many attackers leave an image alone
    shape = (1 + len(attacked), len(images))
    classes, percent, seen = list[Tensor](), list[Tensor](), dict[str, Tensor]()
    for name, defence in defences.items():
        logits, given = _asked(defence, different)
        probability, answer = logits[which].softmax(1).max(1)
        classes.append(answer.reshape(shape).short())
        percent.append((100 * probability).round().byte().reshape(shape))
        own = [0, *(1 + i for i, (target, _) in enumerate(attacked) if target == name)]
        if given is not None and not torch.allclose(given, different, atol=1e-3):
            levels = (255 * given[which]).round().clamp(0, 255).byte()
            seen[name] = levels.reshape(*shape, *images.shape[1:])[own]
    return Answered(tuple(defences), torch.stack(classes, 1), torch.stack(percent, 1), seen)


def _asked(defence: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits (N, classes), and what the network behind the defence was given for each image, where that is known."""
    device = next((p.device for p in defence.parameters()), torch.device("cpu"))
    network = defence.network if isinstance(defence, Defense) else defence
    logits, given = list[Tensor](), list[Tensor | None]()
    with borrowed(defence, quiet=True), torch.no_grad(), seeded(0, device), _last_input(network) as last:
        reseed(defence, 0)
        for batch in images.split(_BATCH):
            last.clear()
            found = ask(defence, batch.to(device)).float().cpu()
            logits.append(found)
            given.append(_of_each(last[-1].float().cpu(), found, batch) if last else None)
    known = [part for part in given if part is not None]
    return torch.cat(logits), torch.cat(known) if len(known) == len(given) else None


def _of_each(given: Tensor, logits: Tensor, images: Tensor) -> Tensor | None:
    """One image for each that was asked about; where the network was given one for each class, that of the answer."""
    if given.shape == images.shape:
        return given
    count, classes = logits.shape
    if given.shape == (count * classes, *images.shape[1:]):
        return given.reshape(count, classes, *images.shape[1:])[torch.arange(count), logits.argmax(1)]
    return None


@contextmanager
def _last_input(network: nn.Module) -> Iterator[list[Tensor]]:
    """What the network is given while this lasts, the last of it."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor):
            found[:] = [given[0].detach()]

    hook = network.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        hook.remove()
