"""Leaky integrate-and-fire neurons that fire at one or several levels, and what can be asked of networks of them."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import snntorch
import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.papers.snn.fused import Unit, fire
from advdef.papers.snn.surrogates import RECTANGLE, Surrogate

__all__ = [
    "LEVELS",
    "DeadNetworkWarning",
    "Firing",
    "LayerRule",
    "LayerRules",
    "firing_rates",
    "leaky_neurons",
    "rules_of",
    "unrolled",
    "using",
]

LEVELS = (0.6, 1.6, 2.6)
"""The thresholds of multi-level firing; rectangles of width 1 around them cover (0.1, 3.1) without a gap."""


LayerRule = Surrogate | tuple[Surrogate, ...]
"""A surrogate, or several, of which each stands for an equal part of the images."""

LayerRules = LayerRule | Mapping[str, LayerRule]
"""What spiking layers get as their derivative; see :func:`using`."""


class DeadNetworkWarning(UserWarning):
    """A spiking layer never fires: what follows it sees nothing, and no gradient passes it."""


class Firing(nn.Module):
    """Leaky integrate-and-fire neurons with multi-level firing: one threshold per level, K in all (1: plain LIF).

    Each level is a neuron by itself on the same current, with its own hard reset. The output is how many of them fire:
    currents -> whole numbers from 0 to K. Source: the released code of MLF (https://arxiv.org/abs/2210.06386), which
    differentiates the reset as well; here it counts as a constant, as in snntorch, unless the surrogate says ``reset``.

    Time is folded into the batch, time first: currents and spikes are (T * N, ...) for T ``steps``. With
    ``constant=True`` the currents are (N, ...) and stay the same over all steps. Each call starts from rest. Of several
    surrogates each stands for an equal part of the N images.

    Raises ValueError for fewer than one step, thresholds that do not increase from above zero, and a decay outside [0,
    1]; in a call, for a number of currents that is no multiple of T.
    """

    def __init__(
        self,
        steps: int,
        *,
        thresholds: Sequence[float] = LEVELS,
        decay: float = 0.25,
        surrogate: LayerRule = RECTANGLE,
    ) -> None:
        super().__init__()
        levels = tuple(float(value) for value in thresholds)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, not {steps!r}")
        if not levels or not all(low < high for low, high in zip((0.0, *levels), (*levels, math.inf), strict=True)):
            raise ValueError(f"thresholds must be finite and increase, from above 0, not {tuple(thresholds)}")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], not {decay}")
        self.steps, self.thresholds, self.decay, self.surrogate = steps, levels, float(decay), surrogate

    def extra_repr(self) -> str:
        """What the neurons are, and the surrogate too, since training depends on it."""
        return f"{self.steps}, thresholds={self.thresholds}, decay={self.decay:g}, surrogate={self.surrogate}"

    def forward(self, currents: Tensor, *, constant: bool = False) -> Tensor:
        """Spikes (T * N, ...) of currents (T * N, ...) or, where they are constant, (N, ...)."""
        if not constant and len(currents) % self.steps:
            raise ValueError(f"{len(currents)} currents are no whole number of images at {self.steps} steps")
        first = 1 if constant else self.steps
        if isinstance(self.surrogate, Surrogate):
            return self._fire(currents, first, self.surrogate)
        parts = currents.unflatten(0, (first, len(self.surrogate), -1)).unbind(1)
        fired = [
            self._fire(part.flatten(0, 1), first, rule).unflatten(0, (self.steps, -1))
            for part, rule in zip(parts, self.surrogate, strict=True)
        ]
        return torch.stack(fired, 1).flatten(0, 2)

    def _fire(self, currents: Tensor, first: int, surrogate: Surrogate) -> Tensor:
        unit = Unit(self.steps, self.thresholds, self.decay, surrogate)
        if surrogate.kind == "membrane":  # one channel of one image is a group
            shape = currents.flatten(2).shape if currents.dim() > 2 else (len(currents), 1, currents.shape[-1])
            grouped = currents.reshape(first, -1, shape[-1])
            return fire(grouped, unit).reshape(-1, *currents.shape[1:])
        # channels_last maps are taken as they lie in memory
        last = currents.dim() == 4 and currents.is_contiguous(memory_format=torch.channels_last)
        lying = currents.permute(0, 2, 3, 1) if last else currents
        spikes = fire(lying.reshape(first, -1), unit).reshape(-1, *lying.shape[1:])
        return spikes.permute(0, 3, 1, 2) if last else spikes


def leaky_neurons(neuron: Firing) -> list[snntorch.Leaky]:
    """The same neurons as snntorch's, one for each level; their spikes add up to those of ``neuron``.

    Give them their state in each call: one that is not given is kept from the last call, with its graph. Raises
    ValueError for several surrogates, and for one that passes the reset, which snntorch takes for a constant.
    """
    surrogate = neuron.surrogate
    if not isinstance(surrogate, Surrogate) or surrogate.reset:
        raise ValueError("snntorch's neurons have one surrogate, which does not pass their reset")

    def gradient(distance: Tensor, incoming: Tensor, spikes: Tensor) -> Tensor:
        return incoming * surrogate.slope(distance)

    kept = list(snntorch.SpikingNeuron.instances)
    neurons = [
        snntorch.Leaky(
            beta=neuron.decay,
            threshold=threshold,
            reset_mechanism="zero",
            spike_grad=snntorch.surrogate.custom_surrogate(gradient),
        )
        for threshold in neuron.thresholds
    ]
    snntorch.SpikingNeuron.instances[:] = kept  # this list would hold them for ever
    return neurons


def unrolled(neuron: Firing, currents: Tensor, states: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Spikes (T, N, ...) and last membranes (K, N, ...) of currents (T, N, ...), step by step, by snntorch's neurons.

    They begin with the membranes ``states`` (K, N, ...), or at rest; any number of steps may be given. For surrogates
    that look at one membrane at a time, this is the definition of what ``neuron`` computes at once.

    Raises ValueError for states of another shape, and TypeError for currents that are not float32, as snntorch's
    thresholds are.
    """
    if currents.dtype != torch.float32:
        raise TypeError(f"currents must be float32, as snntorch holds thresholds so, not {currents.dtype}")
    levels = leaky_neurons(neuron)
    wanted = (len(levels), *currents.shape[1:])
    if states is None:
        states = currents.new_zeros(wanted)
    if states.shape != wanted:
        raise ValueError(f"states must have shape {wanted}, membranes of each level, not {tuple(states.shape)}")
    membranes, spikes = list(states.unbind()), []
    for current in currents:
        fired = []
        for k, level in enumerate(levels):
            spike, membranes[k] = level.to(current.device)(current, membranes[k])
            fired.append(spike)
        spikes.append(torch.stack(fired).sum(0))
    return torch.stack(spikes), torch.stack(membranes)


def neurons_of(model: nn.Module) -> dict[str, Firing]:
    """All spiking layers by name; raises ValueError when there is none."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Firing)}
    if not found:
        raise ValueError(f"{type(model).__name__} has no spiking layer")
    return found


@contextmanager
def using(model: nn.Module, surrogates: LayerRules) -> Iterator[None]:
    """Give spiking layers another surrogate gradient for what is computed inside the block; spikes stay as they are.

    ``surrogates`` is one for all layers, or a mapping from beginnings of their names; the longest that fits counts, and
    layers that none fits keep their own. Several, of which each stands for an equal part of the images, are a tuple.
    The gradient may be taken after the block. Raises ValueError for a key that fits no spiking layer.
    """
    layers, chosen = neurons_of(model), rules_of(model, surrogates)
    before = {layer: layer.surrogate for layer in layers.values()}
    try:
        for name, layer in layers.items():
            layer.surrogate = chosen[name]
        yield
    finally:
        for layer, surrogate in before.items():
            layer.surrogate = surrogate


def rules_of(model: nn.Module, surrogates: LayerRules) -> dict[str, LayerRule]:
    """The surrogate of each spiking layer by name, where it has that of :func:`using`; raises ValueError as that
    does.
    """
    layers = neurons_of(model)
    chosen = dict(surrogates) if isinstance(surrogates, Mapping) else {"": surrogates}
    for prefix in chosen:
        if not any(_below(name, prefix) for name in layers):
            raise ValueError(f"no spiking layer lies in {prefix!r}; layers: {', '.join(layers)}")
    fitting = {name: [prefix for prefix in chosen if _below(name, prefix)] for name in layers}
    return {
        name: chosen[max(fitting[name], key=len)] if fitting[name] else layer.surrogate
        for name, layer in layers.items()
    }


def _below(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def firing_rates(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Spikes per neuron and step of each spiking layer on images (N, C, H, W), in the order in which they are called.

    Warns with DeadNetworkWarning, once, naming the layers that never fire. Raises ValueError for a model without
    spiking layers.
    """
    layers = neurons_of(model)
    rates: dict[str, float] = {}

    def watch(name: str) -> object:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
            rates[name] = spikes.float().mean().item()

        return layers[name].register_forward_hook(note)

    handles = [watch(name) for name in layers]
    try:
        with torch.no_grad(), borrowed(model, quiet=True):
            model(images)
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
    dead = [name for name, rate in rates.items() if rate == 0]
    if dead:
        warnings.warn(
            f"no neuron fires in {', '.join(dead)}: no gradient passes there; lower the thresholds or scale the "
            "weights up (see advdef.papers.snn.neurons.Firing)",
            DeadNetworkWarning,
            stacklevel=2,
        )
    return rates
