"""Defences: each a :class:`~advdef.defenses.base.Defense`, and how it is trained."""

from advdef.defenses.base import Defense, ImageDraws, Undefended
from advdef.defenses.transforms import AntiAdversary, BitDepth, GaussianBlur, Jpeg, Median, Preprocessed, TotalVariation

__all__ = [
    "AntiAdversary",
    "BitDepth",
    "Defense",
    "GaussianBlur",
    "ImageDraws",
    "Jpeg",
    "Median",
    "Preprocessed",
    "TotalVariation",
    "Undefended",
]
