"""The defences that the page on NIP compares, by name: variants of NIP, controls that know less, other defences."""

from collections.abc import Callable, Sequence

from torch import nn

from advdef.defenses import BitDepth, Jpeg, Median, Undefended
from advdef.defenses.base import Defense
from advdef.papers.nip.bank import DirectionBank
from advdef.papers.nip.baselines import AntiAdversary, NoiseVote
from advdef.papers.nip.defence import DecisionRule, NIPDictionary, NIPSearch, NIPSelf
from advdef.papers.nip.verdicts import NOISE

__all__ = [
    "ADDED", "AT_ALL_BUDGETS", "DRAWN", "ELSEWHERE", "MANY_STEPS", "NOISES", "SEEDED", "STEPLESS", "TESTED", "V2",
    "WATCHED", "WITH_CHECKS", "WITH_STEP", "Banks", "Stepped",
]  # fmt: skip

Banks = Callable[[str], DirectionBank]
"""Gives the bank of class directions ("classes"), of white noise ("random"), of scrambled phases ("scrambled")."""

Stepped = Callable[[nn.Module, Banks, float], Defense]
"""Makes a defence of a classifier, its banks, and the size of what is added (RMS, in pixel units)."""


def _v2(rule: DecisionRule, bank: str = "classes") -> Stepped:
    return lambda model, banks, step: NIPDictionary(model, banks(bank), steps=(step,), rule=rule)


WITH_STEP: dict[str, Stepped] = {
    "V1 self": lambda model, banks, step: NIPSelf(model, step=step),
    "V1 minus": lambda model, banks, step: NIPSelf(model, step=-step),
    "V2 pred": _v2("pred"),
    "V2 majority": _v2("majority"),
    "V2 mean-logit": _v2("mean-logit"),
    "V2 max-confidence": _v2("max-confidence"),
    "V2 self-confidence": _v2("self-confidence"),
    "V3 confidence": lambda model, banks, step: NIPSearch(model, banks("classes"), steps=[step]),
    "V3 recovery": lambda model, banks, step: NIPSearch(model, banks("classes"), steps=[step], score="recovery"),
    "random bank, mean-logit": _v2("mean-logit", "random"),
    "random bank, max-confidence": _v2("max-confidence", "random"),
    "scrambled bank, mean-logit": _v2("mean-logit", "scrambled"),
    "noise": lambda model, banks, step: NoiseVote(model, step),
    "noise, 10 draws": lambda model, banks, step: NoiseVote(model, step, draws=10),
    "uniform noise": lambda model, banks, step: NoiseVote(model, step, noise="uniform"),
    "anti-adversary": lambda model, banks, step: AntiAdversary(model, step),
}
"""Those with a step, which is chosen for each by what it costs."""

STEPLESS: dict[str, Callable[[nn.Module], Defense]] = {
    "none": Undefended, "bit depth 4": BitDepth, "median 2x2": Median, "JPEG 75": Jpeg,
}  # fmt: skip
"""Those without a step; the first is no defence."""

MANY_STEPS: dict[str, Callable[[nn.Module, DirectionBank, Sequence[float]], Defense]] = {
    "V2 stable step": lambda model, bank, steps: NIPDictionary(model, bank, steps=steps),
    "V3 all steps": lambda model, bank, steps: NIPSearch(model, bank, steps=steps),
}
"""Those that choose among all steps for each image."""

V2 = "V2 mean-logit"
"""The variant that stands for the others where one has to."""

DRAWN = (
    "V1 self", "V1 minus", V2, "V2 max-confidence", "V3 confidence", NOISE, "noise, 10 draws", "anti-adversary",
)  # fmt: skip
"""Those that are tried at every step."""

WATCHED = ("none", *DRAWN[:-1])
"""Those that meet attacks which stop early or late."""

ADDED = ("Square", "PGD, margin")
"""The two attacks that are added to the eleven."""

AT_ALL_BUDGETS = ("none", "V1 self", V2, NOISE)
"""Those that the three attackers meet at the largest budget, too."""

ELSEWHERE = ("none", "V1 self", V2, "V2 max-confidence", "V3 confidence", NOISE)
"""Those that they meet on networks after the first."""

SEEDED = ("none", V2, NOISE)
"""Those that are compared on networks of other seeds."""

NOISES = ("noise", "noise, 10 draws")
"""Those that are attacked through their average."""

TESTED = ("V1 self", V2)
"""Those that the six tests look at."""

WITH_CHECKS = (*TESTED, "V2 majority", "AT")
"""Those with a row of checks."""
