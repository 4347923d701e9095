"""Adversarial images of every attack on every image, kept so that they can be replayed on many defences."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Attack, Suite, norm_of
from advdef.contract import borrowed, check_weights, validate, warn_of, watched
from advdef.defenses.base import reseed
from advdef.draws import fresh_seed, seeded
from advdef.evaluation.batches import Batches
from advdef.evaluation.judge import UnsoundAttack, check_sound, derived
from advdef.evaluation.progress import attack_bar
from advdef.norms import Norm
from advdef.store import Entry, kept, key

__all__ = ["craft"]


def craft(
    model: nn.Module,
    suite: Suite,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    norm: Norm = "Linf",
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> Mapping[str, Tensor]:
    """What each attack of a suite makes of the images on ``model``: name -> (N, C, H, W).

    Unlike :func:`advdef.evaluation.evaluate`, every attack sees every image, and nothing is judged.

    Args:
        model: What is attacked.
        suite: Attacks by name.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Budget of all attacks, a size in ``norm``; infinity for attacks that look for the smallest perturbation.
        generator: Source of the seed from which all random numbers follow.
        norm: The norm of eps.
        batch_size: Images attacked at a time.
        resume: A folder in which the images of each finished attack are kept.
        progress: Show a progress bar.

    Raises UnsoundAttack when an attack leaves its budget or [0, 1]; ValueError for one in another norm and for an empty
    suite.
    """
    images, labels, _ = validate(images, labels, eps, norm=norm, unbounded=True)
    if not suite:
        raise ValueError("the suite has no attack")
    for name, attack in suite.items():
        if math.isfinite(eps) and norm_of(attack) not in (None, norm):
            raise ValueError(f"{name} is an attack in {norm_of(attack)}, and eps is a size in {norm}")
    check_weights(model)
    seed, batches, found = fresh_seed(generator), Batches(batch_size), {}
    for name, attack in attack_bar(suite.items(), shown=progress):
        own = derived(seed, name)

        def crafted(part: Tensor, attack: Attack = attack, own: int = own, name: str = name) -> Tensor:
            x, y = images[part], labels[part]
            reseed(model, own)
            with seeded(own, x.device):
                made = attack(model, x, y, eps=eps, generator=torch.Generator().manual_seed(own)).detach()
            check_sound(name, x, made, eps=eps, norm=norm)
            return made

        def make(crafted: Any = crafted) -> tuple[dict[str, Tensor], dict[str, Any]]:
            with watched() as watch, borrowed(model):
                made = batches(crafted, torch.arange(len(images), device=images.device))
            return {"adversarial": made}, {"gradient": watch.reached, "not_finite": watch.not_finite}

        def doubt(entry: Entry, name: str = name) -> str | None:
            try:
                check_sound(name, images.cpu(), entry.tensors["adversarial"], eps=eps, norm=norm)
            except (UnsoundAttack, KeyError) as failure:
                return str(failure)
            return None

        if resume is None:
            tensors, facts = make()
            found[name] = tensors["adversarial"]
            warn_of(facts["gradient"], facts["not_finite"])
            continue
        reseed(model, 0)
        place = key(
            "craft", by=craft, model=model, attack=attack, images=images, labels=labels, eps=eps, norm=norm, seed=own
        )
        entry = kept(Path(resume), place, make, label=name, check=doubt)
        warn_of(entry.facts["gradient"], entry.facts["not_finite"])
        found[name] = entry.tensors["adversarial"].to(images.device)
    return found
