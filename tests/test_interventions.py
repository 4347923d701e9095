"""Interventions: what is overwritten, and nothing else; controls that match what they say."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from contract import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advdef import store
from advdef.attacks import pgd
from advdef.defenses import Undefended
from advdef.evaluation import Attempt, evaluate
from advdef.models import SmallResNet
from advdef.papers.sensitivity.interventions import (
    Ablated,
    activation_matched,
    correct_after_substitution,
    energy_matched,
    mean_activations,
    mean_change,
    substitute,
)

MAPS, UNITS = "2", "5"  # layers of ``net``: (N, 4, 5, 5) and (N, 6)


def net(seed: int = 0) -> nn.Sequential:
    """A random network with parts whose mode matters, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 6), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(6, 3),
        )  # fmt: skip
        nn.init.uniform_(model[1].weight)
        nn.init.normal_(model[1].running_mean, std=0.1)
    return model.double()


def pair(seed: int = 0, n: int = 7, shape: tuple[int, int, int] = (2, 5, 5)) -> tuple[Tensor, Tensor]:
    """Images and unrelated ones for their partners."""
    images = torch.rand(2, n, *shape, generator=seeded(seed), dtype=torch.float64)
    return images[0], images[1]


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Of the model in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        found: Tensor = model(images)
    for module, mode in modes:
        module.training = mode
    return found


def indices(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(("layer", "channels"), [(MAPS, 4), (UNITS, 6)])
def test_all_neurons_of_a_layer_give_the_logits_of_the_source_and_none_those_of_the_images(
    layer: str, channels: int
) -> None:
    model, (images, source) = net(), pair()
    own, others = logits(model, images), logits(model, source)
    assert not torch.equal(own, others)
    assert torch.equal(substitute(model, images, source, {layer: torch.arange(channels)}), others)
    assert torch.equal(substitute(model, images, source, {layer: indices()}), own)


def test_one_channel_and_one_unit_are_what_they_are_by_hand() -> None:
    model, (images, source) = net().eval(), pair()
    with torch.no_grad():
        maps = model[:3](images)
        maps[:, 1] = model[:3](source)[:, 1]
        units = model[:6](images)
        units[:, 4] = model[:6](source)[:, 4]
        assert torch.equal(substitute(model, images, source, {MAPS: indices(1)}), model[3:](maps))
        assert torch.equal(substitute(model, images, source, {UNITS: indices(4)}), model[6:](units))


def test_each_of_several_layers_gets_the_activations_of_the_source() -> None:
    model, (images, source) = net().eval(), pair()
    with torch.no_grad():
        maps = model[:3](images)
        maps[:, [0, 3]] = model[:3](source)[:, [0, 3]]
        units = model[3:6](maps)
        units[:, 2] = model[:6](source)[:, 2]
        by_hand = model[6:](units)
    for chosen in ({MAPS: indices(0, 3), UNITS: indices(2)}, {UNITS: indices(2), MAPS: indices(3, 0)}):
        assert torch.equal(substitute(model, images, source, chosen), by_hand)


def test_a_residual_network_takes_the_source_where_all_paths_meet_and_not_where_one_goes_by() -> None:
    model, (images, source) = SmallResNet((1, 16, 16), 4, width=4).double(), pair(shape=(1, 16, 16))
    own, others = logits(model, images), logits(model, source)
    for tap, channels in {"stem": 4, "stages.0.0": 4, "stages.1.0": 8, "stages.2.0": 16, "pool": 16}.items():
        assert torch.equal(substitute(model, images, source, {tap: torch.arange(channels)}), others), tap
        assert torch.equal(substitute(model, images, source, {tap: indices()}), own), tap
    inner = substitute(model, images, source, {"stages.1.0.inner": torch.arange(8)})
    assert not torch.allclose(inner, own)
    assert not torch.allclose(inner, others)


def test_substitution_leaves_modes_weights_and_hooks_and_asks_for_no_gradient() -> None:
    model, (images, source) = net(), pair()
    model[6].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not substitute(model, images, source, {MAPS: indices(1)}).requires_grad
    assert [module.training for module in model] == [i != 6 for i in range(8)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_gone_after_an_exception() -> None:
    model, (images, source) = net(), pair()
    for chosen in (indices(9), indices(1)):
        with pytest.raises((ValueError, RuntimeError)):
            substitute(model, images[:, :, :4], source[:, :, :4], {MAPS: chosen})
        with pytest.raises((ValueError, RuntimeError)):
            Ablated(model, {MAPS: chosen})(images[:, :, :4])
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training


def test_the_result_does_not_depend_on_the_batch_size() -> None:
    model, (images, source) = net(), pair()
    chosen = {MAPS: indices(0, 2), UNITS: indices(1)}
    whole = substitute(model, images, source, chosen)
    means = mean_activations(model, images, [MAPS, UNITS])
    assert whole.shape == (7, 3)
    for size in (1, 3, 7):
        torch.testing.assert_close(substitute(model, images, source, chosen, batch_size=size), whole)
        torch.testing.assert_close(mean_activations(model, images, [MAPS, UNITS], batch_size=size), means)


def test_many_sets_are_judged_as_each_alone_with_one_pass_of_the_source() -> None:
    model, (images, source) = net(), pair(n=40)
    with torch.no_grad():
        model[7].bias -= logits(model, source).mean(0)  # otherwise one class takes all
    labels = logits(model, source).argmax(1)
    sets = [{MAPS: indices()}, {MAPS: indices(0, 1)}, {UNITS: indices(3)}, {MAPS: indices(2), UNITS: indices(0)}]
    sets.append({MAPS: torch.arange(4)})
    alone = torch.stack([substitute(model, images, source, chosen).argmax(1) == labels for chosen in sets])
    seen: list[int] = []
    handle = model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    correct = correct_after_substitution(model, images, source, labels, sets, batch_size=25)
    handle.remove()
    assert torch.equal(correct, alone)
    assert correct[-1].all()
    assert not correct[0].all()
    assert seen == 6 * [25] + 6 * [15]


def ablated_by_hand(values: Tensor | None = None) -> nn.Sequential:
    """``net`` without its channels 1 and 2 and unit 4: what reads them reads nothing, or the values as a bias."""
    model = net().eval()
    with torch.no_grad():
        weight = model[4].weight.view(6, 4, 25)
        if values is not None:
            model[4].bias += (weight[:, [1, 2]].sum(2) * values[[1, 2]]).sum(1)
        weight[:, [1, 2]] = 0
        model[7].weight[:, 4] = 0
    return model


ABLATED = {MAPS: indices(1, 2), UNITS: indices(4)}


@pytest.mark.parametrize("how", ["zero", "values"])
def test_ablation_is_that_by_hand_in_logits_and_gradient(how: str) -> None:
    model, (images, _) = net().eval(), pair()
    fixed = torch.tensor([9.0, 0.3, -0.2, 9.0], dtype=torch.float64)
    values = {MAPS: fixed, UNITS: torch.zeros(6)} if how == "values" else None
    by_hand = ablated_by_hand(fixed if how == "values" else None)
    ablated = Ablated(model, ABLATED, values=values)
    images.requires_grad_()
    found, expected = ablated(images), by_hand(images)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, model(images))
    slopes = [torch.autograd.grad(value[:, 0].sum(), images)[0] for value in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1])
    assert slopes[0].abs().sum() > 0


