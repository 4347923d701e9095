"""The losses that attacks ascend, logits (N, K) and labels (N,) -> one value per image (N,), and their goal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "Goal", "LossName", "margin", "wrong_classes"]

LossName = Literal["ce", "margin", "dlr"]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each image; its gradient vanishes where the classifier is very sure."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit minus the true one: positive exactly when the image is misclassified (zero is a tie).

    >>> import torch
    >>> margin(torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0]))
    tensor([-1.])
    """
    true = logits.gather(1, labels[:, None])[:, 0]
    wrong = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return wrong - true


def wrong_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """All classes but the label (N, K - 1), the most likely first."""
    return logits.scatter(1, labels[:, None], float("-inf")).argsort(1, descending=True)[:, :-1]


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (https://arxiv.org/abs/2003.01690, eq. 6): the margin, independent of the logits'
    scale.

    Raises ValueError for fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"the DLR loss needs at least 3 classes, not {logits.shape[1]}")
    ordered = logits.sort(1, descending=True).values
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR (https://arxiv.org/abs/2003.01690, eq. 7): the target's lead over the label, independent of the
    scale.

    Raises ValueError for fewer than four classes.
    """
    if logits.shape[1] < 4:
        raise ValueError(f"the targeted DLR loss needs at least 4 classes, not {logits.shape[1]}")
    ordered = logits.sort(1, descending=True).values
    lead = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))[:, 0]
    return lead / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


LOSSES: Mapping[LossName, Callable[[Tensor, Tensor], Tensor]] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


@dataclass(frozen=True)
class Goal:
    """What an attack wants of each image: any class but its label or, with ``targets`` (N,), that class.

    With ``any_wrong`` the attack aims at the targets, and any class that is not the label counts as success.
    """

    labels: Tensor
    targets: Tensor | None = None
    any_wrong: bool = False

    def check(self, logits: Tensor) -> None:
        """Raise TypeError for targets that are not int64 (N,), ValueError for one that is no class or is the label."""
        if self.targets is None:
            return
        if self.targets.dtype != torch.int64 or self.targets.shape != self.labels.shape:
            raise TypeError(f"targets must be int64 and of shape {tuple(self.labels.shape)}, like the labels")
        low, high = (int(v) for v in torch.aminmax(self.targets))
        if low < 0 or high >= logits.shape[1]:
            raise ValueError(f"targets must lie in 0..{logits.shape[1] - 1}; seen: {low} to {high}")
        if bool((self.targets == self.labels).any()):
            raise ValueError("a target must not be the image's own label")

    def of(self, rows: Tensor) -> "Goal":
        """The goal for some of the images."""
        return Goal(self.labels[rows], None if self.targets is None else self.targets[rows], self.any_wrong)

    def score(self, logits: Tensor) -> Tensor:
        """How far each image is beyond its goal (N,): positive exactly when the goal is reached."""
        if self.targets is None or self.any_wrong:
            return margin(logits, self.labels)
        return -margin(logits, self.targets)

    def loss(self, name: LossName, logits: Tensor) -> Tensor:
        """What the attack ascends (N,); the margin takes the place of DLR where there are too few classes for it."""
        if name == "dlr" and logits.shape[1] < (3 if self.targets is None else 4):
            name = "margin"  # with so few classes there is no third logit to divide by
        if self.targets is None:
            return LOSSES[name](logits, self.labels)
        if name == "dlr":
            return targeted_dlr(logits, self.labels, self.targets)
        return -LOSSES[name](logits, self.targets)
