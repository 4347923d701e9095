"""Defences: each a :class:`~advdef.defenses.base.Defense`, and how it is trained."""

from advdef.defenses.base import Defense, ImageDraws, Undefended
from advdef.defenses.inverse_perturbation import NIPDictionary, NIPSearch, NIPSelf
from advdef.defenses.nip_oracle import NIPOracle
from advdef.defenses.noise import NoiseVote
from advdef.defenses.purification import GatedPurification, Purification
from advdef.defenses.restoration import OracleRestoration, Restoration
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
    "NIPDictionary",
    "NIPOracle",
    "NIPSearch",
    "NIPSelf",
    "NoiseVote",
    "OracleRestoration",
    "Preprocessed",
    "Purification",
    "Restoration",
    "SpikingClassifier",
    "TotalVariation",
    "Undefended",
]
