"""Defences that are broken on purpose: each has one planted fault, and the surrogate that undoes it.

None of them defends anything. They show what the checks must find (:mod:`advdef.checks`). A fourth one, the hard
quantiser, is :class:`advdef.papers.qusecnets.defence.Quantized`.
"""

from torch import Tensor, nn

from advdef.attacks.wrappers import expectation
from advdef.defenses.base import ImageDraws, Undefended
from advdef.draws import uniform

__all__ = ["Detached", "RandomInput", "ScaledLogits"]


class ScaledLogits(Undefended):
    """Logits times ``factor``: the softmax saturates in float32, and the gradient of cross-entropy is exactly zero.

    Defensive distillation did this by its temperature, and was broken by https://arxiv.org/abs/1608.04644.
    """

    def __init__(self, classifier: nn.Module, factor: float = 1000.0) -> None:
        super().__init__(classifier)
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classifier, scaled."""
        return self.factor * super().forward(images)

    def surrogates(self) -> dict[str, nn.Module]:
        """The classifier with its own logits: the same decisions."""
        return {"unscaled": self.network}


class RandomInput(Undefended):
    """Fresh uniform noise of up to ``amount`` on each pixel in every pass: each gradient is that of noise that is gone.

    The surrogate averages the gradient over ``draws`` passes, as Athalye et al. (https://arxiv.org/abs/1802.00420) do.
    """

    exact = False

    def __init__(self, classifier: nn.Module, amount: float, draws: int = 10) -> None:
        super().__init__(classifier, random=True)
        self.amount, self.draws = amount, draws
        self._noise = ImageDraws()

    def reseed(self, seed: int) -> None:
        """Begin a new sequence of draws."""
        self._noise.reseed(seed)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classifier on noisy images, whose pixels may leave [0, 1]."""
        noise = uniform(self._noise.next_keys(images), images.shape[1:], dtype=images.dtype)
        return super().forward(images + self.amount * (2 * noise - 1))

    def surrogates(self) -> dict[str, nn.Module]:
        """The mean logits over several draws."""
        return {"expectation": expectation(self, self.draws)}


class Detached(Undefended):
    """The classifier, cut off from the image: autograd finds no gradient."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classifier."""
        return super().forward(images.detach())

    def surrogates(self) -> dict[str, nn.Module]:
        """The classifier, not cut off."""
        return {"attached": self.network}
