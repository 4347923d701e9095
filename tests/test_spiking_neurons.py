"""Spiking neurons: what they fire, at once and step by step, how often, and what they refuse."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import snntorch
import torch
from contract import seeded
from spiking import (
    EACH_KIND,
    IMAGES,
    LAYOUTS,
    STEPS,
    assert_close,
    by_leaky,
    currents_of,
    membranes,
    neuron_of,
    no_neuron_outlives_its_test,  # noqa: F401 - runs around each test
    pulled_back,
    written,
)
from torch import Tensor, nn

from advdef.papers.snn.neurons import DeadNetworkWarning, Firing, firing_rates, leaky_neurons, unrolled
from advdef.papers.snn.surrogates import RECTANGLE, Surrogate

# Spikes


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_spikes_are_those_of_the_equations_and_of_snntorch(levels: int) -> None:
    for steps, layout in product(STEPS, LAYOUTS):
        neuron = neuron_of(steps, levels)
        currents = currents_of(layout, steps * IMAGES)
        found, rows = neuron(currents), currents.unflatten(0, (steps, IMAGES))
        assert found.shape == currents.shape
        assert torch.equal(found, written(rows, neuron).flatten(0, 1))
        assert torch.equal(found, unrolled(neuron, rows)[0].flatten(0, 1))
        assert torch.equal(found, by_leaky(rows, neuron).flatten(0, 1))
        assert set(found.unique().tolist()) == {float(value) for value in range(levels + 1)}


@pytest.mark.parametrize("levels", [1, 3])
def test_a_constant_current_is_one_that_is_repeated(levels: int) -> None:
    for steps, layout in product(STEPS, LAYOUTS):
        neuron = neuron_of(steps, levels, decay=0.9)
        currents = currents_of(layout, IMAGES)
        repeated = currents.repeat(steps, *[1] * (currents.dim() - 1))
        found = neuron(currents, constant=True)
        assert torch.equal(found, neuron(repeated))
        assert torch.equal(found, written(repeated.unflatten(0, (steps, IMAGES)), neuron).flatten(0, 1))
        if steps > 1:
            assert not torch.equal(found[:IMAGES], found[IMAGES : 2 * IMAGES])  # charge is kept from step to step


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_spikes_at_other_decays_and_thresholds(decay: float) -> None:
    neuron, currents = Firing(4, thresholds=(0.3, 0.7, 2.0, 2.25), decay=decay), currents_of("maps", 12)
    rows = currents.unflatten(0, (4, 3))
    assert torch.equal(neuron(currents), written(rows, neuron).flatten(0, 1))
    assert torch.equal(neuron(currents), by_leaky(rows, neuron).flatten(0, 1))


def test_time_comes_first() -> None:
    neuron, currents = neuron_of(2, 1, decay=1.0), torch.tensor([[0.5], [0.0], [0.5], [0.5]])
    # two neurons: 0.5 and 0.5, which fires at the second step, and 0 and 0.5
    assert neuron(currents).flatten().tolist() == [0, 0, 1, 0]


def test_one_neuron_by_hand() -> None:
    neuron = Firing(4, thresholds=(1.0,), decay=0.5)
    currents = torch.tensor([[0.75], [0.75], [0.875], [0.5]])
    # membranes: 0.75, 1.125 (fires), 0.875 (from rest), 0.9375
    assert neuron(currents).flatten().tolist() == [0, 1, 0, 0]
    # from the last: 7; 5 + 7 / 2 = 8.5; 3, the reset cuts; 2 + 3 / 2
    gradient = pulled_back(neuron, currents, torch.tensor([[2.0], [3.0], [5.0], [7.0]]))
    assert gradient.flatten().tolist() == [3.5, 3.0, 8.5, 7.0]


def test_levels_by_hand() -> None:
    neuron = Firing(2, thresholds=(0.5, 1.5), decay=0.5, surrogate=Surrogate("triangle", 1.0))
    currents = torch.tensor([[1.25], [0.75]])
    # first level: 1.25 fires, 0.75 fires; second: 1.25 does not, 0.625 + 0.75 = 1.375 does not
    assert neuron(currents).flatten().tolist() == [1, 1]
    # slopes of the first: 1 - 0.75 = 0.25 and 1 - 0.25 = 0.75; of the second 0.75 and 0.875
    gradient = pulled_back(neuron, currents, torch.tensor([[2.0], [4.0]]))
    assert gradient.flatten().tolist() == [2 * 0.25 + (2 * 0.75 + 4 * 0.875 / 2), 4 * 0.75 + 4 * 0.875]


def test_a_membrane_at_its_threshold_does_not_fire() -> None:
    neuron = Firing(1, thresholds=(0.5, 1.5, 2.5))
    above = torch.nextafter(torch.tensor([0.5, 1.5, 2.5]), torch.tensor(9.0))
    assert neuron(torch.tensor([[0.5, 1.5, 2.5]])).flatten().tolist() == [0, 1, 2]
    assert neuron(above[None]).flatten().tolist() == [1, 2, 3]
    # at a decay of 1 charge adds up to the threshold, and is not reset there
    assert Firing(3, thresholds=(0.5,), decay=1.0)(torch.tensor([[0.25], [0.25], [0.25]])).flatten().tolist() == [
        0, 0, 1,
    ]  # fmt: skip


def test_each_call_starts_from_rest() -> None:
    neuron, currents = neuron_of(2, decay=1.0), currents_of("maps", 6)
    first = neuron(currents)
    neuron(currents + 1)
    assert torch.equal(neuron(currents), first)


def test_spikes_do_not_depend_on_the_surrogate() -> None:
    for kind in EACH_KIND:
        for layout, constant in product(LAYOUTS, (False, True)):
            currents = currents_of(layout, IMAGES if constant else 4 * IMAGES)
            found = neuron_of(4, surrogate=EACH_KIND[kind])(currents, constant=constant)
            assert torch.equal(found, neuron_of(4)(currents, constant=constant))


@pytest.mark.parametrize("surrogate", [RECTANGLE, Surrogate("membrane"), Surrogate("rate")], ids=str)
def test_currents_stay_as_they_were(surrogate: Surrogate) -> None:
    currents = currents_of("maps", 12).requires_grad_()
    before = currents.detach().clone()
    spikes = neuron_of(4, surrogate=surrogate)(currents)
    kept = spikes.detach().clone()
    incoming = torch.ones_like(spikes)
    spikes.backward(incoming)
    assert torch.equal(currents, before)
    assert torch.equal(spikes, kept)
    assert bool((incoming == 1).all())


def test_channels_last_maps_stay_so() -> None:
    currents = currents_of("channels_last", 12).requires_grad_()
    spikes = neuron_of(4)(currents)
    assert spikes.is_contiguous(memory_format=torch.channels_last)
    assert neuron_of(4)(currents_of("maps", 12)).is_contiguous()


def test_empty_batches() -> None:
    assert neuron_of(4)(torch.zeros(0, 5, 3, 4)).shape == (0, 5, 3, 4)
    assert neuron_of(4)(torch.zeros(0, 7), constant=True).shape == (0, 7)


# Step by step


@pytest.mark.parametrize(("split", "layout"), [(1, "maps"), (3, "vectors"), (6, "maps")])
def test_steps_in_two_pieces_are_steps_at_once(split: int, layout: str) -> None:
    neuron = neuron_of(7, decay=0.9)
    currents = currents_of(layout, 7 * IMAGES).unflatten(0, (7, IMAGES))
    whole, last = unrolled(neuron, currents)
    first, state = unrolled(neuron, currents[:split])
    second, end = unrolled(neuron, currents[split:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end, last)
    assert torch.equal(whole.flatten(0, 1), neuron(currents.flatten(0, 1)))
    assert not torch.equal(unrolled(neuron, currents[split:])[0], second)  # the state counts
    expected = torch.stack([membranes(currents, c, neuron.decay)[-1] for c in neuron.thresholds])
    assert torch.equal(last, expected)


def test_gradients_pass_the_state() -> None:
    neuron = neuron_of(7, decay=0.9, surrogate=Surrogate("arctan"))
    currents = currents_of("maps", 7 * IMAGES).unflatten(0, (7, IMAGES))
    incoming = torch.randn(currents.shape, generator=seeded(1))

    def pieces(x: Tensor) -> Tensor:
        first, state = unrolled(neuron, x[:3])
        return torch.cat([first, unrolled(neuron, x[3:], state)[0]])

    assert_close(
        pulled_back(pieces, currents, incoming), pulled_back(lambda x: unrolled(neuron, x)[0], currents, incoming)
    )


def test_nothing_leaks_between_calls() -> None:
    neuron = neuron_of(4, decay=1.0)
    currents = currents_of("maps", 12).unflatten(0, (4, 3)).requires_grad_()
    first, second = unrolled(neuron, currents), unrolled(neuron, currents)
    assert torch.equal(first[0], second[0])
    gradients = [torch.autograd.grad(spikes.sum(), currents)[0] for spikes, _ in (first, second)]
    assert torch.equal(*gradients)


def test_given_states_stay_as_they_were() -> None:
    neuron, currents = neuron_of(2), currents_of("maps", 6).unflatten(0, (2, 3))
    states = torch.rand(3, 3, 5, 3, 4, generator=seeded())
    before = states.clone()
    unrolled(neuron, currents, states)
    assert torch.equal(states, before)


def test_snntorch_does_not_collect_the_neurons() -> None:
    other = snntorch.Leaky(beta=0.5)
    before = list(snntorch.SpikingNeuron.instances)
    assert any(kept is other for kept in before)
    neuron = neuron_of(4)
    leaky_neurons(neuron)
    unrolled(neuron, currents_of("maps", 12).unflatten(0, (4, 3)))
    neuron(currents_of("maps", 12))
    after = snntorch.SpikingNeuron.instances
    assert len(after) == len(before)
    assert all(a is b for a, b in zip(after, before, strict=True))


def test_leaky_neurons_are_the_levels() -> None:
    levels = leaky_neurons(Firing(4, thresholds=(0.5, 1.25), decay=0.75))
    assert [(float(level.threshold), float(level.beta)) for level in levels] == [(0.5, 0.75), (1.25, 0.75)]
    assert [level.reset_mechanism for level in levels] == ["zero", "zero"]
    distances = torch.tensor([0.25, 0.6], requires_grad=True)
    spikes, _ = levels[0](distances + 0.5, torch.zeros(2))
    assert torch.autograd.grad(spikes.sum(), distances)[0].tolist() == [1, 0]


def test_states_of_another_shape_are_refused() -> None:
    for shape in ((3, 5), (2, 3, 6), (3, 2, 5), (2, 3, 5, 1), (1, 3, 5)):
        with pytest.raises(ValueError, match=r"states must have shape \(2, 3, 5\), membranes of each level, not"):
            unrolled(neuron_of(4, 2), torch.zeros(4, 3, 5), torch.zeros(shape))


def test_unrolled_refuses_double_precision() -> None:
    """There snntorch's thresholds, which are singles, would make other spikes."""
    with pytest.raises(TypeError, match="float32"):
        unrolled(Firing(1), torch.zeros(1, 1, 1, dtype=torch.float64))


