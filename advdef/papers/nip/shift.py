"""How far an attack moves sets of neurons, with the two controls without which the answer says little.

The claim under test is that attacks suppress the neurons of large influence on a decision and enhance those of small
influence (https://arxiv.org/abs/2112.13060). Neurons that are chosen on an image by activation times gradient are
chosen, in part, for being unusually active on it; so any change of the image brings them down: regression to the mean.
Hence two controls: :func:`matched`, other neurons as active as the chosen ones, and :func:`equal_norm_noise`, a change
of the same length that means nothing.
"""

import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.norms import size, spread
from advdef.selection import same_layers
from advdef.taps import tapped

__all__ = ["equal_norm_noise", "features", "matched", "shift"]


def features(model: nn.Module, images: Tensor, layer: str, *, batch_size: int = 250) -> Tensor:
    """The activations of ``layer`` on images (N, C, H, W), flattened to (N, D), in evaluation mode.

    Raises what :func:`advdef.taps.tapped` raises, and ValueError for a layer that takes no part in the pass.
    """
    found = []
    with borrowed(model, quiet=True), torch.no_grad(), tapped(model, [layer]) as seen:
        for x in images.split(batch_size):
            model(x)
            same_layers("a forward pass", seen, {layer: None})
            found.append(seen[layer].flatten(1))
    return torch.cat(found)


def matched(features: Tensor, chosen: Tensor, *, generator: torch.Generator) -> Tensor:
    """A control set for each image: as many neurons outside the chosen set (N, D), of nearly the same activation, (N,
    D).

    The neurons are ordered by activation ``features`` (N, D), equal ones (the zeros of a ReLU) at random. Each chosen
    neuron is replaced by one of the four nearest that are not chosen or, if those are taken, by the next free one. So
    the sets match as well as the other neurons allow: if all chosen ones are more active than all others, they get the
    most active of these.

    ``generator`` is a CPU one. Raises TypeError for a set that is not boolean; ValueError for other shapes and for a
    set of more than half of the neurons.

    >>> activations = torch.tensor([[5.0, 0.0, 0.0, 1.0, 9.0, 0.0, 5.1, 4.9, 5.2, 4.8]])
    >>> control = matched(activations, activations == 5, generator=torch.Generator())
    >>> bool(activations[control] in torch.tensor([4.8, 4.9, 5.1, 5.2]))
    True
    """
    _check_sets(features, chosen)
    left, many = (~chosen).sum(1, keepdim=True), chosen.sum(1, keepdim=True)
    if bool((many > left).any()):
        raise ValueError("a set of more than half of the neurons has no match among the others")
    shuffled = torch.rand(features.shape, generator=generator).argsort(1).to(features.device)
    order = shuffled.gather(1, features.gather(1, shuffled).sort(dim=1, stable=True).indices)
    inside = chosen.gather(1, order)
    # Counting both kinds in order from 1, the j-th chosen neuron stands above the free neuron number `free`.
    free, j = (~inside).cumsum(1), inside.cumsum(1)
    wanted = free + torch.randint(-1, 3, features.shape, generator=generator).to(features.device)
    # It gets number g(j) + j, where g never falls, so that none is taken twice. Of all such g, the mean of these two
    # envelopes has the smallest largest distance from what is wanted.
    far = 2 * features.shape[1]
    above = (wanted - j).where(inside, -far).cummax(1).values
    below = (wanted - j).where(inside, far).flip(1).cummin(1).values.flip(1)
    up = torch.randint(2, (len(inside), 1), generator=generator).to(inside.device)  # halves are rounded at random
    number = ((above + below + up) // 2).clamp_min(0).minimum(left - many) + j
    taken = torch.zeros(len(inside), inside.shape[1] + 1, dtype=torch.bool, device=inside.device)
    taken.scatter_(1, number.where(inside, 0), True)  # no free neuron has number 0
    return torch.zeros_like(inside).scatter_(1, order, taken.gather(1, free) & ~inside)


def shift(clean: Tensor, moved: Tensor, chosen: Tensor, *, relative: bool = False) -> Tensor:
    """Mean change (N,) of each image's chosen neurons (N, D), from activations ``clean`` to ``moved``, both (N, D).

    ``relative`` gives their summed change, divided by their summed clean activation. The result is NaN, which
    :func:`advdef.statistics.mean_interval` skips, where a set is empty or, if relative, that sum is below 1e-6. Raises
    TypeError for a set that is not boolean and ValueError for other shapes.

    >>> clean, moved = torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([[1.0, 2.0, 7.0]])
    >>> chosen = torch.tensor([[True, True, False]])
    >>> shift(clean, moved, chosen), shift(clean, moved, chosen, relative=True)
    (tensor([-1.5000]), tensor([-0.5000]))
    """
    _check_sets(clean, chosen)
    _check_sets(moved, chosen)
    change = ((moved - clean) * chosen).sum(1)
    base = (clean * chosen).sum(1) if relative else chosen.sum(1).to(change.dtype)
    return change / base.where(base >= 1e-6, float("nan"))


def equal_norm_noise(images: Tensor, partners: Tensor, *, generator: torch.Generator) -> Tensor:
    """Images with Gaussian noise of the L2 norm of ``partners - images`` (N, C, H, W), cut to [0, 1].

    An image that equals its partner stays as it is. ``generator`` is a CPU one. Raises ValueError for shapes that do
    not pair up, and where the norm is missed by more than a thousandth: it is near the largest that noise can have in
    [0, 1], or the images are not finite or not in [0, 1].
    """
    if images.shape != partners.shape:
        raise ValueError(f"images and partners must pair up, not {tuple(images.shape)} and {tuple(partners.shape)}")
    wanted = size(partners - images, "L2")
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    # Cutting shortens long noise more than short noise, so each step comes nearer, from the same side.
    for _ in range(30):
        noisy = (images + noise).clamp(0, 1)
        found = size(noisy - images, "L2")
        noise = noise * spread(wanted / found.clamp_min(torch.finfo(images.dtype).tiny))
    noisy = (images + noise).clamp(0, 1)
    if not bool(((size(noisy - images, "L2") - wanted).abs() <= 1e-3 * wanted).all()):
        raise ValueError("noise within [0, 1] does not reach the norm of some of these changes")
    return noisy


def _check_sets(features: Tensor, chosen: Tensor) -> None:
    if chosen.dtype != torch.bool:
        raise TypeError(f"a set of neurons must be boolean, not {chosen.dtype}")
    if features.dim() != 2 or features.shape != chosen.shape:
        raise ValueError(f"need (N, D) activations and sets, not {tuple(features.shape)} and {tuple(chosen.shape)}")
