"""Defences: what each is to its evaluation, image transformations, and broken ones that checks must notice."""

from advdef.defenses.base import Defense, ImageDraws, Undefended
from advdef.defenses.transforms import BitDepth, GaussianBlur, Jpeg, Median, Preprocessed, TotalVariation

__all__ = [
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
