"""Maps of where a classifier is sensitive, estimated without the label: what guides a two-stream restoration.

The loss gradient of https://arxiv.org/abs/2202.01117 needs a label, which a defender does not have. The abstract names
a Gradient Map Estimation Mechanism and does not say how that does without; what stands here is our reconstruction. With
J the Jacobian of the logits, p the softmax and e_k the unit vectors, the gradient of the cross-entropy to class k is
J'(p - e_k). Its mean over the classes, J'(p - 1/K), takes a single backward pass.
"""

import zlib
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.contract import check_frozen
from advdef.devices import exact

__all__ = [
    "GradientMap",
    "MapLabel",
    "MapScale",
    "OracleMap",
    "RandomMap",
    "ShuffledMap",
    "SobelMap",
    "alignment",
    "class_gradients",
    "scaled",
]

MapLabel = Literal["average", "stack", "predicted", "second", "least"]
MapScale = Literal["mean", "sign", "range", "none"]

_CLIP = 4.0


class GradientMap(nn.Module):
    """The gradient of a frozen classifier's cross-entropy at images (N, C, H, W), without a label: (N, C or K C, H, W).

    A map depends on its own image alone, not on the batch. Where the caller's images require a gradient, the map has
    one too, through the second derivative of the classifier. Images of half precision are read as float32, in which the
    maps come back. The module stays in evaluation mode, whatever is done to the pipeline that holds it.

    Args:
        classifier: The frozen classifier (see :func:`advdef.contract.frozen`).
        label: Which class stands in for the unknown one: the "predicted", the "second" most likely, or the "least"
            likely one; the "average" of the gradients to all classes; or a "stack" of these, K maps per channel of the
            image in the order of the classes.
        scale: "mean": divided by the mean size over the image, and cut to [-4, 4]; "sign"; "range": each image's values
            moved to [0, 1]; or "none". A map of zeros stays so.

    Raises ValueError for a classifier in training mode or with trainable parameters.

    >>> from advdef.contract import frozen
    >>> images = torch.rand(5, 1, 28, 28)
    >>> GradientMap(frozen(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))))(images).shape
    torch.Size([5, 1, 28, 28])
    """

    def __init__(self, classifier: nn.Module, label: MapLabel = "average", *, scale: MapScale = "mean") -> None:
        super().__init__()
        if label not in get_args(MapLabel):
            raise ValueError(f"no label {label!r}; there are {', '.join(get_args(MapLabel))}")
        if scale not in get_args(MapScale):
            raise ValueError(f"no scale {scale!r}; there are {', '.join(get_args(MapScale))}")
        check_frozen(classifier)
        self.classifier, self.label, self.scale = classifier, label, scale
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return self

    def extra_repr(self) -> str:
        """The settings, by which the cache of trained weights tells maps apart."""
        return f"label={self.label!r}, scale={self.scale!r}"

    def forward(self, images: Tensor) -> Tensor:
        """The maps, (N, C, H, W) or, as a stack, (N, K C, H, W)."""
        check_frozen(self.classifier)
        through = torch.is_grad_enabled() and images.requires_grad
        # the caller may have switched gradients off; a tensor made in inference mode takes none, a copy does
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            point = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
            point = point if through else point.detach().clone().requires_grad_()
            logits = self.classifier(point)
            if self.label == "stack":
                found = class_gradients(logits, point, create_graph=through).transpose(0, 1).flatten(1, 2)
            else:
                loss = _loss(logits, self.label).sum()  # a sum, so that no image's map depends on the others
                (found,) = torch.autograd.grad(loss, point, create_graph=through)
            return scaled(found, self.scale)


def _loss(logits: Tensor, label: MapLabel) -> Tensor:
    """(N,): the cross-entropy to the class that stands in for the label; the choice of that class is a constant."""
    if label == "average":
        return -logits.log_softmax(1).mean(1)
    order = logits.detach().argsort(dim=1, descending=True, stable=True)
    chosen = order[:, {"predicted": 0, "second": 1, "least": -1}[label]]
    return _cross_entropies(logits).gather(1, chosen[:, None])[:, 0]


def _cross_entropies(logits: Tensor) -> Tensor:
    """(N, K): the cross-entropy to each class, as softplus of the lead that all other classes have over it.

    In its usual form the gradient is softmax minus 1, which rounds to 0 where a classifier is very sure; what remains
    then points in another direction.
    """
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].masked_fill(own, float("-inf")).logsumexp(2)
    return F.softplus(others - logits)


def class_gradients(logits: Tensor, images: Tensor, *, create_graph: bool = False) -> Tensor:
    """The gradient at ``images`` of the cross-entropy to each class, in one batched backward pass: (K, N, C, H, W).

    ``logits`` (N, K) must have been computed from ``images`` with gradients on.
    """
    count = logits.shape[1]
    losses = _cross_entropies(logits)
    chosen = torch.eye(count, dtype=logits.dtype, device=logits.device)[:, None].expand(-1, len(logits), -1)
    (found,) = torch.autograd.grad(losses, images, chosen, is_grads_batched=True, create_graph=create_graph)
    return found


