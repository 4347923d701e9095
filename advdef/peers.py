"""The same attacks in other libraries, called like ours, so that one judge serves both.

Signature as in :mod:`advdef.attacks.gradient`, except that ``eps`` is one number; options have our names and mean the
same. No peer is taken at its word: it attacks what the model gets right, and what it finds counts only inside the
budget and where the model, asked once more, is fooled. Elsewhere the image itself comes back.

foolbox and pyautoattack come with the extra ``eval``. torchattacks and ART are no dependencies, because of what they
require; they are looked for in the folder named by ``ADVDEF_PEERS``, made by ``pip install --no-deps --target``.
A missing library raises ImportError, which says what to do.
"""

import importlib
import importlib.metadata
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from advdef.attacks._balls import BallNorm, Norm, ball, size
from advdef.attacks._common import validate
from advdef.attacks._verified import verified
from advdef.attacks.losses import Goal

__all__ = [
    "PEERS",
    "art_jsma",
    "art_universal",
    "foolbox_bim",
    "foolbox_fgsm",
    "foolbox_mim",
    "foolbox_pgd",
    "pyautoattack_apgd",
    "pyautoattack_apgd_t",
    "torchattacks_carlini_wagner",
    "torchattacks_deepfool",
    "torchattacks_jsma",
    "torchattacks_mim",
    "torchattacks_single_pixel",
    "version",
]

PEERS = {
    "foolbox": "foolbox",
    "pyautoattack": "pyautoattack",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
}
"""Each library as Python imports it, and as pip installs it."""

_MODULES = {
    "foolbox": ("foolbox.attacks",),
    "pyautoattack": ("pyautoattack.autopgd_base",),
    "torchattacks": ("torchattacks",),
    "art": ("art.attacks.evasion", "art.estimators.classification"),
}
_ROUNDING = 1e-6  # by so much a peer may leave its budget; it is moved back


def version(library: str) -> str:
    """Import one of ``PEERS`` and return its version; raises ImportError where it is missing."""
    for name in _MODULES[library]:
        _module(name)
    with _reachable(library):
        return importlib.metadata.version(PEERS[library])


