"""Group E: what a reader must be told about an evaluation."""

from collections.abc import Mapping, Sequence

from advdef.checks.result import Check, judged
from advdef.evaluation import Outcome
from advdef.evaluation.holes.later import FOUND_LATER

__all__ = ["cost_counted", "settings_recorded", "threat_model_stated", "uncertainty_stated"]

_REQUIRED = ("goal", "norm", "eps", "knowledge", "randomised")


def threat_model_stated(card: Mapping[str, object]) -> Check:
    """E1: the card says goal, norm, eps, the attacker's knowledge, and what is randomised.

    Carlini et al., https://arxiv.org/abs/1902.06705, section 2.
    """
    missing = [name for name in _REQUIRED if card.get(name) in (None, "")]
    return judged("E1", not missing, f"missing: {', '.join(missing)}" if missing else "complete")


def uncertainty_stated(outcome: Outcome, *, seeds: int) -> Check:
    """E2: at least 3 networks were trained. The detail gives the robust accuracy with its 95 % interval and the sample
    size.

    In https://github.com/MadryLab/mnist_challenge/issues/4 seeds moved a robust accuracy by 3 points.
    """
    size = len(outcome.robust)
    return judged("E2", seeds >= 3, f"{outcome.interval} %, n = {size}, seeds: {seeds}")


def settings_recorded(outcomes: Sequence[Outcome]) -> Check:
    """E3: every attack is on record with its settings (Carlini et al., https://arxiv.org/abs/1902.06705)."""
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    unknown = sorted({finding.name for finding in findings if not finding.settings})
    detail = f"unknown: {', '.join(unknown)}" if unknown else f"{len(findings)} attacks"
    return judged("E3", bool(findings) and not unknown, detail)


def cost_counted(outcomes: Sequence[Outcome]) -> Check:
    """E6: every attack that was tried on any image has its time and its forward passes on record.

    Backward passes are not needed, as some attacks make none. Replays of what a search for holes broke are left out, as
    they ask the defence nothing. After https://github.com/jeromerony/adversarial-library,
    ``utils/attack_utils.py``.
    """
    findings = [finding for outcome in outcomes for finding in outcome.findings if finding.name != FOUND_LATER]
    # what weaker attacks or a smaller eps left may be nothing, which costs nothing
    uncounted = sorted({f.name for f in findings if bool(f.tried.any()) and (f.forwards == 0 or f.seconds <= 0)})
    total = sum(finding.forwards for finding in findings)
    detail = f"not counted: {', '.join(uncounted)}" if uncounted else f"{total:,} images sent forward"
    return judged("E6", bool(findings) and not uncounted, detail)
