"""Reads and replaces the activations of named layers, of any model, without changing it.

Names are those of ``model.named_modules()``, so they depend on the model they are given with: a layer ``stem`` of a
network is the layer ``0.stem`` of a sequence that begins with this network.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

__all__ = ["check_layers", "default_taps", "renamed", "replaced", "tapped"]


def default_taps(model: nn.Module) -> tuple[str, ...]:
    """The layers that a model declares in ``taps``; for a wrapper, those of the one model inside that declares any.

    Raises ValueError where no model or several models declare taps, or one declares a layer that it does not have.

    >>> from advdef.models import CleverhansCNN
    >>> default_taps(nn.Sequential(nn.Identity(), CleverhansCNN((1, 28, 28), 10)))
    ('1.layers.1', '1.layers.3', '1.layers.5')
    """
    inside = {name: module for name, module in model.named_modules() if getattr(module, "taps", None)}
    if "" in inside:
        return check_layers(model, inside[""].taps)
    if len(inside) != 1:
        found = f"holds several models with taps ({', '.join(inside)})" if inside else "names no taps"
        raise ValueError(f"{type(model).__name__} {found}: pass layers, any of {_listed(model)}")
    ((name, network),) = inside.items()
    return tuple(f"{name}.{tap}" for tap in default_taps(network))


def check_layers(model: nn.Module, layers: Iterable[str]) -> tuple[str, ...]:
    """The layers as a tuple, each once.

    Raises ValueError for none and for a layer that the model does not have; TypeError for one string in place of
    several.
    """
    if isinstance(layers, str):
        raise TypeError(f"layers must be a collection of names, not the string {layers!r}")
    names, there = tuple(dict.fromkeys(layers)), dict(model.named_modules())
    if not names:
        raise ValueError(f"no layers; {type(model).__name__} has {_listed(model)}")
    for name in names:
        if name not in there or name == "":
            raise ValueError(f"{type(model).__name__} has no layer {name!r}; it has {_listed(model)}")
    return names


@contextmanager
def tapped(model: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of named layers: a dictionary, refilled by every forward pass of the model.

    It holds (N, C) or (N, C, H, W) by layer, with their graph: what the pass goes on with, inside :func:`replaced` too.
    Each call of the model empties it first, so copy it to keep a pass.

    Raises ValueError for an unknown layer, one that runs more than once in a pass (a shared ReLU) and one whose output
    is overwritten in place later; TypeError for one whose output is no such tensor.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> with tapped(model, ["1"]) as seen:
    ...     logits = model(torch.ones(5, 3))
    >>> seen["1"].shape
    torch.Size([5, 2])
    """
    seen: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def start(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.clear()

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, name: str) -> None:
        _check_output(name, output)
        if name in seen:
            raise ValueError(f"layer {name!r} runs more than once in a forward pass: tap one that runs once")
        seen[name], versions[name] = output, _version(output)

    def finish(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        for name, value in seen.items():
            if _version(value) != versions[name]:
                raise ValueError(f"the output of layer {name!r} is overwritten in place: tap the layer that does it")

    names = check_layers(model, layers)
    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(start))
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_hook(partial(remember, name=name)))
        hooks.enter_context(model.register_forward_hook(finish))
        yield seen


@contextmanager
def replaced(model: nn.Module, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside the block, every forward pass goes on with ``changes[layer](output)`` in place of the layer's output.

    Raises ValueError for an unknown layer; TypeError for one whose output is not (N, C) or (N, C, H, W), and for a
    change that returns anything but a tensor of the output's shape (the number of images may change).

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    >>> with replaced(model, {"1": torch.zeros_like}):
    ...     model(torch.ones(1, 3))
    tensor([[0., 0.]])
    """

    def change(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, name: str) -> Tensor:
        _check_output(name, output)
        changed = changes[name](output)
        if not isinstance(changed, Tensor) or changed.shape[1:] != output.shape[1:]:
            raise TypeError(f"the change of layer {name!r} must return {_described(output)}, not {_described(changed)}")
        return changed

    with ExitStack() as hooks:
        for name in check_layers(model, changes):
            hook = partial(change, name=name)
            # before the hooks of tapped, which thus see the change
            hooks.enter_context(model.get_submodule(name).register_forward_hook(hook, prepend=True))
        yield


def renamed(layer: str, model: nn.Module, other: nn.Module) -> str:
    """The name that ``layer`` of ``model`` has in ``other``, which holds the model or a copy of it.

    Raises ValueError where there is no such layer, or where it could be several.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> renamed("1", model, nn.Sequential(nn.Identity(), model))
    '1.1'
    """
    wanted = model.get_submodule(layer)
    found = [name for name, module in other.named_modules() if module is wanted]
    parts = layer.split(".")
    for start in range(len(parts)):  # of a copy, by as much of its name as is found
        end = ".".join(parts[start:])
        found = found or [name for name, _ in other.named_modules() if name == end or name.endswith(f".{end}")]
    if len(found) != 1:
        raise ValueError(f"no layer of {type(other).__name__} is plainly {layer!r} of {type(model).__name__}")
    return found[0]


def _check_output(name: str, output: object) -> None:
    if not isinstance(output, Tensor) or output.dim() not in (2, 4):
        raise TypeError(f"layer {name!r} must give (N, C) or (N, C, H, W), not {_described(output)}")


def _described(output: object) -> str:
    return f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__


def _version(value: Tensor) -> int:
    """How often a tensor was written to; 0 where that is not counted, as in inference mode."""
    return 0 if value.is_inference() else value._version


def _listed(model: nn.Module) -> str:
    return ", ".join(name for name, _ in model.named_modules() if name) or "no layers"
