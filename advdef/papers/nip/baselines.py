"""Random noise in place of a computed direction: the control that a defence of the same size must beat."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.wrappers import expectation
from advdef.contract import ask
from advdef.defenses.base import Defense, ImageDraws
from advdef.draws import normal, uniform
from advdef.papers.nip.influence import rms_normalised

__all__ = ["Noise", "NoiseVote"]

Noise = Literal["gaussian", "uniform"]


class NoiseVote(Defense):
    """Mean logits over ``draws`` noisy copies clip(x + step * u) of each image; u has root mean square 1 over an image.

    Such noise cannot hide a gradient: it averages out (EOT, https://arxiv.org/abs/1707.07397, used against random
    defences in https://arxiv.org/abs/1802.00420). Each pass draws anew for each image, by the image and ``seed``, so
    that batches of any size and every device see the same numbers.

    Raises ValueError for a step that is negative or not finite, no draws, or an unknown noise.
    """

    exact = False
    random = True

    def __init__(
        self, classifier: nn.Module, step: float, *, draws: int = 1, noise: Noise = "gaussian", seed: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= step < float("inf"):
            raise ValueError(f"step must be finite and not negative, not {step}")
        if draws < 1:
            raise ValueError(f"draws must be at least 1, not {draws}")
        if noise not in get_args(Noise):
            raise ValueError(f"no noise {noise!r}; there are {', '.join(get_args(Noise))}")
        self._classifier = classifier
        self.step, self.draws, self.noise = step, draws, noise
        self.training = getattr(classifier, "training", False)
        self._draws = ImageDraws(seed)

    @property
    def classifier(self) -> nn.Module:
        """The classifier, fed with the images as they come."""
        return self._classifier

    def reseed(self, seed: int) -> None:
        """Begin a sequence of draws anew."""
        self._draws.reseed(seed)

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits over fresh draws, which go through the classifier as one batch."""
        noisy = (images + self.step * self._directions(images)).clamp(0, 1)
        logits = ask(self._classifier, noisy.flatten(0, 1))
        return logits.unflatten(0, (self.draws, len(images))).mean(0)

    def surrogates(self) -> dict[str, nn.Module]:
        """The mean logits over 20 passes."""
        return {"EOT-20": expectation(self, 20)}

    def _directions(self, images: Tensor) -> Tensor:
        """Noise (draws, N, C, H, W) of root mean square 1 over an image."""
        keys, shape = self._draws.next_keys(images), torch.Size((self.draws, *images.shape[1:]))
        if self.noise == "gaussian":
            drawn = normal(keys, shape, dtype=images.dtype)
        else:
            drawn = 2 * uniform(keys, shape, dtype=images.dtype) - 1
        return rms_normalised(drawn.transpose(0, 1))
