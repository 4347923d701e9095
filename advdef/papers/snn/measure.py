"""What is measured besides attacks: hits, noise maps, what happens to an image, firing, the detector, gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from advdef.contract import slope
from advdef.evaluation import correct, psnr
from advdef.papers.snn.purifier import UNIT, Purifier
from advdef.plotting import visible_change
from advdef.statistics import Z95, Interval
from advdef.store import kept, key
from advdef.taps import tapped

__all__ = [
    "Detection", "detection", "firing_in_short", "hits", "noise_map_size", "purification_stages", "spike_raster",
    "told_of_each", "zero_gradients",
]  # fmt: skip


def hits(
    model: nn.Module, images: Mapping[str, Tensor], labels: Tensor, *, resume: Path | None = None
) -> dict[str, Tensor]:
    """Which images (N, C, H, W) of each kind a model classifies as their label: (N,) booleans by kind.

    Of expensive kinds there may be fewer images than labels (M,); they are the first. ``resume`` is a folder that
    keeps what is found.
    """

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {kind: correct(model, made, labels[: len(made)]) for kind, made in images.items()}, {}

    if resume is None:
        return make()[0]
    asked = key("hits", by=hits, model=model, images=dict(images), labels=labels)
    found = kept(resume, asked, make, label="hits").tensors
    return {kind: found[kind].to(labels.device) for kind in images}


@dataclass(frozen=True)
class Detection:
    """How well a distance tells attacked images from clean ones, over all thresholds.

    ``area`` lies under the curve of the share of attacked images ``found`` (K,) against the share of clean images
    flagged, ``false_alarms`` (K,). ``interval`` is that of the area for other images; it takes clean and attacked
    images for independent, and is too wide where they are the same.
    """

    area: float
    interval: Interval
    false_alarms: Tensor
    found: Tensor


def detection(clean: Tensor, attacked: Tensor) -> Detection:
    """The receiver operating characteristic of distances (N,) of clean images and (M,) of attacked ones.

    >>> detection(torch.tensor([0.1, 0.2]), torch.tensor([0.15, 0.3])).area
    0.75
    """
    truth = [0] * len(clean) + [1] * len(attacked)
    distances = torch.cat([clean, attacked]).tolist()
    false_alarms, found, _ = roc_curve(truth, distances)
    area = float(roc_auc_score(truth, distances))
    interval = _interval_of_area(area, len(clean), len(attacked))
    return Detection(area, interval, torch.as_tensor(false_alarms), torch.as_tensor(found))


def _interval_of_area(area: float, clean: int, attacked: int) -> Interval:
    """All areas that this one does not differ from at the level of 5 %, by the variance of Hanley and McNeil.

    Radiology 143, 1982; solved for the true area, as Wilson's interval is, so that it has a width at 0 and 1: method 5
    of R. G. Newcombe, Statistics in Medicine 25, 2006, which puts the mean of both numbers of images in place of each.
    """
    others = (clean + attacked) / 2 - 1

    def beyond(true: float) -> float:
        share = 1 + others * ((1 - true) / (2 - true) + true / (1 + true))
        return (area - true) ** 2 - Z95**2 * true * (1 - true) * share / (clean * attacked)

    low = 0.0 if area == 0 else brentq(beyond, 0, min(area, 1 - 1e-9))  # 0 and 1 themselves are no answers
    high = 1.0 if area == 1 else brentq(beyond, max(area, 1e-9), 1)
    return Interval(area, low, high)


def noise_map_size(purifier: Purifier, attacked: Tensor, clean: Tensor) -> tuple[float, float, float | None]:
    """Mean size of the perturbation and of the noise map, in pixels of range [0, 1], and their correlation over pixels.

    Images are (N, C, H, W). The correlation is None where either is the same in all pixels.
    """
    with torch.no_grad():
        found = UNIT * purifier.extract(attacked)
    true = (attacked - clean).abs()
    together = torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1]
    return true.mean().item(), found.mean().item(), None if together.isnan() else together.item()


def purification_stages(purifier: Purifier, attacked: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Pictures (N, C, H, W) in [0, 1] of what an attack, the noise extraction and the purifier did to each image.

    Changes are scaled so that they can be seen, no change is grey; noise maps go from black, which is none, to white.
    """
    with torch.no_grad():
        noise, purified = purifier.extract(attacked), purifier(attacked)
    largest = noise.flatten(1).amax(1)[:, None, None, None].clamp_min(1e-9)
    return {
        "clean": clean,
        "attacked": attacked,
        "attacked\n− clean": visible_change(attacked - clean),
        "noise map": (noise / largest).clamp(0, 1),
        "purified": purified,
        "purified\n− attacked": visible_change(purified - attacked),
        "purified\n− clean": visible_change(purified - clean),
    }


def told_of_each(model: nn.Module, stages: Mapping[str, Tensor], labels: Tensor, names: Sequence[str]) -> list[str]:
    """A title for each of N images, of which :func:`purification_stages` gives the ``stages``.

    It has the label (N,) and what ``model`` makes of the attacked and of the purified image, by the ``names`` of the
    classes, and the PSNR of both in dB.
    """
    clean, attacked, purified = (stages[name] for name in ("clean", "attacked", "purified"))
    with torch.no_grad():
        now, then = model(attacked).argmax(1), model(purified).argmax(1)
    told = (v.tolist() for v in (labels, now, then, psnr(attacked, clean), psnr(purified, clean)))
    return [
        f"{names[label]} → {names[fooled]}\n→ {names[cleaned]}\n{before:.1f} → {after:.1f}"
        for label, fooled, cleaned, before, after in zip(*told, strict=True)
    ]


def firing_in_short(rates: Mapping[str, float]) -> dict[str, str]:
    """How many layers never fire, and the lowest, median and highest of their ``rates``, as text.

    >>> firing_in_short({"first": 0.25, "second": 0.0, "third": 0.5})
    {'layers that never fire': '1 of 3', 'lowest': '0.000', 'median': '0.250', 'highest': '0.500'}
    """
    ranked = sorted(rates.values())
    found = {"lowest": ranked[0], "median": ranked[len(ranked) // 2], "highest": ranked[-1]}
    silent = {"layers that never fire": f"{ranked.count(0)} of {len(ranked)}"}
    return silent | {name: f"{rate:.3f}" for name, rate in found.items()}


def spike_raster(model: nn.Module, image: Tensor, layer: str, *, neurons: int = 60) -> Tensor:
    """Spikes (neurons, T) of the first neurons of a spiking layer over time, for one image (1, C, H, W).

    Raises ValueError for an unknown layer.
    """
    with torch.no_grad(), tapped(model, [layer]) as layers:
        model(image)
        return layers[layer].flatten(1).T[:neurons]


def zero_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Shares of pixels, and of whole images (N, C, H, W), where the gradient of the cross-entropy is exactly zero.

    An attack through such a gradient does nothing. Labels are (N,).

    >>> zero_gradients(nn.Flatten(), torch.zeros(2, 1, 1, 3), torch.tensor([0, 1]))
    (0.0, 0.0)
    """
    point = images.clone().requires_grad_()
    loss = F.cross_entropy(model(point), labels, reduction="sum")
    zero = slope(loss, point).flatten(1) == 0
    return zero.float().mean().item(), zero.all(1).float().mean().item()
