"""TRN as a defence: a network takes the perturbation off the image, and the classifier, unchanged, sees the rest."""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from advdef.attacks.suites import Suite
from advdef.attacks.wrappers import replace_gradient
from advdef.contract import ask, check_frozen
from advdef.defenses.transforms import Preprocessed
from advdef.papers.trn.attacks import decoy
from advdef.papers.trn.maps import OracleMap
from advdef.papers.trn.models import Restorer

__all__ = ["OracleRestoration", "Restoration"]


class Restoration(Preprocessed):
    """The classifier on clip(x - restorer(x, map(x)), 0, 1): restored from the image and a map of the gradient at it.

    Source: the abstract of https://arxiv.org/abs/2202.01117; a reconstruction. All of it is differentiable, so plain
    autograd is the end-to-end attack, the classifier's second derivatives included. Defences of this kind, a
    preprocessor in front of a classifier that stays as it was, have been broken again and again
    (https://arxiv.org/abs/1802.00420, https://arxiv.org/abs/2202.13711).

    Args:
        classifier: The frozen classifier (see :func:`advdef.contract.frozen`).
        restorer: The trained restorer.
        maps: Makes maps (N, M, H, W) of images (N, C, H, W) alone: a :class:`advdef.papers.trn.maps.GradientMap` or one
            of its controls. None for a restorer that sees only the image.

    Raises ValueError for a classifier that is in training mode or has trainable parameters, for maps that need a label,
    and for a restorer that was built with a map and gets none, or the reverse.
    """

    def __init__(self, classifier: nn.Module, restorer: Restorer, maps: nn.Module | None = None) -> None:
        check_frozen(classifier)
        if maps is not None and any(isinstance(module, OracleMap) for module in maps.modules()):
            raise ValueError("a map that needs the label is no defence: see OracleRestoration")
        if (maps is None) != (restorer.map_channels == 0):
            raise ValueError(f"the restorer takes {restorer.map_channels} channels of maps, and maps is {maps}")
        super().__init__(classifier)
        self.restorer, self.maps = restorer.eval(), None if maps is None else maps.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, as the frozen classifier has to."""
        return self

    def prepare(self, images: Tensor) -> Tensor:
        """Restored images."""
        return self.prepare_with(images, None if self.maps is None else self.maps(images))

    def prepare_with(self, images: Tensor, maps: Tensor | None) -> Tensor:
        """Restored images, with the given maps (N, M, H, W) in place of their own."""
        restored: Tensor = images - self.restorer(images, maps)
        return restored.clamp(0, 1)

    def surrogates(self) -> dict[str, nn.Module]:
        """BPDA, with the identity as the restoration's gradient; and, where there is a map, the map as a constant."""
        return super().surrogates() | ({} if self.maps is None else {"detached map": _Mapped(self)})

    def through(self, maps: nn.Module) -> nn.Module:
        """A stand-in with the defence's own values, in whose gradient other ``maps`` take the place of its own.

        For maps of a smooth twin of the classifier, whose second derivatives say more
        (:mod:`advdef.papers.trn.smoothing`).
        """
        return _Mapped(self, maps)

    def adaptive_attacks(self, eps: float) -> Suite:
        """The decoy, where there is a map; see :func:`advdef.papers.trn.attacks.decoy`."""
        if self.maps is None:
            return {}
        through = self.surrogates()["detached map"]
        return {"decoy": partial(decoy, network=self.classifier, through=through, stop_early=True)}


class _Mapped(nn.Module):
    """A restoration whose map is a constant of the gradient, or has the gradient of another map."""

    def __init__(self, defence: Restoration, twin: nn.Module | None = None) -> None:
        super().__init__()
        self.defence, self.twin, self.network = defence, twin, defence.network
        self.training = False

    def forward(self, images: Tensor) -> Tensor:
        assert self.defence.maps is not None
        maps = self.defence.maps(images.detach())
        if self.twin is not None and torch.is_grad_enabled() and images.requires_grad:
            maps = replace_gradient(maps, self.twin(images))
        return ask(self.network, self.defence.prepare_with(images, maps))


class OracleRestoration(nn.Module):
    """Restoration from the map of the *true* label: no defence, as it is told the answer; for comparison only."""

    def __init__(self, classifier: nn.Module, restorer: Restorer, maps: OracleMap) -> None:
        super().__init__()
        check_frozen(classifier)
        self.classifier, self.restorer, self.maps = classifier, restorer.eval(), maps
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, as the frozen classifier has to."""
        return self

    def forward(self, images: Tensor, *, labels: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) restored with the maps of labels (N,)."""
        restored = images - self.restorer(images, self.maps(images, labels=labels))
        return ask(self.classifier, restored.clamp(0, 1))
