"""A device for a machine that has none: its tensors say that they lie on ``pretend:0``, and hold numbers of the CPU.

It refuses what CUDA refuses: an operation on tensors of two devices, ``.numpy()``, a generator of the CPU for what is
drawn on the device. Its tensors say ``is_cuda``, its random numbers have a state of their own, autocast casts what it
casts on CUDA, and ``waits`` counts what would make the CPU wait. Or it refuses float64 besides, as MPS does. So control
flow is real, and a line that would fail on a GPU fails here. What it cannot show is rounding, memory, speed, and
kernels that are compiled for a GPU.

It rests on an interface of torch that is private and experimental; :func:`install` says where it is missing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch

NAME = "pretend"
OLDEST = (2, 13)
"""The first version of torch with which it has been tried."""
KINDS = ("like CUDA", "like MPS", "like both", "in float32")
"""A GPU that trains in bfloat16, a Mac, one that refuses what either refuses, and a GPU that trains in float32."""
LAYERS = (
    "conv1d", "conv2d", "conv3d", "conv_transpose2d.input", "linear", "matmul", "mm", "mv", "addmm", "bmm", "baddbmm",
)  # fmt: skip
"""What autocast computes in fewer bits on CUDA."""
EXACT = (
    "exp", "log", "log1p", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "reciprocal", "rsqrt", "prod", "sum",
    "sum.dim_IntList", "cumsum", "softmax.int", "log_softmax.int", "logsumexp", "softplus", "layer_norm", "group_norm",
    "linalg_vector_norm", "nll_loss", "nll_loss_nd", "kl_div", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy_with_logits", "cosine_similarity", "cdist", "dist",
)  # fmt: skip
"""What autocast computes in float32 on CUDA."""

MAKING = (
    "arange", "arange.start", "arange.start_step", "linspace", "logspace", "eye", "eye.m", "randperm",
    "randperm.generator",
)  # fmt: skip
"""What torch makes by writing into an empty tensor, which grows: the device makes it in one piece."""

# The only operations that may have tensors of both devices, but for those of one element that lie on the CPU
CROSSING = {"_to_copy", "copy_", "_copy_from", "set_data"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
WITHOUT_SCALARS = {
    "cat", "stack", "mm", "addmm", "bmm", "baddbmm", "mv", "dot", "convolution", "index_select", "gather", "scatter_",
    "scatter", "scatter_add_", "index_add_", "index_copy_", "index_fill_", "embedding", "bucketize", "searchsorted",
}  # fmt: skip
RANDOM = {
    "bernoulli", "bernoulli_", "normal_", "uniform_", "random_", "exponential_", "multinomial", "native_dropout",
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "poisson",
}  # fmt: skip
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive", "bincount"}


class Refused(RuntimeError):
    """What a GPU would not do."""


class Missing(ImportError):
    """This version of torch has no place for a device written in Python."""


@dataclass
class State:
    """Whether the device is there, passes for CUDA, has float64; how often it was waited for; its random numbers."""

    present: bool = False
    cuda: bool = True
    float64: bool = True
    waits: int = 0
    generator: torch.Generator = field(default_factory=torch.Generator)


STATE = State()


class Pretend(Tensor):
    """A tensor on the device, around one on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretend:
        made: Pretend = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return run(func, *args, **(kwargs or {}))

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return STATE.cuda

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner  # type: ignore[attr-defined]

    def tolist(self) -> Any:
        STATE.waits += 1
        return self.inner.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.dim() == 0 else object.__format__(self, spec)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.inner!r} on {NAME}"


Pretend.__module__ = "torch"  # by which foolbox knows whose tensors they are


@dataclass(frozen=True)
class Facts:
    """What matters of an operation."""

    name: str
    written: tuple[str, ...]  # arguments that it changes
    places: tuple[str, ...]  # the names of its arguments, in their order


