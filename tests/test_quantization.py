"""QuSecNets: the layers, their gradients, training that moves thresholds, the exact attack and its certificate."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_network
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.data import Dataset, Split
from advdef.evaluation import adaptive, correct
from advdef.papers.qusecnets.attacks import level_space
from advdef.papers.qusecnets.certificate import certified
from advdef.papers.qusecnets.defence import Quantized, annealed, through_identity
from advdef.papers.qusecnets.quantizer import Quantizer, kmeans_thresholds
from advdef.papers.qusecnets.training import train_quantized

Pair = tuple[Tensor, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(levels: int, points: int = 1001) -> Tensor:
    """Points of [0, 1] that are no ties."""
    x = torch.linspace(0, 1, points, dtype=torch.float64)
    nearest = (x * levels).round() / levels
    return x[(x - nearest).abs() > 1e-6].float()


def limit(x: Tensor, levels: int) -> Tensor:
    return (levels * x).floor().clamp(max=levels - 1) / (levels - 1)


# The layer


def test_hard_is_the_equal_width_quantiser() -> None:
    for levels in [2, 3, 4, 6, 8, 16, 32]:
        x = grid(levels)
        assert torch.allclose(Quantizer(levels)(x), limit(x, levels), atol=1e-6)
        assert torch.allclose(Quantizer(levels, mode="straight_through")(x), limit(x, levels), atol=1e-6)
        assert torch.allclose(Quantizer(levels, mode="soft", released=True).hard(x), limit(x, levels), atol=1e-6)


@pytest.mark.parametrize("released", [False, True])
def test_soft_becomes_hard_as_hardness_grows(released: bool) -> None:
    for levels in [2, 4, 16]:
        quantizer = Quantizer(levels, mode="soft", released=released)
        x = grid(levels)
        x = x[((x * levels) - (x * levels).round()).abs() > 0.05]  # away from the thresholds
        errors = []
        for hardness in (20.0, 200.0, 2000.0, 20000.0):
            quantizer.set_hardness(hardness)
            errors.append(float((quantizer(x) - limit(x, levels)).abs().max()))
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-3 < errors[0]


def test_soft_by_hand() -> None:
    x = torch.tensor([0.0, 0.3, 0.8])
    t = torch.tensor([0.2, 0.6])
    expected = (torch.sigmoid(7 * (x - 0.2)) + torch.sigmoid(7 * (x - 0.6))) / 2
    assert torch.allclose(Quantizer(3, mode="soft", hardness=7.0, thresholds=t)(x), expected)
    released = Quantizer(2, mode="soft", hardness=5.0, released=True)
    # the values that the specification lists for N = 2, h = 5
    assert torch.allclose(
        released(torch.tensor([0.0, 0.5, 0.75, 1.0])), torch.tensor([0.083, 0.576, 1.0, 1.0]), atol=1e-3
    )


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("channels", [None, 2])
def test_autograd_agrees_with_finite_differences(released: bool, channels: int | None) -> None:
    quantizer = Quantizer(4, mode="soft", hardness=9.0, trainable=True, channels=channels, released=released).double()
    # away from the kink of the released layer's clip
    x = (0.8 * torch.rand(3, 2, 4, 4, dtype=torch.float64, generator=seeded())).requires_grad_()
    assert torch.autograd.gradcheck(quantizer, (x,))

    def through_thresholds(t: Tensor) -> Tensor:
        return torch.func.functional_call(quantizer, {"thresholds": t}, (x.detach(),))

    t = quantizer.thresholds.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(through_thresholds, (t,))


def test_straight_through_has_the_gradient_of_soft() -> None:
    x = torch.rand(2, 1, 3, 3, generator=seeded())
    slopes = []
    for mode in ("soft", "straight_through"):
        quantizer = Quantizer(4, mode=mode, trainable=True)  # type: ignore[arg-type]
        point = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(quantizer(point).pow(1).sum(), (point, quantizer.thresholds)))
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))
    assert not Quantizer(4)(x.requires_grad_()).requires_grad  # hard: no graph at all


def slope(quantizer: Quantizer, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(quantizer(x).sum(), x)[0]


@pytest.mark.parametrize("levels", [2, 4, 8, 16])
def test_the_released_layer_has_a_dead_zone(levels: int) -> None:
    for hardness in [10.0, 20.0, 30.0]:
        quantizer = Quantizer(levels, mode="soft", hardness=hardness * levels, released=True)
        edge = 1 - 1 / (2 * levels)
        dead = torch.linspace(edge + 0.02 / levels, 1, 100)
        assert bool((slope(quantizer, dead) == 0).all())
        assert bool((slope(quantizer, torch.tensor([edge - 0.1 / levels])) > 0).all())
        # the backward pass of the adaptive attacks has no clip
        x = dead.clone().requires_grad_()
        assert bool((torch.autograd.grad(quantizer.soft(x, 5.0, clip=False).sum(), x)[0] > 0).all())


def test_channels_have_their_own_thresholds() -> None:
    thresholds = torch.tensor([[0.2, 0.4], [0.5, 0.9]])
    x = torch.rand(3, 2, 4, 4, generator=seeded())
    for mode in ("hard", "soft", "straight_through"):
        both = Quantizer(3, mode=mode, channels=2, thresholds=thresholds)(x)  # type: ignore[arg-type]
        for c in range(2):
            one = Quantizer(3, mode=mode, thresholds=thresholds[c])(x[:, c : c + 1])  # type: ignore[arg-type]
            assert torch.equal(both[:, c : c + 1], one)
    with pytest.raises(ValueError, match=r"2 channels.*\(3, 3, 4, 4\)"):
        Quantizer(3, channels=2, thresholds=thresholds)(torch.rand(3, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1,), {}, "at least 2"),
        ((4,), {"hardness": 0.0}, "hardness"),
        ((4,), {"hardness": -1.0}, "hardness"),
        ((4,), {"hardness": float("nan")}, "hardness"),
        ((4,), {"thresholds": torch.rand(4)}, r"\(3,\), not \(4,\)"),
        ((4,), {"thresholds": torch.rand(3), "channels": 3}, r"\(3, 3\), not \(3,\)"),
        ((4,), {"released": True}, "'hard' does not exist"),
        ((4,), {"released": True, "mode": "soft", "thresholds": torch.rand(3)}, r"\(4,\), not \(3,\)"),
    ],
)
def test_bad_quantisers_are_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantizer(*arguments, **options)


def test_quantisers_print_alike_only_when_they_are_alike() -> None:
    built = [
        Quantizer(4), Quantizer(8), Quantizer(4, mode="soft"), Quantizer(4, hardness=5.0), Quantizer(4, trainable=True),
        Quantizer(4, channels=1), Quantizer(4, thresholds=torch.tensor([0.1, 0.2, 0.3])),
        Quantizer(4, mode="soft", released=True),
    ]  # fmt: skip
    assert len({repr(q) for q in built}) == len(built) - 1  # per-channel thresholds of one channel are the same layer
    assert repr(Quantizer(4)) == repr(Quantizer(4))


# The set of reachable levels, and the way back

thresholds_strategy = st.lists(
    st.floats(1 / 32, 31 / 32, width=32) | st.sampled_from([0.25, 0.5]), min_size=1, max_size=7, unique=True
)


@settings(max_examples=60, deadline=None)
@given(
    thresholds=thresholds_strategy,
    eps=st.sampled_from([0.0, 1e-6, 1 / 255, 8 / 255, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 1000),
    channels=st.booleans(),
)
def test_intervals_are_exact_and_every_level_in_them_has_a_preimage(
    thresholds: list[float], eps: float, seed: int, channels: bool
) -> None:
    t = torch.tensor(thresholds)
    images = torch.rand(4, 2, 4, 4, generator=seeded(seed))
    images[0] = t[seed % len(t)]  # ties
    images[1] = torch.rand(2, 4, 4, generator=seeded(seed)).round()  # the ends
    own = torch.stack([t, t.flip(0) * 0.5 + 0.01]) if channels else t
    quantizer = Quantizer(len(t) + 1, thresholds=own, channels=2 if channels else None)
    low, high = quantizer.interval(images, eps)
    # the ends are reached, and nothing found by sampling lies outside
    assert torch.equal(quantizer.hard((images - eps).clamp(0, 1)), low)
    assert torch.equal(quantizer.hard((images + eps).clamp(0, 1)), high)
    step = 2 * torch.rand(20, *images.shape, generator=seeded(seed)) - 1
    for other in (images + eps * step).clamp(0, 1):
        other = torch.minimum(torch.maximum(other, images - eps), images + eps)
        level = quantizer.hard(other)
        assert bool(((level >= low) & (level <= high)).all())
    # every level in between is reached by its pre-image, which is the nearest such point
    wanted = quantizer.snap(low + torch.rand(images.shape, generator=seeded(seed)) * (high - low))
    for levels in (low, high, wanted):
        found = quantizer.preimage(images, levels)
        assert torch.equal(quantizer.hard(found), levels)
        assert bool(((found >= (images - eps).clamp(min=0)) & (found <= (images + eps).clamp(max=1))).all())
        nudged = torch.nextafter(found, images)
        assert bool(((quantizer.hard(nudged) != levels) | (nudged == images)).all())
    assert torch.equal(quantizer.preimage(images, quantizer.hard(images)), images)


def test_every_level_is_a_fixed_point_of_snap() -> None:
    quantizer = Quantizer(5)
    levels = torch.arange(5) / 4
    assert torch.equal(quantizer.snap(levels), levels)
    assert torch.equal(quantizer.snap(levels + 0.1), levels)
    assert torch.equal(quantizer.snap(levels - 0.1), levels)


def test_levels_without_a_preimage_are_never_chosen() -> None:
    """Learned thresholds meet at the ends of their range: the level between them cannot be reached."""
    quantizer = Quantizer(5, thresholds=torch.tensor([0.3, 0.98, 0.98, 0.98]))
    everywhere = torch.linspace(0, 1, 101).reshape(1, 1, 1, -1)
    assert set(quantizer.snap(everywhere).flatten().tolist()) == {0.0, 0.25, 1.0}
    images, labels = torch.rand(8, 1, 3, 3, generator=seeded()), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="no pre-image"):
        quantizer.preimage(images, torch.full_like(images, 0.5))
    outside = Quantizer(3, thresholds=torch.tensor([0.5, 1.0]))  # nothing in [0, 1] lies above 1
    with pytest.raises(ValueError, match="no pre-image"):
        outside.preimage(images, torch.ones_like(images))
    assert float(outside.snap(torch.ones(1))) == 0.5
    network = linear()
    defence = Quantized(network, quantizer)
    labels = defence(images).argmax(1)
    found = level_space(
        defence, images, labels, eps=1.0, network=network, quantizer=quantizer, restarts=4, generator=seeded()
    )
    assert bool(((found >= 0) & (found <= 1)).all())


# Attacks


def linear(inputs: int = 9, classes: int = 3, seed: int = 0) -> nn.Sequential:
    layer = nn.Linear(inputs, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, inputs, generator=seeded(seed)))
        layer.bias.copy_(torch.randn(classes, generator=seeded(seed)) / 10)
    return nn.Sequential(nn.Flatten(), layer)


def linear_optimum(network: nn.Sequential, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
    """Largest margin on the box: for each other class, each pixel at the better end of its range."""
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    best = torch.full((len(labels),), -float("inf"))
    for other in range(len(weight)):
        direction = weight[other] - weight[labels]
        gains = torch.where(direction > 0, direction * high.flatten(1), direction * low.flatten(1)).sum(1)
        value = gains + bias[other] - bias[labels]
        best = torch.where(labels == other, best, torch.maximum(best, value))
    return best


@pytest.mark.parametrize("levels", [2, 4, 8])
@pytest.mark.parametrize("classes", [2, 4])
def test_level_space_and_certificate_are_exact_on_a_linear_network(levels: int, classes: int) -> None:
    for eps in [0.02, 0.1, 0.3]:
        network, quantizer = linear(classes=classes), Quantizer(levels)
        images = torch.rand(200, 1, 3, 3, generator=seeded())
        defence = Quantized(network, quantizer)
        labels = defence(images).argmax(1)
        low, high = quantizer.interval(images, eps)
        optimum = linear_optimum(network, low, high, labels)
        clear = optimum.abs() > 1e-5
        found = level_space(defence, images, labels, eps=eps, network=network, quantizer=quantizer, generator=seeded())
        assert float((found - images).abs().max()) <= eps + 1e-7
        robust = correct(defence, found, labels)
        assert torch.equal(robust[clear], optimum[clear] < 0)
        assert torch.equal(certified(network, low, high, labels)[clear], optimum[clear] < 0)
        assert 0 < int(robust.sum()) < 200


def test_level_space_puts_each_pixel_at_the_better_end() -> None:
    network, quantizer = linear(classes=2), Quantizer(4)
    images = torch.rand(50, 1, 3, 3, generator=seeded())
    defence = Quantized(network, quantizer)
    labels = defence(images).argmax(1)
    low, high = quantizer.interval(images, 0.2)
    optimum = linear_optimum(network, low, high, labels)
    hard_to_break = optimum < -1e-4  # the others stop as soon as they are broken
    found = level_space(defence, images, labels, eps=0.2, network=network, quantizer=quantizer, generator=seeded())
    logits = defence(found).detach()
    assert bool(hard_to_break.any())
    reached = logits.gather(1, 1 - labels[:, None]) - logits.gather(1, labels[:, None])
    assert torch.allclose(reached[hard_to_break, 0], optimum[hard_to_break], atol=2e-6)
    weight = network[1].weight.detach()
    direction = (weight[1 - labels] - weight[labels]).reshape(-1, 1, 3, 3)
    ends = torch.where(direction > 0, high, low)
    assert torch.equal(quantizer(found)[hard_to_break], ends[hard_to_break])


@pytest.fixture(scope="module")
def quantised(digits: Dataset) -> Quantized:
    """A network trained behind a trainable quantiser of 4 levels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        defence = Quantized(small_network(), Quantizer(4, trainable=True))
    train_quantized(defence, digits.train, epochs=6, learning_rate=3e-3, generator=seeded())
    return defence


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_level_space_is_at_least_as_strong_as_bpda_and_above_the_certificate(
    quantised: Quantized, batch: Pair, eps: float
) -> None:
    images, labels = batch
    assert correct(quantised, images, labels).float().mean() > 0.8
    network, quantizer = quantised.network, quantised.quantizer
    found = level_space(quantised, images, labels, eps=eps, network=network, quantizer=quantizer, generator=seeded())
    robust = correct(quantised, found, labels)
    for name, surrogate in quantised.surrogates().items():
        bpda = pgd(surrogate, images, labels, eps=eps, steps=20, stop_early=True, generator=seeded())
        assert int(robust.sum()) <= int(correct(quantised, bpda, labels).sum()), name
    proven = certified(network, *quantizer.interval(images, eps), labels)
    assert bool((proven <= robust).all())
    if eps == 0.02:
        assert bool(proven.any())


@pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")
def test_direct_gradients_are_masked_and_bpda_ones_are_not(quantised: Quantized, batch: Pair) -> None:
    images, labels = batch
    clean = correct(quantised, images, labels)
    plain = pgd(quantised, images, labels, eps=0.2, random_start=False)
    assert torch.equal(plain, images)
    through = pgd(quantised.surrogate("identity"), images, labels, eps=0.2, random_start=False)
    assert int(correct(quantised, through, labels).sum()) < int(clean.sum()) / 2


def test_identity_bpda_has_the_networks_gradient_at_the_quantised_image(quantised: Quantized, batch: Pair) -> None:
    images, labels = batch[0][:10], batch[1][:10]

    def gradient(module: nn.Module, point: Tensor) -> Tensor:
        point = point.clone().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(module(point), labels), point)[0]

    expected = gradient(quantised.network, quantised.quantizer(images))
    for surrogate in (quantised.surrogate("identity"), through_identity(quantised)):
        assert torch.equal(surrogate(images), quantised(images))
        assert torch.equal(gradient(surrogate, images), expected)
    # soft: the chain rule with the derivative of the soft layer at the image
    h, t = 20.0, quantised.quantizer.thresholds.detach()
    a = torch.sigmoid(h * (images[..., None] - t))
    slope = h / 3 * (a * (1 - a)).sum(-1)
    assert torch.allclose(gradient(quantised.surrogate(h), images), expected * slope, rtol=1e-4, atol=1e-9)


