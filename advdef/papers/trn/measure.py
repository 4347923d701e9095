"""What the page of TRN measures besides accuracy: how good maps are, who leads by how much, what leaks."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.contract import ask
from advdef.defenses import Preprocessed
from advdef.evaluation import Results, correct, psnr
from advdef.papers.trn.defence import OracleRestoration, Restoration
from advdef.papers.trn.maps import GradientMap, MapLabel, OracleMap, alignment
from advdef.statistics import Interval, over_seeds_and_images, paired_difference
from advdef.store import kept, key

__all__ = [
    "MapStudy", "blank_images", "lead_over", "mean_withstood", "newly_wrong", "other_settings", "replay",
    "restored_quality", "right_of", "right_with_maps", "share_withstood", "shares_withstood", "study_maps",
]  # fmt: skip


def newly_wrong(classifier: nn.Module, images: Tensor, labels: Tensor, adversarial: Tensor) -> Tensor:
    """Which images (N, C, H, W) are right as they are and wrong in their adversarial version: (N,) booleans."""
    return correct(classifier, images, labels) & ~correct(classifier, adversarial, labels)


def right_of(defence: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 500) -> Tensor:
    """Which images (N, C, H, W) a defence classifies as their label (N,), which an oracle is told: (N,) booleans."""
    if not isinstance(defence, OracleRestoration):
        return correct(defence, images, labels, batch_size=batch_size)
    return _right(lambda x, y: defence(x, labels=y), images, labels, batch_size)


def replay(
    defence: nn.Module, attacked: Mapping[str, Tensor], labels: Tensor, *, resume: Path | None = None
) -> dict[str, Tensor]:
    """By attack, which attacked images (n, C, H, W) a defence, or an oracle, has right: (n,) booleans.

    They are made of the first n images, of N whose ``labels`` are given. ``resume`` is a folder that keeps the result.
    """
    asked = dict(by=replay, defence=defence, images=dict(attacked), labels=labels)
    found = _remembered(
        resume, lambda: {k: right_of(defence, x, labels[: len(x)]) for k, x in attacked.items()}, **asked
    )
    return {attack: found[attack].to(labels.device) for attack in attacked}


def right_with_maps(
    defence: Restoration,
    maps: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 250,
    resume: Path | None = None,
) -> Tensor:
    """Which images (N, C, H, W) a defence has right with ``maps`` of them in place of its own: (N,) booleans.

    ``resume`` is a folder that keeps the result.
    """

    def logits(images: Tensor, labels: Tensor) -> Tensor:
        return ask(defence.classifier, defence.prepare_with(images, maps(images)))

    asked = dict(by=right_with_maps, defence=defence, maps=maps, images=images, labels=labels)
    found = _remembered(resume, lambda: {"right": _right(logits, images, labels, batch_size)}, **asked)
    return found["right"].to(labels.device)


def _remembered(resume: Path | None, make: Callable[[], dict[str, Tensor]], **asked: object) -> dict[str, Tensor]:
    """What ``make`` gives, kept in a folder under all that was asked; without a folder it is made."""
    if resume is None:
        return make()
    return kept(resume, key("measure", **asked), lambda: (make(), {}), label="measure").tensors


def _right(logits: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Which images get their label from a function of images and labels."""
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    with torch.no_grad():
        return torch.cat([logits(x, y).argmax(1) == y for x, y in parts])


def share_withstood(results: Results, attacks: Collection[str]) -> Tensor:
    """The share of several attacks that each image withstands, (S, N) for S seeds, from the rows of one defence.

    >>> found, where = Results(), dict(part="ablation", dataset="digits", model="CNN", defence="TRN", seed=0, eps=0.1)
    >>> for attack, right in {"FGSM": [True, True], "PGD": [True, False]}.items():
    ...     found.add_hits(torch.tensor(right), threat="oblivious", attack=attack, **where)
    >>> share_withstood(found, ["FGSM", "PGD"])
    tensor([[1.0000, 0.5000]], dtype=torch.float64)
    """
    seeds = [results.select(seed=seed) for seed in results.values("seed")]
    return torch.stack([torch.stack([of.hits(attack=name).double() for name in attacks]).mean(0) for of in seeds])


def shares_withstood(results: Results, attacks: Collection[str]) -> dict[str, Tensor]:
    """:func:`share_withstood` of each defence in the rows, by its name."""
    return {name: share_withstood(results.select(defence=name), attacks) for name in results.values("defence")}


def other_settings(results: Results, eps: float, others: Collection[str] = ()) -> dict[str, Results]:
    """The rows of one data set under settings that training did not see, by the name of the setting.

    The settings are PGD with 1.5 and with 2 times ``eps``, the largest of training, and TRN in front of each of the
    ``others``, classifiers that it was not trained with.
    """
    found = {f"PGD with {k:g} times the budget": results.select(part="eps", eps=(0.0, k * eps)) for k in (1.5, 2.0)}
    moved = {kind: results.select(part="moved", model=kind, map=(None, "its own")) for kind in others}
    return found | {f"TRN in front of {kind}": rows for kind, rows in moved.items()}