@functools.cache
def facts_of(func: Any) -> Facts:
    schema = func._schema
    written = tuple(a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    return Facts(schema.name.removeprefix("aten::"), written, tuple(a.name for a in schema.arguments))


def run(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run an operation on the CPU, if the device would do it, and say that its result lies on the device."""
    facts, given = facts_of(func), [*_tensors((*args, *kwargs.values()))]
    plain = [tensor for tensor in given if not isinstance(tensor, Pretend)]
    ours, device = len(plain) < len(given), kwargs.get("device")
    on_device = _named(device) if device is not None else ours
    if ours and plain:
        _check_devices(facts, args, plain)
    if ours:
        _count_waits(facts, args, on_device)
    if _named(device):
        kwargs["device"] = torch.device("cpu")
    if torch.Tag.inplace_view in func.tags:  # as squeeze_, which changes what the tensor itself says of its shape
        with no_dispatch():
            func(*args, **kwargs)
    call = functools.partial(func, *map(_inner, args), **{name: _inner(value) for name, value in kwargs.items()})
    out = _drawn(facts, call, kwargs.get("generator")) if facts.name in RANDOM and on_device else call()
    if facts.written:
        named = dict(zip(facts.places, args, strict=False)) | kwargs
        same = {id(_inner(t)): t for t in _tensors([named[n] for n in facts.written if n in named])}
        if any(tensor.shape != _inner(tensor).shape for tensor in same.values()):
            raise NotImplementedError(f"{facts.name} changes the size of a tensor")
        return _map(lambda tensor: same.get(id(tensor), tensor), out)
    if on_device and not STATE.float64 and any(tensor.dtype == torch.float64 for tensor in _tensors([out])):
        raise Refused(f"{facts.name}: the device has no float64")
    return _map(Pretend, out) if on_device else out


def _check_devices(facts: Facts, args: Any, plain: list[Tensor]) -> None:
    """Raise Refused where CUDA does not take tensors of the CPU beside its own."""
    if facts.name in CROSSING:
        return
    if facts.name in INDEXING:  # indices may lie on the CPU, and so may one number that is written
        values = args[2] if len(args) > 2 else None
        written = values is None or isinstance(values, Pretend) or values.dim() == 0
        wrong = plain if not (isinstance(args[0], Pretend) and written) else []
    else:
        wrong = [tensor for tensor in plain if tensor.dim() > 0 or facts.name in WITHOUT_SCALARS]
    if wrong:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in wrong)
        raise Refused(f"{facts.name}: tensors on {NAME}:0 and, of shape {shapes}, on the CPU")


def _count_waits(facts: Facts, args: Any, on_device: bool) -> None:
    """Add to ``waits`` where the CPU needs a value, or copies one, before it can go on."""
    mask = facts.name in INDEXING and any(tensor.dtype == torch.bool for tensor in _tensors([args[1]]))
    copied = facts.name == "copy_" and isinstance(args[0], Pretend) != isinstance(args[1], Pretend)
    STATE.waits += facts.name in WAITING or mask or copied or (facts.name == "_to_copy" and not on_device)


def _drawn(facts: Facts, call: Callable[[], Any], generator: torch.Generator | None) -> Any:
    """Draw from the device's own random numbers."""
    if generator is not None:
        raise Refused(f"{facts.name}: draws on the device need a generator there, not on the {generator.device.type}")
    before = torch.get_rng_state()
    torch.set_rng_state(STATE.generator.get_state())
    try:
        return call()
    finally:
        STATE.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _map(function: Callable[[Tensor], Any], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(_map(function, part) for part in value) if isinstance(value, list | tuple) else value


def _inner(value: Any) -> Any:
    return _map(lambda tensor: tensor.inner if isinstance(tensor, Pretend) else tensor, value)


def _named(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _operation(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """What ``torch.tensor(..., device=...)`` comes down to."""
    _inner(target).copy_(_inner(source))
    return target


def _cast(op: Any, low: bool) -> Callable[..., Any]:
    """The operation as autocast has it: in float32, or in the type that was asked for."""
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME) if low else torch.float32

        def to(tensor: Tensor) -> Tensor:
            takes_part = tensor.is_floating_point() and tensor.dtype != torch.float64 and tensor.device.type == NAME
            return tensor.to(dtype) if takes_part else tensor

        with torch._C._ExcludeDispatchKeyGuard(autocast):
            return op(*(_map(to, arg) for arg in args), **{name: _map(to, arg) for name, arg in kwargs.items()})

    return cast


class _Module:
    """``torch.pretend``."""

    def is_available(self) -> bool:
        return STATE.present

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(STATE.present)

    def synchronize(self, device: object = None) -> None:
        STATE.waits += 1

    def manual_seed_all(self, seed: int) -> None:
        STATE.generator.manual_seed(seed)

    def get_rng_state(self, device: object = None) -> Tensor:
        return STATE.generator.get_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        STATE.generator.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_LIBRARIES: list[torch.library.Library] = []  # what is registered goes with them


def install() -> torch.device:
    """Register the device with torch, once in a process, and return it; raises Missing.

    That must come before the first backward pass of the process, when torch counts the devices.
    """
    if torch.cuda.is_available():
        raise Missing("this machine has a GPU, beside which torch takes no device that is written in Python")
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise Missing(f"torch {torch.__version__} is older than those with which a device in Python has been tried")
    if not _LIBRARIES:
        try:
            register = backend_registration._setup_privateuseone_for_python_backend
            hook = backend_registration._DummyPrivateUse1Hook
        except AttributeError as missing:
            raise Missing(f"torch {torch.__version__} takes no device that is written in Python") from missing

        class Hook(hook):  # type: ignore[misc, valid-type]
            def is_available(self) -> bool:
                return STATE.present

        register(NAME, backend_module=_Module(), hook=Hook())
        everything = torch.library.Library("_", "IMPL")
        everything.fallback(run, "PrivateUse1")
        everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        aten = torch.library.Library("aten", "IMPL")
        aten.impl("_copy_from", _copy_from, "PrivateUse1")
        for name in MAKING:
            aten.impl(name, functools.partial(run, _operation(name)), "PrivateUse1")
        for name in (*LAYERS, *EXACT):
            aten.impl(name, _cast(_operation(name), name in LAYERS), "AutocastPrivateUse1")
        _LIBRARIES.extend((everything, aten))
    return torch.device(NAME, 0)


@contextmanager
def pretended(*, float64: bool = True) -> Iterator[torch.device]:
    """The device is there inside the block; it passes for CUDA or, without float64, for MPS."""
    device = install()
    STATE.present, STATE.cuda, STATE.float64, STATE.waits = True, float64, float64, 0
    try:
        yield device
    finally:
        STATE.present, STATE.cuda, STATE.float64 = False, True, True


def appear() -> None:
    """The device is there as long as the process, of the kind that ``ADVDEF_PRETEND`` names."""
    kind = os.environ["ADVDEF_PRETEND"]
    if kind not in KINDS:
        raise ValueError(f"ADVDEF_PRETEND must be one of {', '.join(KINDS)}, not {kind!r}")
    install()
    STATE.present, STATE.cuda, STATE.float64 = True, kind != "like MPS", kind in ("like CUDA", "in float32")
    if kind in ("like CUDA", "like both"):
        from advdef.training import loop, weights

        loop.precision = weights.precision = lambda device: torch.bfloat16


def environment(kind: str) -> dict[str, str]:
    """The variables that give a process, and those that it starts, a device of a kind."""
    places = [str(Path(__file__).resolve().parent / "pretended"), os.environ.get("PYTHONPATH", "")]
    return {"ADVDEF_PRETEND": kind, "PYTHONPATH": os.pathsep.join(filter(None, places))}