def test_annealed_bpda_is_sound_and_works(quantised: Quantized, batch: Pair) -> None:
    images, labels = batch
    found = annealed(quantised, images, labels, eps=0.2, generator=seeded())
    assert bool(((found >= images - 0.2) & (found <= images + 0.2) & (found >= 0) & (found <= 1)).all())
    assert correct(quantised, found, labels).float().mean() < 0.5


def test_the_adaptive_suite_has_what_the_defence_offers(quantised: Quantized) -> None:
    assert set(quantised.surrogates()) == {"identity", "soft 5", "soft 20"}
    assert set(quantised.adaptive_attacks(0.1)) == {"annealed BPDA", "level-space"}
    soft = Quantized(quantised.network, Quantizer(4, mode="soft", released=True))
    assert set(soft.adaptive_attacks(0.1)) == {"annealed BPDA"}  # no levels to search: it is soft
    from advdef.attacks.suites import cleverhans

    names = [a.name for a in adaptive(quantised, cleverhans(), eps=0.1, transfer={"twin": quantised.network})]
    assert names[:4] == [f"{n} through identity" for n in ("FGSM", "BIM", "MIM", "PGD")]
    assert {"annealed BPDA", "level-space", "PGD from twin", "PGD through soft 20"} <= set(names)
    assert len(names) == 3 * 4 + 2 + 4


