"""Intervals agree with known values and cover the truth as often as they say."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from cases import each

from advdef.statistics import (
    Interval,
    McNemar,
    images_to_decide,
    mcnemar,
    mean_interval,
    over_seeds,
    over_seeds_and_images,
    paired_difference,
    partial_spearman,
    rank_correlation,
    seeds_to_decide,
    spearman,
    wilson,
)


@each(
    ("correct", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_values(correct: int, total: int, low: float, high: float) -> None:
    interval = wilson(correct, total)
    assert interval.value == correct / total
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for total in (1, 7, 100, 1000):
        for correct in {0, 1, total // 3, total - 1, total}:
            theirs = stats.binomtest(correct, total).proportion_ci(method="wilson")
            ours = wilson(correct, total)
            assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_ends_are_exact() -> None:
    for total in (1, 3, 100, 977):
        assert wilson(0, total).low == 0.0
        assert wilson(total, total).high == 1.0
        assert 0 < wilson(0, total).high < 1


@each(("correct", "total"), [(1, 0), (0, 0), (-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_what_is_no_count(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"not {correct} of {total}"):
        wilson(correct, total)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_wilson_covers_the_truth(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.binomial(torch.full((4000,), 100.0), torch.full((4000,), share), generator=generator).int()
    hits = [interval.low <= share <= interval.high for interval in (wilson(int(c), 100) for c in counts)]
    assert 0.93 < sum(hits) / len(hits) < 0.98


def cells(both: int, first: int, second: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Paired results: right in both, in the first only, in the second only, in neither."""
    treated = torch.tensor([1] * both + [1] * first + [0] * second + [0] * neither).bool()
    control = torch.tensor([1] * both + [0] * first + [1] * second + [0] * neither).bool()
    return treated, control


def test_paired_difference_by_hand() -> None:
    """Half a pseudo-image a cell: 40.5, 20.5, 10.5 and 30.5 of 102."""
    interval = paired_difference(*cells(40, 20, 10, 30))
    p, q = 20.5 / 102, 10.5 / 102
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / 102)
    assert interval.value == pytest.approx(0.1)
    assert (interval.low, interval.high) == pytest.approx((p - q - half, p - q + half), abs=1e-6)


def test_paired_difference_uses_the_pairing() -> None:
    """As many are right in each; where the same ones are, less is left to chance."""
    same, other = paired_difference(*cells(50, 5, 5, 40)), paired_difference(*cells(5, 50, 50, 0))
    assert same.value == other.value == 0
    assert same.high < other.high / 2


def test_paired_difference_at_the_ends_and_in_both_directions() -> None:
    treated, control = cells(10, 30, 5, 5)
    forth, back = paired_difference(treated, control), paired_difference(control, treated)
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))
    nothing = paired_difference(*cells(20, 0, 0, 0))
    assert nothing.low < 0 < nothing.high  # 20 images do not prove that nothing changed
    everything = paired_difference(*cells(0, 20, 0, 0))
    assert everything.high == 1.0
    assert 0.7 < everything.low < 1


def test_seeds_are_averaged_per_image() -> None:
    treated, control = cells(40, 20, 10, 30)
    one = paired_difference(treated, control)
    same = paired_difference(torch.stack([treated] * 3), torch.stack([control] * 3))
    assert (same.value, same.low, same.high) == pytest.approx((one.value, one.low, one.high))
    mixed = paired_difference(torch.stack([treated, control]), torch.stack([control, treated]))
    assert mixed.value == 0
    assert mixed.high < one.high - one.low  # the seeds cancel image by image


@pytest.mark.parametrize("shares", [(0.4, 0.2, 0.1), (0.9, 0.04, 0.01), (0.1, 0.0, 0.5)])
def test_paired_difference_covers_the_truth(shares: tuple[float, float, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.tensor([*shares, 1 - sum(shares)])
    draws = torch.multinomial(weights, 2000 * 100, replacement=True, generator=generator).reshape(2000, 100)
    truth, hits = shares[1] - shares[2], 0
    for draw in draws:
        interval = paired_difference((draw == 0) | (draw == 1), (draw == 0) | (draw == 2))
        hits += interval.low <= truth <= interval.high
    assert 0.93 < hits / len(draws) < 0.985


def test_paired_difference_refuses_what_is_not_paired() -> None:
    for first, second in (
        (torch.ones(3), torch.ones(4)),
        (torch.ones(0), torch.ones(0)),
        (torch.ones(1, 3), torch.ones(3)),
    ):
        with pytest.raises(ValueError, match="same images"):
            paired_difference(first, second)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(*cells(30, 10, 1, 9)) == McNemar(10, 1, 2 * (1 + 11) / 2**11)
    assert mcnemar(*cells(30, 1, 10, 9)) == McNemar(1, 10, 0.01171875)
    assert mcnemar(*cells(0, 6, 0, 0)) == McNemar(6, 0, 0.03125)


def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ() -> None:
    for first, second in ((1, 0), (3, 3), (7, 2), (40, 61), (300, 200)):
        expected = scipy.stats.binomtest(first, first + second).pvalue
        assert mcnemar(*cells(5, first, second, 8)).p == pytest.approx(expected, rel=1e-9)


def test_results_that_never_differ_are_no_evidence() -> None:
    assert mcnemar(*cells(7, 0, 0, 3)) == McNemar(0, 0, 1.0)
    assert mcnemar(*cells(0, 0, 0, 0)).p == 1.0
    assert mcnemar(*cells(0, 5, 5, 0)).p == 1.0


def test_mcnemar_refuses_what_is_not_paired_or_not_yes_or_no() -> None:
    treated, control = cells(1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"same images, not \(4,\) and \(3,\)"):
        mcnemar(treated, control[:3])
    with pytest.raises(ValueError, match=r"not \(1, 4\) and \(1, 4\)"):
        mcnemar(treated[None], control[None])
    with pytest.raises(TypeError, match=r"not torch\.bool and torch\.float32"):
        mcnemar(treated, control.float())


def test_the_interval_of_a_mean_agrees_with_scipy_and_skips_nan() -> None:
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)) ** 2
    reference = scipy.stats.ttest_1samp(values.double().numpy(), 0).confidence_interval(0.95)
    missing = torch.full((3,), math.nan)
    for given in (values, torch.cat([missing, values, missing])):
        found = mean_interval(given)
        assert found.value == pytest.approx(float(values.double().mean()))
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


