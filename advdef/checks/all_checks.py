"""All checks of one defence in one call, and how much they may compute."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from advdef.attacks import pgd
from advdef.checks import adaptive as d
from advdef.checks import assumptions as b
from advdef.checks import reporting as e
from advdef.checks import search as c
from advdef.checks import soundness as a
from advdef.checks.binarisation import finds_planted_example
from advdef.checks.result import TITLES, Check, not_run
from advdef.contract import watched
from advdef.defenses.base import Defense, reseed
from advdef.draws import fresh_seed, image_keys, seeded
from advdef.evaluation import Outcome, stand_ins
from advdef.store import identity, kept, key

__all__ = ["BRIEF", "FAST", "FULL", "QUICK", "Effort", "asked_for", "row"]


@dataclass(frozen=True)
class Effort:
    """How much the checks compute.

    Attributes:
        images: Images of most checks.
        few_images: Images of C8 and C12, each of which needs thousands of passes.
        steps: Steps of PGD.
        restarts: Restarts of PGD in C3.
        queries: Queries of Square in C7, where the defence has no stand-ins.
        more_queries: The same where it has some, as its gradient is approximate then.
        draws: Points of noise in C10.
        jumps: Steps of HopSkipJump in C8.
        perturbations: Perturbations of B8.
        targets: Target classes of C13.
        inner: Points around each image in C12.
        expectation: Numbers of draws that D1 compares.
    """

    images: int
    few_images: int
    steps: int
    restarts: int
    queries: int
    more_queries: int
    draws: int
    jumps: int
    perturbations: int
    targets: int
    inner: int
    expectation: tuple[int, ...]


QUICK = Effort(
    images=60, few_images=10, steps=20, restarts=2, queries=200, more_queries=1000, draws=100, jumps=5,
    perturbations=20, targets=3, inner=100, expectation=(1, 2, 5, 10),
)  # fmt: skip
"""Takes seconds for a small network; shows whether a check fires, and gives no number to report."""
BRIEF = replace(
    QUICK, few_images=4, steps=10, restarts=1, queries=100, more_queries=100, draws=20, jumps=2, perturbations=5,
    expectation=(1, 3, 5),
)  # fmt: skip
"""For the profile smoke: shows that the checks run, and finds what is plainly wrong."""
FULL = Effort(
    images=1000, few_images=100, steps=100, restarts=10, queries=5000, more_queries=5000, draws=10_000, jumps=64,
    perturbations=100, targets=9, inner=999, expectation=(1, 5, 20, 50),
)  # fmt: skip
"""The numbers that the criteria name, where they name one."""

FAST = (
    "A1", "A2", "A6", "A8", "B1", "B2", "B3", "B4", "B5", "B6", "B8", "C1", "C6", "C7", "C9", "C11", "C12", "C14", "E1",
    "E2", "E3", "E6",
)  # fmt: skip
"""The checks that cost a few passes or one short attack."""

_ELSEWHERE = {
    "A3": "proved in tests/test_attacks.py on linear models",
    "A5": "shown on the page that compares attack libraries",
    "D5": "nothing here detects or abstains",
    "D6": "told in prose on the page of the paper",
    "E4": "no weights are released",
    "E5": "decided by the claims of the paper (advdef.claims)",
}
# they compare counts or points that, for a defence that draws random numbers, differ by its draws alone
_NOT_AFTER_RANDOMNESS = ("A2", "B7", "C2", "C3", "C7", "C9", "C10", "C11", "C12", "C13", "D3")
_ONLY_AFTER = {"D1": ("B2",), "D2": ("B2",), "D3": ("B4", "B5", "B6"), "D4": ("B2", "B4", "B5", "B6")}
_OR_APPROXIMATE = ("D3", "D4")  # they run as well where a defence has stand-ins, though its own gradient is not zero


def asked_for(which: Literal["brief", "fast", "all"], *more: str) -> dict[str, Any]:
    """Options of :func:`row` by one word: the fast checks, and ``more`` by their ids, in brief or not; or all of them.

    >>> asked_for("all")
    {}
    """
    if which == "all":
        return {}
    return {"only": {*FAST, *more}, "effort": BRIEF if which == "brief" else QUICK}


def row(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    single: Outcome,
    direct: Outcome,
    oblivious: Outcome,
    adaptive: Outcome | None = None,
    card: Mapping[str, object] | None = None,
    seeds: int = 1,
    effort: Effort = QUICK,
    only: Collection[str] | None = None,
    resume: Path | None = None,
) -> list[Check]:
    """Run the checks of a defence under direct attack, in the order of their ids.

    A check that fires needs an explanation. Group D runs only where the defence is random (B2) or its gradient broken
    (B4, B5, B6). A defence with stand-ins, such as a spiking network, has an approximate gradient: for it D3 and D4 run
    in any case, and C7 has more queries. On a random defence, checks that compare two counts do not run. No result
    depends on which others run.

    Args:
        defence: What was evaluated.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Budget of all attacks, in Linf.
        generator: Source of the seeds.
        single: An exhaustive direct outcome at ``eps``, maybe on other images, in which "FGSM" and "PGD" saw every
            image.
        direct: The outcome of the direct attacker at ``eps`` on ``images``.
        oblivious: That of the oblivious attacker.
        adaptive: That of the adaptive attacker, if there is one.
        card: States the threat model: goal, norm, eps, knowledge, randomised (E1).
        seeds: How many networks were trained (E2).
        effort: How much the checks compute.
        only: The ids of the checks to run. Default: all.
        resume: A folder that keeps the finished row.

    Raises ValueError for an unknown id, and for an outcome of another defence, on other images or at another eps;
    UnsoundAttack where A1 fails.
    """
    if unknown := set(only or ()) - set(TITLES):
        raise ValueError(f"no check {', '.join(sorted(unknown))}; there are {', '.join(TITLES)}")
    given = [direct, oblivious] if adaptive is None else [direct, oblivious, adaptive]
    if single.eps != eps or single.norm != "Linf":
        raise ValueError(f"single is for eps {single.eps:g} in {single.norm}, not for eps {eps:g} in Linf")
    reseed(defence, 0)
    whose, keys = identity(defence), image_keys(images, 0) + labels
    for outcome in (*given, single):
        if outcome.defence not in ("", whose):
            raise ValueError(
                "an outcome is of another defence, or of this one before its weights, settings or code changed"
            )
    for outcome in given:
        if outcome.keys is not None and len(outcome.keys) == len(keys) and not torch.equal(outcome.keys, keys):
            raise ValueError("an outcome is on other images, on other labels or in another order")
        if len(outcome.robust) != len(images) or outcome.eps != eps or outcome.norm != "Linf":
            seen = f"{len(outcome.robust)} images at eps {outcome.eps:g} in {outcome.norm}"
            raise ValueError(f"an outcome is for {seen}, not for these {len(images)} at eps {eps:g} in Linf")
    x, y, steps, whole = images[: effort.images], labels[: effort.images], effort.steps, direct
    direct, oblivious, strongest = (_first(outcome, len(x)) for outcome in (direct, oblivious, given[-1]))
    plain, stopping = partial(pgd, steps=steps), partial(pgd, steps=steps, stop_early=True)
    on, few = (defence, x, y), (defence, x[: effort.few_images], y[: effort.few_images])
    approximate = bool(stand_ins(defence))
    queries = effort.more_queries if approximate else effort.queries
    budgets = [min(1.0, eps * quarters / 4) for quarters in range(1, 9)]
    fixed: Mapping[str, Callable[[], Check]] = {
        "A1": partial(a.within_budget, images, *given),
        "A2": partial(a.success_is_reproducible, defence, direct, y),
        "A6": partial(a.moves_extreme_pixels, x, direct),
        "A8": partial(a.attacks_the_defence, defence, x, {"defence": defence, **defence.surrogates()}),
        "B1": partial(b.evaluation_mode, defence),
        "B2": partial(b.deterministic, *on),
        "B3": partial(b.gives_logits, defence, x),
        "B4": partial(b.graph_intact, *on),
        "B5": partial(b.nonzero_gradient, *on),
        "B6": partial(b.no_inner_optimisation, defence, x),
        "C1": partial(c.beats_one_step, single),
        "C9": partial(c.beats_transfer, direct, oblivious),
        "C11": partial(c.worst_case_counts, strongest),
        "C14": partial(c.adaptive_search_converged, adaptive),
        "E1": partial(e.threat_model_stated, card or {}),
        "E2": partial(e.uncertainty_stated, given[-1], seeds=seeds),
        "E3": partial(e.settings_recorded, given),
        "E6": partial(e.cost_counted, given),
    } | {id: partial(not_run, id, why) for id, why in _ELSEWHERE.items()}
    random: Mapping[str, Callable[..., Check]] = {
        "A4": partial(a.control_falls, *on, attack=stopping, eps=eps),
        "A7": partial(a.no_silent_success, *on, attack=plain, eps=eps),
        "B7": partial(b.scale_invariant, *on, eps=eps, steps=steps),
        "B8": partial(b.smooth_predictions, *on, perturbations=effort.perturbations),
        "C2": partial(c.steps_converged, *on, eps=eps, steps=steps),
        "C3": partial(c.restarts_converged, *on, eps=eps, steps=steps, restarts=effort.restarts),
        "C4": partial(c.loss_plateau, *on, attack=plain, eps=eps),
        "C5": partial(c.monotone_in_eps, *on, budgets=budgets, steps=steps),
        "C6": partial(c.unbounded_attack_wins, *on, steps=steps),
        "C7": partial(c.beats_gradient_free, *on, direct=direct, queries=queries),
        "C8": partial(c.beats_decision_based, *few, direct=_first(direct, effort.few_images), steps=effort.jumps),
        "C10": partial(c.beats_noise, *on, direct=direct, draws=effort.draws),
        "C12": partial(finds_planted_example, *few[:2], attack=stopping, eps=eps, inner=effort.inner),
        "C13": partial(c.targeted_adds_nothing, *on, direct=direct, steps=steps, classes=effort.targets),
        "D1": partial(d.expectation_converged, *on, eps=eps, draws=effort.expectation, steps=steps),
        "D2": partial(d.falls_with_fixed_randomness, *on, eps=eps, steps=steps),
        "D3": partial(d.surrogates_add_nothing, *on, attack=stopping if defence.exact else plain, eps=eps),
        "D4": partial(d.components_fall, *on, attack=stopping if defence.exact else plain, eps=eps),
    }
    seed = fresh_seed(generator) % 2**31

    @cache
    def result(id: str) -> Check:
        reasons = () if approximate and id in _OR_APPROXIMATE else _ONLY_AFTER.get(id, ())
        if reasons and all(result(reason).status != "fire" for reason in reasons):
            return not_run(id, f"no reason to: {', '.join(reasons)} did not fire")
        if id in _NOT_AFTER_RANDOMNESS and result("B2").status == "fire":
            return not_run(id, "the defence draws random numbers (B2): see group D")
        own = seed + list(TITLES).index(id)
        reseed(defence, own)
        with seeded(own, images.device), watched():  # a check that finds no gradient says so itself
            return fixed[id]() if id in fixed else random[id](generator=torch.Generator().manual_seed(own))

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"row": [asdict(result(id)) for id in TITLES if only is None or id in only]}

    if resume is None:
        found = make()[1]
    else:
        reseed(defence, 0)
        asked = key(
            "checks", by=row, defence=defence, images=images, labels=labels, eps=eps, seed=seed, single=single,
            direct=whole, oblivious=given[1], adaptive=adaptive, card=dict(card or {}), seeds=seeds, effort=effort,
            only=None if only is None else sorted(only),
        )  # fmt: skip
        found = kept(resume, asked, make, label="checks").facts
    return [Check(**told) for told in found["row"]]


def _first(outcome: Outcome, n: int) -> Outcome:
    """The outcome on the first n images alone."""
    findings = tuple(
        replace(f, tried=f.tried[:n], broken=f.broken[:n], margin=None if f.margin is None else f.margin[:n])
        for f in outcome.findings
    )
    images = ("clean", "robust", "adversarial", "keys", "shares", "clean_shares", "margin")
    kept = {name: value[:n] for name in images if (value := getattr(outcome, name)) is not None}
    return replace(outcome, findings=findings, **kept)
