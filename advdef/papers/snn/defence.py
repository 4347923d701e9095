"""Image purification as a defence, and spiking classifiers, each with what an attacker knows of its gradient.

A preprocessor in front of a classifier that stays as it was has been broken again and again
(https://arxiv.org/abs/1802.00420, https://arxiv.org/abs/2202.13711).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from advdef.attacks.suites import Attack, Suite
from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask, check_frozen
from advdef.defenses.base import Defense, Undefended
from advdef.defenses.transforms import Preprocessed
from advdef.papers.snn.attacks import both_branches, in_turn, unnoticed
from advdef.papers.snn.neurons import neurons_of
from advdef.papers.snn.purifier import Purifier
from advdef.papers.snn.surrogates import ADAPTIVE, REDUCED, Surrogate
from advdef.papers.snn.through import Through, spiking_stand_ins
from advdef.store import kept, key

__all__ = ["GatedPurification", "Purification", "SpikingClassifier"]

_STRAIGHT, _RATE = Surrogate("straight-through"), Surrogate("rate")


class Purification(Preprocessed):
    """The classifier on purified images: C(clip(x + R(x, N(x)), 0, 1)), with noise extraction N and restoration R.

    Source: the abstract of https://arxiv.org/abs/2404.17092; a reconstruction. Except for the derivative of a spike all
    of it is differentiable, so plain autograd is an end-to-end attack. The surrogates are the identity as the
    purifier's gradient, other ``derivatives`` of a spike throughout, and two of them in the purifier alone. The
    classifier may be spiking or not.

    Raises ValueError for a classifier that is in training mode or has trainable parameters.
    """

    def __init__(
        self, classifier: nn.Module, purifier: Purifier, *, derivatives: Mapping[str, Surrogate] = REDUCED
    ) -> None:
        check_frozen(classifier)
        super().__init__(classifier)
        self.purifier = purifier.eval()
        self.derivatives = dict(derivatives)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, as the frozen classifier has to."""
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """Purified images."""
        purified: Tensor = self.purifier(images)
        return purified

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        return self.decide(images, self.prepare(images))

    def decide(self, images: Tensor, purified: Tensor) -> Tensor:
        """Logits (N, K) of images, given what the purifier made of them."""
        return ask(self.classifier, purified)

    def surrogates(self) -> dict[str, nn.Module]:
        """The identity as the purifier's gradient ("BPDA"); each derivative throughout; two of them in the purifier
        alone.
        """
        mixed = {f"purifier {rule}": {"purifier": rule} for rule in (_STRAIGHT, _RATE)}
        found = {"BPDA": _Bypassed(self)} | spiking_stand_ins(self, self.derivatives)
        return found | spiking_stand_ins(self, mixed if spiking_stand_ins(self.purifier, {"": _RATE}) else {})

    def adaptive_attacks(self, eps: float) -> Suite:
        """Those for spikes, where there are any: see :class:`SpikingClassifier`."""
        return _for_spikes(self) if spiking_stand_ins(self, {"": _RATE}) else {}


class _Bypassed(nn.Module):
    """The defence's own values, with the identity as the purifier's gradient."""

    def __init__(self, defence: Purification) -> None:
        super().__init__()
        self.defence, self.network = defence, defence.network
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            purified = self.defence.prepare(images)
        if torch.is_grad_enabled():
            purified = replace_gradient(purified, images)
        return self.defence.decide(images, purified)