# Firing rates


class Scaled(nn.Module):
    """Two layers of neurons after a factor each; each image is two numbers."""

    def __init__(self, one: float, two: float) -> None:
        super().__init__()
        self.factors = one, two
        self.first, self.second = Firing(2, thresholds=(1.0, 2.0), decay=0.5), Firing(2, thresholds=(0.5,), decay=1.0)
        self.dropout, self.norm = nn.Dropout(0.9), nn.BatchNorm1d(2)
        self.norm.eval()

    def forward(self, images: Tensor) -> Tensor:
        images = self.norm(self.dropout(images.flatten(1)))
        spikes: Tensor = self.second(self.factors[1] * self.first(self.factors[0] * images, constant=True))
        return spikes


PICTURES = torch.tensor([0.875, 2.5, 0.25, 1.5]).reshape(2, 2, 1, 1) * math.sqrt(1 + 1e-5)  # of the norm's eps


def test_rates_by_hand() -> None:
    # first layer, levels 1 and 2 at decay 1/2: 0.875 fires at step 2 and never; 2.5 twice and twice; 0.25 never; 1.5
    # twice, and at step 2 (2.25)
    # second layer, at 0.5: currents (0, 1), (2, 2), (0, 0), (1, 2), times a quarter: 0.25 never; 0.5 not, but 1 is; 0;
    # 0.25, and with 0.5 it is
    rates = firing_rates(Scaled(1.0, 0.25), PICTURES)
    assert list(rates) == ["first", "second"]
    assert rates["first"] == pytest.approx((1 + 4 + 0 + 3) / 8)
    assert rates["second"] == pytest.approx((0 + 1 + 0 + 1) / 8)


