"""Evaluation: three attackers on a defence, with one ``protocol``, and what is left of it.

``threats`` says what each attacker tries, ``robustness`` runs any attempts, and ``escalation`` goes on by need;
``judge`` runs one attempt and asks the defence itself whether it succeeded; ``admission`` refuses input that would give
a wrong number. ``outcomes`` is what comes out of one evaluation, ``results`` the table of all that a run found,
``attacked`` images in a file. ``crafting`` makes attacked images to be replayed on many defences, ``quality`` and
``costs`` measure the rest, and ``holes`` searches once more for what all of that left.
"""

from advdef.evaluation.costs import Cost, cost, multiply_adds
from advdef.evaluation.crafting import craft
from advdef.evaluation.judge import UnsoundAttack, check_sound, counted
from advdef.evaluation.outcomes import Finding, Outcome
from advdef.evaluation.protocol import three_attackers, three_curves
from advdef.evaluation.quality import psnr
from advdef.evaluation.results import Results
from advdef.evaluation.robustness import accuracy, correct, evaluate, evaluate_curve
from advdef.evaluation.threats import ATTACKERS, Attempt, Threat, adaptive, bare, direct, oblivious, stand_ins

__all__ = [
    "ATTACKERS",
    "Attempt",
    "Cost",
    "Finding",
    "Outcome",
    "Results",
    "Threat",
    "UnsoundAttack",
    "accuracy",
    "adaptive",
    "bare",
    "check_sound",
    "correct",
    "cost",
    "counted",
    "craft",
    "direct",
    "evaluate",
    "evaluate_curve",
    "multiply_adds",
    "oblivious",
    "psnr",
    "stand_ins",
    "three_attackers",
    "three_curves",
]
