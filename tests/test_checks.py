"""Each check fires on a defence or an attack that is broken on purpose, and passes on an honest one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad

from advdef import checks
from advdef.attacks import bim, pgd
from advdef.attacks.suites import cleverhans
from advdef.checks import QUICK, TITLES, Check
from advdef.data import Dataset
from advdef.defenses import Defense, Undefended
from advdef.defenses.broken import Detached, RandomInput, ScaledLogits
from advdef.evaluation import Attempt, Outcome, UnsoundAttack, direct, evaluate, oblivious
from advdef.evaluation.holes.later import FOUND_LATER
from advdef.evaluation.outcomes import SearchEffort, SearchEnd
from advdef.papers.nip.baselines import NoiseVote
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer

Batch = tuple[Tensor, Tensor]

EPS = 0.3
TINY = partial(bim, steps=1, step_size=1e-6)  # an attack that does next to nothing
CARD = {"goal": "any wrong class", "norm": "Linf", "eps": EPS, "knowledge": "white box", "randomised": "nothing"}


class Wrapped(Undefended):
    """A classifier whose logits pass through a function."""

    def __init__(self, classifier: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(classifier)
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(super().forward(images))


class Optimising(Undefended):
    """Moves each image along its own gradient before it is classified."""

    def __init__(self, classifier: nn.Module, how: str) -> None:
        super().__init__(classifier)
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.01 * self.slope(images).sign())

    def slope(self, images: Tensor) -> Tensor:
        if self.how == "torch.func":
            found: Tensor = torch.func.grad(lambda point: self.network(point).amax(1).sum())(images)
            return found
        with torch.enable_grad():
            point = images.detach().requires_grad_()
            value = self.network(point).amax(1).sum()
            if self.how == "grad":
                return grad(value, point)[0]
            value.backward(inputs=[point])
        assert point.grad is not None
        return point.grad


class Memory(Undefended):
    """Knows its test images by heart, and looks them up when an image is far from all of them."""

    def __init__(self, classifier: nn.Module, images: Tensor, labels: Tensor) -> None:
        super().__init__(classifier)
        self.images, self.labels = images.flatten(1), labels

    def forward(self, images: Tensor) -> Tensor:
        distance, nearest = torch.cdist(images.flatten(1), self.images, p=float("inf")).min(1)
        known = 100.0 * nn.functional.one_hot(self.labels[nearest], 10)
        return torch.where(distance[:, None] > 0.2, known, super().forward(images))


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def under(defence: Defense, batch: Batch, *attempts: Attempt, eps: float = EPS) -> Outcome:
    return evaluate(defence, attempts, *batch, eps=eps, generator=draws(), exhaustive=True)


@pytest.fixture(autouse=True)
def _fixed_noise() -> Iterator[None]:
    """What random defences draw from torch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def honest(network: nn.Module) -> Defense:
    return Undefended(network).eval()


@pytest.fixture
def masked(network: nn.Module) -> Defense:
    """A hard quantiser: no gradient at all."""
    return Quantized(network, Quantizer(4), undefended=network).eval()


@pytest.fixture
def detached(network: nn.Module) -> Defense:
    return Detached(network).eval()


@pytest.fixture
def scaled(network: nn.Module) -> Defense:
    return ScaledLogits(network).eval()


@pytest.fixture
def noisy(network: nn.Module) -> Defense:
    return RandomInput(network, 0.5).eval()


@pytest.fixture(scope="module")
def sound(_trained_network: nn.Module, digits: Dataset) -> Outcome:
    """Four attacks on the honest network and 100 images."""
    defence = Undefended(_trained_network).eval()
    images, labels = digits.test.float_images()[:100], digits.test.labels[:100]
    return under(defence, (images, labels), *direct(defence, cleverhans()))


def statuses(*found: Check) -> list[str]:
    return [check.status for check in found]