def lead_over(treated: Tensor, control: Tensor) -> Interval:
    """Mean of ``treated - control``, both (S, N) for S seeds and the same N images.

    The interval is for other seeds and other images; with a single seed, for other images alone.

    >>> f"{lead_over(torch.ones(2, 9), torch.tensor([[1.0, 0.0, 0.5], [0.5, 0.5, 0.5]]).repeat(1, 3)):+}"
    '+50.0 [+26.2, +73.8]'
    """
    return over_seeds_and_images(treated, control) if len(treated) > 1 else paired_difference(treated, control)


def mean_withstood(shares: Tensor) -> Interval:
    """Mean of shares (S, N) in [0, 1], with the interval of :func:`lead_over`, which ends at zero."""
    found = lead_over(shares, torch.zeros_like(shares))
    return replace(found, low=max(0.0, found.low))


@dataclass(frozen=True)
class MapStudy:
    """How maps of attacked images compare, before scaling, by the label that stands in for the unknown one.

    ``cosines`` and ``signs`` (the share that agrees), (N,) each: under "average" to the gradient at the true label,
    under "average, delta" to the perturbation, and so for other labels; under "true, delta" those of the true label's.
    ``sizes`` (N,) are mean absolute values.
    """

    cosines: Mapping[str, Tensor]
    signs: Mapping[str, Tensor]
    sizes: Mapping[str, Tensor]

    def means(self) -> dict[str, list[float]]:
        """The mean cosine and share of equal signs of each comparison, but for those with maps of zeros alone."""
        found = {
            what: [values.nanmean().item(), self.signs[what].nanmean().item()] for what, values in self.cosines.items()
        }
        return {what: means for what, means in found.items() if not math.isnan(means[0])}


def study_maps(
    classifier: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    *,
    estimates: Sequence[MapLabel] = ("average", "predicted", "second", "least"),
    batch_size: int = 250,
    resume: Path | None = None,
) -> MapStudy:
    """Compare gradient maps at ``adversarial`` images with the true label's and with what was added to ``images``.

    Args:
        classifier: The frozen classifier.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        adversarial: (N, C, H, W): the same images, attacked.
        estimates: Which labels stand in for the unknown one, see :class:`advdef.papers.trn.maps.GradientMap`; not
            "stack".
        batch_size: How many images are asked at a time.
        resume: A folder that keeps what was found; None keeps nothing.
    """
    names = ["true, delta", *(name for label in estimates for name in (str(label), f"{label}, delta"))]

    def make() -> dict[str, Tensor]:
        oracle, delta = OracleMap(classifier, scale="none"), adversarial - images
        parts = zip(adversarial.split(batch_size), labels.split(batch_size), strict=True)
        true = torch.cat([oracle(x, labels=y) for x, y in parts])
        pairs, sizes = [(true, delta)], {}
        for label in estimates:
            estimate = GradientMap(classifier, label, scale="none")
            maps = torch.cat([estimate(x) for x in adversarial.split(batch_size)])
            pairs += [(maps, true), (maps, delta)]
            sizes[f"size, {label}"] = maps.abs().mean((1, 2, 3))
        alike = {name: alignment(*pair) for name, pair in zip(names, pairs, strict=True)}
        signs = {f"signs, {name}": pair[1] for name, pair in alike.items()}
        return sizes | signs | {f"cosine, {name}": pair[0] for name, pair in alike.items()}

    on = (classifier, images, labels, adversarial)
    known = _remembered(resume, make, by=study_maps, on=on, estimates=list(estimates))
    found = {name: values.to(images.device) for name, values in known.items()}
    cosines, signs = ({name: found[f"{what}, {name}"] for name in names} for what in ("cosine", "signs"))
    return MapStudy(cosines, signs, {str(label): found[f"size, {label}"] for label in estimates})


def restored_quality(
    defence: Preprocessed, images: Tensor, clean: Tensor, *, batch_size: int = 250, resume: Path | None = None
) -> tuple[float, float]:
    """Of restored images (N, C, H, W): their median PSNR to the clean ones in dB, and how right the restoration is.

    That is the mean cosine of what was subtracted to the perturbation, NaN where there is none. ``resume`` is a folder
    that keeps both.
    """

    def make() -> dict[str, Tensor]:
        with torch.no_grad():
            restored = torch.cat([defence.prepare(x) for x in images.split(batch_size)])
        cosine = alignment(images - restored, images - clean)[0].nanmean()
        return {"psnr": psnr(restored, clean).median(), "cosine": cosine}

    found = _remembered(resume, make, by=restored_quality, defence=defence, images=images, clean=clean)
    return found["psnr"].item(), found["cosine"].item()


def blank_images(
    kind: Literal["noise", "grey"], shape: tuple[int, int, int], classes: int, *, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) that show nothing, of uniform noise or of one grey each, and labels (n,) drawn at random."""
    images = torch.rand((n, *shape), generator=generator)
    if kind == "grey":
        images = images[:, :1, :1, :1].expand(-1, *shape).clone()
    return images, torch.randint(classes, (n,), generator=generator)