def test_a_mean_of_fewer_than_two_finite_numbers_has_no_interval() -> None:
    for values in ([], [1.0], [1.0, math.nan], [1.0, math.inf, 2.0]):
        with pytest.raises(ValueError, match="at least two besides NaN"):
            mean_interval(torch.tensor(values))
    with pytest.raises(ValueError, match=r"4 besides NaN in \(2, 2\)"):
        mean_interval(torch.ones(2, 2))


def test_the_interval_over_seeds_covers_the_mean_of_few_networks() -> None:
    draws = 3.0 + 2.0 * torch.randn(4_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [over_seeds(row) for row in draws.tolist()]
    covered = sum(interval.low <= 3.0 <= interval.high for interval in found) / len(found)
    assert covered == pytest.approx(0.95, abs=0.011)  # three standard errors
    assert found[0].value == pytest.approx(float(draws[0].mean()))
    reference = scipy.stats.ttest_1samp(draws[0].numpy(), 0).confidence_interval(0.95)
    assert (found[0].low, found[0].high) == pytest.approx((reference.low, reference.high))


def test_one_network_has_no_interval_over_seeds() -> None:
    with pytest.raises(ValueError, match="at least two, not 1"):
        over_seeds([0.5])


def test_intervals_print_in_percent() -> None:
    interval = Interval(0.123, -0.05, 0.2)
    assert f"{interval}" == "12.3 [-5.0, 20.0]"
    assert f"{interval:+}" == "+12.3 [-5.0, +20.0]"


def correlated(rho: float, *shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two normal samples, correlated once what they share with the third is taken out of them; the third."""
    first, second, third = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return first + third, rho * first + math.sqrt(1 - rho**2) * second + third, third


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_agrees_with_scipy_with_and_without_ties(levels: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for seed in range(20):
        x, y, _ = correlated(-0.5, 15, seed=seed)
        x, y = (x * levels / 4).round(), (y * levels / 4).round()
        assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_rank_correlation_by_hand() -> None:
    x = torch.tensor([3.0, 1.0, 4.0, 1.0])  # ranks 3, 1.5, 4, 1.5
    y = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(x, y) == pytest.approx(-1 / math.sqrt(4.5 * 5))
    assert rank_correlation(x, x**3) == pytest.approx(1)
    assert math.isnan(rank_correlation(torch.ones(4), y))


def test_partial_spearman_is_the_textbook_formula() -> None:
    x, y, z = correlated(0.5, 40)
    xy, xz, yz = rank_correlation(x, y), rank_correlation(x, z), rank_correlation(y, z)
    partial = partial_spearman(x, y, z, resamples=10)
    assert partial.value == pytest.approx((xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2)))
    assert partial.value == pytest.approx(partial_spearman(x, y, -z, resamples=10).value)
    assert abs(partial.value - xy) > 0.1


def test_what_a_control_explains_is_gone() -> None:
    z = torch.arange(50.0)
    noise = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    x, y = z + 5 * noise[0], z + 5 * noise[1]
    assert spearman(x, y, resamples=200).low > 0.5
    found = partial_spearman(x, y, z, resamples=200)
    assert found.low < 0 < found.high
    for seed in range(20):
        x, y, _ = correlated(0.5, 30, seed=seed)
        assert math.isnan(partial_spearman(x, y, x**3, resamples=10).value)
        assert math.isnan(partial_spearman(x, y, -y, resamples=10).value)


@pytest.mark.parametrize(("rho", "partial"), [(0.0, False), (0.8, False), (0.5, True)])
def test_the_bootstrap_interval_covers_the_truth(rho: float, partial: bool) -> None:
    def found(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, resamples: int = 300) -> Interval:
        if partial:
            return partial_spearman(x, y, z, resamples=resamples)
        return spearman(x - z, y - z, resamples=resamples)

    truth, hits = found(*correlated(rho, 100_000, seed=1), resamples=1).value, 0
    for x, y, z in zip(*correlated(rho, 300, 25), strict=True):
        interval = found(x, y, z)
        assert -1 <= interval.low <= interval.value <= interval.high <= 1
        hits += interval.low <= truth <= interval.high
    assert 0.92 < hits / 300 < 0.995


def test_the_interval_is_that_of_its_seed_and_narrows_with_more_points() -> None:
    x, y, _ = correlated(0.5, 200)
    few, many = spearman(x[:20], y[:20], resamples=200), spearman(x, y, resamples=200)
    assert spearman(x, y, resamples=200) == many
    assert spearman(x, y, resamples=200, seed=1) != many
    assert many.high - many.low < (few.high - few.low) / 2


def test_rank_correlations_refuse_what_has_no_ranks() -> None:
    with pytest.raises(ValueError, match=r"not \(3,\), \(4,\)"):
        rank_correlation(torch.ones(3), torch.ones(4))
    with pytest.raises(ValueError, match="N >= 3"):
        spearman(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="NaN has no rank"):
        rank_correlation(torch.tensor([1.0, 2.0, math.nan]), torch.ones(3))
    with pytest.raises(ValueError, match="at least 1, not 0"):
        spearman(torch.ones(3), torch.ones(3), resamples=0)


@each(("spread", "seeds", "images"), [(0.1, 2, 60), (0.5, 3, 30), (0.0, 3, 200), (0.1, 3, 200), (0.5, 5, 60)])
def test_an_interval_over_seeds_and_images_is_wrong_in_few_runs(seeds: int, images: int, spread: float) -> None:
    """Images differ in difficulty and networks in skill, by this much; neither of two trainings is better."""
    runs, draws = 400, torch.Generator().manual_seed(seeds + images)

    def right(difficulty: torch.Tensor) -> torch.Tensor:
        skill = spread * torch.randn(seeds, 1, generator=draws)
        return difficulty + skill + torch.randn(seeds, images, generator=draws) > 0

    above = below = 0
    for _ in range(runs):
        difficulty = torch.randn(images, generator=draws)
        found = over_seeds_and_images(right(difficulty), right(difficulty))
        above, below = above + (found.low > 0), below + (found.high < 0)
    most = 0.025 * runs + 2.5 * (0.025 * 0.975 * runs) ** 0.5
    assert max(above, below) <= most


def test_networks_that_differ_make_the_interval_wider_than_images_alone() -> None:
    draws = torch.Generator().manual_seed(0)
    share = torch.tensor([0.2, 0.5, 0.8])[:, None]
    treated, control = torch.rand(3, 500, generator=draws) < share, torch.zeros(3, 500, dtype=torch.bool)
    both, over_images = over_seeds_and_images(treated, control), paired_difference(treated, control)
    student = over_seeds((treated.double().mean(1)).tolist())
    assert both.value == pytest.approx(over_images.value)
    assert both.high - both.low > 5 * (over_images.high - over_images.low)
    assert both.low == pytest.approx(student.low, abs=0.01)


def test_equal_results_leave_an_interval_of_some_width() -> None:
    same = torch.ones(3, 100, dtype=torch.bool)
    found = over_seeds_and_images(same, same)
    assert found.value == 0
    assert found.high - found.low == pytest.approx(0.038, abs=0.01)


@pytest.mark.parametrize("shape", [(100,), (1, 100)])
def test_hits_of_one_network_have_no_interval_over_seeds(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two networks"):
        over_seeds_and_images(torch.ones(shape), torch.zeros(shape))


def test_images_to_decide_find_a_difference_in_four_of_five_runs() -> None:
    """As many images as it says, with a true difference of the margin: is the interval above zero in 80 % of runs?"""
    draws, margin, discordant = torch.Generator().manual_seed(0), 0.05, 0.2
    spread = math.sqrt(discordant)
    half = 1.96 * spread / math.sqrt(400)
    n = images_to_decide(Interval(0.0, -half, half), 400, margin=margin)
    assert n == pytest.approx(7.85 * discordant / margin**2, rel=0.01)
    found = 0
    for _ in range(400):
        u = torch.rand(n, generator=draws)
        treated, control = u < (discordant + margin) / 2, (u > 1 - (discordant - margin) / 2)
        found += paired_difference(treated, control).low > 0
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def test_seeds_to_decide_bring_the_interval_to_the_margin() -> None:
    values = torch.randn(3, generator=torch.Generator().manual_seed(1)).double() * 0.04
    k = seeds_to_decide(over_seeds(values.tolist()), 3, margin=0.03)
    deviation = float(values.std())
    halves = [scipy.stats.t.ppf(0.975, m - 1) * deviation / math.sqrt(m) for m in (k - 1, k)]
    assert halves[1] <= 0.03 < halves[0]


@pytest.mark.parametrize("margin", [0.0, -0.1])
def test_a_margin_is_above_zero(margin: float) -> None:
    for count in (images_to_decide, seeds_to_decide):
        with pytest.raises(ValueError, match="margin"):
            count(Interval(0.0, -0.1, 0.1), 5, margin=margin)