class TestTheAttack:
    def test_an_image_outside_the_budget_stops_everything(self, sound: Outcome, batch: Batch) -> None:
        assert checks.within_budget(batch[0], sound).status == "guaranteed"
        for found in (sound.adversarial + 0.01, sound.adversarial.clone().fill_(float("nan"))):
            with pytest.raises(UnsoundAttack):
                checks.within_budget(batch[0], replace(sound, adversarial=found))

    def test_success_that_is_not_there_when_looked_at_again_fires(
        self, honest: Defense, noisy: Defense, sound: Outcome, batch: Batch
    ) -> None:
        assert checks.success_is_reproducible(honest, sound, batch[1]).status == "pass"
        lost = checks.success_is_reproducible(honest, replace(sound, adversarial=batch[0]), batch[1])
        assert lost.status == "fire"
        assert lost.detail.startswith(f"{int((sound.clean & ~sound.robust).sum())} contradictions")
        lucky = under(noisy, batch, Attempt("PGD", partial(pgd, stop_early=True), noisy), eps=0.1)
        assert checks.success_is_reproducible(noisy, lucky, batch[1]).status == "fire"

    def test_an_attack_that_does_not_even_break_the_undefended_classifier_fires(
        self, detached: Defense, batch: Batch
    ) -> None:
        control = partial(checks.control_falls, detached, *batch, eps=EPS, generator=draws())
        assert statuses(control(attack=partial(pgd)), control(attack=TINY)) == ["pass", "fire"]

    def test_pixels_that_stay_at_the_ends_of_their_range_fire(self, sound: Outcome, batch: Batch) -> None:
        images, stuck = batch[0], sound.adversarial.clone()
        ends = (images == 0) | (images == 1)
        stuck[ends] = images[ends]
        assert checks.moves_extreme_pixels(images, sound).status == "pass"
        assert checks.moves_extreme_pixels(images, replace(sound, adversarial=stuck)).status == "fire"
        assert checks.moves_extreme_pixels(images, replace(sound, robust=sound.clean)).status == "not run"

    def test_an_attack_that_forgets_its_successes_fires(self, honest: Defense, batch: Batch) -> None:
        def forgetful(model: nn.Module, images: Tensor, labels: Tensor, **options: object) -> Tensor:
            pgd(model, images, labels, **options)  # type: ignore[arg-type]
            return images

        run = partial(checks.no_silent_success, honest, *batch, eps=EPS, generator=draws())
        assert statuses(run(attack=partial(pgd)), run(attack=partial(forgetful))) == ["pass", "fire"]
        assert run(attack=partial(pgd, stop_early=True)).status == "not run"  # it sends what is left of the batch

    def test_attacking_another_model_fires(
        self, masked: Defense, scaled: Defense, noisy: Defense, batch: Batch
    ) -> None:
        for defence in (masked, scaled):
            surrogates = {"defence": defence, **defence.surrogates()}
            assert checks.attacks_the_defence(defence, batch[0], surrogates).status == "pass"
        other = checks.attacks_the_defence(masked, batch[0], {"the network alone": masked.classifier})
        assert (other.status, other.detail) == ("fire", "other values: the network alone")
        assert checks.attacks_the_defence(noisy, batch[0], noisy.surrogates()).status == "not run"


class TestTheDefence:
    def test_training_mode_fires(self, honest: Defense) -> None:
        assert checks.evaluation_mode(honest).status == "pass"
        assert checks.evaluation_mode(honest.train()).status == "fire"

    def test_randomness_fires(self, honest: Defense, noisy: Defense, batch: Batch) -> None:
        assert statuses(checks.deterministic(honest, *batch), checks.deterministic(noisy, *batch)) == ["pass", "fire"]

    def test_probabilities_fire(self, honest: Defense, network: nn.Module, batch: Batch) -> None:
        softmax = Wrapped(network, lambda z: z.softmax(1))
        assert statuses(checks.gives_logits(honest, batch[0]), checks.gives_logits(softmax, batch[0])) == [
            "pass",
            "fire",
        ]

    def test_a_cut_graph_fires(
        self, honest: Defense, masked: Defense, detached: Defense, scaled: Defense, network: nn.Module, batch: Batch
    ) -> None:
        cut = Wrapped(network, lambda z: z.detach())
        found = [checks.graph_intact(defence, *batch) for defence in (honest, scaled, masked, detached, cut)]
        assert statuses(*found) == ["pass", "pass", "fire", "fire", "fire"]

    def test_a_missing_or_saturated_gradient_fires(
        self, honest: Defense, masked: Defense, scaled: Defense, detached: Defense, batch: Batch
    ) -> None:
        assert checks.nonzero_gradient(honest, *batch).status == "pass"
        assert "100 % (ce)" in checks.nonzero_gradient(masked, *batch).detail
        saturated = checks.nonzero_gradient(scaled, *batch)
        assert saturated.status == "fire"
        assert ", 0 % (margin)" in saturated.detail  # the margin still has a gradient: that is the diagnosis
        assert checks.nonzero_gradient(detached, *batch).status == "fire"

    @pytest.mark.parametrize("how", ["grad", "backward", "torch.func"])
    def test_optimisation_inside_the_defence_fires(
        self, how: str, honest: Defense, network: nn.Module, batch: Batch
    ) -> None:
        found = [checks.no_inner_optimisation(d, batch[0]) for d in (honest, Optimising(network, how).eval())]
        assert statuses(*found) == ["pass", "fire"]

    @pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
    def test_a_loss_that_depends_on_the_scale_of_the_logits_fires(
        self, honest: Defense, scaled: Defense, batch: Batch
    ) -> None:
        found = [checks.scale_invariant(d, *batch, eps=0.1, generator=draws()) for d in (honest, scaled)]
        assert statuses(*found) == ["pass", "fire"]

    def test_rough_predictions_fire(self, honest: Defense, noisy: Defense, batch: Batch) -> None:
        found = [checks.smooth_predictions(d, *batch, generator=draws(), perturbations=5) for d in (honest, noisy)]
        assert statuses(*found) == ["pass", "fire"]


