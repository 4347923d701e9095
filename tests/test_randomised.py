"""Random defences: noise that can be repeated, and an evaluation in which luck is not robustness, nor a break."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from contract import seeded, tiny
from torch import Tensor, nn

from advdef import store
from advdef.attacks import pgd, single_pixel, uniform_noise
from advdef.defenses import Defense, Preprocessed, Undefended
from advdef.draws import image_keys, normal
from advdef.evaluation import Attempt, Outcome, UnsoundAttack, adaptive, correct, evaluate
from advdef.papers.nip.baselines import NoiseVote
from advdef.statistics import Interval, mean_share, wilson

# Noise


def net() -> nn.Sequential:
    return tiny(5, (3, 4, 4))


def greys(n: int = 6) -> Tensor:
    """Images so far from black and white that small noise is not clipped."""
    return 0.4 + 0.2 * torch.rand(n, 3, 4, 4, generator=seeded(1))


def shown(defence: NoiseVote, images: Tensor) -> Tensor:
    """What one pass shows the classifier, which must be asked once."""
    seen: list[Tensor] = []
    handle = defence.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    defence(images)
    handle.remove()
    (batch,) = seen
    return batch


def test_a_vote_is_the_mean_over_noisy_copies() -> None:
    model, images = net().double(), greys().double()
    drawn = normal(image_keys(images, 9, 1), (4, *images.shape[1:]), dtype=torch.float64).transpose(0, 1)
    directions = drawn / (drawn.square().mean((2, 3, 4), keepdim=True).sqrt() + 1e-5)
    expected = torch.stack([model(images + 0.01 * direction) for direction in directions]).mean(0)
    defence = NoiseVote(model, 0.01, draws=4, seed=9)
    assert torch.allclose(defence(images), expected, rtol=0, atol=1e-12)
    assert defence.classifier is defence.network is model
    assert not defence.training


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_each_copy_has_noise_of_its_own_and_of_one_size(noise: Any) -> None:
    images = greys(50)
    defence = NoiseVote(net(), 0.01, draws=3, noise=noise)
    directions = ((shown(defence, images) - images.repeat(3, 1, 1, 1)) / 0.01).flatten(1)
    assert torch.allclose(directions.square().mean(1).sqrt(), torch.ones(150), atol=1e-4)
    overlap = directions @ directions.T / 48 - torch.eye(150)
    assert float(overlap.abs().max()) < 0.8
    assert abs(float(directions.mean())) < 0.05
    peak = float(directions.quantile(0.999))  # about 3.1 and root of 3
    assert peak > 2.5 if noise == "gaussian" else peak < 2.2


def test_noise_is_clipped_to_pixels() -> None:
    images = torch.rand(4, 3, 4, 4, generator=seeded()).round()
    seen = shown(NoiseVote(net(), 0.3), images)
    assert 0 == float(seen.min()) < float(seen.max()) == 1
    assert bool((seen != images).any())


def test_passes_differ_and_a_seed_repeats_them() -> None:
    images, state = greys(), torch.get_rng_state()
    defence = NoiseVote(net(), 0.1, seed=3)
    first, second = defence(images), defence(images)
    assert not torch.equal(first, second)
    defence.reseed(3)
    with torch.no_grad():
        assert torch.equal(defence(images), first)
    copy = deepcopy(defence)
    with torch.inference_mode():
        assert torch.equal(defence(images), second)
    assert torch.equal(copy(images), second)
    assert torch.equal(defence(images), copy(images))
    assert not torch.equal(NoiseVote(net(), 0.1, seed=4)(images), first)
    assert torch.equal(torch.get_rng_state(), state)
    defence.reseed(3)
    assert torch.allclose(defence(images[2:]), first[2:], atol=1e-6)  # an image has its numbers in any batch


def test_no_step_gives_the_classifier() -> None:
    model, images = net(), greys()
    assert torch.equal(NoiseVote(model, 0.0)(images), model(images))


def test_an_interrupted_evaluation_of_it_is_found_again() -> None:
    keys = [store.key("it", defence=NoiseVote(net(), 0.1, seed=seed)).digest for seed in (3, 3, 4)]
    assert keys[0] == keys[1] != keys[2]


def test_the_adaptive_attacker_averages_twenty_passes() -> None:
    model, images = net(), greys()
    defence = NoiseVote(model, 0.1, draws=2)
    assert not defence.exact
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=2)}, eps=0.1)
    assert [attempt.name for attempt in attempts] == ["PGD through EOT-20"]
    averaged = defence.surrogates()["EOT-20"]
    assert averaged.network is model
    found = averaged(images.requires_grad_())
    defence.reseed(0)
    passes = torch.stack([defence(images) for _ in range(20)])
    assert torch.allclose(found, passes.mean(0), atol=1e-6)
    (slope,) = torch.autograd.grad(found.sum(), images)
    assert bool(slope.any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": -1.0}, "step must be finite and not negative, not -1.0"),
        ({"step": float("inf")}, "not inf"),
        ({"draws": 0}, "draws must be at least 1, not 0"),
        ({"noise": "pink"}, "no noise 'pink'; there are gaussian, uniform"),
    ],
)
def test_noise_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseVote(net(), **{"step": 0.1, **options})


# Survival


class Chance(Defense):
    """Right (label 0) with the probability that the mean pixel of an image gives."""

    random = True

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None  # torch's own

    @property
    def classifier(self) -> nn.Module:
        return self

    def forward(self, images: Tensor) -> Tensor:
        right = torch.rand(len(images), generator=self.generator) < images.mean((1, 2, 3))
        return torch.stack([right.float(), (~right).float()], 1) * 2


class Repeatable(Chance):
    """Can be told where to begin, and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: SimpleQueue[int] = SimpleQueue()  # which is no setting: what has no content counts by its type

    @property
    def seeds(self) -> list[int]:
        return [self.told.get() for _ in range(self.told.qsize())]

    def reseed(self, seed: int) -> None:
        self.told.put(seed)
        self.generator = seeded(seed)