@pytest.mark.parametrize(
    ("one", "two", "dead"), [(1.0, 0.1, ["second"]), (0.1, 1.0, ["first", "second"]), (1.0, 1.0, [])]
)
def test_dead_layers_are_named(one: float, two: float, dead: list[str]) -> None:
    model = Scaled(one, two)
    if not dead:
        assert min(firing_rates(model, PICTURES).values()) > 0  # and warns not
        return
    with pytest.warns(DeadNetworkWarning, match=rf"no neuron fires in {', '.join(dead)}: no gradient") as warned:
        rates = firing_rates(model, PICTURES)
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert [name for name, rate in rates.items() if rate == 0] == dead


def test_rates_leave_the_model_as_it_was() -> None:
    model = Scaled(1.0, 0.25)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert True in modes
    assert False in modes
    firing_rates(model, PICTURES)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="running_mean should contain"):
        firing_rates(model, torch.zeros(2, 3))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())


def test_rates_are_measured_in_evaluation_mode() -> None:
    model = Scaled(1.0, 0.25)  # nine of ten inputs would be dropped, and the rest grow
    assert firing_rates(model.train(), PICTURES) == firing_rates(model.eval(), PICTURES)


def test_rates_ask_for_no_gradient() -> None:
    model, seen = Scaled(1.0, 1.0), []
    model.second.register_forward_hook(lambda module, given, spikes: seen.append(spikes.requires_grad))
    firing_rates(model, PICTURES.clone().requires_grad_())
    assert seen == [False]


