"""Attacks: pure functions ``attack(model, images, labels, *, eps, ...) -> adversarial images``.

All have the signature and the contract that :mod:`advdef.attacks.gradient` states, those of other libraries (foolbox
and pyautoattack, extra ``eval``) included. None knows of defences: a defence hands over what an adaptive attacker
needs, and the attacks that exist because of one defence stand with its paper.
"""

from advdef.attacks.adaptive_steps import sa_pgd
from advdef.attacks.attack import Attack, Suite, describe
from advdef.attacks.auto_pgd import apgd
from advdef.attacks.composed import each_class, minimal, warm_started
from advdef.attacks.finite_differences import spsa
from advdef.attacks.gradient import bim, ffgsm, fgsm, mim, pgd, rfgsm
from advdef.attacks.libraries.foolbox import boundary, carlini_wagner, ddn, deepfool, ead, hop_skip_jump, pointwise
from advdef.attacks.libraries.pyautoattack import autoattack, fab, square
from advdef.attacks.losses import LOSSES, margin
from advdef.attacks.noise import uniform_noise
from advdef.attacks.recording import Trace, traced
from advdef.attacks.sparse import jsma, single_pixel
from advdef.attacks.suites import stopping, suite
from advdef.attacks.universal_perturbation import universal
from advdef.attacks.wrappers import expectation, replace_gradient, straight_through

__all__ = [
    "LOSSES",
    "Attack",
    "Suite",
    "Trace",
    "apgd",
    "autoattack",
    "bim",
    "boundary",
    "carlini_wagner",
    "ddn",
    "deepfool",
    "describe",
    "ead",
    "each_class",
    "expectation",
    "fab",
    "ffgsm",
    "fgsm",
    "hop_skip_jump",
    "jsma",
    "margin",
    "mim",
    "minimal",
    "pgd",
    "pointwise",
    "replace_gradient",
    "rfgsm",
    "sa_pgd",
    "single_pixel",
    "spsa",
    "square",
    "stopping",
    "straight_through",
    "suite",
    "traced",
    "uniform_noise",
    "universal",
    "warm_started",
]