def test_the_oblivious_attacker_knows_the_twin() -> None:
    network, twin = linear(), linear(seed=1)
    assert Quantized(network, Quantizer(2)).classifier is network
    assert Quantized(network, Quantizer(2), undefended=twin).classifier is twin
    assert Quantized(network, Quantizer(2), undefended=twin).network is network


# The certificate's own errors


def test_a_certificate_is_refused_where_its_bounds_would_be_wrong() -> None:
    low, labels = torch.zeros(2, 1, 3, 3), torch.tensor([0, 1])

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(9, 5), nn.Linear(5, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.first(images.flatten(1)).relu())

    circular = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(18, 3))
    for network in (
        Functional(),
        circular,
        nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.ReLU()),
    ):
        with pytest.raises((TypeError, RuntimeError)):
            certified(network, low, low + 0.1, labels)
    with pytest.raises(ValueError, match="empty"):
        certified(linear(), low + 0.1, low, labels)
    with pytest.raises(ValueError, match=r"0\.\.2; seen: 0 to 3"):
        certified(linear(), low, low, torch.tensor([0, 3]))


def test_nothing_is_proven_on_a_margin_that_rounding_could_have_made() -> None:
    draws = seeded()
    for deep in (False, True):
        proven, exact, clear = [], [], []
        for _ in range(150):
            low = torch.rand(1, 1, 6, 6, generator=draws)
            high, weight = low + 0.1, torch.randn(2, 36, generator=draws)
            layers = [nn.Flatten(), nn.Linear(36, 36), nn.ReLU()] if deep else [nn.Flatten()]
            network = nn.Sequential(*layers, nn.Linear(36, 2)).requires_grad_(False)
            if deep:  # the identity on positive values
                network[1].weight.copy_(torch.eye(36))
                network[1].bias.zero_()
            network[-1].weight.copy_(weight)
            apart = (weight[0] - weight[1]).double()
            worst = torch.where(apart > 0, low.flatten(), high.flatten()).double() @ apart
            wanted = 2e-6 * (torch.rand((), generator=draws).double() - 0.5)
            network[-1].bias.copy_(torch.stack([wanted - worst, torch.zeros(())]))
            bias = network[-1].bias.double()
            exact.append(float(worst + bias[0] - bias[1]))
            proven.append(bool(certified(network, low, high, torch.tensor([0]))))
            network[-1].bias[0] += 1e-3
            clear.append(bool(certified(network, low, high, torch.tensor([0]))))
        assert min(exact) < 0 < max(exact)
        assert max(map(abs, exact)) < 3e-6
        assert not any(proven)
        assert all(clear)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 500), size=st.floats(0, 0.3))
