"""Spiking networks: neurons, their surrogate gradients, classifiers, and the purifier."""

from advdef.models.spiking.classifiers import SmallSpikingResNet, SpikingResNet, SpikingVGG, SpikingVGG11
from advdef.models.spiking.neurons import (
    LEVELS,
    DeadNetworkWarning,
    Firing,
    firing_rates,
    leaky_neurons,
    neurons_of,
    unrolled,
    using,
)
from advdef.models.spiking.purifier import Noise, Purifier
from advdef.models.spiking.surrogates import ENSEMBLE, RECTANGLE, REDUCED, Surrogate
from advdef.models.spiking.through import Through, stand_ins

__all__ = [
    "ENSEMBLE",
    "LEVELS",
    "RECTANGLE",
    "REDUCED",
    "DeadNetworkWarning",
    "Firing",
    "Noise",
    "Purifier",
    "SmallSpikingResNet",
    "SpikingResNet",
    "SpikingVGG",
    "SpikingVGG11",
    "Surrogate",
    "Through",
    "firing_rates",
    "leaky_neurons",
    "neurons_of",
    "stand_ins",
    "unrolled",
    "using",
]