class TestTheSearch:
    def test_one_step_better_than_many_fires(self, honest: Defense, sound: Outcome, batch: Batch) -> None:
        assert checks.beats_one_step(sound).status == "pass"
        weak = [Attempt("FGSM", cleverhans()["FGSM"], honest), Attempt("PGD", TINY, honest)]
        assert checks.beats_one_step(under(honest, batch, *weak)).status == "fire"

    def test_a_search_that_more_steps_or_restarts_would_help_fires(self, honest: Defense, batch: Batch) -> None:
        for check in (checks.steps_converged, partial(checks.restarts_converged, restarts=5)):
            found = [check(honest, *batch, eps=0.08, generator=draws(), steps=steps) for steps in (20, 1)]
            assert statuses(*found) == ["pass", "fire"]

    def test_a_loss_that_still_grows_fires(self, honest: Defense, batch: Batch) -> None:
        few = (part[:30] for part in batch)
        run = partial(checks.loss_plateau, honest, *few, eps=0.1, generator=draws())
        found = run(attack=partial(pgd, steps=60)), run(attack=partial(pgd, steps=60, step_size=1e-3))
        assert statuses(*found) == ["pass", "fire"]
        early = [run(attack=partial(pgd, steps=60, stop_early=True, **way)) for way in ({}, {"step_size": 1e-3})]
        assert statuses(*early) == ["pass", "fire"]  # those that fail do not stop

    @pytest.mark.parametrize(("last", "status"), [(10, "fire"), (11, "pass")])
    def test_the_last_ten_passes_are_those_that_count(self, last: int, status: str) -> None:
        """A loss that rises once, before the last so many passes, and not above that of a mistake."""
        net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).requires_grad_(False)
        net[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        net[1].bias.copy_(torch.tensor([1.0, 0.0]))

        def rises_once(model: nn.Module, images: Tensor, labels: Tensor, **options: object) -> Tensor:
            for number in range(15):
                model(images + (0.1 if number >= 15 - last else 0.0))
            return images

        image, label = torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)
        found = checks.loss_plateau(
            Undefended(net), image, label, attack=partial(rises_once), eps=0.1, generator=draws()
        )
        assert found.status == status

    @pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
    def test_robustness_that_returns_at_larger_eps_fires(
        self, honest: Defense, network: nn.Module, batch: Batch
    ) -> None:
        budgets = [0.05 * k for k in range(1, 9)]
        found = [
            checks.monotone_in_eps(defence, *batch, budgets=budgets, generator=draws(), steps=5)
            for defence in (honest, Memory(network, *batch).eval())
        ]
        assert statuses(*found) == ["pass", "fire"]
        with pytest.raises(ValueError, match="at least 8"):
            checks.monotone_in_eps(honest, *batch, budgets=budgets[:7], generator=draws())

    def test_an_unbounded_attack_that_fails_fires(self, honest: Defense, detached: Defense, batch: Batch) -> None:
        found = [checks.unbounded_attack_wins(d, *batch, generator=draws()) for d in (honest, detached)]
        assert statuses(*found) == ["pass", "fire"]

    @pytest.mark.parametrize(
        "check",
        [
            checks.beats_gradient_free,
            partial(checks.beats_decision_based, steps=2),
            partial(checks.beats_noise, draws=50),
            checks.targeted_adds_nothing,
        ],
        ids=["Square", "HopSkipJump", "noise", "targets"],
    )
    def test_a_direct_attack_that_misses_what_others_find_fires(
        self, check: Callable[..., Check], honest: Defense, batch: Batch
    ) -> None:
        images, labels = batch[0][:20], batch[1][:20]
        some = Attempt("PGD", partial(pgd, stop_early=True), honest), Attempt("none", TINY, honest)
        found = [
            check(honest, images, labels, direct=under(honest, (images, labels), attempt, eps=0.5), generator=draws())
            for attempt in some
        ]
        assert statuses(*found) == ["pass", "fire"]

    def test_no_boundary_is_walked_along_where_decisions_are_random(self, noisy: Defense, batch: Batch) -> None:
        missed = under(noisy, batch, Attempt("none", TINY, noisy))
        assert checks.beats_decision_based(noisy, *batch, direct=missed, generator=draws()).status == "not run"

    def test_replay_that_finds_more_than_direct_access_fires(self, sound: Outcome) -> None:
        missed = replace(sound, robust=sound.clean)
        assert statuses(checks.beats_transfer(sound, missed), checks.beats_transfer(missed, sound)) == ["pass", "fire"]

    def test_counting_one_attack_instead_of_the_worst_case_fires(self, honest: Defense, batch: Batch) -> None:
        two = under(honest, batch, Attempt("none", TINY, honest), Attempt("PGD", partial(pgd), honest))
        weaker = replace(two, robust=two.survivors("none"))
        assert statuses(checks.worst_case_counts(two), checks.worst_case_counts(weaker)) == ["guaranteed", "fire"]
        assert f"alone: PGD {int(two.findings[1].broken.sum())}" in checks.worst_case_counts(two).detail
        assert checks.worst_case_counts(replace(two, findings=())).status == "not run"

    def test_an_adaptive_search_that_still_breaks_images_fires(self, sound: Outcome) -> None:
        ended = [replace(sound, search=SearchEnd(SearchEffort(8, 5, 200), images=8, broke=n)) for n in (0, 2)]
        assert statuses(*map(checks.adaptive_search_converged, ended)) == ["pass", "fire"]
        assert checks.adaptive_search_converged(ended[1]).detail.startswith("still falling at 8 steps")
        assert statuses(*map(checks.adaptive_search_converged, (None, sound))) == ["not run"] * 2
        found = replace(sound.findings[0], name=FOUND_LATER, broken=torch.arange(len(sound.robust)) < 2)
        missed = checks.adaptive_search_converged(replace(ended[0], findings=(*ended[0].findings, found)))
        assert missed.status == "fire"
        assert missed.detail.endswith("; a search for holes then broke 2")

    @pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
    def test_an_attack_that_misses_a_planted_example_fires(
        self, honest: Defense, masked: Defense, scaled: Defense, detached: Defense, batch: Batch
    ) -> None:
        found = [
            checks.finds_planted_example(
                d, batch[0][:10], attack=partial(pgd, stop_early=True), eps=0.1, generator=draws(), inner=100
            )
            for d in (honest, masked, scaled, detached)
        ]
        assert [(check.status, check.detail) for check in found] == [
            ("pass", "10 of 10 found"), *[("fire", "0 of 10 found")] * 3,
        ]  # fmt: skip

    def test_an_example_is_planted_only_behind_a_linear_layer_that_gives_the_logits(
        self, network: nn.Module, batch: Batch
    ) -> None:
        no_layer = Undefended(nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten()))
        more_after = Wrapped(network, lambda z: torch.cat([z, z], 1))
        several_versions = NoiseVote(network, 0.01, draws=3)
        for defence in (no_layer, more_after, several_versions):
            found = checks.finds_planted_example(
                defence.eval(), batch[0][:2], attack=partial(pgd), eps=0.1, generator=draws(), inner=20
            )
            assert found.status == "not run"


