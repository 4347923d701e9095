"""Attacks: pure functions ``attack(model, images, labels, *, eps, ...) -> adversarial images``.

An attack knows nothing of defences; a defence hands over what an adaptive attacker needs.
"""

from advdef.attacks.gradient import bim, fgsm, mim, pgd
from advdef.attacks.level_space import level_space
from advdef.attacks.losses import LOSSES, margin
from advdef.attacks.square import square
from advdef.attacks.suites import Attack, Suite, cleverhans, stopping, strong
from advdef.attacks.wrappers import expectation, replace_gradient, straight_through

__all__ = [
    "LOSSES",
    "Attack",
    "Suite",
    "bim",
    "cleverhans",
    "expectation",
    "fgsm",
    "level_space",
    "margin",
    "mim",
    "pgd",
    "replace_gradient",
    "square",
    "stopping",
    "straight_through",
    "strong",
]