def _module(name: str) -> Any:
    with _reachable(name.partition(".")[0]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@contextmanager
def _reachable(library: str) -> Iterator[None]:
    """Look into the folder of ADVDEF_PEERS too, and there last: nothing in it shall replace what is installed."""
    before, folder = sys.path, os.environ.get("ADVDEF_PEERS")
    sys.path = [*before, folder] if folder else before
    try:
        yield
    except ImportError as error:
        aside = f"pip install --no-deps --target FOLDER {PEERS[library]}, and set ADVDEF_PEERS=FOLDER"
        how = "pip install 'advdef[eval]'" if library in ("foolbox", "pyautoattack") else aside
        raise ImportError(f"{library} is not installed: {how}") from error
    finally:
        sys.path = before


def _kept(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Callable[[nn.Module, Tensor, Goal, int], Tensor],
    *,
    eps: float,
    norm: Norm,
    targets: Tensor | None = None,
    generator: torch.Generator | None,
) -> Tensor:
    """What ``attack(peer, images, goal, seed)`` finds inside the budget, verified."""
    budget = validate(images, labels, eps, unbounded=True)

    def search(peer: nn.Module, images: Tensor, goal: Goal, eps: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        # torchattacks asks the first parameter for the device
        peer.register_parameter("place", nn.Parameter(images.new_empty(0), requires_grad=False))
        state = random.getstate()  # ART draws from it
        random.seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = attack(peer, images, goal, seed).detach().to(images)
        finally:
            random.setstate(state)
        inside = found.clamp(0, 1)
        allowed = (size(found - images, norm) <= eps.flatten() + _ROUNDING) & (
            size(found - inside, "Linf") <= _ROUNDING
        )
        return ball(images, eps, norm).project(inside) if norm in ("Linf", "L2") else inside, allowed

    return verified(model, images, labels, search, eps=budget, targets=targets, generator=generator)


# foolbox


def foolbox_fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fast gradient sign method, or its L2 form."""
    attack = getattr(_module("foolbox.attacks"), f"{norm}FastGradientAttack")(random_start=False)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def foolbox_bim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 10,
    step_size: float = 1 / 6,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Basic iterative method; its last iterate."""
    kind = getattr(_module("foolbox.attacks"), f"{norm}BasicIterativeAttack")
    attack = kind(steps=steps, rel_stepsize=step_size, random_start=False)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def foolbox_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 20,
    step_size: float | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent; its last iterate. ``start`` is for images that the model all gets right."""
    relative = min(1.0, 2.5 / steps) if step_size is None else step_size
    kind = getattr(_module("foolbox.attacks"), f"{norm}ProjectedGradientDescentAttack")
    attack = kind(steps=steps, rel_stepsize=relative, random_start=True)
    if start is not None:
        attack.get_random_start = lambda images, epsilon: type(images)(start)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def foolbox_mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 10,
    step_size: float = 1 / 5,
    decay: float = 1.0,
    as_published: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Momentum iterative method; its last iterate.

    Foolbox accumulates the directions of its steps, signs in Linf; ``as_published`` makes it accumulate gradients, each
    divided by its L1 norm (https://arxiv.org/abs/1710.06081, eq. 6).
    """
    kind = getattr(_module("foolbox.attacks"), f"{norm}MomentumIterativeFastGradientMethod")
    attack = kind(steps=steps, rel_stepsize=step_size, momentum=decay)
    if as_published:
        scaled = _module("foolbox.attacks.gradient_descent_base").normalize_lp_norms
        attack.normalize = lambda gradients, **_: scaled(gradients, p=1)
    return _foolbox(model, images, labels, attack, eps=eps, norm=norm, generator=generator)


def _foolbox(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Any,
    *,
    eps: float,
    norm: BallNorm,
    generator: torch.Generator | None,
) -> Tensor:
    foolbox = _module("foolbox")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        bounded = foolbox.PyTorchModel(peer, bounds=(0, 1), device=images.device)
        found: Tensor = attack(bounded, images, foolbox.Misclassification(goal.labels), epsilons=eps)[1]
        return found

    return _kept(model, images, labels, run, eps=eps, norm=norm, generator=generator)


# pyautoattack


def pyautoattack_apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 100,
    loss: Literal["ce", "dlr"] = "ce",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD. ``start`` is for images that the model all gets right."""
    library = _module("pyautoattack.autopgd_base")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        attack = library.APGDAttack(peer, n_iter=steps, norm=norm, eps=eps, seed=seed, loss=loss, device=images.device)
        if start is not None:
            attack.attack_single_run = partial(attack.attack_single_run, x_init=start)
        found: Tensor = attack.perturb(images, goal.labels)
        return found

    return _kept(model, images, labels, run, eps=eps, norm=norm, generator=generator)


def pyautoattack_apgd_t(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: BallNorm = "Linf",
    steps: int = 100,
    classes: int = 9,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Auto-PGD with the targeted DLR loss, towards each of the ``classes`` most likely wrong classes."""
    library = _module("pyautoattack.autopgd_base")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        wrong = min(classes, peer(images[:1]).shape[1] - 1)
        attack = library.APGDAttack_targeted(
            peer, n_iter=steps, norm=norm, eps=eps, seed=seed, n_target_classes=wrong, device=images.device
        )
        found: Tensor = attack.perturb(images, goal.labels)
        return found

    return _kept(model, images, labels, run, eps=eps, norm=norm, generator=generator)


# torchattacks


def torchattacks_mim(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 10,
    step_size: float = 1 / 5,
    decay: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Momentum iterative method in Linf; its last iterate."""
    settings = {"eps": eps, "alpha": step_size * eps, "steps": steps, "decay": decay}
    return _torchattacks(model, images, labels, "MIFGSM", settings, eps=eps, norm="Linf", generator=generator)


def torchattacks_jsma(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    theta: float = 1.0,
    targets: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Jacobian-based saliency map attack; ``eps`` counts values, which are the pixels of a grey image."""
    values = images[0].numel()
    # a hair less than whole pairs, as the share of values is rounded up to pairs again
    settings = {"theta": theta, "gamma": (2 * (min(eps, values) // 2) - 0.5) / values}
    return _torchattacks(
        model, images, labels, "JSMA", settings, eps=eps, norm="L0", targets=targets, generator=generator
    )


def torchattacks_single_pixel(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 10,
    population: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One pixel of any value, by differential evolution (https://arxiv.org/abs/1710.08864)."""
    settings = {"pixels": 1, "steps": steps, "popsize": population, "inf_batch": 1000}
    return _torchattacks(model, images, labels, "OnePixel", settings, eps=eps, norm="L0", generator=generator)


def torchattacks_carlini_wagner(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 50,
    step_size: float = 0.01,
    const: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Carlini & Wagner's L2 attack for one constant; it cannot move pixels that are exactly 0 or 1."""
    settings = {"c": const, "steps": steps, "lr": step_size}
    return _torchattacks(model, images, labels, "CW", settings, eps=eps, norm="L2", generator=generator)


def torchattacks_deepfool(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int = 50,
    overshoot: float = 0.02,
    generator: torch.Generator | None = None,
) -> Tensor:
    """DeepFool in L2, whose overshoot is taken at each step and not at the end."""
    settings = {"steps": steps, "overshoot": overshoot}
    return _torchattacks(model, images, labels, "DeepFool", settings, eps=eps, norm="L2", generator=generator)


def _torchattacks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    settings: dict[str, Any],
    *,
    eps: float,
    norm: Norm,
    targets: Tensor | None = None,
    generator: torch.Generator | None,
) -> Tensor:
    kind = getattr(_module("torchattacks"), name)

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        attack = kind(peer, **settings)
        if goal.targets is not None:
            attack.set_mode_targeted_by_function(lambda images, labels: goal.targets, quiet=True)
        found: Tensor = attack(images, goal.labels)
        return found

    return _kept(model, images, labels, run, eps=eps, norm=norm, targets=targets, generator=generator)


# ART


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
    """What ART calls the saliency map attack; ``eps`` counts values, which are the pixels of a grey image.

    It takes the two values with the largest slope of the target's logit, without the paper's condition on the others.
    """
    evasion = _module("art.attacks.evasion")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        # it goes on as long as the share of changed values is at most gamma, by two more
        gamma = min(1.0, max(0.1, eps - 1.5) / images[0].numel())
        attack = evasion.SaliencyMapMethod(
            _classifier(peer, images), theta=theta, gamma=gamma, batch_size=len(images), verbose=False
        )
        assert goal.targets is not None
        return torch.from_numpy(attack.generate(images.cpu().numpy(), y=goal.targets.cpu().numpy()))

    return _kept(model, images, labels, run, eps=eps, norm="L0", targets=targets, generator=generator)


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

    ``rounds`` over the images, with a step of FGSM for each that is still right: with ART's DeepFool, its default, it
    is slower and weaker.
    """
    evasion = _module("art.attacks.evasion")

    def run(peer: nn.Module, images: Tensor, goal: Goal, seed: int) -> Tensor:
        order = np.inf if norm == "Linf" else 2
        attack = evasion.UniversalPerturbation(
            _classifier(peer, images), attacker="fgsm", attacker_params={"eps": step_size * eps, "norm": order},
            delta=0.0, max_iter=rounds, eps=eps, norm=order, batch_size=len(images), verbose=False,
        )  # fmt: skip
        return torch.from_numpy(attack.generate(images.cpu().numpy(), y=goal.labels.cpu().numpy()))

    return _kept(model, images, labels, run, eps=eps, norm=norm, generator=generator)


def _classifier(peer: nn.Module, images: Tensor) -> Any:
    return _module("art.estimators.classification").PyTorchClassifier(
        peer, loss=nn.CrossEntropyLoss(), input_shape=images.shape[1:], nb_classes=peer(images[:1]).shape[1],
        clip_values=(0.0, 1.0), device_type="gpu" if images.is_cuda else "cpu",
    )  # fmt: skip
