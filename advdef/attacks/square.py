"""Square attack, gradient-free, from pyautoattack."""

import torch
from torch import Tensor, nn

from advdef.attacks._common import borrowed, check_labels, validate

__all__ = ["square"]


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    queries: int = 1000,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Square attack (https://arxiv.org/abs/1912.00049) in the Linf ball, by score queries alone.

    Contract as in :mod:`advdef.attacks.gradient`, with one ``eps`` for all images. The peer seeds its own draws; the
    seed comes from ``generator``. Raises ImportError when the extra ``eval`` is not installed.
    """
    try:
        from pyautoattack.square import SquareAttack
    except ImportError as error:
        raise ImportError("the Square attack needs pyautoattack: pip install 'advdef[eval]'") from error
    validate(images, labels, eps)
    if not isinstance(eps, int | float):
        raise TypeError("the Square attack takes one eps for all images, a number")
    if queries < 1:
        raise ValueError(f"queries must be at least 1, not {queries}")
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    devices = [images.device] if images.is_cuda else []
    with borrowed(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        check_labels(labels, model(images[:1]))
        peer = SquareAttack(model, eps=eps, norm="Linf", n_queries=queries, seed=seed, device=str(images.device))
        adversarial: Tensor = peer.perturb(images, labels)
    return adversarial
