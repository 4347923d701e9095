"""Adversarial images of every attack on every image, kept to be replayed on many defences."""

import math
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from advdef import resume as resuming
from advdef.artifacts import write_atomically
from advdef.attacks._balls import Norm
from advdef.attacks._types import Suite, norm_of
from advdef.evaluation import check_sound

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
    """What each attack of ``suite`` makes of images (N, C, H, W) with labels (N,) on ``model``: name -> (N, C, H, W).

    Unlike :func:`advdef.evaluation.evaluate`, every attack sees every image, and nothing is judged. ``eps`` is a size
    in ``norm``, or infinity for attacks that look for the smallest perturbation. In the folder ``resume`` each finished
    attack is kept. Raises UnsoundAttack when an attack leaves its budget or [0, 1]; ValueError for one in another norm.
    """
    for name, attack in suite.items():
        if math.isfinite(eps) and norm_of(attack) not in (None, norm):
            raise ValueError(f"{name} is an attack in {norm_of(attack)}, and eps is a size in {norm}")
    found = {}
    for name, attack in tqdm(suite.items(), disable=not progress, unit="attack", leave=False):
        before = generator.get_state()
        settings = {"craft": name, "eps": eps, "norm": norm, "batch_size": batch_size}
        path = None
        if resume is not None:
            path = resume / f"craft-{resuming.key(settings, [images, labels, before], model, attack)}.safetensors"
        if path is not None and path.exists():
            kept = safetensors.torch.load_file(path)
            found[name] = kept["adversarial"].to(images.device)
            generator.set_state(kept["generator"])
            continue
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        made = torch.cat([attack(model, x, y, eps=eps, generator=generator).detach() for x, y in parts])
        check_sound(name, images, made, eps=eps, norm=norm)
        found[name] = made
        if path is not None:
            state = {"adversarial": made.cpu().contiguous(), "generator": generator.get_state()}
            write_atomically(path, safetensors.torch.save(state))
    return found
