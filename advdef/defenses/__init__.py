"""Defences: each a :class:`~advdef.defenses.base.Defense`, and how it is trained."""

from advdef.defenses.base import Defense, Undefended
from advdef.defenses.quantization import Quantized, Quantizer, kmeans_thresholds, through_identity, train_quantized
from advdef.defenses.stabilized import Stabilized

__all__ = [
    "Defense",
    "Quantized",
    "Quantizer",
    "Stabilized",
    "Undefended",
    "kmeans_thresholds",
    "through_identity",
    "train_quantized",
]
