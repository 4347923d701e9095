"""Defences: each a :class:`~advdef.defenses.base.Defense`, and how it is trained."""

from advdef.defenses.base import Defense, ImageDraws, Undefended
from advdef.defenses.purification import GatedPurification, Purification
from advdef.defenses.spiking import SpikingClassifier
from advdef.defenses.transforms import AntiAdversary, BitDepth, GaussianBlur, Jpeg, Median, Preprocessed, TotalVariation

__all__ = [
    "AntiAdversary",
    "BitDepth",
    "Defense",
    "GatedPurification",
    "GaussianBlur",
    "ImageDraws",
    "Jpeg",
    "Median",
    "Preprocessed",
    "Purification",
    "SpikingClassifier",
    "TotalVariation",
    "Undefended",
]