def test_ablation_leaves_the_network_as_it_is() -> None:
    model, (images, _) = net().eval(), pair()
    before, weights = model(images), {name: value.clone() for name, value in model.state_dict().items()}
    ablated = Ablated(model, ABLATED)
    assert ablated.network is model
    assert not ablated.training
    assert Ablated(net(), ABLATED).training
    without = ablated(images)
    assert torch.equal(model(images), before)
    assert torch.equal(ablated(images), without)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(Ablated(model, {MAPS: indices()})(images), before)


def test_an_attack_is_recomputed_on_the_ablated_network_and_counted_there() -> None:
    model, (images, _) = net().eval(), pair()
    by_hand, ablated = ablated_by_hand(), Ablated(model, ABLATED)
    labels = by_hand(images).argmax(1)
    found = [pgd(target, images, labels, eps=0.1, steps=5, generator=seeded()) for target in (by_hand, ablated, model)]
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    attempts = [Attempt("pgd", partial(pgd, steps=5), ablated)]
    outcome = evaluate(Undefended(ablated), attempts, images, labels, eps=1e-9, generator=seeded())
    assert outcome.findings[0].forwards >= 5 * len(images)
    keys = {store.key("it", model=Ablated(model, {UNITS: indices(i)})).digest for i in range(6)}
    assert len(keys) == 6