class GatedPurification(Purification):
    """Purification only where a detector asks for it: the class of C(P(x)) if D(x) > threshold, else that of C(x).

    P is the purifier, and D the largest difference between the classifier's probabilities for x and for P(x). The
    second version of the paper has a detector. That it compares a norm of this kind is told by a secondary source,
    which does not say a norm of what.

    Raises ValueError for a threshold outside [0, 1].
    """

    def __init__(
        self,
        classifier: nn.Module,
        purifier: Purifier,
        threshold: float,
        *,
        derivatives: Mapping[str, Surrogate] = REDUCED,
    ) -> None:
        super().__init__(classifier, purifier, derivatives=derivatives)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], not {threshold}")
        self.threshold = float(threshold)

    @classmethod
    def calibrated(
        cls,
        classifier: nn.Module,
        purifier: Purifier,
        images: Tensor,
        *,
        false_alarms: float = 0.05,
        derivatives: Mapping[str, Surrogate] = REDUCED,
        resume: Path | None = None,
    ) -> "GatedPurification":
        """A defence whose threshold is exceeded by the share ``false_alarms`` of clean images (N, C, H, W).

        The images should have had no part in any training. ``resume`` is a folder that keeps the threshold, so that
        machines which round differently have the same one. Raises ValueError for a share outside (0, 1) and for no
        images.
        """
        if not 0 < false_alarms < 1 or len(images) == 0:
            raise ValueError(f"needs images and a share in (0, 1), not {len(images)} and {false_alarms}")
        gate = cls(classifier, purifier, 1.0)

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            with torch.no_grad():
                distances = torch.cat([gate.distance(part) for part in images.split(250)])
            return {}, {"threshold": float(distances.quantile(1 - false_alarms))}

        if resume is None:
            found = make()[1]
        else:
            asked = key("threshold", gate=gate, images=images, false_alarms=false_alarms)
            found = kept(resume, asked, make, label="threshold").facts
        return cls(classifier, purifier, found["threshold"], derivatives=derivatives)

    def extra_repr(self) -> str:
        """The threshold."""
        return f"threshold={self.threshold:g}"

    def distance(self, images: Tensor) -> Tensor:
        """What the detector compares with the threshold: D (N,), in [0, 1]."""
        return _apart(ask(self.classifier, images), ask(self.classifier, self.prepare(images)))

    def decide(self, images: Tensor, purified: Tensor) -> Tensor:
        """Logits of the branch that the detector chooses."""
        bare, cleaned = ask(self.classifier, images), ask(self.classifier, purified)
        return torch.where((_apart(bare, cleaned) > self.threshold)[:, None], cleaned, bare)

    def refusing(self) -> nn.Module:
        """What counts where flagged images are refused: the bare logits, and no lead of any class on a flagged image.

        An attack that is to slip through is judged by this. Judged by the gate it would return what fools the purified
        branch, by however much, though that is flagged.
        """
        return _Refusing(self)

    def adaptive_attacks(self, eps: float) -> Suite:
        """Fooling both branches at once, with two gradients of the purifier; fooling the bare one unnoticed; and those
        for spikes, where there are any.
        """
        purified = Purification(self.classifier, self.purifier)
        together = partial(both_branches, stop_early=True)
        return dict(super().adaptive_attacks(eps)) | {
            "both branches": partial(together, branches=(self.classifier, purified)),
            "both branches, BPDA": partial(together, branches=(self.classifier, _Bypassed(purified))),
            "unnoticed": partial(
                unnoticed, network=self.classifier, distance=self.distance, threshold=self.threshold, stop_early=True
            ),
        }


class _Refusing(nn.Module):
    """The bare classifier, and logits of 0 where the detector speaks."""

    def __init__(self, gate: GatedPurification) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, images: Tensor) -> Tensor:
        flagged = self.gate.distance(images) > self.gate.threshold
        return torch.where(flagged[:, None], 0.0, ask(self.gate.classifier, images))


def _apart(logits: Tensor, others: Tensor) -> Tensor:
    """The largest difference between the two probabilities of a class (N,)."""
    return (logits.softmax(1) - others.softmax(1)).abs().amax(1)


class SpikingClassifier(Undefended):
    """A spiking network alone, whose surrogates are itself with other ``derivatives`` of a spike.

    How well a white-box attack does depends on that derivative (https://arxiv.org/abs/2209.03358), and the attacker
    need not take the one of training. Raises ValueError for a network without spiking layers.
    """

    def __init__(
        self, classifier: nn.Module, *, twin: nn.Module | None = None, derivatives: Mapping[str, Surrogate] = REDUCED
    ) -> None:
        super().__init__(classifier, twin=twin)
        neurons_of(classifier)
        self.derivatives = dict(derivatives)

    def surrogates(self) -> dict[str, nn.Module]:
        """The same network, once with each derivative."""
        return spiking_stand_ins(self, self.derivatives)

    def adaptive_attacks(self, eps: float) -> Suite:
        """Stable adaptive PGD, made for such gradients: through the adaptive derivative, and through all in turn."""
        return _for_spikes(self)


def _for_spikes(defence: Defense) -> dict[str, Attack]:
    attack = partial(in_turn, loss="margin", stop_early=True)
    adapted = Through(defence, ADAPTIVE)
    return {
        "SA-PGD, adaptive": partial(attack, networks=(adapted,)),
        "SA-PGD, derivatives in turn": partial(attack, networks=(*defence.surrogates().values(), adapted)),
    }