def test_no_point_of_a_certified_box_is_misclassified(seed: int, size: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(),
            nn.Linear(8, 3, bias=False),
        )  # fmt: skip
    low = torch.rand(5, 1, 4, 4, generator=seeded(seed))
    high = low + size * torch.rand(5, 1, 4, 4, generator=seeded(seed + 1))
    labels = network(low).argmax(1)
    proven = certified(network, low, high, labels)
    for point in low + torch.rand(50, 5, 1, 4, 4, generator=seeded(seed + 2)) * (high - low):
        assert bool(((network(point).argmax(1) == labels) | ~proven).all())
    if size == 0:
        assert bool(proven.all())


# k-means thresholds


def pixels_split(digits: Dataset, channels: int = 1) -> Split:
    images = digits.train.images[:100].expand(-1, channels, -1, -1).clone()
    if channels == 2:
        images[:, 1] = 255 - images[:, 1] // 2
    return Split(images, digits.train.labels[:100])


@pytest.mark.parametrize("levels", [2, 4, 6])
def test_kmeans_thresholds_agree_with_scikit_learn(digits: Dataset, levels: int) -> None:
    from sklearn.cluster import KMeans

    split = pixels_split(digits)
    start = (torch.arange(levels) + 0.5) / levels
    values = (split.images.flatten().double() / 255)[:, None].numpy()
    peer = KMeans(levels, init=start[:, None].double().numpy(), n_init=1, max_iter=500, tol=0.0).fit(values)
    centres = torch.tensor(peer.cluster_centers_[:, 0]).sort().values
    ours = kmeans_thresholds(split, levels, iterations=500)
    assert ours.shape == (levels - 1,)
    assert torch.allclose(ours.double(), (centres[1:] + centres[:-1]) / 2, atol=1e-5)