class TestAdaptiveAttacks:
    def test_an_expectation_over_too_few_draws_fires(self, noisy: Defense, batch: Batch) -> None:
        run = partial(checks.expectation_converged, noisy, *batch, steps=5)
        assert run(eps=0.1, generator=draws(), draws=(1, 8)).status == "fire"
        assert run(eps=EPS, generator=draws(), draws=(1, 4, 8)).status == "pass"

    @pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
    def test_a_defence_that_resists_with_its_randomness_fixed_fires(
        self, noisy: Defense, detached: Defense, batch: Batch
    ) -> None:
        found = [checks.falls_with_fixed_randomness(d, *batch, eps=EPS, generator=draws()) for d in (noisy, detached)]
        assert statuses(*found) == ["pass", "fire"]

    def test_surrogates_that_break_more_than_the_naive_gradient_fire(
        self, honest: Defense, masked: Defense, network: nn.Module, batch: Batch
    ) -> None:
        found = [
            checks.surrogates_add_nothing(d, *batch, attack=partial(pgd), eps=EPS, generator=draws())
            for d in (ScaledLogits(network, factor=1.0), masked, honest)
        ]
        assert statuses(*found) == ["pass", "fire", "not run"]

    def test_components_that_resist_alone_fire(self, detached: Defense, batch: Batch) -> None:
        run = partial(checks.components_fall, detached, *batch, eps=EPS, generator=draws())
        assert statuses(run(attack=partial(pgd)), run(attack=TINY)) == ["pass", "fire"]


