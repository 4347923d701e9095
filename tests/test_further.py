"""Stand-ins that a search for holes has beyond a page's: their values, their gradients, and that pages lack them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.contract import NoGradientWarning, ask, frozen
from advdef.defenses import BitDepth, Defense, Undefended
from advdef.evaluation import Attempt, evaluate, stand_ins
from advdef.evaluation.holes import Judged, hunt
from advdef.evaluation.holes.gradients import guides
from advdef.evaluation.holes.ways import all_ways
from advdef.papers.further import further_stand_ins
from advdef.papers.nip.defence import NIPSelf
from advdef.papers.qusecnets.defence import Quantized, Ramped
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.snn.classifiers import SmallSpikingResNet
from advdef.papers.snn.defence import Purification, SpikingClassifier
from advdef.papers.snn.neurons import Firing
from advdef.papers.snn.purifier import Purifier
from advdef.papers.snn.surrogates import ENSEMBLE, REDUCED
from advdef.papers.snn.through import clamped

SHAPE = (1, 8, 8)


def drawn(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return frozen(
        drawn(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 24), activation(), nn.Dropout(0.5), nn.Linear(24, 4)))
    )


def spiking() -> nn.Module:
    return frozen(drawn(lambda: SmallSpikingResNet(SHAPE, 4, steps=2, width=4).train()))


def opened_purifier() -> Purifier:
    """One that changes images."""
    purifier = drawn(lambda: Purifier(1, width=4, extractor_width=4, steps=2))
    assert isinstance(purifier, Purifier)
    nn.init.constant_(purifier.restorer.out.weight, 0.2)
    return purifier


DEFENCES: dict[str, tuple[Callable[[], Defense], list[str]]] = {
    "CQ": (lambda: Quantized(network(), Quantizer(4)), ["ramps"]),
    "TQ by channel": (lambda: Quantized(network(), Quantizer(3, channels=1, trainable=True)), ["ramps"]),
    "CQ released": (lambda: Quantized(network(), Quantizer(4, mode="soft", hardness=5, released=True)), ["ramps"]),
    "V1": (lambda: NIPSelf(network(), step=0.02, layer="2"), ["softplus"]),
    "V1 without ReLU": (lambda: NIPSelf(network(nn.Tanh), step=0.02, layer="2"), []),
    "SNN": (lambda: SpikingClassifier(spiking()), [*(n for n in ENSEMBLE if n not in REDUCED), "clamp"]),
    "purifier": (
        lambda: Purification(network(), opened_purifier(), derivatives={"rate": REDUCED["rate"]}),
        [*(name for name in ENSEMBLE if name != "rate"), "clamp"],
    ),
    "undefended": (lambda: Undefended(network()), []),
    "bit depth": (lambda: BitDepth(network()), []),
}


def pixels(n: int = 5) -> Tensor:
    return 0.1 + 0.8 * torch.rand(n, *SHAPE, generator=seeded(3))


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    point = images.clone().requires_grad_()
    logits = model(point)
    weights = torch.randn(logits.shape, generator=seeded(4))
    found = torch.autograd.grad((weights * logits).sum(), point, allow_unused=True)[0] if logits.requires_grad else None
    return torch.zeros_like(point) if found is None else found


@each("name", DEFENCES)
def test_each_has_the_values_of_the_defence_and_a_gradient_that_no_page_follows(name: str) -> None:
    build, names = DEFENCES[name]
    defence, images = build(), pixels()
    found = further_stand_ins(defence)
    assert list(found) == names
    pages = stand_ins(defence)
    assert not set(found) & set(pages)
    known = [gradient(model, images) for model in (defence, *pages.values())]
    with torch.no_grad():
        expected = defence(images)
    for label, target in found.items():
        assert torch.equal(target(images.clone().requires_grad_()), expected), label
        assert torch.equal(target(images), expected), label
        slope = gradient(target, images)
        assert bool(slope.isfinite().all()), label
        if label in ("ramps", "softplus", "clamp"):
            assert bool(slope.any()), label
            assert not any(torch.allclose(slope, other) for other in known), label


def test_a_ramp_lies_across_each_threshold_and_ramps_join_the_middles_of_cells() -> None:
    quantizer = Quantizer(4)
    ramped = Ramped(Quantized(nn.Flatten(), quantizer))
    pixel = torch.tensor([0.05, 0.13, 0.3, 0.5, 0.87, 0.95]).reshape(-1, 1, 1, 1)
    # thresholds 1/4, 1/2, 3/4; a step of 1/3 over a width of 1/4
    slope = torch.tensor([0, 4 / 3, 4 / 3, 4 / 3, 4 / 3, 0])
    point = pixel.clone().requires_grad_()
    assert torch.equal(ramped(point), quantizer(pixel).flatten(1))
    assert torch.allclose(torch.autograd.grad(ramped(point).sum(), point)[0].flatten(), slope)
    each_channel = torch.tensor([[0.2], [0.6]])
    two = Ramped(Quantized(nn.Flatten(), Quantizer(2, channels=2, thresholds=each_channel)))
    point = torch.tensor([0.3, 0.3]).reshape(1, 2, 1, 1).requires_grad_()
    assert torch.autograd.grad(two(point).sum(), point)[0].flatten().tolist() == [2, 0]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4, 4)])
def test_a_clamp_hands_on_the_mean_current_between_no_spike_and_all(shape: tuple[int, ...], constant: bool) -> None:
    steps = 4
    neurons = Firing(steps, thresholds=(0.6, 1.6))
    model = clamped(nn.Sequential(neurons))[0]  # type: ignore[index]
    rows = shape if constant else (steps * shape[0], *shape[1:])
    currents = (1 + 2 * torch.randn(rows, generator=seeded())).requires_grad_()
    spikes = model(currents, constant=constant)
    assert torch.equal(spikes, neurons(currents.detach(), constant=constant))
    weights = torch.randn(spikes.shape, generator=seeded(1))
    (found,) = torch.autograd.grad((weights * spikes).sum(), currents)
    over = currents.detach() if constant else currents.detach().unflatten(0, (steps, -1)).mean(0)
    inside = ((over >= 0) & (over <= 2)).float()
    assert 0 < inside.mean() < 1
    each_step = weights.unflatten(0, (steps, -1)).sum(0) * inside
    expected = each_step if constant else (each_step / steps).repeat(steps, *[1] * (len(shape) - 1))
    assert torch.allclose(found, expected, atol=1e-6)


def test_what_softplus_adds_is_how_the_direction_changes() -> None:
    """Without the direction's own derivative there is nothing to smooth: at step 0 it is the smooth network's alone."""
    images = pixels()
    still, moving = (further_stand_ins(NIPSelf(network(), step=s, layer="2"))["softplus"] for s in (0.0, 0.1))
    assert not torch.allclose(gradient(still, images), gradient(moving, images), rtol=0.05)


def test_a_search_follows_them_and_estimates_what_has_no_gradient() -> None:
    defence, images = Quantized(network(), Quantizer(2)), pixels(12)
    labels, through = ask(defence, images).argmax(1), further_stand_ins(defence)
    plain = guides(defence, images, labels, eps=0.1)
    found = guides(defence, images, labels, eps=0.1, through=through)
    assert [name for name in found if name not in plain] == ["ramps"]
    assert list(found)[: len(plain)] == list(plain)
    names = [way.name for way in all_ways(defence, found, norm="Linf", classes=4, starts=("the image",))]
    assert {"SPSA of reach 0.01", "SPSA of reach 0.1", "ce by APGD through ramps from the image"} < set(names)
    assert not any("SPSA" in way.name for way in all_ways(defence, found, norm="L2", classes=4, starts=("the image",)))


def test_a_search_takes_the_way_that_the_defence_itself_hides() -> None:
    """A defence without a gradient: only what the search is told of leads through it."""

    class Hidden(Undefended):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach() + 0 * images.sum()

    net, images = network(), pixels(16)
    defence, labels = Hidden(net), net(images).argmax(1)
    blind = Attempt("PGD", partial(pgd, steps=2, random_start=False), defence)
    with pytest.warns(NoGradientWarning):
        outcome = evaluate(defence, [blind], images, labels, eps=0.1, generator=seeded())
    case = Judged("hidden", defence, images, labels, {0.1: outcome})
    ways = [hunt(case, eps=0.1, rounds=1, passes=60, through=more).tried for more in (None, {"told": net})]
    without, told = ([way.name for way in tried if "through told" in way.name] for tried in ways)
    assert not without
    assert told
