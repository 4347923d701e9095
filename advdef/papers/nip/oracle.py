"""The protocol of NIP's released code, which tells the defence the answer: an oracle, kept apart from the defences."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from advdef.contract import borrowed

__all__ = ["NIPOracle"]


class NIPOracle(nn.Module):
    """Adds or subtracts a direction, whichever gives the prediction of the *clean* image. No defence can do that.

    Source: the code that the authors of NIP released
    (https://github.com/Allen-piexl/NIP-Neuron-level-Inverse-Perturbation, ``Reverse_VGG_CIFAR.py``, lines 196-204). It
    tries x + step * r; where that is not classified as the clean image was, it takes x - step * r; then it clips, and
    counts the clean image's prediction as success. There, r is the direction of the clean image itself
    (:func:`advdef.papers.nip.influence.inverse_direction`), and step is 0.001.

    It knows two things that no defence knows: the clean image, in r, and the clean prediction, in the sign. Controls
    give it other directions, or ``sign="plus"``, which with a single direction uses neither the prediction nor the
    minus.
    """

    def __init__(
        self, classifier: nn.Module, *, step: float = 0.001, sign: Literal["oracle", "plus"] = "oracle"
    ) -> None:
        super().__init__()
        if not 0 <= step < float("inf"):
            raise ValueError(f"step must be finite and not negative, not {step}")
        if sign not in ("oracle", "plus"):
            raise ValueError(f"no sign {sign!r}; there are oracle, plus")
        self.classifier, self.step, self.sign = classifier, step, sign

    def forward(self, images: Tensor, *, clean_prediction: Tensor, directions: Iterable[Tensor]) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) after the repair.

        ``directions`` (each (N, C, H, W), of root mean square 1) are tried in order, for each image until one gives its
        ``clean_prediction`` (N,); where none does, the last one counts. Raises ValueError for no direction, and for one
        of another shape.
        """
        logits = None
        with borrowed(self.classifier, quiet=True), torch.no_grad():
            for direction in directions:
                if direction.shape != images.shape:  # one image's would be added to all
                    raise ValueError(f"a direction must be {tuple(images.shape)}, not {tuple(direction.shape)}")
                tried = self._one(images, clean_prediction, direction)
                if logits is None:
                    logits = tried
                else:
                    done = logits.argmax(1) == clean_prediction
                    logits = torch.where(done[:, None], logits, tried)
        if logits is None:
            raise ValueError("no direction: give at least one")
        return logits

    def _one(self, images: Tensor, clean_prediction: Tensor, direction: Tensor) -> Tensor:
        offset = self.step * direction
        if self.sign == "oracle":
            # as released, the sign is tested on the image before it is clipped, and success after
            wrong = self.classifier(images + offset).argmax(1) != clean_prediction
            offset = torch.where(wrong[:, None, None, None], -offset, offset)
        logits: Tensor = self.classifier((images + offset).clamp(0, 1))
        return logits