class TestTheReport:
    def test_an_incomplete_threat_model_fires(self) -> None:
        assert checks.threat_model_stated(CARD).status == "pass"
        missing = checks.threat_model_stated({**CARD, "knowledge": ""})
        assert (missing.status, missing.detail) == ("fire", "missing: knowledge")

    def test_a_single_trained_network_fires(self, sound: Outcome) -> None:
        found = [checks.uncertainty_stated(sound, seeds=seeds) for seeds in (3, 1)]
        assert statuses(*found) == ["pass", "fire"]
        assert f"n = {len(sound.robust)}" in found[0].detail

    def test_an_attack_without_its_settings_or_cost_fires(self, sound: Outcome) -> None:
        first, *others = sound.findings
        bare = replace(sound, findings=(replace(first, settings="", forwards=0), *others))
        for check, held in ((checks.settings_recorded, "guaranteed"), (checks.cost_counted, "pass")):
            assert statuses(check([sound]), check([bare])) == [held, "fire"]
            assert first.name in check([bare]).detail
        replayed = replace(first, name=FOUND_LATER, forwards=0)  # which asks nothing
        assert checks.cost_counted([replace(sound, findings=(*sound.findings, replayed))]).status == "pass"


class Turned(torch.autograd.Function):
    """Nothing changes but the gradient, which points the other way."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class Stepped(Undefended):
    """Its gradient is approximate, and wrong; a stand-in knows a better one."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(Turned.apply(images))

    def surrogates(self) -> dict[str, nn.Module]:
        return {"right": self.network}


