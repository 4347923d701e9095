"""Check C12, an active test: plant an adversarial example, and see whether the attack finds it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advdef.attacks import Attack
from advdef.checks.result import Check, judged, not_run
from advdef.contract import ask, borrowed
from advdef.defenses.base import Defense
from advdef.evaluation import correct

__all__ = ["finds_planted_example"]


def finds_planted_example(
    defence: Defense, images: Tensor, *, attack: Attack, eps: float, generator: torch.Generator, inner: int = 999
) -> Check:
    """C12: the attack succeeds on 95 % of images, each behind a readout for which an adversarial example exists.

    Zimmermann et al., https://arxiv.org/abs/2206.13991. The readout takes the place of the last linear layer and has
    two classes. It is a logistic regression on the features that enter that layer, which separates the image and
    ``inner`` points within 0.95 eps of it from one corner of the eps-ball; its logits are scaled to the range of the
    layer's own. An image whose points cannot be separated is left out.
    """
    layers = [module for module in defence.network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return not_run("C12", "the network has no linear layer")
    rows: list[int] = []
    with borrowed(defence, quiet=True), torch.no_grad(), _hooked(layers[-1], lambda x, _: rows.append(len(x))):
        ask(defence, images[:2])
    if rows[-1:] != [len(images[:2])]:
        return not_run("C12", "the last linear layer does not give the logits: it sees several versions of an image")
    label, found = torch.zeros(1, dtype=torch.int64, device=images.device), []
    for image in images.split(1):
        readout = _readout(defence, layers[-1], _points(image, eps, inner, generator))
        if readout is None:
            continue
        with _hooked(layers[-1], lambda features, logits, readout=readout: readout(features)):  # type: ignore[misc]
            with torch.no_grad():
                if ask(defence, image).shape != (1, 2):
                    return not_run("C12", "the last linear layer does not give the logits")
            adversarial = attack(defence, image, label, eps=eps, generator=generator)
            found.append(not bool(correct(defence, adversarial, label)))
    if not found:
        return not_run("C12", "no readout separates its points")
    return judged("C12", sum(found) >= 0.95 * len(found), f"{sum(found)} of {len(found)} found")


def _points(image: Tensor, eps: float, inner: int, generator: torch.Generator) -> Tensor:
    """The image, ``inner`` points within 0.95 eps, and last a corner of the ball: (inner + 2, C, H, W)."""
    shape = (inner + 1, *image.shape[1:])
    noise = (2 * torch.rand(shape, generator=generator, dtype=image.dtype) - 1).to(image.device)
    noise = torch.cat([torch.zeros_like(image), 0.95 * noise[:-1], noise[-1:].sign()])
    return (image + eps * noise).clamp(0, 1)


def _readout(defence: Defense, layer: nn.Linear, points: Tensor) -> nn.Linear | None:
    """A layer (features -> 2) that gives class 1 to the last point and 0 to all others; None where there is none."""
    from sklearn.linear_model import LogisticRegression  # it takes a second to import

    kept: list[tuple[Tensor, Tensor]] = []
    with borrowed(defence, quiet=True), torch.no_grad(), _hooked(layer, lambda *seen: kept.append(seen)):
        ask(defence, points)
    features, logits = kept[-1]
    classes = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    classes[-1] = 1
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(features.cpu().numpy(), classes.cpu().numpy())
    weight, bias = (torch.as_tensor(v).to(features) for v in (fitted.coef_, fitted.intercept_))
    readout = nn.Linear(features.shape[1], 2).to(features).requires_grad_(False)
    readout.weight.copy_(torch.cat([-weight, weight]))
    readout.bias.copy_(torch.cat([-bias, bias]))
    values = readout(features)
    if not torch.equal(values.argmax(1), classes):
        return None
    scale = (logits.amax() - logits.amin()) / (values.amax() - values.amin())
    readout.weight.mul_(scale)
    readout.bias.mul_(scale)
    return readout


@contextmanager
def _hooked(layer: nn.Module, change: Callable[[Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Call ``change(input, output)`` after every pass through the layer; what it returns, if any, is the output."""
    handle = layer.register_forward_hook(lambda module, inputs, output: change(inputs[0], output))
    try:
        yield
    finally:
        handle.remove()
