"""Checks of an evaluation: is the attack sound, does the defence mask gradients, has the search converged?

Each check names its criterion and its source; "ours" marks a threshold that no source gives. :func:`row` runs those
that fit a defence. They are necessary at best, never sufficient: a row of passes is no certificate (Carlini et al.,
https://arxiv.org/abs/1902.06705).
"""

from advdef.checks.adaptive import (
    components_fall,
    expectation_converged,
    falls_with_fixed_randomness,
    surrogates_add_nothing,
)
from advdef.checks.all_checks import BRIEF, FAST, FULL, QUICK, Effort, asked_for, row
from advdef.checks.assumptions import (
    deterministic,
    evaluation_mode,
    gives_logits,
    graph_intact,
    no_inner_optimisation,
    nonzero_gradient,
    scale_invariant,
    smooth_predictions,
)
from advdef.checks.binarisation import finds_planted_example
from advdef.checks.reporting import cost_counted, settings_recorded, threat_model_stated, uncertainty_stated
from advdef.checks.result import TITLES, Check
from advdef.checks.search import (
    adaptive_search_converged,
    beats_decision_based,
    beats_gradient_free,
    beats_noise,
    beats_one_step,
    beats_transfer,
    loss_plateau,
    monotone_in_eps,
    restarts_converged,
    steps_converged,
    targeted_adds_nothing,
    unbounded_attack_wins,
    worst_case_counts,
)
from advdef.checks.soundness import (
    attacks_the_defence,
    control_falls,
    moves_extreme_pixels,
    no_silent_success,
    success_is_reproducible,
    within_budget,
)

__all__ = [
    "BRIEF",
    "FAST",
    "FULL",
    "QUICK",
    "TITLES",
    "Check",
    "Effort",
    "asked_for",
    "attacks_the_defence",
    "adaptive_search_converged",
    "beats_decision_based",
    "beats_gradient_free",
    "beats_noise",
    "beats_one_step",
    "beats_transfer",
    "components_fall",
    "control_falls",
    "cost_counted",
    "deterministic",
    "evaluation_mode",
    "expectation_converged",
    "falls_with_fixed_randomness",
    "finds_planted_example",
    "gives_logits",
    "graph_intact",
    "loss_plateau",
    "monotone_in_eps",
    "moves_extreme_pixels",
    "no_inner_optimisation",
    "no_silent_success",
    "nonzero_gradient",
    "restarts_converged",
    "row",
    "scale_invariant",
    "settings_recorded",
    "smooth_predictions",
    "steps_converged",
    "success_is_reproducible",
    "surrogates_add_nothing",
    "targeted_adds_nothing",
    "threat_model_stated",
    "unbounded_attack_wins",
    "uncertainty_stated",
    "within_budget",
    "worst_case_counts",
]
