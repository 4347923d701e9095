"""Activations are read and replaced as the model computes them, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advdef.defenses.base import Undefended
from advdef.models import CleverhansCNN, SmallResNet
from advdef.taps import check_layers, default_taps, replaced, tapped


def network(*, inplace: bool = False) -> nn.Sequential:
    """Layers by name: 0 convolution, 1 ReLU, 2 flatten, 3 linear."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(12, 4)).eval()


def images(seed: int = 0) -> Tensor:
    return torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Unusual(nn.Module):
    """Its ReLU runs twice, ``pair`` gives no tensor, ``tokens`` a tensor of three sides."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.first, self.second = nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2)
        self.pair, self.tokens = nn.MultiheadAttention(2, 1, batch_first=True), nn.Unflatten(1, (1, 2))

    def forward(self, points: Tensor) -> Tensor:
        attended, _ = self.pair(*[self.tokens(points)] * 3)
        logits: Tensor = self.relu(self.second(self.relu(self.first(attended[:, 0]))))
        return logits


# Names


def test_a_model_names_its_own_taps() -> None:
    assert default_taps(CleverhansCNN((1, 28, 28), 10)) == ("layers.1", "layers.3", "layers.5")


def test_the_taps_of_the_only_model_in_a_wrapper_carry_its_name() -> None:
    inner = SmallResNet((1, 8, 8), 3, width=2).eval()
    wrapper = Undefended(nn.Sequential(nn.Identity(), inner))
    assert default_taps(wrapper) == tuple(f"_classifier.1.{tap}" for tap in inner.taps)
    with tapped(wrapper, default_taps(wrapper)) as outside, tapped(inner, default_taps(inner)) as within:
        wrapper(torch.rand(2, 1, 8, 8))
    assert [id(value) for value in outside.values()] == [id(value) for value in within.values()]


def test_a_wrapper_that_declares_taps_speaks_for_what_is_inside() -> None:
    wrapper = nn.Sequential(CleverhansCNN((1, 28, 28), 10))
    wrapper.taps = ["0.layers.3"]  # type: ignore[assignment]
    assert default_taps(wrapper) == ("0.layers.3",)


def test_a_wrapper_of_several_models_must_be_asked_by_name() -> None:
    wrapper = Undefended(CleverhansCNN((1, 28, 28), 10), twin=CleverhansCNN((1, 28, 28), 10))
    with pytest.raises(ValueError, match=r"several models with taps \(_classifier, _twin\): pass layers, any of _cl"):
        default_taps(wrapper)


@pytest.mark.parametrize(
    ("model", "layers"), [(network(), "0, 1, 2, 3"), (nn.Linear(2, 2), "no layers"), (nn.Sequential(), "no layers")]
)
def test_a_model_without_taps_lists_its_layers(model: nn.Module, layers: str) -> None:
    with pytest.raises(ValueError, match=rf"{type(model).__name__} names no taps: pass layers, any of {layers}$"):
        default_taps(model)


def test_declared_taps_must_exist() -> None:
    model = network()
    model.taps = ("1", "relu")  # type: ignore[assignment]
    with pytest.raises(ValueError, match="no layer 'relu'; it has 0, 1, 2, 3"):
        default_taps(model)


def test_layers_come_back_in_their_order() -> None:
    assert check_layers(network(), (name for name in ["3", "0"])) == ("3", "0")
    assert check_layers(CleverhansCNN((1, 28, 28), 10), {"layers.1": 1, "layers": 2}) == ("layers.1", "layers")


def enter_tapped(model: nn.Module, layers: Iterable[str]) -> None:
    with tapped(model, layers):
        pass


def enter_replaced(model: nn.Module, layers: Iterable[str]) -> None:
    with replaced(model, dict.fromkeys(layers, torch.zeros_like)):
        pass


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "no layers; Sequential has 0, 1, 2, 3"),
        (["1", "4"], "Sequential has no layer '4'; it has 0, 1, 2, 3"),
        ([""], "Sequential has no layer ''; it has"),
    ],
)
def test_layers_that_are_not_there_are_refused(layers: list[str], message: str) -> None:
    for use in [check_layers, enter_tapped, enter_replaced]:
        model = network()
        with pytest.raises(ValueError, match=message):
            use(model, layers)
        assert hooks(model) == 0


@pytest.mark.parametrize("use", [check_layers, enter_tapped])
def test_one_string_in_place_of_several_is_refused(use: Callable[[nn.Module, Iterable[str]], object]) -> None:
    with pytest.raises(TypeError, match="a collection of names, not the string '12'"):
        use(network(), "12")


def test_a_layer_named_twice_counts_once() -> None:
    model = network()
    assert check_layers(model, ["1", "3", "1"]) == ("1", "3")
    with tapped(model, ["1", "3", "1"]) as seen:
        model(images())
    assert set(seen) == {"1", "3"}


# Reading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_taps_are_what_the_layers_give(dtype: torch.dtype) -> None:
    model, x = network().to(dtype), images().to(dtype)
    with tapped(model, ["3", "1"]) as seen:
        logits = model(x)
    assert seen["3"] is logits
    assert torch.equal(seen["1"], F.relu(model[0](x)))
    assert seen["1"].dtype == dtype
    assert hooks(model) == 0
    assert set(seen) == {"1", "3"}  # what was seen can be used after the block


def test_taps_carry_the_graph() -> None:
    model, x = network(), images().requires_grad_()
    with tapped(model, ["1"]) as seen:
        logits = model(x)
    (of_logits,) = torch.autograd.grad(logits.sum(), seen["1"], retain_graph=True)
    assert torch.allclose(of_logits.flatten(1), model.get_parameter("3.weight").sum(0).expand(5, -1))
    (of_images,) = torch.autograd.grad(seen["1"].sum(), x)
    assert bool(of_images.any())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_taps_have_no_graph_without_gradients(mode: Callable[[], torch.no_grad]) -> None:
    model = network()
    with tapped(model, ["1"]) as seen, mode():
        model(images())
    assert not seen["1"].requires_grad
    assert torch.equal(seen["1"], F.relu(model[0](images())))


def test_each_pass_replaces_the_one_before() -> None:
    model = network()
    with tapped(model, ["1"]) as seen:
        model(images(0))
        kept = dict(seen)
        model(images(1))
    assert torch.equal(kept["1"], F.relu(model[0](images(0))))
    assert torch.equal(seen["1"], F.relu(model[0](images(1))))


def test_a_pass_that_fails_leaves_nothing_of_the_one_before() -> None:
    model = network()
    with tapped(model, ["1"]) as seen:
        model(images())
        with pytest.raises(RuntimeError):
            model(torch.rand(5, 9, 3, 3))
        assert seen == {}
        model(images())  # and the next one is read again
    assert set(seen) == {"1"}


def test_a_layer_that_runs_twice_in_a_pass_is_refused() -> None:
    model = Unusual()
    with tapped(model, ["relu"]), pytest.raises(ValueError, match="layer 'relu' runs more than once"):
        model(torch.rand(3, 2))
    with tapped(model, ["first", "second"]) as seen:
        model(torch.rand(3, 2))
    assert set(seen) == {"first", "second"}
    assert hooks(model) == 0


def test_a_layer_whose_output_is_overwritten_in_place_is_refused() -> None:
    model = network(inplace=True)
    with tapped(model, ["0"]), pytest.raises(ValueError, match="output of layer '0' is overwritten in place"):
        model(images())
    with tapped(model, ["1"]) as seen:  # itself may do it
        logits = model(images())
    assert torch.equal(logits, network()(images()))
    assert bool((seen["1"] >= 0).all())
    assert hooks(model) == 0


@pytest.mark.parametrize(("layer", "seen"), [("pair", "tuple"), ("tokens", r"shape \(3, 1, 2\)")])
def test_an_output_that_is_no_map_and_no_vector_is_refused(layer: str, seen: str) -> None:
    model = Unusual()
    message = rf"layer '{layer}' must give \(N, C\) or \(N, C, H, W\), not {seen}"
    with tapped(model, [layer]), pytest.raises(TypeError, match=message):
        model(torch.rand(3, 2))
    with replaced(model, {layer: torch.zeros_like}), pytest.raises(TypeError, match=message):
        model(torch.rand(3, 2))


# Replacing


def test_the_pass_goes_on_with_the_change_and_ends_with_the_block() -> None:
    model = network()
    logits = model(images())
    with replaced(model, {"1": lambda maps: 2 * maps, "3": lambda given: given - 1}):
        changed = model(images())
    assert torch.equal(changed, model[3](2 * F.relu(model[0](images())).flatten(1)) - 1)
    assert torch.equal(model(images()), logits)
    assert hooks(model) == 0


def test_gradients_flow_through_a_change() -> None:
    model, x = network(), images().requires_grad_()
    with replaced(model, {"1": lambda maps: 3 * maps}):
        (changed,) = torch.autograd.grad(model(x).sum(), x)
    (plain,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.allclose(changed, 3 * plain)


def test_taps_see_the_change_whichever_block_came_first() -> None:
    model = network()
    with tapped(model, ["1"]) as outer, replaced(model, {"1": torch.zeros_like}), tapped(model, ["1"]) as inner:
        model(images())
    assert not bool(outer["1"].any())
    assert inner["1"] is outer["1"]


def test_a_layer_that_runs_twice_is_changed_twice() -> None:
    model = Unusual()
    with replaced(model, {"relu": torch.ones_like}):
        assert torch.equal(model(torch.rand(3, 2)), torch.ones(3, 2))
    calls: list[int] = []
    with replaced(model, {"relu": lambda given: calls.append(len(given)) or given}):  # type: ignore[func-returns-value]
        model(torch.rand(3, 2))
    assert calls == [3, 3]


def test_a_change_may_repeat_the_images() -> None:
    model = network()
    with replaced(model, {"1": lambda maps: torch.cat([maps, 0 * maps])}):
        logits = model(images())
    assert torch.equal(logits[:5], model(images()))
    assert torch.allclose(logits[5:], model.get_parameter("3.bias").expand(5, -1))


@pytest.mark.parametrize(
    ("change", "returned"), [(lambda maps: None, "NoneType"), (lambda maps: maps[:, :2], r"shape \(5, 2, 2, 2\)")]
)
def test_a_change_to_something_else_is_refused(change: Callable[[Tensor], Tensor], returned: str) -> None:
    message = rf"change of layer '1' must return shape \(5, 3, 2, 2\), not {returned}"
    model = network()
    with replaced(model, {"1": change}), pytest.raises(TypeError, match=message):
        model(images())


# Traces


@pytest.mark.parametrize(
    "use", [lambda model: tapped(model, ["0", "1"]), lambda model: replaced(model, {"1": torch.zeros_like})]
)
def test_no_hook_outlives_an_exception(use: Callable[[nn.Module], AbstractContextManager[object]]) -> None:
    model = network()
    model[1].register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(RuntimeError), use(model):
        model(torch.rand(5, 9, 3, 3))
    assert hooks(model) == 1  # the caller's own