# Errors


def test_snntorch_passes_no_reset_and_has_one_surrogate() -> None:
    for surrogate in (Surrogate(reset=True), (RECTANGLE, Surrogate("straight-through"))):
        with pytest.raises(ValueError, match="have one surrogate, which does not pass their reset"):
            leaky_neurons(Firing(2, surrogate=surrogate))


STEPS_MESSAGE = "steps must be a whole number of at least 1, not"
THRESHOLDS_MESSAGE = "thresholds must be finite and increase, from above 0, not"
DECAY_MESSAGE = r"decay must lie in \[0, 1\], not"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"steps": steps}, STEPS_MESSAGE) for steps in (0, 2.0, "4", None)],
        *[({"thresholds": found}, THRESHOLDS_MESSAGE) for found in ((), (0.0,), (0.6, 0.6), (1.6, 0.6))],
        *[({"thresholds": (0.6, value)}, THRESHOLDS_MESSAGE) for value in (math.inf, math.nan)],
        *[({"decay": decay}, DECAY_MESSAGE) for decay in (-0.01, 1.01, math.nan)],
    ],
)
def test_bad_neurons_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Firing(**{"steps": 4, **options})


def test_other_numbers_of_currents_are_refused() -> None:
    for layout, surrogate in product(LAYOUTS, (RECTANGLE, Surrogate("membrane"))):
        neuron = neuron_of(4, surrogate=surrogate)
        with pytest.raises(ValueError, match="6 currents are no whole number of images at 4 steps"):
            neuron(currents_of(layout, 6))
        assert len(neuron(currents_of(layout, 6), constant=True)) == 24


def test_neurons_print_what_they_are() -> None:
    text = repr(Firing(4, thresholds=(0.3,), decay=0.5, surrogate=Surrogate("exponential", 2.0, 0.3)))
    assert text == "Firing(4, thresholds=(0.3,), decay=0.5, surrogate=exponential 2, scale 0.3)"
    assert str(Surrogate("adaptive", 0.65, reset=True)) == "adaptive 0.65, through the reset"
