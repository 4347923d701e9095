"""The one training loop, for every classifier and defence; what it minimises is a function that the caller gives."""

import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from advdef.contract import out_of_memory
from advdef.data import Split
from advdef.devices import full_precision

__all__ = ["LAYOUT", "Objective", "TrainingDiverged", "fit", "precision", "train_standard"]

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Called as ``objective(model, images, labels)`` with images (N, C, H, W) in [0, 1]; returns a scalar loss."""

LAYOUT = torch.contiguous_format if os.environ.get("ADVDEF_CHANNELS_LAST") == "0" else torch.channels_last
"""How models and images lie in memory, channels last, which is faster and changes nothing but rounding.

With ``ADVDEF_CHANNELS_LAST=0`` they are contiguous; comparing both shows what rounding does.
"""

Schedule = Literal["constant", "cosine", "one_cycle"]
Optimizer = Literal["adam", "sgd"]


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message says at which step.

    ``checkpoint`` holds the weights after the last epoch whose losses were all finite (the initial weights, if there
    was none), ``epoch`` how many epochs had been completed by then.
    """

    def __init__(self, message: str, checkpoint: dict[str, Tensor], epoch: int) -> None:
        super().__init__(message)
        self.checkpoint, self.epoch = checkpoint, epoch


def cross_entropy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy on the images as they are."""
    return F.cross_entropy(model(images).float(), labels)


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    generator: torch.Generator,
    objective: Objective = cross_entropy,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]] | None = None,
    optimizer: Optimizer = "adam",
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: Schedule = "constant",
    batch_size: int = 128,
    shift: int = 0,
    flip: bool = False,
    before_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
    progress: bool = False,
) -> list[float]:
    """Train a model, and return the mean loss of each epoch; the model is left in evaluation mode.

    Args:
        model: The network to train, in place.
        split: Training images and labels.
        epochs: Passes over the split, at least 1.
        generator: Source of the order of images and of their augmentation.
        objective: What is minimised. Default: cross-entropy.
        parameters: What the optimiser changes: parameters, or its groups with their own settings. Default: all of the
            model's.
        optimizer: "adam", or "sgd" (with Nesterov momentum 0.9).
        learning_rate: Where a group does not say otherwise.
        weight_decay: That of the optimiser.
        schedule: What happens to the learning rate: "constant"; "cosine", which falls to 0; or "one_cycle", which rises
            linearly over the first fifth of the steps and then falls linearly to 0.
        batch_size: Images in a step.
        shift: Augmentation: images are moved by up to so many pixels (see :meth:`advdef.data.Split.batches`).
        flip: Augmentation: each image is mirrored with probability 1/2.
        before_epoch: Called with the number of the epoch, from 0, before it begins, where a scheme changes hardness or
            freezes a part. It may raise FloatingPointError to say that training has diverged.
        after_step: Called after each update of the weights, where a constraint is restored.
        progress: Show a progress bar.

    Raises TrainingDiverged when a loss or a weight is not finite, with the model back at its last good weights;
    MemoryError where memory is too short for a step; ValueError for fewer than one epoch, an empty split, and an
    unknown schedule or optimiser.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    if len(split) == 0:
        raise ValueError("the training split is empty")
    if schedule not in get_args(Schedule):
        raise ValueError(f"no schedule {schedule!r}; there are {', '.join(get_args(Schedule))}")
    if optimizer not in get_args(Optimizer):
        raise ValueError(f"no optimizer {optimizer!r}; there are {', '.join(get_args(Optimizer))}")
    computed = precision(split.images.device)
    model.to(memory_format=LAYOUT)  # type: ignore[call-overload]
    groups = model.parameters() if parameters is None else parameters
    descent: torch.optim.Optimizer
    if optimizer == "adam":
        descent = torch.optim.Adam(groups, lr=learning_rate, weight_decay=weight_decay)
    else:
        descent = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    steps_per_epoch = math.ceil(len(split) / batch_size)
    total = epochs * steps_per_epoch
    decay = torch.optim.lr_scheduler.LambdaLR(descent, partial(_scale, schedule=schedule, total=total))
    losses: list[float] = []
    good = _weights(model)
    with full_precision(), tqdm(total=total, disable=not progress, unit="step", leave=False) as bar:
        for epoch in range(epochs):
            if before_epoch is not None:
                try:
                    before_epoch(epoch)
                except FloatingPointError as failure:  # a look at the network found what the loss did not show yet
                    model.load_state_dict(good)
                    model.eval()
                    raise TrainingDiverged(
                        f"{failure} before epoch {epoch + 1} of {epochs}: lower learning_rate; the model is back at "
                        f"its weights after {epoch} epochs",
                        good,
                        epoch,
                    ) from failure
            model.train()
            summed = torch.zeros((), device=split.images.device)
            finite = []  # whether each loss is, asked once at the end: asking in between would wait for the device
            batches = split.batches(batch_size, shuffle=True, generator=generator, shift=shift, flip=flip)
            for images, labels in batches:
                try:
                    with torch.autocast(images.device.type, computed, enabled=computed != torch.float32):
                        loss = objective(model, images.contiguous(memory_format=LAYOUT), labels)
                    descent.zero_grad()
                    loss.backward()
                    descent.step()
                except (MemoryError, RuntimeError) as failure:
                    if out_of_memory(failure):
                        raise MemoryError(
                            f"memory is too short to train on {len(labels)} images in a step: lower batch_size; other "
                            "batches train another network, so this is not done by itself"
                        ) from failure
                    raise
                decay.step()
                if after_step is not None:
                    after_step()
                summed += loss.detach() * len(labels)
                finite.append(torch.isfinite(loss.detach()))
                bar.update()
            losses.append(float(summed) / len(split))
            weights = _weights(model)
            finite.append(torch.stack([value.isfinite().all() for value in weights.values()]).all())
            if not bool(torch.stack(finite).all()):
                first = int(torch.stack(finite).int().argmin()) + 1
                what = "loss is" if first <= steps_per_epoch else "weights are"
                model.load_state_dict(good)
                model.eval()
                raise TrainingDiverged(
                    f"the {what} not finite from step {min(first, steps_per_epoch)} of {steps_per_epoch} in epoch "
                    f"{epoch + 1} of {epochs}: lower learning_rate; the model is back at its weights after {epoch} "
                    "epochs",
                    good,
                    epoch,
                )
            good = weights
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    model.eval()
    return losses


def precision(device: torch.device) -> torch.dtype:
    """The type that :func:`advdef.training.fit` computes in: bfloat16 where the hardware has it, else float32.

    GPUs have it from compute capability 8.0. Older ones only emulate it, slower than float32, and torch says all the
    same that they support it. Evaluation is always in float32.
    """
    has_it = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if has_it else torch.float32


def _scale(step: int, *, schedule: Schedule, total: int) -> float:
    """The factor on the learning rate at a step of ``total``."""
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / total))
    peak = max(1, total // 5)
    return min((step + 1) / peak, (total - step) / max(1, total - peak))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def train_standard(model: nn.Module, split: Split, *, epochs: int, generator: torch.Generator, **options: Any) -> None:
    """Train on clean images with cross-entropy; ``options`` go to :func:`fit`."""
    fit(model, split, epochs=epochs, generator=generator, **options)