def scaled(gradient: Tensor, scale: MapScale) -> Tensor:
    """Each image's gradient (N, M, H, W), scaled to a size that a network can take; see :class:`GradientMap`.

    One whose mean size is below 1e-12 fades out. Raises ValueError for an unknown scale.
    """
    if scale == "mean":
        return (gradient / (gradient.abs().mean((1, 2, 3), keepdim=True) + 1e-12)).clamp(-_CLIP, _CLIP)
    if scale == "sign":
        return gradient.sign()
    if scale == "range":
        low, high = gradient.amin((1, 2, 3), keepdim=True), gradient.amax((1, 2, 3), keepdim=True)
        return (gradient - low) / (high - low + 1e-12)
    if scale != "none":
        raise ValueError(f"no scale {scale!r}; there are {', '.join(get_args(MapScale))}")
    return gradient


def alignment(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """How alike two maps (N, C, H, W) of each image are: their cosine (N,), and the share (N,) of equal signs.

    Signs are compared where neither value is zero. NaN where there is nothing to compare. Raises ValueError for unlike
    shapes.

    >>> alignment(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[2.0, -1.0]]]]))
    (tensor([0.], dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    if maps.shape != others.shape:
        raise ValueError(f"maps of one shape are compared, not {tuple(maps.shape)} and {tuple(others.shape)}")
    first, second = exact(maps.flatten(1)), exact(others.flatten(1))  # squares of tiny gradients vanish in float32
    cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    both = (first != 0) & (second != 0)
    agree = exact((both & (first.sign() == second.sign())).sum(1)) / both.sum(1)
    return cosine, agree


class RandomMap(nn.Module):
    """A control: Gaussian noise of the images' shape, always the same for the same image, whatever the batch."""

    def forward(self, images: Tensor) -> Tensor:
        """Noise, drawn on the CPU from a checksum of each image's pixels."""
        draws = torch.Generator()
        noise = [
            torch.randn(image.shape, generator=draws.manual_seed(zlib.crc32(image.numpy().data)), dtype=image.dtype)
            for image in images.detach().cpu().contiguous()
        ]
        return torch.stack(noise).to(images.device)


class SobelMap(nn.Module):
    """A control: the length of each channel's spatial gradient by Sobel's filters, which knows nothing of a classifier.

    Scaled as gradient maps are. The maps of SPSR (https://arxiv.org/abs/2003.13081), from which the words "gradient
    map" and "fusion block" are known, are of this kind.
    """

    def __init__(self, *, scale: MapScale = "mean") -> None:
        super().__init__()
        self.scale = scale
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("filters", torch.stack([across, across.T])[:, None], persistent=False)
        self.filters: Tensor

    def extra_repr(self) -> str:
        """The settings, by which the cache of trained weights tells maps apart."""
        return f"scale={self.scale!r}"

    def forward(self, images: Tensor) -> Tensor:
        """The maps (N, C, H, W)."""
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
        slopes = F.conv2d(padded, self.filters.to(images))
        # the root of nothing has no derivative
        lengths = (slopes.square().sum(1) + 1e-12).sqrt() - 1e-6
        return scaled(lengths.view_as(images), self.scale)


class ShuffledMap(nn.Module):
    """A control: each image gets the map of its neighbour in the batch.

    Raises ValueError for a single image.
    """

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        """The maps (N, M, H, W), each moved on by one image."""
        if len(images) < 2:
            raise ValueError("a single image has no neighbour whose map it could get")
        found: Tensor = self.maps(images).roll(1, 0)
        return found


class OracleMap(nn.Module):
    """The gradient of a frozen classifier's cross-entropy to the *true* class: it tells a restorer the answer.

    No defence has it. It is kept apart from :class:`advdef.papers.trn.maps.GradientMap`, which takes no label.
    """

    def __init__(self, classifier: nn.Module, *, scale: MapScale = "mean") -> None:
        super().__init__()
        check_frozen(classifier)
        self.classifier, self.scale = classifier, scale
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return self

    def extra_repr(self) -> str:
        """The settings, by which the cache of trained weights tells maps apart."""
        return f"scale={self.scale!r}"

    def forward(self, images: Tensor, *, labels: Tensor) -> Tensor:
        """The maps (N, C, H, W) for labels (N,), without a gradient."""
        check_frozen(self.classifier)
        with torch.inference_mode(False), torch.enable_grad():
            point = images.detach().clone().requires_grad_()
            loss = F.cross_entropy(self.classifier(point), labels.clone(), reduction="sum")
            return scaled(torch.autograd.grad(loss, point)[0], self.scale)