def test_mean_activations_are_means_over_images_and_positions_in_evaluation_mode() -> None:
    model, (images, _) = net(), pair()
    means = mean_activations(model, images, iter([UNITS, MAPS]), batch_size=2)
    with torch.no_grad():
        torch.testing.assert_close(means, {
            UNITS: model.eval()[:6](images).mean(0), MAPS: model[:3](images).mean((0, 2, 3)),
        })  # fmt: skip


@pytest.mark.parametrize("power", [1, 2])
def test_what_overwriting_changes_is_a_mean_over_images_and_positions(power: int) -> None:
    model, (images, partners) = net().eval(), pair()
    change = partial(mean_change, model, images, [UNITS, MAPS], power=power, batch_size=2)
    values = {UNITS: torch.full((6,), 0.5), MAPS: torch.arange(4.0)}
    with torch.no_grad():
        (units, maps), (units2, maps2) = ((model[:6](x), model[:3](x)) for x in (images, partners))
    expected = {
        UNITS: ((units - units2).abs() ** power).mean(0), MAPS: ((maps - maps2).abs() ** power).mean((0, 2, 3)),
    }  # fmt: skip
    torch.testing.assert_close(change(partners=partners), expected)
    at_zero = {UNITS: (units.abs() ** power).mean(0), MAPS: (maps.abs() ** power).mean((0, 2, 3))}
    torch.testing.assert_close(change(), at_zero)
    away = (maps - torch.arange(4.0)[:, None, None].to(maps)).abs() ** power
    torch.testing.assert_close(change(values=values)[MAPS], away.mean((0, 2, 3)))
    with pytest.raises(ValueError, match="images and partners must pair up"):
        change(partners=partners[1:])


def test_constant_neurons_may_be_ablated_at_their_means() -> None:
    model, (images, _) = net().eval(), pair()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[1].bias[1] = 0.7
    means = mean_activations(model, images, [MAPS])
    assert means[MAPS][1] > 0
    at_means = Ablated(model, {MAPS: indices(1)}, values=means)
    torch.testing.assert_close(at_means(images), model(images))
    assert not torch.allclose(Ablated(model, {MAPS: indices(1)})(images), model(images))


def test_values_follow_the_dtype_of_the_network() -> None:
    model, (images, _) = net().float().eval(), pair()
    values = {MAPS: torch.full((4,), 0.5, dtype=torch.float64)}
    assert Ablated(model, {MAPS: indices(1)}, values=values)(images.float()).dtype == torch.float32


Layer = tuple[Tensor, Tensor]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer's mean absolute values, some of them equal, and a chosen set."""
    channels = draw(st.integers(1, 30))
    values = draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.0]), min_size=channels, max_size=channels))
    chosen = draw(st.sets(st.integers(0, channels - 1)))
    return torch.tensor(values), indices(*chosen)


@settings(max_examples=50, deadline=None)
@given(layers(), st.integers(0, 1000))
def test_matched_energy_is_within_half_a_neurons_energy_and_takes_chosen_ones_only_when_it_must(
    layer: Layer, seed: int
) -> None:
    energy, chosen = layer
    control = energy_matched(energy, chosen, generator=seeded(seed))
    assert len(control.unique()) == len(control)
    assert control.dtype == torch.int64
    total, outside = float(energy[chosen].sum()), float(energy.sum() - energy[chosen].sum())
    gap = float(energy[control].sum()) - total
    assert abs(gap) <= float(energy.max()) / 2 + 1e-5
    common = int(torch.isin(control, chosen).sum())
    if common:
        assert outside < total
        assert len(control) - common == len(energy) - len(chosen)


def test_as_much_energy_takes_more_of_the_less_sensitive_neurons() -> None:
    energy = torch.tensor([8.0, 8.0, *[1.0] * 40])
    control = energy_matched(energy, indices(0, 1), generator=seeded())
    assert len(control) == 16
    assert control.min() >= 2


@settings(max_examples=50, deadline=None)
@given(layers(), st.integers(0, 1000))
def test_matched_activations_are_as_many_neurons_and_chosen_ones_only_when_no_others_are_left(
    layer: Layer, seed: int
) -> None:
    activation, chosen = layer
    control = activation_matched(activation, chosen, generator=seeded(seed))
    assert len(control.unique()) == len(control) == len(chosen)
    assert control.dtype == torch.int64
    others = len(activation) - len(chosen)
    assert int((~torch.isin(control, chosen)).sum()) == min(others, len(chosen))