class TestTheRow:
    SMALL = replace(
        QUICK, images=30, few_images=4, steps=10, queries=100, more_queries=150, draws=50, jumps=2, perturbations=5
    )

    def measured(self, defence: Defense, batch: Batch) -> dict[str, Outcome]:
        part = batch[0][:40], batch[1][:40]
        naive, replay = (under(defence, part, *attacker(defence, cleverhans())) for attacker in (direct, oblivious))
        return {"single": naive, "direct": naive, "oblivious": replay}

    def row(self, defence: Defense, batch: Batch, **options: object) -> dict[str, Check]:
        images, labels = batch[0][:40], batch[1][:40]
        if "single" not in options:
            options = self.measured(defence, batch) | options
        given = {"card": CARD, "seeds": 3, "effort": self.SMALL, "generator": draws()} | options
        found = checks.row(defence, images, labels, eps=EPS, **given)  # type: ignore[arg-type]
        return {check.id: check for check in found}

    def test_an_honest_network_passes_everything_that_runs(self, honest: Defense, batch: Batch) -> None:
        found = self.row(honest, batch)
        assert list(found) == list(TITLES)
        assert [check for check in found.values() if check.status == "fire"] == []
        elsewhere = {"A3", "A5", "C14", "D1", "D2", "D3", "D4", "D5", "D6", "E4", "E5"}
        assert {check.id for check in found.values() if check.status == "not run"} == elsewhere

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("scaled", {"B5", "B7", "C6", "C7", "C9", "C12", "D3"}),
            ("noisy", {"B2", "B8"}),
            ("masked", {"B4", "B5", "C6", "C7", "C9", "C12", "D3"}),
            ("detached", {"B4", "B5", "C6", "C7", "C9", "C12", "D3"}),
        ],
    )
    def test_each_planted_fault_is_found(
        self, name: str, expected: set[str], batch: Batch, request: pytest.FixtureRequest
    ) -> None:
        found = self.row(request.getfixturevalue(name), batch, only=sorted(expected | {"C9", "C11"}))
        assert expected <= {id for id, check in found.items() if check.status == "fire"}
        assert found["C11"].status != "fire"
        assert (found["C9"].status == "not run") == (name == "noisy")  # where counts differ by the draws alone

    def test_no_result_depends_on_which_checks_run(self, masked: Defense, batch: Batch) -> None:
        once = self.measured(masked, batch)
        seven = self.row(masked, batch, only=("C9", "C7", "C6", "C1", "B5", "B3", "B2"), **once)
        assert list(seven) == ["B2", "B3", "B5", "C1", "C6", "C7", "C9"]
        assert {id: check.status for id, check in seven.items() if check.status == "fire"}.keys() == {
            "B5", "C6", "C7", "C9",
        }  # fmt: skip
        alone = [self.row(masked, batch, only=[id], **once) for id in seven]
        assert [check[id] for id, check in zip(seven, alone, strict=True)] == list(seven.values())

    def test_table_d_runs_where_table_b_gives_reason_to(self, noisy: Defense, masked: Defense, batch: Batch) -> None:
        table = ("D1", "D2", "D3", "D4")
        random, cut = (self.row(defence, batch, only=table) for defence in (noisy, masked))
        assert [random[id].status == "not run" for id in table] == [False, False, True, False]
        assert [cut[id].status == "not run" for id in table] == [True, True, False, False]

    def test_an_approximate_gradient_is_reason_enough(self, honest: Defense, batch: Batch) -> None:
        """Where a defence names stand-ins, they are tried although its own gradient is there and is not zero."""
        steps = Stepped(honest.network)
        found = self.row(steps, batch, only=("B4", "B5", "B6", "C7", "D3", "D4"))
        assert [found[id].status for id in ("B4", "B5", "B6")] == ["pass"] * 3
        assert found["D3"].status == "fire"  # the own gradient points the wrong way, that of the stand-in does not
        assert found["D4"].status != "not run"
        assert found["C7"].detail.startswith("Square with 150 queries alone broke")
        other = self.row(honest, batch, only=("C7", "D3", "D4"))
        assert [other[id].status for id in ("D3", "D4")] == ["not run"] * 2
        assert other["C7"].detail == "Square with 100 queries alone broke 0"

    def test_checks_that_would_compare_draws_do_not_run_on_a_random_defence(self, noisy: Defense, batch: Batch) -> None:
        comparing = ("A2", "B7", "C2", "C3", "C7", "C10", "C12", "C13")
        found = self.row(noisy, batch, only=comparing)
        assert {check.status for check in found.values()} == {"not run"}
        assert all("draws random numbers (B2)" in check.detail for check in found.values())

    def test_what_does_not_belong_together_is_refused(self, honest: Defense, sound: Outcome, batch: Batch) -> None:
        images, labels = batch
        run = partial(
            checks.row, honest, images, labels, eps=EPS, generator=draws(), single=sound, direct=sound, oblivious=sound
        )
        with pytest.raises(ValueError, match="no check B99"):
            run(only=["B99"])
        with pytest.raises(ValueError, match=r"images at eps 0\.1"):
            run(adaptive=replace(sound, eps=0.1))
        with pytest.raises(ValueError, match="L2"):
            run(direct=replace(sound, norm="L2"))
        with pytest.raises(ValueError, match="of another defence"):
            run(direct=replace(sound, defence="somebody"))
        with pytest.raises(ValueError, match="on other labels"):
            run(direct=replace(sound, keys=sound.keys + 1))