def test_kmeans_thresholds_per_channel(digits: Dataset) -> None:
    both = kmeans_thresholds(pixels_split(digits, 2), 4, channels=2)
    assert both.shape == (2, 3)
    assert torch.equal(both[0], kmeans_thresholds(pixels_split(digits), 4))
    assert not torch.allclose(both[0], both[1])
    Quantizer(4, channels=2, thresholds=both)


def test_a_centre_without_pixels_stays() -> None:
    split = Split(torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64))
    thresholds = kmeans_thresholds(split, 4)
    centres = torch.tensor([0.0, 0.375, 0.625, 1.0])
    assert torch.allclose(thresholds, (centres[1:] + centres[:-1]) / 2)


# Training


def learner(levels: int = 4, **options: Any) -> Quantized:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return Quantized(network, Quantizer(levels, **options))


@pytest.fixture(scope="module")
def part(digits: Dataset) -> Split:
    return digits.train.head(256)


@pytest.mark.parametrize(
    "options",
    [
        {"trainable": True},
        {"trainable": True, "channels": 1},
        {"trainable": True, "mode": "straight_through"},
        {"trainable": True, "mode": "soft"},
        {"trainable": True, "mode": "soft", "released": True},
    ],
)
def test_thresholds_move_when_they_are_learned(part: Split, options: dict[str, Any]) -> None:
    for scheme in ["joint", "alternating"]:
        defence = learner(**options)
        before = defence.quantizer.thresholds.detach().clone()
        history = train_quantized(defence, part, epochs=5, scheme=scheme, generator=seeded())["thresholds"]
        learning = 5 if options.get("mode") == "soft" else 4  # the last epoch fine-tunes a hard layer
        assert history.shape == (learning + 1, *before.shape)
        assert torch.equal(history[0], before)
        assert torch.equal(history[-1], defence.quantizer.thresholds)
        assert float((history[-1] - before).abs().max()) > 1e-3
        for epoch, moved in enumerate((history[1:] - history[:-1]).abs().flatten(1).amax(1).tolist()):
            assert (moved > 0) == (scheme == "joint" or epoch % 2 == 1)
        assert defence.quantizer.mode == options.get("mode", "hard")
        assert all(p.requires_grad for p in defence.parameters())
        assert not defence.training


def test_alternating_moves_only_one_part_in_each_epoch(part: Split) -> None:
    defence = learner(trainable=True)
    seen: list[tuple[Tensor, Tensor]] = []
    original = part.batches

    class Spying(Split):
        def batches(self, *arguments: Any, **options: Any) -> Any:
            seen.append((defence.network[1].weight.detach().clone(), defence.quantizer.thresholds.detach().clone()))
            return original(*arguments, **options)

    spying = Spying(part.images, part.labels)
    train_quantized(defence, spying, epochs=5, scheme="alternating", generator=seeded())
    seen.append((defence.network[1].weight.detach().clone(), defence.quantizer.thresholds.detach().clone()))
    moved = [[not torch.equal(a, b) for a, b in zip(*two, strict=True)] for two in pairwise(seen)]
    assert moved == [[True, False], [False, True], [True, False], [False, True], [True, False]]  # the last fine-tunes