def test_each_chosen_neuron_is_matched_with_the_nearest_other_activation() -> None:
    activation = torch.tensor([1.0, 5.0, 1.1, 4.9, 3.0, 20.0])
    for seed in range(5):
        control = activation_matched(activation, indices(0, 1), generator=seeded(seed))
        assert sorted(control.tolist()) == [2, 3]


@pytest.mark.parametrize("match", [energy_matched, activation_matched])
def test_controls_are_random_and_repeat_under_a_seed(match: partial[Tensor]) -> None:
    scores, chosen = torch.ones(40), torch.arange(5)
    draws = [match(scores, chosen, generator=seeded(seed)).tolist() for seed in range(5)]
    assert draws == [match(scores, chosen, generator=seeded(seed)).tolist() for seed in range(5)]
    assert all(sorted(one) != sorted(other) for one, other in pairwise(draws))
    assert len({tuple(draw) for draw in draws}) == 5


@pytest.mark.parametrize("match", [energy_matched, activation_matched])
def test_controls_refuse_what_are_no_mean_absolute_values_or_no_neurons(match: partial[Tensor]) -> None:
    for scores in (torch.tensor([1.0, -1.0]), torch.tensor([1.0, float("nan")]), torch.ones(2, 2)):
        with pytest.raises(ValueError, match=r"one mean absolute value per neuron, \(C,\), finite and not negative"):
            match(scores, indices(0), generator=seeded())
    with pytest.raises(ValueError, match=r"the layer has neurons 0\.\.2, not \[-1, 3\]"):
        match(torch.ones(3), indices(-1, 0, 3), generator=seeded())
    with pytest.raises(TypeError, match="the layer takes int64 indices"):
        match(torch.ones(3), torch.tensor([True, False, True]), generator=seeded())


class Unused(nn.Sequential):
    """Leaves out its last layer."""

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self[1](self[0](images))
        return found


def test_a_layer_that_takes_no_part_is_refused() -> None:
    model, (images, source) = Unused(nn.Flatten(), nn.Linear(50, 3), nn.ReLU()).double(), pair()
    chosen = {"1": indices(0), "2": indices(0)}
    for call in (
        lambda: substitute(model, images, source, chosen),
        lambda: Ablated(model, chosen)(images),
        lambda: mean_activations(model, images, chosen),
    ):
        with pytest.raises(ValueError, match="a forward pass has no layer '2'"):
            call()


def test_bad_input_is_refused_by_name() -> None:
    model, (images, source) = net(), pair()
    with pytest.raises(ValueError, match=r"must pair up, not \(7, 2, 5, 5\) and \(6, 2, 5, 5\)"):
        substitute(model, images, source[:6], {MAPS: indices(0)})
    with pytest.raises(ValueError, match=r"layer '2' has neurons 0\.\.3, not \[4\]"):
        substitute(model, images, source, {MAPS: indices(0, 4)})
    with pytest.raises(ValueError, match=r"layer '5' has neurons 0\.\.5, not \[-1\]"):
        Ablated(model, {UNITS: indices(-1)})(images)
    with pytest.raises(TypeError, match=r"layer '2' takes int64 indices \(k,\), not torch\.bool of shape \(4,\)"):
        substitute(model, images, source, {MAPS: torch.ones(4, dtype=torch.bool)})
    for build in (partial(substitute, model, images, source), partial(Ablated, model)):
        with pytest.raises(ValueError, match="no layer 'relu'; it has 0, 1, 2"):
            build({"relu": indices(0)})
        with pytest.raises(ValueError, match="no layers"):
            build({})
    with pytest.raises(ValueError, match="no layer 'relu'"):
        mean_activations(model, images, ["relu"])
    with pytest.raises(ValueError, match="values must be given for 2, 5; seen: 2"):
        Ablated(model, ABLATED, values={MAPS: torch.zeros(4)})
    with pytest.raises(ValueError, match=r"layer '2' takes values of shape \(4,\), not \(6,\)"):
        Ablated(model, {MAPS: indices(0)}, values={MAPS: torch.zeros(6)})(images)
    with pytest.raises(ValueError, match="lie in"):
        correct_after_substitution(model, images * 2, source, torch.zeros(7, dtype=torch.int64), [{MAPS: indices(0)}])
    with pytest.raises(ValueError, match="labels must have shape"):
        correct_after_substitution(model, images, source, torch.zeros(6, dtype=torch.int64), [{MAPS: indices(0)}])
