"""Images and labels out of a loader, a ``torch.utils.data.DataLoader`` or anything else that gives batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["collected"]

_IMAGES, _LABELS = ("pixel_values", "image", "images", "img"), ("labels", "label", "targets", "target")


def collected(loader: Iterable[Any], *, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, C, H, W), and labels, int64 (N,), of a loader's batches, at most the first ``most``.

    A batch is a pair, or a mapping as Hugging Face's are (``pixel_values`` and ``labels``). Images are uint8, or floats
    in [0, 1] that are whole grey levels, as ``ToTensor`` makes them. Raises TypeError and ValueError, with what to do,
    for other batches, and for a loader that gives other images when it is asked again.
    """
    if not isinstance(loader, Iterable):
        raise TypeError(
            f"a loader gives batches of images and labels when it is iterated; {type(loader).__name__} cannot"
        )
    if isinstance(getattr(loader, "sampler", None), torch.utils.data.RandomSampler):
        raise ValueError("the loader shuffles: build it with shuffle=False, so that an image keeps its number")
    images, labels, count = list[Tensor](), list[Tensor](), 0
    for batch in loader:
        x, y = _batch(batch)
        images.append(x.cpu())
        labels.append(y.cpu())
        count += len(x)
        if most is not None and count >= most:
            break
    if not images:
        raise ValueError("the loader gives no batch")
    if iter(loader) is not loader:  # it can be asked again
        again, _ = _batch(next(iter(loader)))
        if again.shape != images[0].shape or not torch.equal(again.cpu(), images[0]):
            raise ValueError(
                "the loader gives other images when it is asked again: switch shuffling and augmentation off"
            )
    if len(shapes := {tuple(x.shape[1:]) for x in images}) > 1:
        raise ValueError(f"the loader's batches hold images of different shapes: {', '.join(map(str, sorted(shapes)))}")
    return torch.cat(images)[:most], torch.cat(labels)[:most]


def _batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of one batch."""
    if isinstance(batch, Mapping):
        found = [next((batch[name] for name in names if name in batch), None) for names in (_IMAGES, _LABELS)]
        if any(value is None for value in found):
            wanted = f"images ({', '.join(_IMAGES)}) and labels ({', '.join(_LABELS)})"
            raise TypeError(f"a batch needs {wanted}; it has {', '.join(batch)}")
        images, labels = found
    elif isinstance(batch, list | tuple) and len(batch) >= 2:
        images, labels = batch[:2]
    else:
        raise TypeError(f"a batch must be a pair of images and labels, not {type(batch).__name__}")
    images, labels = torch.as_tensor(images), torch.as_tensor(labels)
    if images.dim() != 4 or not len(images) or labels.shape != images.shape[:1]:
        shapes = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"a batch must hold images (N, C, H, W) and labels (N,), not {shapes}")
    if labels.is_floating_point() or labels.is_complex() or bool((labels < 0).any()):
        raise ValueError(f"labels must be whole numbers from 0, not {labels.dtype} {labels[:3].tolist()}")
    return _bytes(images), labels.long()


def _bytes(images: Tensor) -> Tensor:
    """Images as whole grey levels; raises ValueError where there are others."""
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8, or floats in [0, 1], not {images.dtype}")
    low, high = (float(value) for value in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(
            f"images lie in {low:.3g} to {high:.3g}, not in [0, 1]: leave Normalize out of the loader and give its "
            "mean and std to advdef.wrap"
        )
    levels = 255 * images.double()
    if float((levels - levels.round()).abs().max()) > 1e-3:
        raise ValueError("images are no whole grey levels (k / 255): resize pictures before ToTensor, not after it")
    return levels.round().to(torch.uint8)
