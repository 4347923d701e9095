"""What neurons do for a decision: their activations are overwritten, and the forward pass goes on from there.

Substitution (of clean activations into an adversarial pass) and ablation test whether sensitive neurons cause the wrong
decisions under attack (https://arxiv.org/abs/1909.06978). The controls are random neurons that change as much in total,
by one norm or the other, or whose activation is alike. ``rescaled`` changes the sensitivity of neurons, and not the
function of the network.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from advdef.contract import borrowed, check_logits, validate
from advdef.selection import same_layers
from advdef.taps import check_layers, replaced, tapped

__all__ = [
    "Ablated",
    "Chosen",
    "activation_matched",
    "correct_after_substitution",
    "energy_matched",
    "mean_activations",
    "mean_change",
    "rescaled",
    "substitute",
]

Chosen = Mapping[str, Tensor]
"""Neurons by layer, as int64 indices (k,) of channels of (N, C, H, W) or of units of (N, C)."""


def substitute(model: nn.Module, images: Tensor, source: Tensor, chosen: Chosen, *, batch_size: int = 250) -> Tensor:
    """Logits (N, K) of ``images`` when the chosen neurons have the activations that they have on ``source``.

    Both are (N, C, H, W) in [0, 1] and pair up; the source are usually the clean partners of adversarial images. The
    pass, in evaluation mode, goes on from the overwritten activations; where several layers are chosen, each gets those
    of the source. A layer without indices stays as it is.

    Raises what :func:`advdef.taps.tapped` raises; ValueError for images that do not pair up, and for a layer or a
    neuron that takes no part; TypeError for indices that are not int64.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> clean, adversarial = torch.rand(5, 1, 2, 2), torch.rand(5, 1, 2, 2)
    >>> torch.equal(substitute(model, adversarial, clean, {"2": torch.arange(3)}), model(clean))
    True
    """
    return _substituted(model, images, source, [chosen], batch_size)[0]


def correct_after_substitution(
    model: nn.Module, images: Tensor, source: Tensor, labels: Tensor, sets: Sequence[Chosen], *, batch_size: int = 250
) -> Tensor:
    """For each of S sets of neurons, which images are classified as their label when it is substituted: (S, N)
    booleans.

    Each set is substituted by itself, as in :func:`substitute`; one pass of the source serves all. Raises what that
    raises, and TypeError or ValueError for what are no images, labels or logits.
    """
    validate(images, labels, 0.0)
    logits = _substituted(model, images, source, sets, batch_size)
    check_logits(logits.flatten(0, 1), labels.repeat(len(sets)))
    return logits.argmax(2) == labels


def _substituted(model: nn.Module, images: Tensor, source: Tensor, sets: Sequence[Chosen], batch_size: int) -> Tensor:
    if images.shape != source.shape:
        raise ValueError(f"images and source must pair up, not {tuple(images.shape)} and {tuple(source.shape)}")
    checked = [_on_cpu(model, chosen) for chosen in sets]
    layers = dict.fromkeys(name for chosen in checked for name in chosen)
    logits = []
    with borrowed(model, quiet=True), torch.no_grad():
        for x, partner in zip(images.split(batch_size), source.split(batch_size), strict=True):
            with tapped(model, layers) as clean:
                model(partner)
            same_layers("a forward pass", clean, layers)
            logits.append(torch.stack([_intervened(model, x, chosen, clean) for chosen in checked]))
    return torch.cat(logits, 1)


class Ablated(nn.Module):
    """The model with its chosen neurons fixed at zero, or at ``values`` (C,) of each layer: images -> logits.

    It is differentiable, so that an attack can be computed anew on it. ``values`` are usually :func:`mean_activations`.
    ``network`` is the model itself, which is as before outside of this module's own passes.

    Raises what :func:`substitute` raises, and ValueError for values that do not fit, in the first pass where only that
    can tell.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> torch.equal(Ablated(model, {"2": torch.arange(3)})(torch.rand(1, 1, 2, 2)), model[3].bias[None])
    True
    """

    def __init__(self, model: nn.Module, chosen: Chosen, *, values: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.network, self.training = model, model.training
        self._chosen = _on_cpu(model, chosen)
        self._values = dict(values) if values is not None else dict.fromkeys(chosen, torch.zeros(()))
        if not self._values.keys() >= chosen.keys():
            raise ValueError(f"values must be given for {', '.join(chosen)}; seen: {', '.join(self._values) or 'none'}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        return _intervened(self.network, images, self._chosen, self._values)


def mean_activations(
    model: nn.Module, images: Tensor, layers: Iterable[str], *, batch_size: int = 250
) -> dict[str, Tensor]:
    """The mean activation (C,) of each neuron over images (N, C, H, W) and positions, by layer, on the CPU.

    The model is asked in evaluation mode. Raises what :func:`advdef.taps.tapped` raises, and ValueError for a layer
    that takes no part in the pass.
    """
    totals = dict.fromkeys(check_layers(model, layers), torch.zeros(()))
    with borrowed(model, quiet=True), torch.no_grad(), tapped(model, totals) as seen:
        for x in images.split(batch_size):
            model(x)
            same_layers("a forward pass", seen, totals)
            for name, output in seen.items():
                totals[name] = totals[name].to(output) + output.reshape(*output.shape[:2], -1).mean(2).sum(0)
    return {name: (total / len(images)).cpu() for name, total in totals.items()}


def mean_change(
    model: nn.Module,
    images: Tensor,
    layers: Iterable[str],
    *,
    power: int = 1,
    partners: Tensor | None = None,
    values: Mapping[str, Tensor] | None = None,
    batch_size: int = 250,
) -> dict[str, Tensor]:
    """How much each neuron's activation is changed when it is overwritten, (C,) by layer, on the CPU.

    It is a mean over images and positions. Neurons of one layer have as many positions, so that such numbers add up
    over them.

    Args:
        model: The network; asked in evaluation mode.
        images: (N, C, H, W), in [0, 1].
        layers: Names of layers.
        power: 1 for the absolute difference (L1), 2 for its square (the energy).
        partners: (N, C, H, W): images whose activations are written. Default: ``values`` are.
        values: By layer, (C,): what is written where there are no partners. Default: zero.
        batch_size: How many images are asked at a time.

    Raises as :func:`mean_activations` does, and ValueError for partners of another shape.
    """
    if partners is not None and partners.shape != images.shape:
        raise ValueError(f"images and partners must pair up, not {tuple(images.shape)} and {tuple(partners.shape)}")
    totals = dict.fromkeys(check_layers(model, layers), torch.zeros(()))
    with borrowed(model, quiet=True), torch.no_grad(), tapped(model, totals) as seen:
        others = images if partners is None else partners
        for x, partner in zip(images.split(batch_size), others.split(batch_size), strict=True):
            if partners is not None:
                model(partner)
            other = dict(seen)
            model(x)
            same_layers("a forward pass", seen, totals)
            for name, output in seen.items():
                flat = output.reshape(*output.shape[:2], -1)
                instead = flat.new_zeros(1) if values is None else values[name].to(flat)[:, None]
                if partners is not None:
                    instead = other[name].reshape(flat.shape)
                change = (flat - instead).abs() ** power
                totals[name] = totals[name].to(change) + change.mean(2).sum(0)
    return {name: (total / len(images)).cpu() for name, total in totals.items()}


def energy_matched(energy: Tensor, chosen: Tensor, *, generator: torch.Generator) -> Tensor:
    """A control for neurons that are overwritten: random ones whose total is nearest to that of the chosen, (k',).

    ``energy`` (C,) is what is held equal, as a number per neuron that adds up: :func:`mean_change` in its power 1 or 2.
    Overwriting removes it, so the most sensitive neurons have a lead over as many others by construction; this control
    asks what is restored per energy. Neither power is fair alone: at equal L1 the most sensitive neurons, whose changes
    are large, have more of the squares, and at equal squares the many small changes of the others have more L1.

    All other neurons are put in random order, the chosen ones after them, and the control is the beginning of that
    order. So it contains chosen ones only where the energy of all others falls short, and then no more than needed.
    (Drawn from all neurons alike, it would share some with the chosen and hide a part of the difference.) The two
    totals differ by at most half the energy of one neuron; the numbers of neurons may differ much.

    ``generator`` is a CPU one. Raises ValueError for a negative or infinite energy and an unknown neuron.

    >>> energy = torch.tensor([4.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    >>> energy[energy_matched(energy, torch.tensor([0]), generator=torch.Generator())].sum()
    tensor(4.)
    """
    scores, inside, outside = _shuffled(energy, chosen, generator)
    order = torch.cat([outside, inside])
    totals = torch.cat([scores.new_zeros(1), scores[order].cumsum(0)])
    return order[: int((totals - scores[inside].sum()).abs().argmin())].to(chosen.device)


def activation_matched(activation: Tensor, chosen: Tensor, *, generator: torch.Generator) -> Tensor:
    """A control for :func:`substitute`: for each chosen neuron another one of the most similar activation, (k,).

    ``activation`` (C,) is the mean size of each neuron's activation. The chosen neurons take their partners in random
    order; no neuron is taken twice, ties are broken at random, and when no other one is left, a chosen neuron stands
    for itself. For generator and errors see :func:`energy_matched`.
    """
    scores, inside, outside = _shuffled(activation, chosen, generator)
    size, free, taken = scores.tolist(), outside.tolist(), []
    for neuron in inside.tolist():
        taken.append(min(free, key=lambda other: abs(size[other] - size[neuron]), default=neuron))
        free = [other for other in free if other != taken[-1]]
    return torch.tensor(taken, dtype=torch.int64, device=chosen.device)


def _shuffled(scores: Tensor, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The scores (C,) on the CPU; the chosen neurons, and all others, each in random order."""
    scores = scores.detach().cpu().double()
    if scores.dim() != 1 or not bool(((scores >= 0) & (scores < float("inf"))).all()):
        raise ValueError("expected one mean absolute value per neuron, (C,), finite and not negative")
    order = torch.randperm(len(scores), generator=generator)
    inside = _mask("the layer", chosen.cpu(), len(scores))[order]
    return scores, order[inside], order[~inside]


def _on_cpu(model: nn.Module, chosen: Chosen) -> dict[str, Tensor]:
    """The chosen neurons, their layers checked, on the CPU: there the check of indices in every pass waits for no
    device.
    """
    return {name: chosen[name].cpu() for name in check_layers(model, chosen)}


def _intervened(model: nn.Module, images: Tensor, chosen: Chosen, values: Mapping[str, Tensor]) -> Tensor:
    """Logits when the chosen neurons have the given values."""
    changes = {name: partial(_put, name, indices, values[name]) for name, indices in chosen.items()}
    with replaced(model, changes), tapped(model, changes) as seen:
        logits: Tensor = model(images)
    same_layers("a forward pass", seen, changes)
    return logits


def _mask(layer: str, indices: Tensor, channels: int) -> Tensor:
    """(C,) booleans, true at the indices, which are checked."""
    if indices.dtype != torch.int64 or indices.dim() != 1:
        raise TypeError(f"{layer} takes int64 indices (k,), not {indices.dtype} of shape {tuple(indices.shape)}")
    unknown = indices[(indices < 0) | (indices >= channels)].tolist()
    if unknown:
        raise ValueError(f"{layer} has neurons 0..{channels - 1}, not {unknown}")
    return torch.zeros(channels, dtype=torch.bool).index_fill_(0, indices, True)


def _put(name: str, indices: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """The output with these neurons taken from ``value``: of its shape, (C,), or one number."""
    one_each = -1, *[1] * (output.dim() - 2)
    if value.shape in ((), output.shape[1:2]):
        value = value.to(output).view(one_each)
    elif value.shape != output.shape:
        raise ValueError(f"layer {name!r} takes values of shape ({output.shape[1]},), not {tuple(value.shape)}")
    mask = _mask(f"layer {name!r}", indices, output.shape[1]).to(output.device)
    return torch.where(mask.view(one_each), value, output)


def rescaled(model: nn.Module, norm: str, following: str, factors: Tensor) -> nn.Module:
    """A copy of a model that computes the same, with neuron m of the layer ``norm`` multiplied by ``factors[m]`` (C,).

    Weight and bias of ``norm`` (batch normalisation, or a Conv2d or Linear without one) are multiplied, and the weights
    by which ``following`` (Conv2d or Linear) reads the neuron are divided, since ReLU(c x) = c ReLU(x) for c > 0. The
    function stays the same if only ReLU, pooling, flattening and dropout lie between the two and no other layer reads
    the neurons; that is not checked here. Dinh et al. (https://arxiv.org/abs/1703.04933) did so to the sharpness of
    minima.

    Raises ValueError for an unknown layer, and for factors that are not positive and finite or do not fit the layers;
    TypeError for layers of another kind.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> other = rescaled(model, "0", "2", torch.tensor([2.0, 4.0, 0.5]))
    >>> inputs = torch.rand(5, 2)
    >>> bool((other(inputs) == model(inputs)).all()), bool((other[0](inputs) == model[0](inputs)).all())
    (True, False)
    """
    copy = deepcopy(model)
    writes, reads = (copy.get_submodule(name) for name in check_layers(model, (norm, following)))
    if not isinstance(writes, _BatchNorm | nn.Conv2d | nn.Linear) or writes.weight is None:
        raise TypeError(f"{norm!r} must be a Conv2d, Linear or batch normalisation with weights, not {writes}")
    if not isinstance(reads, nn.Conv2d | nn.Linear) or getattr(reads, "groups", 1) != 1:
        raise TypeError(f"{following!r} must be a Linear or a Conv2d of one group, not {reads}")
    neurons, inputs = writes.weight.shape[0], reads.weight.shape[1]
    fit = inputs % neurons == 0 if isinstance(reads, nn.Linear) else inputs == neurons
    if factors.shape != (neurons,) or not fit:
        raise ValueError(
            f"{norm!r} has {neurons} neurons and {following!r} {inputs} inputs: no factors {tuple(factors.shape)} fit"
        )
    if not bool(((factors > 0) & factors.isfinite()).all()):
        raise ValueError(f"factors must be positive and finite; seen: {float(factors.min())} to {float(factors.max())}")
    with torch.no_grad():
        scale = factors.to(writes.weight)
        writes.weight.mul_(_along(scale, writes.weight, 0))
        if writes.bias is not None:
            writes.bias.mul_(scale)
        # a Linear after a flattened map reads each channel through several inputs, which lie side by side
        reads.weight.div_(_along(scale.repeat_interleave(inputs // neurons), reads.weight, 1))
    return copy


def _along(values: Tensor, weight: Tensor, dim: int) -> Tensor:
    shape = [1] * weight.dim()
    shape[dim] = -1
    return values.reshape(shape)