def chances(*values: float, times: int = 1) -> tuple[Tensor, Tensor]:
    images = torch.tensor(values).repeat(times)[:, None, None, None].expand(-1, 1, 2, 2).clone()
    return images, torch.zeros(len(images), dtype=torch.int64)


def shift(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    by: tuple[float, ...] = (0.0,),
    norm: str = "Linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Each image by one of the amounts in turn."""
    amounts = torch.tensor(by).repeat(len(images) // len(by))
    return (images + amounts[:, None, None, None]).clamp(0, 1)


def shifting(*by: float, name: str = "shift") -> Attempt:
    return Attempt(name, partial(shift, by=by), nn.Identity())


def run(defence: Defense, attempts: list[Attempt], images: Tensor, labels: Tensor, **options: Any) -> Outcome:
    return evaluate(defence, attempts, images, labels, **{"eps": 0.5, "generator": seeded(), **options})


@pytest.mark.parametrize("build", [Chance, Repeatable])
def test_a_coin_is_right_half_the_time_however_often_it_is_attacked(build: type[Chance]) -> None:
    images, labels = chances(0.5, times=500)
    attempts = [shifting(0.0, name=f"shift {number}") for number in range(30)]
    found = run(build(), attempts, images, labels, draws=5)
    assert found.interval.value == pytest.approx(0.5, abs=0.05)  # 0.5 +- 0.01
    # which is no matter of course: the lowest of 30 means is not
    lowest = torch.rand(500, 30, 5, generator=seeded()).round().mean(2).amin(1)
    assert float(lowest.mean()) < 0.1


def test_who_does_not_say_that_it_is_random_is_found_out() -> None:
    images, labels = chances(0.5, times=50)
    silent = Chance()
    silent.random = False
    with pytest.raises(ValueError, match=r"Chance gives other logits when asked again.*set `random = True`"):
        run(silent, [shifting(0.0)], images, labels)


def test_a_generator_of_its_own_must_be_seedable() -> None:
    images, labels = chances(0.5, times=50)
    own = Chance()
    own.generator = seeded(3)
    with pytest.raises(ValueError, match=r"from a generator of its own; give it reseed\(seed\)"):
        run(own, [shifting(0.0)], images, labels)


class Switch(Defense):
    """One draw for all images at once: right on all, or on none."""

    random = True

    @property
    def classifier(self) -> nn.Module:
        return self

    def forward(self, images: Tensor) -> Tensor:
        right = (torch.rand(()) < 0.6).float().expand(len(images))
        return torch.stack([right, 1 - right], 1) * 2


def test_the_interval_covers_the_draws() -> None:
    images, labels = chances(0.5, times=200)
    outcomes = [run(Switch(), [shifting(0.0)], images, labels, generator=seeded(seed)) for seed in range(20)]
    for found in ([outcome.interval for outcome in outcomes], [outcome.clean_interval for outcome in outcomes]):
        assert sum(interval.low <= 0.6 <= interval.high for interval in found) >= 17
    assert len({outcome.interval.value for outcome in outcomes}) > 1


def test_exhaustive_is_what_was_asked_for() -> None:
    images, labels = chances(0.5, 0.8, times=20)
    found = run(Repeatable(), [shifting(0.0, name="first")], images, labels, draws=1, exhaustive=True)
    assert found.survivors("first").shape == (40,)


def test_a_random_model_is_right_alike_in_every_batch_and_every_time(
    network: nn.Sequential, batch: tuple[Tensor, Tensor]
) -> None:
    defence = NoiseVote(network, 0.5)
    first = correct(defence, *batch)
    assert torch.equal(correct(defence, *batch), first)
    assert torch.equal(correct(defence, *batch, batch_size=7), first)
    assert not torch.equal(correct(defence, *batch, seed=1), first)


def test_the_worst_attempt_counts_image_by_image() -> None:
    images, labels = chances(0.9, 0.6, times=200)
    attempts = [shifting(-0.5, 0.3, name="first"), shifting(0.1, -0.4, name="second")]
    found = run(Chance(), attempts, images, labels, draws=20)
    first, second = found.shares[::2], found.shares[1::2]
    assert found.shares.shape == (400,)
    assert float(first.mean()) == pytest.approx(0.4, abs=0.04)
    assert float(second.mean()) == pytest.approx(0.2, abs=0.04)
    assert [finding.name for finding in found.findings] == ["first", "second"]
    assert float(found.clean_shares[::2].mean()) == pytest.approx(0.9, abs=0.03)
    assert float(found.clean_shares[1::2].mean()) == pytest.approx(0.6, abs=0.03)
    assert set((20 * found.shares).round().tolist()) <= set(range(21))
    assert torch.equal(found.clean, found.clean_shares > 0.5)
    assert torch.equal(found.robust, found.clean & (found.shares > 0.5))


def test_an_attack_never_helps_the_defender_and_may_hurt_what_was_mostly_wrong() -> None:
    images, labels = chances(0.3, times=300)
    helped = run(Chance(), [shifting(0.4)], images, labels)
    assert float(helped.shares.mean()) == pytest.approx(0.3, abs=0.05)
    hurt = run(Chance(), [shifting(-0.3, name="down"), shifting(0.4, name="up")], images, labels)
    assert float(hurt.shares.mean()) < 0.02  # the few that no draw got right at first are not attacked


def test_an_attempt_breaks_what_was_right_before_it() -> None:
    """An image that most passes get wrong is tried still, as the rest may fall, and nobody has broken it."""
    images, labels = chances(0.3, 0.9, 0.95)
    attempts = [shifting(0.0, -0.8, 0.0, name="first"), shifting(-0.1, -0.7, -0.9, name="second")]
    found = run(Chance(), attempts, images, labels, draws=100, eps=1.0)
    assert [finding.tried.tolist() for finding in found.findings] == [[True, True, True]] * 2
    assert [finding.broken.tolist() for finding in found.findings] == [[False, True, False], [False, False, True]]
    assert found.unique_breaks() == {"first": 1, "second": 1}


def test_of_attempts_that_look_alike_the_last_is_reported() -> None:
    """A few passes rarely tell 0.9 from 1; no attack comes first."""
    images, labels = chances(1.0, times=400)
    for draws in (1, 3, 10):
        found = run(Repeatable(), [shifting(-0.1)], images, labels, draws=draws)
        assert float(found.clean_shares.min()) == 1
        assert float(found.shares.mean()) == pytest.approx(0.9, abs=4 * (0.09 / (400 * draws)) ** 0.5)


def test_every_attempt_meets_the_same_numbers_and_the_report_meets_others() -> None:
    images, labels = chances(0.5, 0.8, times=20)
    defence = Repeatable()
    found = run(defence, [shifting(0.0, name=str(number)) for number in range(3)], images, labels)
    seeds = defence.seeds
    start, *twice, choosing, crafting, _, _, _, _, _, _, reporting = seeds
    assert [start, *twice] == [0, 0, 0]  # who it is, and whether it repeats itself
    assert len({choosing, crafting, reporting}) == 3
    assert seeds == [0, 0, 0, choosing, *[crafting, choosing] * 3, reporting, reporting]
    assert torch.equal(found.shares, found.clean_shares)


def test_what_is_known_is_judged_by_the_same_draws() -> None:
    images, labels = chances(0.5, 0.8, times=100)
    defence = Repeatable()
    strong = run(defence, [shifting(-0.4)], images, labels)
    both = run(defence, [shifting(0.1)], images, labels, known=strong)
    assert both.interval.value == pytest.approx(strong.interval.value, abs=0.05)
    assert both.interval.value < both.clean_interval.value - 0.2


def test_a_seed_reproduces_and_another_one_differs() -> None:
    images, labels = chances(0.5, 0.8, times=20)
    first, again, other = (
        run(Repeatable(), [shifting(-0.1)], images, labels, generator=seeded(seed)).shares for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class RandomPadding(Preprocessed):
    """What a user writes: torch's own generator, no seed, no surrogate but the inherited one."""

    random = True

    def prepare(self, images: Tensor) -> Tensor:
        dx, dy = torch.randint(-3, 4, (2,)).tolist()
        return images.roll((dx, dy), (2, 3)) * (0.7 + 0.3 * torch.rand(()))


def test_a_defence_that_draws_from_torchs_own_generator_is_seeded(
    network: nn.Sequential, batch: tuple[Tensor, Tensor]
) -> None:
    defence, images, labels = RandomPadding(network), batch[0][:30], batch[1][:30]
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=3)}, eps=0.1)
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # whatever was drawn before
        found.append(run(defence, attempts, images, labels, eps=0.1))
        assert torch.equal(correct(defence, images, labels), correct(defence, images, labels))
    assert torch.equal(found[0].shares, found[1].shares)
    assert torch.equal(found[0].clean_shares, found[1].clean_shares)
    assert 0 < found[0].interval.value < found[0].clean_interval.value


