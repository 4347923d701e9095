"""Attacks of ART, the Adversarial Robustness Toolbox."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advdef.attacks.losses import Goal
from advdef.norms import BallNorm
from advdef.peers._library import believed, module

__all__ = ["art_jsma", "art_universal"]


def art_jsma(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    theta: float = 1.0,
    targets: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What ART calls the saliency map attack.

    It takes the two values with the largest slope of the target's logit, without the paper's condition on the others.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: How many values may change (L0): those of a grey image are its pixels.
        theta: What a step adds to a value.
        targets: (N,), int64: the class that each image is to be taken for.
        generator: Source of all random numbers. Default: torch's own.
    """
    evasion = module("art.attacks.evasion")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        # it goes on as long as the share of changed values is at most gamma, by two more
        gamma = min(1.0, max(0.1, eps - 1.5) / images[0].numel())
        attack = evasion.SaliencyMapMethod(
            _classifier(peer, images), theta=theta, gamma=gamma, batch_size=len(images), verbose=False
        )
        assert goal.targets is not None
        return torch.from_numpy(attack.generate(images.cpu().numpy(), y=goal.targets.cpu().numpy()))

    return believed(model, images, labels, run, eps=eps, norm="L0", targets=targets, generator=generator)


def art_universal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    rounds: int = 10,
    step_size: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One perturbation for all images, built on one image after the other (https://arxiv.org/abs/1610.08401).

    It takes a step of FGSM for each image that is still right: with ART's DeepFool, its default, it is slower and
    weaker.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64: the true classes.
        eps: Radius of the ball in pixel units: one number for all images.
        norm: "Linf" or "L2".
        rounds: How often it goes over the images.
        step_size: Size of a step of FGSM, relative to eps.
        generator: Source of all random numbers. Default: torch's own.
    """
    evasion = module("art.attacks.evasion")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        order = np.inf if norm == "Linf" else 2
        attack = evasion.UniversalPerturbation(
            _classifier(peer, images), attacker="fgsm", attacker_params={"eps": step_size * eps, "norm": order},
            delta=0.0, max_iter=rounds, eps=eps, norm=order, batch_size=len(images), verbose=False,
        )  # fmt: skip
        return torch.from_numpy(attack.generate(images.cpu().numpy(), y=goal.labels.cpu().numpy()))

    return believed(model, images, labels, run, eps=eps, norm=norm, generator=generator)


def _classifier(peer: nn.Module, images: Tensor) -> Any:
    return module("art.estimators.classification").PyTorchClassifier(
        _FromCpu(peer, images.device), loss=nn.CrossEntropyLoss(), input_shape=images.shape[1:],
        nb_classes=peer(images[:1]).shape[1], clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip


class _FromCpu(nn.Module):
    """A model on any device, asked from the CPU: ART knows no device besides that and the current GPU."""

    def __init__(self, peer: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._peer, self._device = (peer,), device  # in a tuple it is no submodule, which ART would move

    def forward(self, images: Tensor) -> Tensor:
        """Logits, on the CPU."""
        logits: Tensor = self._peer[0](images.to(self._device))
        return logits.to("cpu")
