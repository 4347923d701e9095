"""Defences: what each of them is to its evaluation (``base``), image ``transforms``, and ``broken`` ones for the
checks.
"""

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
