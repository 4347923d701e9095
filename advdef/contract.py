"""What attacks and evaluations share: checked input, a safe way to ask a model, and a watch on its gradients."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from advdef.convolutions import quick_gradients
from advdef.devices import full_precision
from advdef.norms import Norm

__all__ = [
    "MemoryWarning",
    "NaNGradientWarning",
    "NoGradientWarning",
    "ProbabilitiesWarning",
    "TrainingModeWarning",
    "Watch",
    "ask",
    "borrowed",
    "check_frozen",
    "check_logits",
    "check_weights",
    "cleaned",
    "counts_passes",
    "frozen",
    "is_watched",
    "logits_of",
    "out_of_memory",
    "own",
    "slope",
    "validate",
    "warn_of",
    "watched",
]


class TrainingModeWarning(UserWarning):
    """A model with dropout or batch normalisation came in training mode; it is attacked in evaluation mode."""


class ProbabilitiesWarning(UserWarning):
    """A model seems to return probabilities; losses take logits, and the gradient of a saturated softmax vanishes."""


class NaNGradientWarning(UserWarning):
    """A gradient was NaN or infinite in places; these count as zero."""


class NoGradientWarning(UserWarning):
    """An attack that follows gradients found none: that it failed says nothing."""


class MemoryWarning(UserWarning):
    """Memory was too short for a batch, which was tried in halves."""


def out_of_memory(failure: Exception) -> bool:
    """Whether an exception says that memory is short; libraries say it in several ways."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(failure, MemoryError) or any(said in str(failure) for said in words)


def own(tensor: Tensor) -> Tensor:
    """A contiguous copy outside every graph, which autograd may use even if the tensor came from inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().clone(memory_format=torch.contiguous_format)


def validate(
    images: Tensor, labels: Tensor, eps: float | Tensor, *, norm: Norm = "Linf", unbounded: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Check images, labels and eps, and return copies of the three that the caller cannot change.

    ``images`` are (N, C, H, W) in [0, 1], ``labels`` (N,), and ``eps`` is a size in ``norm``, one for all images or one
    each (N,). It comes back as (1, 1, 1, 1) or (N, 1, 1, 1). ``unbounded`` also admits an infinite eps, for attacks
    that look for the smallest perturbation.

    Raises TypeError for what is no tensor or has a wrong dtype; ValueError for a wrong shape or range, for values that
    are not finite, and for a finite eps above 1 in Linf (8 where 8 / 255 was meant).
    """
    _check_tensors(images, labels)
    if isinstance(eps, bool) or not isinstance(eps, Real | Tensor):
        raise TypeError(f"eps must be a number, or a tensor with one for each image, not {eps!r}")
    if norm not in get_args(Norm):
        raise ValueError(f"no norm {norm!r}; there are {', '.join(get_args(Norm))}")
    budget = torch.as_tensor(eps if isinstance(eps, Tensor) else float(eps), dtype=images.dtype, device=images.device)
    if budget.dim() > 1 or (budget.dim() == 1 and len(budget) != len(images)):
        raise ValueError(f"eps must be a number or have shape ({len(images)},), not {tuple(budget.shape)}")
    smallest, largest = (float(v) for v in torch.aminmax(budget))
    if not (smallest >= 0 and (largest < float("inf") or unbounded)):
        raise ValueError(f"eps must be finite and not negative; seen: {smallest:g} to {largest:g}")
    if norm == "Linf" and 1 < largest < float("inf"):
        grey = f"in steps of 1/255 it is {largest:g} / 255"
        raise ValueError(f"pixels lie in [0, 1], so eps {largest:g} is no budget in Linf; {grey}")
    return own(images), own(labels), own(budget).reshape(-1, 1, 1, 1)


def _check_tensors(images: Tensor, labels: Tensor) -> None:
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
            hint = f"torch.as_tensor({name})"
            if isinstance(value, torch.utils.data.DataLoader):
                hint = "images, labels = map(torch.cat, zip(*loader))"
            raise TypeError(f"{name} must be a torch.Tensor, not {kind}: {hint}")
    if images.dtype not in (torch.float32, torch.float64):
        what = (
            "divide bytes by 255" if not images.is_floating_point() else "its rounding swallows steps: images.float()"
        )
        raise TypeError(f"images must be float32 or float64 in [0, 1], not {images.dtype}; {what}")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"images must have shape (N, C, H, W) with N > 0, not {tuple(images.shape)}")
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, not {labels.dtype}: labels.long()")
    if labels.shape != (len(images),):
        raise ValueError(f"labels must have shape ({len(images)},), not {tuple(labels.shape)}")
    if labels.device != images.device:
        raise ValueError(f"images are on {images.device} and labels on {labels.device}")
    low, high = (float(v) for v in torch.aminmax(images.detach()))
    if not (low >= 0.0 and high <= 1.0):  # also catches NaN, which compares false
        raise ValueError(f"images must be finite and lie in [0, 1]; seen: {low:.9g} to {high:.9g}")


