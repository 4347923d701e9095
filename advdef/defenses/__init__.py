"""Defences: one module per paper, each a :class:`~advdef.defenses.base.Defense`."""

from advdef.defenses.base import Defense, Undefended
from advdef.defenses.quantization import Quantized, Quantizer, kmeans_thresholds, through_identity, train_quantized

__all__ = [
    "Defense",
    "Quantized",
    "Quantizer",
    "Undefended",
    "kmeans_thresholds",
    "through_identity",
    "train_quantized",
]