def test_a_defence_without_a_surrogate_is_attacked_through_the_expectation(network: nn.Sequential) -> None:
    attempts = adaptive(Undefended(network, random=True), {"PGD": partial(pgd, steps=5)}, eps=0.1)
    assert [attempt.name for attempt in attempts] == ["PGD through EOT-20"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_size_of_batches_changes_nothing(
    network: nn.Sequential, batch: tuple[Tensor, Tensor], batch_size: int
) -> None:
    images, labels = batch[0][:7], batch[1][:7]
    defence = NoiseVote(network, 0.1)
    noise = {"noise": partial(uniform_noise, draws=20)}
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=2, restarts=2)}, eps=0.1, extra=noise)
    whole = run(defence, attempts, images, labels, eps=0.1, draws=3)
    parts = run(defence, attempts, images, labels, eps=0.1, draws=3, batch_size=batch_size)
    assert torch.equal(whole.shares, parts.shares)
    assert torch.equal(whole.adversarial, parts.adversarial)


@pytest.mark.parametrize("attack", [partial(uniform_noise, eps=0.2, draws=20), partial(single_pixel, eps=1)])
def test_an_image_meets_the_same_trials_alone_as_in_a_batch(
    network: nn.Sequential, batch: tuple[Tensor, Tensor], attack: Any
) -> None:
    """Each pass of a random defence is another draw, so how many trials are in one must not depend on the batch."""
    images, labels = batch[0][:3], batch[1][:3]
    together, alone = (
        attack(NoiseVote(network, 0.5, draws=1), images[:n], labels[:n], generator=seeded()) for n in (3, 1)
    )
    assert torch.equal(together[:1], alone)
    assert not torch.equal(together, images)


