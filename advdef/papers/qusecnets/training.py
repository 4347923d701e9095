"""Trains a network behind a quantiser, and the thresholds of the quantiser with it: a reconstruction of QuSecNets."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from advdef.data import Split
from advdef.papers.qusecnets.defence import Quantized
from advdef.training import fit

__all__ = ["train_quantized", "Scheme"]


Scheme = Literal["joint", "alternating", "frozen"]


def train_quantized(
    model: Quantized,
    split: Split,
    *,
    epochs: int,
    generator: torch.Generator,
    scheme: Scheme = "joint",
    hardness: tuple[float, float] | None = (10.0, 200.0),
    threshold_rate: float = 1e-2,
    finetune_epochs: int = 1,
    **options: Any,
) -> dict[str, Tensor]:
    """Train the network behind a quantiser, and its thresholds where the scheme says so.

    Args:
        model: The quantised network, trained in place.
        split: Training images and labels.
        epochs: All epochs, those of fine-tuning included.
        generator: Source of all random numbers.
        scheme: "joint" learns network and thresholds together; "alternating" the network in even epochs and the
            thresholds in odd ones; "frozen" the network alone, behind the layer as deployed.
        hardness: While thresholds are learned the layer is soft, and its hardness grows geometrically from the first
            value to the second. None: it stays as it is.
        threshold_rate: Learning rate of the thresholds.
        finetune_epochs: How many of the epochs, at the end, train the network alone behind the hard layer as deployed.
            That removes the mismatch between soft and hard.
        **options: Go to :func:`advdef.training.fit`.

    Returns ``{"thresholds": (1 + learning epochs, ...)}``: the thresholds before training, and after each epoch that is
    not fine-tuning. Raises ValueError for an unknown scheme; for one that learns thresholds on a quantiser that is not
    trainable (they would silently stay), or with no epoch left to learn in; and for a hardness that is not positive.
    """
    if scheme not in get_args(Scheme):
        raise ValueError(f"no scheme {scheme!r}; there are {', '.join(get_args(Scheme))}")
    if hardness is not None and not min(hardness) > 0:
        raise ValueError(f"hardness must be positive, not {hardness}")
    if finetune_epochs < 0:
        raise ValueError(f"finetune_epochs must not be negative, not {finetune_epochs}")
    quantizer, deployed = model.quantizer, model.quantizer.mode
    learning = scheme != "frozen"
    if learning and not quantizer.trainable:
        raise ValueError(f"scheme {scheme!r} needs Quantizer(trainable=True): these thresholds would never move")
    finetuning = finetune_epochs if learning and deployed != "soft" else 0
    epochs -= finetuning
    if epochs < (2 if scheme == "alternating" else 1):
        raise ValueError(f"{epochs} epochs before {finetuning} of fine-tuning are too few to train by {scheme!r}")
    weights = list(model.network.parameters())
    trajectory = [quantizer.thresholds.detach().clone()]

    def before_epoch(epoch: int) -> None:
        if epoch:
            trajectory.append(quantizer.thresholds.detach().clone())
        if learning and hardness is not None:
            quantizer.set_hardness(hardness[0] * (hardness[1] / hardness[0]) ** (epoch / max(1, epochs - 1)))
        for parameter in weights:
            parameter.requires_grad_(scheme != "alternating" or epoch % 2 == 0)
        quantizer.thresholds.requires_grad_(learning and (scheme == "joint" or epoch % 2 == 1))

    def after_step() -> None:
        if learning and not quantizer.released:
            with torch.no_grad():
                quantizer.thresholds.clamp_(0.02, 0.98)

    groups: list[dict[str, Any]] = [{"params": weights}]
    if learning:
        quantizer.mode = "soft"
        groups.append({"params": [quantizer.thresholds], "lr": threshold_rate})
    try:
        fit(
            model, split, epochs=epochs, generator=generator, parameters=groups,
            before_epoch=before_epoch, after_step=after_step, **options,
        )  # fmt: skip
    finally:
        quantizer.mode = deployed
        for parameter in weights:
            parameter.requires_grad_(True)
        quantizer.thresholds.requires_grad_(quantizer.trainable)
    trajectory.append(quantizer.thresholds.detach().clone())
    if finetuning:
        fit(model, split, epochs=finetuning, generator=generator, parameters=weights, **options)
    return {"thresholds": torch.stack(trajectory)}