def test_frozen_thresholds_stay(part: Split) -> None:
    for options in ({}, {"mode": "soft", "released": True}, {"mode": "straight_through"}, {"trainable": True}):
        defence = learner(**options)
        before = copy.deepcopy(defence.quantizer.state_dict())
        weight = defence.network[1].weight.detach().clone()
        history = train_quantized(defence, part, epochs=2, scheme="frozen", generator=seeded())["thresholds"]
        assert history.shape == (3, *before["thresholds"].shape)
        assert bool((history == before["thresholds"]).all())
        assert all(torch.equal(v, before[k]) for k, v in defence.quantizer.state_dict().items())
        assert not torch.equal(weight, defence.network[1].weight)
        assert defence.quantizer.thresholds.requires_grad == options.get("trainable", False)


def test_the_final_fine_tune_leaves_thresholds_alone(part: Split) -> None:
    one, two = learner(trainable=True), learner(trainable=True)
    short = train_quantized(one, part, epochs=2, finetune_epochs=0, hardness=None, generator=seeded())
    longer = train_quantized(two, part, epochs=4, finetune_epochs=2, hardness=None, generator=seeded())
    assert torch.equal(short["thresholds"], longer["thresholds"])
    assert torch.equal(two.quantizer.thresholds, one.quantizer.thresholds)
    assert not torch.equal(two.network[1].weight, one.network[1].weight)


def test_hardness_grows_geometrically_or_stays(part: Split) -> None:
    defence, seen = learner(trainable=True), []
    original = defence.quantizer.set_hardness
    defence.quantizer.set_hardness = lambda h: (seen.append(h), original(h))[1]  # type: ignore[method-assign]
    train_quantized(defence, part, epochs=4, hardness=(5.0, 80.0), generator=seeded())
    assert seen == pytest.approx([5.0, 20.0, 80.0])
    assert float(defence.quantizer.hardness) == pytest.approx(80.0)
    still = learner(trainable=True, hardness=7.0)
    train_quantized(still, part, epochs=3, hardness=None, generator=seeded())
    assert float(still.quantizer.hardness) == 7.0


def test_learned_thresholds_stay_inside_the_range(part: Split) -> None:
    defence = learner(8, trainable=True)
    history = train_quantized(defence, part, epochs=4, threshold_rate=1.0, generator=seeded())["thresholds"]
    assert float(history[1:].min()) >= 0.02 - 1e-7
    assert float(history[1:].max()) <= 0.98 + 1e-7
    assert bool(((history[-1] < 0.03) | (history[-1] > 0.97)).any())  # the rate is absurd, so the clamp was needed


@pytest.mark.parametrize(
    ("quantizer", "options", "message"),
    [
        ({}, {"epochs": 3}, "never move"),
        ({}, {"epochs": 3, "scheme": "alternating"}, "never move"),
        ({"trainable": True}, {"epochs": 1}, "too few"),
        ({"trainable": True}, {"epochs": 2, "scheme": "alternating"}, "too few"),
        ({"trainable": True}, {"epochs": 0, "scheme": "frozen"}, "too few"),
        ({"trainable": True}, {"epochs": 3, "scheme": "kmeans"}, "joint, alternating, frozen"),
        ({"trainable": True}, {"epochs": 3, "hardness": (0.0, 10.0)}, "hardness"),
        ({"trainable": True}, {"epochs": 3, "finetune_epochs": -1}, "finetune_epochs"),
    ],
)
def test_bad_training_is_refused(part: Split, quantizer: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_quantized(learner(**quantizer), part, generator=seeded(), **options)


def test_a_failed_training_leaves_the_layer_as_deployed(part: Split) -> None:
    defence = learner(trainable=True)

    def broken(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("the third wheel")

    with pytest.raises(RuntimeError, match="third wheel"):
        train_quantized(defence, part, epochs=3, objective=broken, scheme="alternating", generator=seeded())
    assert defence.quantizer.mode == "hard"
    assert all(p.requires_grad for p in defence.parameters())
