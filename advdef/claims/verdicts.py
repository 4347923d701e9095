"""Verdicts: the word that the conditions of a claim give together, and the numbers that it is told with."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from advdef.claims.catalogue import Claim
from advdef.claims.conditions import Attacker, Condition, ConditionWord

__all__ = ["Verdict", "VerdictWord", "badge", "decide", "expected_wrong"]

VerdictWord = Literal["supported", "mixed", "undecided", "contradicted", "not testable here"]

_CHANCE = 0.025  # of a 95 % interval that lies on the wrong side of a bound


@dataclass(frozen=True)
class Verdict:
    """A claim with the word that its conditions give and the numbers behind it."""

    claim: Claim
    dataset: str
    word: VerdictWord
    conditions: tuple[Condition, ...]

    @property
    def evidence(self) -> str:
        """The numbers that decide, in one sentence."""
        if self.word == "not testable here":
            about = f"the claim is about {', '.join(self.claim.datasets)}"
            return about if self.conditions else self.claim.decided_by or "nothing was measured"
        cases = _cases(self.conditions)
        if len(cases) > 1 and len(set(cases.values())) > 1:
            parts = []
            for word in get_args(VerdictWord):
                names = [case for case, found in cases.items() if found == word]
                if names:
                    told = self._told(
                        [c for c in self.conditions if c.case in ("", *names)], word, named=len(names) > 1
                    )
                    parts.append(f"{word} for {' and '.join(names)} ({told})")
            return "; ".join(parts)
        if self.word == "undecided" and all(c.word == "holds" for c in self.conditions):
            return f"{self._count}; but no attacker who knows the defence was tried"
        role = {"supported": "the closest", "contradicted": "against it"}.get(self.word, "open")
        told = self._told(self.conditions, self.word, named=True)
        return f"{self._count}; {role}: {told}" if len(self.conditions) > 1 else told

    def _told(self, conditions: Sequence[Condition], word: VerdictWord, *, named: bool) -> str:
        """The number that decides most clearly, with its case where that is not said already."""
        first = _deciding(conditions, word)[0]
        chance = word == "undecided" and first.word == "contradicted"
        why = f", which may be chance in one of {len(self.conditions)} numbers" if chance else ""
        where = f"{first.case}: " if named and first.case and first.case not in first.what else ""
        return f"{where}{first.told}{why}"

    @property
    def _count(self) -> str:
        counts, total = Counter(c.word for c in self.conditions), len(self.conditions)
        if len(counts) == 1:
            (word,) = counts
            if total == 1:
                return "the number holds" if word == "holds" else f"the number is {word}"
            return f"{'both' if total == 2 else f'all {total}'} numbers {'hold' if word == 'holds' else f'are {word}'}"
        many = [f"{counts[word]} {word}" for word in ("holds", "contradicted", "undecided") if counts[word]]
        return f"of {total} numbers {', '.join(many)}".replace("holds", "hold" if counts["holds"] > 1 else "holds")

    @property
    def attacker(self) -> Attacker:
        """The strongest attacker behind the numbers."""
        order: tuple[Attacker, ...] = get_args(Attacker)
        return max((c.attacker for c in self.conditions), key=order.index, default="")

    @property
    def images(self) -> int | None:
        """The fewest images behind any number."""
        return min((c.images for c in self.conditions if c.images), default=None)

    @property
    def seeds(self) -> int | None:
        """The fewest trained networks behind any number."""
        return min((c.seeds for c in self.conditions if c.seeds), default=None)

    def as_record(self) -> dict[str, Any]:
        """JSON form for the record file."""
        return {
            "claim": self.claim.id,
            "sentence": self.claim.sentence,
            "source": self.claim.source,
            "verdict": self.word,
            "evidence": self.evidence,
            "attacker": self.attacker,
            "images": self.images,
            "seeds": self.seeds,
            "conditions": [c.as_record() for c in self.conditions],
        }


def decide(claim: Claim, dataset: str, conditions: Sequence[Condition]) -> Verdict:
    """The verdict that conditions give together.

    - One condition: supported where it holds, contradicted where it is contradicted, else undecided.
    - Several: supported where all hold; contradicted where any is contradicted beyond chance; else undecided. Beyond
      chance is what Hochberg's step-up test at 2.5 % keeps (Biometrika 75, 1988): of m conditions a single contradicted
      one needs an interval at the level of 5 % / m, and if all are contradicted, their own intervals do.
    - Several cases: each is decided by its own conditions and by those without a case. The claim is mixed where some
      cases are contradicted and others supported, one of the latter even with intervals at the level of 5 % / the
      number of cases. Else it is contradicted where any case is, supported where all are, and undecided otherwise.
    - A claim of robustness: undecided in place of supported where no attacker who knows the defence was tried.
    - Not testable here: the claim is about other data sets, or nothing was measured.
    """
    conditions = tuple(conditions)
    if not conditions or not claim.about(dataset):
        return Verdict(claim, dataset, "not testable here", conditions)
    cases = _cases(conditions)
    words = set(cases.values())
    word: VerdictWord = "mixed" if "contradicted" in words and _surely(conditions, cases) else _worst(words)
    if word == "supported" and claim.robust and not any(c.attacker == "adaptive" for c in conditions):
        word = "undecided"
    return Verdict(claim, dataset, word, conditions)


def expected_wrong(words: Iterable[VerdictWord]) -> float:
    """How many of these verdicts chance alone would get wrong, at most: 2.5 % of those that say something.

    That holds for a claim that needs all of its conditions, and, as intervals are widened for it, for one that any of
    its conditions contradicts.
    """
    return _CHANCE * sum(word in ("supported", "contradicted", "mixed") for word in words)


def badge(word: VerdictWord) -> str:
    """A verdict as HTML.

    >>> badge("not testable here")
    '<span class="verdict not-testable">not testable here</span>'
    """
    kind = "not-testable" if word == "not testable here" else word
    return f'<span class="verdict {kind}">{word}</span>'


def _cases(conditions: Sequence[Condition]) -> dict[str, VerdictWord]:
    """The word of each case; conditions without a case count in all."""
    names = list(dict.fromkeys(c.case for c in conditions if c.case)) or [""]
    against = _against(conditions)
    found: dict[str, VerdictWord] = {}
    for name in names:
        needed = [c for c in conditions if c.case in ("", name)]
        supported: VerdictWord = "supported" if all(c.word == "holds" for c in needed) else "undecided"
        found[name] = "contradicted" if any(c in against for c in needed) else supported
    return found


def _against(conditions: Sequence[Condition]) -> list[Condition]:
    """Those that are contradicted beyond chance, by Hochberg's step-up test."""
    alone = [c for c in conditions if c.word == "contradicted"]
    for tests in range(1, len(conditions) + 1):
        found = [c for c in alone if c.widened(tests).word == "contradicted"]
        if len(found) > len(conditions) - tests:
            return found
    return []


def _surely(conditions: Sequence[Condition], cases: Mapping[str, VerdictWord]) -> bool:
    """Whether a case is supported that would be so with intervals at the level of 5 % / the number of cases."""
    return any(
        all(c.widened(len(cases)).word == "holds" for c in conditions if c.case in ("", name))
        for name, word in cases.items()
        if word == "supported"
    )


def _worst(words: set[VerdictWord]) -> VerdictWord:
    order: tuple[VerdictWord, ...] = ("contradicted", "undecided", "supported")
    return next(word for word in order if word in words)


def _deciding(conditions: Iterable[Condition], word: VerdictWord) -> list[Condition]:
    """The conditions that give the word, the clearest first; of those that all hold the closest to the bound."""
    wanted: dict[str, set[ConditionWord]] = {
        "supported": {"holds"}, "contradicted": {"contradicted"}, "undecided": {"undecided", "contradicted"}
    }  # fmt: skip
    found = [c for c in conditions if c.word in wanted[word]]

    def clear(c: Condition) -> float:
        width = c.interval.high - c.interval.low
        return abs(c.interval.value - c.bound) / width if width else math.inf

    return sorted(found, key=clear, reverse=word == "contradicted")