def test_noise_is_judged_and_attacked(network: nn.Sequential, batch: tuple[Tensor, Tensor]) -> None:
    defence = NoiseVote(network, 0.1)
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=3)}, eps=0.1)
    images, labels = batch[0][:20], batch[1][:20]
    first, again = (run(defence, attempts, images, labels, eps=0.1, draws=3) for _ in range(2))
    assert torch.equal(first.shares, again.shares)
    assert 0 < float(first.shares.mean()) < float(first.clean_shares.mean()) - 0.2
    nothing = run(defence, attempts, images, labels, eps=0.0, draws=3)
    assert torch.equal(nothing.shares, nothing.clean_shares)


def test_what_is_unsound_or_does_not_fit_is_refused() -> None:
    images, labels = chances(0.5, 0.8)
    with pytest.raises(UnsoundAttack, match=r"shift moved pixels by 0\.3"):
        run(Chance(), [shifting(-0.3)], images, labels, eps=0.2)
    with pytest.raises(ValueError, match="L2 one is an attack in L2, and eps is a size in Linf"):
        run(Chance(), [Attempt("L2 one", partial(shift, norm="L2"), nn.Identity())], images, labels)
    with pytest.raises(ValueError, match="draws must be a whole number of at least 1, not 0"):
        run(Chance(), [shifting(0.0)], images, labels, draws=0)
    with pytest.raises(ValueError, match="must be finite and lie in"):
        run(Chance(), [shifting(0.0)], images + 1, labels)


# The interval


def of(*shares: float) -> Interval:
    return mean_share(torch.tensor(shares).double())


def test_the_interval_has_a_width_and_holds_the_mean() -> None:
    for n in [1, 20, 10000]:
        for make in [lambda n: [0.0] * n, lambda n: [1.0] * n, lambda n: [0.5] * n]:
            found = of(*make(n))
            assert 0 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high


def test_the_interval_by_hand() -> None:
    found = of(0.0, 0.5, 0.5, 1.0, 0.75, 1.0)
    values = [0.0, 0.5, 0.5, 1.0, 0.75, 1.0, 0, 0, 1, 1]
    centre = sum(values) / 10
    half = 1.96 * math.sqrt(sum((value - centre) ** 2 for value in values) / 10 / 10)
    assert found.value == pytest.approx(3.75 / 6)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-4)


def test_for_whole_images_the_interval_is_that_of_a_proportion_and_else_narrower() -> None:
    whole, expected = of(*[1.0] * 70, *[0.0] * 30), wilson(70, 100)
    assert (whole.low, whole.high) == pytest.approx((expected.low, expected.high), abs=0.005)
    even = of(*[0.6, 0.8] * 50)
    assert even.high - even.low < (whole.high - whole.low) / 2
