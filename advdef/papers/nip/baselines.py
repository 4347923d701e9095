"""Baselines that a computed direction must beat: random noise of the same size, and the predicted class's gradient."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.wrappers import expectation
from advdef.contract import ask, slope
from advdef.defenses.base import Defense, ImageDraws
from advdef.draws import normal, uniform
from advdef.norms import rms_normalised
from advdef.papers.nip.offset import AddedOffset

__all__ = ["AntiAdversary", "Noise", "NoiseVote"]

Noise = Literal["gaussian", "uniform"]


class NoiseVote(Defense):
    """Mean logits over ``draws`` noisy copies clip(x + step * u) of each image, with u of root mean square 1.

    Such noise hides no gradient, since it averages out (EOT, https://arxiv.org/abs/1707.07397, used against random
    defences in https://arxiv.org/abs/1802.00420). Each pass draws anew; the numbers follow from the image, the pass and
    ``seed``, so they are the same in batches of any size and on every device.

    Raises ValueError for a step that is negative or not finite, fewer than one draw, or an unknown noise.
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
        """Begin a new sequence of draws."""
        self._draws.reseed(seed)

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits over fresh draws; all copies go through the classifier as one batch."""
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


class AntiAdversary(AddedOffset):
    """One step up the logit of the predicted class: clip(x + step * g / (RMS(g) + 1e-5)) with the gradient g.

    In the manner of https://arxiv.org/abs/2103.14347, which takes several steps down the cross-entropy of that class.
    Here it is one step of normalised length, so that it can be compared with NIP's. Defences of this kind were broken
    in https://arxiv.org/abs/2202.13711. To autograd the offset is a constant; where the classifier is piecewise linear,
    that is exact almost everywhere. Raises ValueError for a step that is negative or not finite.
    """

    def __init__(self, classifier: nn.Module, step: float) -> None:
        super().__init__(classifier)
        if not 0 <= step < float("inf"):
            raise ValueError(f"step must be finite and not negative, not {step}")
        self.step = step

    def offset(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """What is added (N, C, H, W) to images believed to be of ``classes`` (N,), by default those predicted.

        It is zero where the gradient is. Raises ValueError for classes of a wrong shape.
        """
        if classes is not None and classes.shape != images.shape[:1]:
            raise ValueError(f"classes must have shape ({len(images)},), not {tuple(classes.shape)}")
        # the caller may have switched gradients off; a tensor made in inference mode takes none, a copy does
        with torch.inference_mode(False), torch.enable_grad():
            point = images.detach().clone().requires_grad_()
            logits = ask(self._classifier, point)
            chosen = logits.argmax(1) if classes is None else classes.clone()
            return self.step * rms_normalised(slope(logits.gather(1, chosen[:, None]).sum(), point))
