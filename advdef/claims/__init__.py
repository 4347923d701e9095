"""Claims of the papers, the rules that decide them, and the verdicts that a run gives."""

from advdef.claims.catalogue import SOURCES, Claim, Rule, all_claims, claims, rule
from advdef.claims.conditions import CLEAN, ROBUST, Attacker, Condition, ConditionWord, pooled
from advdef.claims.verdicts import Verdict, VerdictWord, badge, decide, expected_wrong

__all__ = [
    "CLEAN", "ROBUST", "SOURCES", "Attacker", "Claim", "Condition", "ConditionWord", "Rule", "Verdict", "VerdictWord",
    "all_claims", "badge", "claims", "decide", "expected_wrong", "pooled", "rule",
]  # fmt: skip