def ask(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of a model, which gets a copy of the images in case it writes into them."""
    return logits_of(model(images.clone()))


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned.

    That may be a tensor, an object or a mapping with ``logits``, or a container whose only tensor they are. Raises
    TypeError, with what to do, where there are several tensors or none.
    """
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if isinstance(output, Mapping):
        found = output.get("logits", found)
    if not isinstance(found, Tensor):
        inside = list(output.values()) if isinstance(output, Mapping) else output
        tensors = [v for v in inside if isinstance(v, Tensor)] if isinstance(inside, list | tuple) else []
        found = tensors[0] if len(tensors) == 1 else None
    if found is None:
        kind = type(output).__name__
        raise TypeError(f"the model returns a {kind}; wrap it in a module that returns the logits (N, classes) alone")
    return found


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless the model gave finite logits (N, classes) in which every label names a column.

    Warns with ProbabilitiesWarning when the rows look like probabilities.
    """
    if logits.shape in ((len(labels), 1), (len(labels),)):
        both = "torch.stack([torch.zeros_like(z), z], 1)"
        raise ValueError(f"the model returns one logit z for two classes; wrap it so that it returns both: {both}")
    if logits.dim() != 2 or len(logits) != len(labels):
        raise ValueError(f"the model must return logits ({len(labels)}, classes), not {tuple(logits.shape)}")
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("the model returns NaN or infinite logits: no attack on it means anything; check its weights")
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}; seen: {low} to {high}")
    smallest, largest = (float(v) for v in torch.aminmax(logits))
    if smallest >= 0 and largest <= 1 and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        warnings.warn(
            "the model seems to return probabilities; attack its logits: drop the softmax at its end",
            ProbabilitiesWarning,
            stacklevel=3,
        )


@dataclass
class Watch:
    """A tally of the gradients that attacks asked for, kept by :func:`watched`."""

    asked: list[Tensor] = field(default_factory=list)  # of each call, how many images still needed a gradient
    arrived: list[Tensor] = field(default_factory=list)  # of each call, how many of them got one that is not zero
    broken: list[Tensor] = field(default_factory=list)  # of each call, how many images had one that was not finite

    @property
    def reached(self) -> float | None:
        """The share of the needed gradients that were not zero everywhere; None if nobody needed one."""
        asked = int(torch.stack(self.asked).sum()) if self.asked else 0
        return int(torch.stack(self.arrived).sum()) / asked if asked else None

    @property
    def not_finite(self) -> int:
        """The largest number of images in one call whose gradient was NaN or infinite."""
        return int(torch.stack(self.broken).max()) if self.broken else 0


def warn_of(gradient: float | None, not_finite: int) -> None:
    """Warn, in one line each, of gradients that were not finite and of an attack that got none.

    ``gradient`` is the share of needed gradients that were not zero (:attr:`Watch.reached`; None where none was
    needed), ``not_finite`` the number of images for which one was NaN or infinite.
    """
    if not_finite:
        told = f"the gradient is NaN or infinite at {not_finite} images; such values count as zero"
        warnings.warn(told, NaNGradientWarning, stacklevel=5)
    if gradient == 0:
        cut = "no gradient reaches the images (a hard decision, detach, no_grad or a saturated softmax cuts it off)"
        told = f"{cut}: that this attack fails says nothing; attack a stand-in that has one, or use square"
        warnings.warn(told, NoGradientWarning, stacklevel=5)


_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched() -> Iterator[Watch]:
    """Collect in a :class:`Watch` what happens to gradients inside the block; attacks there do not warn themselves."""
    watch = Watch()
    token = _WATCH.set(watch)
    try:
        yield watch
    finally:
        _WATCH.reset(token)


def is_watched() -> bool:
    """Whether somebody collects what happens to gradients."""
    return _WATCH.get() is not None


def slope(value: Tensor, point: Tensor, needed: Tensor | None = None) -> Tensor:
    """The gradient of ``value``, one number, with respect to ``point`` (N, C, H, W), by plain autograd.

    It is zero where the model cuts the graph, and in entries that are NaN or infinite. ``needed`` (N,) are booleans:
    the images that have not reached their goal yet (default: all). Only for these does a :class:`Watch` count whether a
    gradient that is not zero arrived.
    """
    gradient = None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(value, point, allow_unused=True)
    return cleaned(gradient, point, needed)


def cleaned(gradient: Tensor | None, point: Tensor, needed: Tensor | None = None) -> Tensor:
    """``gradient`` (N, C, H, W) with zeros in place of NaN and infinity; zeros like ``point`` where it is None.

    A :class:`Watch`, if there is one, counts the images that ``needed`` (N,) a gradient (default: all), those among
    them that got one which is not zero, and of all images those with one that is not finite.
    """
    watch = _WATCH.get()
    if needed is None:
        needed = torch.ones(len(point), dtype=torch.bool, device=point.device)
    if watch is not None:
        watch.asked.append(needed.sum())
    if gradient is None:
        if watch is not None:
            watch.arrived.append(torch.zeros_like(watch.asked[-1]))
        return torch.zeros_like(point)
    if watch is not None:
        largest = gradient.abs().flatten(1).amax(1)
        watch.arrived.append((needed & ((largest > 0) | largest.isnan())).sum())
        watch.broken.append((~largest.isfinite()).sum())
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


@contextmanager
def borrowed(model: nn.Module, *, quiet: bool = False, exact: bool = True) -> Iterator[None]:
    """Put a model into evaluation mode for the block, and afterwards each of its modules back into its own mode.

    Inside it computes in float32 (:func:`advdef.devices.full_precision`), unless ``exact`` is False, as in training.

    Unless ``quiet``, warns with TrainingModeWarning when evaluation mode changes what the model computes. Unless
    ``quiet`` or inside another such block or :func:`watched`, it also raises what :func:`check_weights` raises, and
    warns with NaNGradientWarning and NoGradientWarning at the end.
    """
    outermost = _WATCH.get() is None
    if outermost and not quiet:
        check_weights(model)
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    if not quiet and any(training and isinstance(module, _DropoutNd | _NormBase) for module, training in modes):
        warnings.warn(
            "the model is in training mode; it is attacked and judged in evaluation mode: call model.eval() first",
            TrainingModeWarning,
            stacklevel=4,
        )
    try:
        if any(training for _, training in modes):
            model.eval()
    except NotImplementedError:  # a program of torch.export, whose mode is part of it
        modes = []
    watch = Watch()
    token = _WATCH.set(watch) if outermost else None
    try:
        with quick_gradients(model), full_precision() if exact else nullcontext():
            yield
    finally:
        if token is not None:
            _WATCH.reset(token)
        for module, mode in modes:
            if module.training != mode:  # setting what is there costs as much as a small layer
                module.training = mode
    if outermost and not quiet:
        warn_of(watch.reached, watch.not_finite)


def check_weights(model: nn.Module) -> None:
    """Raise ValueError, naming the first, for weights that are NaN or infinite, or that were made in inference mode."""
    named = [*model.named_parameters(), *model.named_buffers()]
    floating = [(name, value) for name, value in named if value.is_floating_point() and value.numel()]
    if any(value.is_inference() for _, value in floating):
        raise ValueError(
            "the model's weights were made in inference mode, and no gradient passes them: make it outside"
        )
    with torch.no_grad():
        # a buffer may hold infinity on purpose, as masks do; the sum of a NaN is NaN
        wrong = [v.isnan().any() if not isinstance(v, nn.Parameter) else ~v.isfinite().all() for _, v in floating]
    together = [[bad for bad in wrong if bad.device == device] for device in {bad.device for bad in wrong}]
    if any(bool(torch.stack(part).any()) for part in together):  # a few buffers may lie on the CPU
        name = next(name for (name, _), bad in zip(floating, wrong, strict=True) if bool(bad))
        raise ValueError(f"{name} of the model holds NaN or infinity: no number about it means anything")


def frozen(classifier: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose parameters take no gradient."""
    return copy.deepcopy(classifier).eval().requires_grad_(False)


def counts_passes(model: nn.Module) -> bool:
    """Whether what a model draws depends on how often it was asked: a part of it has a method ``reseed``."""
    return any(callable(getattr(module, "reseed", None)) for module in model.modules())


def check_frozen(classifier: nn.Module) -> None:
    """Raise ValueError for a classifier in training mode or with trainable parameters."""
    if any(module.training for module in classifier.modules()):
        raise ValueError("the classifier is in training mode, in which a map would depend on the batch: call eval()")
    if any(parameter.requires_grad for parameter in classifier.parameters()):
        raise ValueError("the classifier has trainable parameters: give frozen(classifier)")
