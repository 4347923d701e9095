"""What a defence that edits its input makes of adversarial images, and what it costs on benign ones.

The authors of NIP (https://arxiv.org/abs/2112.13060) report a defence success rate. Their released code
(https://github.com/Allen-piexl/NIP-Neuron-level-Inverse-Perturbation) counts all images that have their clean
prediction after the defence, whether or not the attack had changed it: :attr:`Repair.dsr_released`. Ours is over the
images that the attack broke: :attr:`Repair.dsr`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from advdef import store
from advdef.contract import ask, borrowed, check_logits, validate
from advdef.defenses.base import reseed
from advdef.evaluation import Results
from advdef.statistics import Interval, wilson

__all__ = ["Repair", "mean_success", "repair", "repairs", "repairs_in_turn", "success"]


Key = TypeVar("Key")


@dataclass(frozen=True)
class Repair:
    """What became of N images, as (N,) booleans: x with label y, its adversarial version x', classifier f and defence
    D.

    The shares have Wilson intervals. Unless they say otherwise they are over all N images, whether f was right or not.
    """

    clean: Tensor
    """f(x) = y."""
    attacked: Tensor
    """f(x') = y, the attack failed."""
    benign: Tensor
    """D(x) = y."""
    defended: Tensor
    """D(x') = y."""
    unchanged: Tensor
    """D(x) = f(x)."""
    restored: Tensor
    """D(x') = f(x)."""

    @property
    def dsr(self) -> Interval | None:
        """Share of D(x') = y among the images with f(x) = y and f(x') != y, the defence success rate; None if there are
        none.
        """
        return _share(self.defended, self.clean & ~self.attacked)

    @property
    def dsr_released(self) -> Interval:
        """Share of D(x') = f(x), the defence success rate of the released code, with no test that f(x') differs."""
        return wilson(int(self.restored.sum()), len(self.restored))

    @property
    def robust(self) -> Interval:
        """Share of D(x') = y, the robust accuracy."""
        return wilson(int(self.defended.sum()), len(self.defended))

    @property
    def benign_accuracy(self) -> Interval:
        """Share of D(x) = y, the accuracy of the defence on benign images."""
        return wilson(int(self.benign.sum()), len(self.benign))

    @property
    def damage(self) -> Interval | None:
        """Share of D(x') != y among the images with f(x') = y, where the attack had failed; None if there are none."""
        return _share(~self.defended, self.attacked)

    @property
    def changed(self) -> Interval:
        """Share of D(x) != f(x), the benign images whose class the defence changes."""
        return wilson(int((~self.unchanged).sum()), len(self.unchanged))


def repair(defence: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor, *, batch_size: int = 500) -> Repair:
    """Ask a defence and its ``classifier`` about images and their adversarial versions, both (N, C, H, W) in [0, 1].

    Each sees every image once, in evaluation mode. Raises TypeError for a defence without a classifier; TypeError or
    ValueError for what are no images, labels (N,) or logits.

    >>> from advdef.defenses import Undefended
    >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> images = torch.rand(5, 1, 2, 2)
    >>> f"{repair(Undefended(classifier), images, images, classifier(images).argmax(1)).robust}"
    '100.0 [56.6, 100.0]'
    """
    return repairs(defence, images, {"": adversarial}, labels, batch_size=batch_size)[""]


def repairs(
    defence: nn.Module, images: Tensor, adversarial: Mapping[Key, Tensor], labels: Tensor, *, batch_size: int = 500
) -> dict[Key, Repair]:
    """:func:`repair` for several adversarial versions of the same images, which the defence sees once."""
    classifier = getattr(defence, "classifier", None)
    if not isinstance(classifier, nn.Module):
        raise TypeError(f"{type(defence).__name__} has no classifier, which a defence must name")
    before, benign = (_predicted(model, images, labels, batch_size) for model in (classifier, defence))
    found = {}
    for key, versions in adversarial.items():
        attacked, defended = (_predicted(model, versions, labels, batch_size) for model in (classifier, defence))
        found[key] = Repair(
            clean=before == labels,
            attacked=attacked == labels,
            benign=benign == labels,
            defended=defended == labels,
            unchanged=benign == before,
            restored=defended == before,
        )
    return found


def repairs_in_turn(
    defence: nn.Module,
    sets: Mapping[str, tuple[Tensor, Mapping[Key, Tensor], Tensor]],
    *,
    resume: Path | None = None,
) -> dict[str, dict[Key, Repair]]:
    """:func:`repairs` for several sets of images, one after the other; a defence that draws random numbers begins anew.

    Args:
        defence: What is asked.
        sets: By name: images (N, C, H, W), their adversarial versions, labels (N,).
        resume: A folder that keeps what was found.
    """
    reseed(defence, 0)
    names = [field.name for field in fields(Repair)]

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = [repairs(defence, *given) for given in sets.values()]
        told = [[torch.stack([getattr(one, name) for name in names]) for one in each.values()] for each in found]
        return {str(i): torch.stack(each) for i, each in enumerate(told)}, {}

    if resume is None:
        tensors = make()[0]
    else:
        given = [(images, list(adversarial.values()), labels) for images, adversarial, labels in sets.values()]
        asked = store.key("repairs", by=repairs, defence=defence, sets=given)
        tensors = store.kept(resume, asked, make, label="repairs").tensors
    return {
        name: {
            version: Repair(*told) for version, told in zip(adversarial, tensors[str(i)].to(labels.device), strict=True)
        }
        for i, (name, (_, adversarial, labels)) in enumerate(sets.items())
    }


def success(results: Results, defence: str, attack: str) -> Interval | None:
    """Share of D(x') = y among the images that an attack broke, as :attr:`Repair.dsr`; None if there are none.

    The results are of one network on the same images, without an attack and under it, where "none" is no defence.
    """
    return _share(results.hits(defence=defence, attack=attack), _broken(results, attack))


def mean_success(results: Results, defence: str) -> Tensor:
    """(N,), float64: of the attacks in the results that broke an image, the share with D(x') = y; NaN: none broke it.

    For one attack, the mean over the images is :func:`success`.
    """
    attacks = [attack for attack in results.values("attack") if attack != "none"]
    right = [results.hits(defence=defence, attack=attack).double() for attack in attacks]
    broken = [_broken(results, attack) for attack in attacks]
    return torch.stack(right).where(torch.stack(broken), torch.nan).nanmean(0)


def _predicted(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Classes (N,). As a defence may draw random numbers, two questions about its answer need one and the same pass."""
    images, labels, _ = validate(images, labels, 0.0)
    predicted = []
    with borrowed(model), torch.no_grad():
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            logits = ask(model, x)
            check_logits(logits, y)
            predicted.append(logits.argmax(1))
    return torch.cat(predicted)


def _broken(results: Results, attack: str) -> Tensor:
    """Whether f(x) = y and f(x') != y, (N,)."""
    return results.hits(defence="none", threat="clean") & ~results.hits(defence="none", attack=attack)


def _share(hits: Tensor, among: Tensor) -> Interval | None:
    total = int(among.sum())
    return wilson(int((hits & among).sum()), total) if total else None
