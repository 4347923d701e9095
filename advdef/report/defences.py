"""The book's defences by name, in front of any classifier, each with the training and the layers that it needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.contract import ask, borrowed, frozen
from advdef.data import Dataset, Split
from advdef.defenses import BitDepth, Defense, Jpeg, Median, TotalVariation, Undefended
from advdef.norms import BallNorm
from advdef.papers.line_up import fitted_dictionary, fitted_purifier, fitted_restorer
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.qusecnets.training import train_quantized
from advdef.papers.sensitivity.defence import Stabilized
from advdef.papers.sensitivity.measure import make_pairs, sensitivity
from advdef.papers.sensitivity.training import train_sns
from advdef.papers.snn.defence import Purification
from advdef.papers.snn.surrogates import REDUCED
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.maps import GradientMap
from advdef.taps import default_taps
from advdef.training import train_at, trained

__all__ = ["DEFENCE_NAMES", "TRAINED", "DefenceName", "defended"]

DefenceName = Literal[
    "undefended", "jpeg", "bitdepth", "median", "tv", "cq", "tq", "nip", "trn", "purifier", "sns", "at"
]
"""The defences that :func:`defended` builds: none, four that edit the image, those of the five papers (of QuSecNets
with constant and with trained thresholds), and adversarial training."""

DEFENCE_NAMES: Mapping[str, str] = MappingProxyType({
    "undefended": "undefended", "jpeg": "JPEG", "bitdepth": "bit depth", "median": "median", "tv": "total variation",
    "cq": "CQ", "tq": "TQ", "nip": "NIP", "trn": "TRN", "purifier": "purifier", "sns": "SNS", "at": "AT",
})  # fmt: skip
"""What the pages of the book call them."""

TRAINED: Mapping[str, str] = MappingProxyType({
    "cq": "the network is trained on behind a quantiser with fixed thresholds",
    "tq": "the network is trained on behind a quantiser whose thresholds are learned too",
    "nip": "a direction for each class is learned from training images",
    "trn": "a network that restores images is trained in front of the classifier",
    "purifier": "a spiking network that cleans images is trained in front of the classifier",
    "sns": "the network is trained on with attacked images, its sensitive neurons held still",
    "at": "the network is trained on with attacked images",
})  # fmt: skip
"""What is learned for those defences that need training images, by name."""

_EDITS: Mapping[str, Callable[[nn.Module], Defense]] = {
    "undefended": Undefended, "jpeg": Jpeg, "bitdepth": BitDepth, "median": Median, "tv": TotalVariation,
}  # fmt: skip
_WITH_LAYERS = ("nip", "trn", "sns")
_RATE = 5e-4  # a trained network is trained on, not anew
_INNER = 3  # steps of the attack in adversarial training


@dataclass(frozen=True)
class _Bench:
    """What training a defence needs."""

    plain: nn.Module
    data: Dataset
    eps: float
    epochs: int
    seed: int
    features: str  # the layer that the last linear layer reads, and that layer; "" where nobody asks
    head: str

    @property
    def levels(self) -> int:
        """Grey levels that a quantiser leaves, as on the page that compares the defences."""
        return 4 if self.data.shape[0] == 3 else 2

    @property
    def probe(self) -> Split:
        """At most 500 training images, drawn at random but always the same."""
        train = self.data.train
        rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:500].to(train.labels.device)
        return Split(train.images[rows], train.labels[rows])

    def trained_on(self, build: Callable[[nn.Module], nn.Module], train: Callable[..., Any], **settings: Any) -> Any:
        """What ``build`` makes of a copy of the network that may learn, after training."""

        def made() -> nn.Module:
            return build(copy.deepcopy(self.plain).requires_grad_(True))

        settings |= {"epochs": self.epochs, "learning_rate": _RATE, "schedule": "one_cycle"}
        return trained(made, train, self.data, seed=self.seed, **settings).model.eval()


def defended(
    name: str, model: nn.Module, data: Dataset, *, eps: float, norm: BallNorm = "Linf", epochs: int = 5, seed: int = 0
) -> Defense:
    """The defence of that name in front of a classifier, trained on the data's training images where it needs to be.

    Args:
        name: One of ``DefenceName``.
        model: Maps images (N, C, H, W) in [0, 1] to logits; in evaluation mode. It is not changed: what learns is a
            copy.
        data: Where training images come from, and the shape of images.
        eps: The budget that training is for, where attacked images take part in it.
        norm: That of the attackers; defences that were made for Linf are refused in another one.
        epochs: Of each training; weights are kept in the cache.
        seed: Of each training.

    Raises ValueError for an unknown name, and for a defence whose training images, layers or norm are missing.
    """
    if name not in get_args(DefenceName):
        raise ValueError(f"no defence {name!r}; there are {', '.join(get_args(DefenceName))}, or give module:function")
    if name in _EDITS:
        if name == "jpeg" and data.shape[0] not in (1, 3):
            raise ValueError(f"jpeg takes grey or RGB images, not {data.shape[0]} channels")
        return _EDITS[name](model)
    if norm != "Linf":
        raise ValueError(f"{name} and the attacks made for it are for Linf; in {norm} there are {', '.join(_EDITS)}")
    if len(data.train) < 2 * data.num_classes:
        there = f"{len(data.train)} training images for {data.num_classes} classes"
        raise ValueError(f"{name} needs training images ({TRAINED[name]}), and {data.name} has {there}")
    plain = frozen(model)
    layers = _layers(name, plain, data) if name in _WITH_LAYERS else ("", "")
    return _MAKERS[name](_Bench(plain, data, eps, epochs, seed, *layers))


def _layers(name: str, plain: nn.Module, data: Dataset) -> tuple[str, str]:
    """The layer (N, C) whose output the last linear layer reads, and that linear layer.

    Where the network names no taps, the first becomes its only one; one of size (N, C, 1, 1) is flattened.
    """
    images = data.test.float_images()[:2]
    linear = [n for n, m in plain.named_modules() if isinstance(m, nn.Linear) and m.out_features == data.num_classes]
    wanted = f"{name} looks at the features that the last linear layer reads"
    if not linear:
        raise ValueError(f"{wanted}, and the network has no linear layer with {data.num_classes} outputs")
    head, read, shapes = linear[-1], list[Tensor](), dict[str, torch.Size]()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any, *, layer: str) -> None:
        if layer == head:
            read.append(inputs[0])
        elif not read and isinstance(output, Tensor) and output.dim() in (2, 4) and len(output) == len(images):
            shapes[layer] = output.shape

    leaves = [layer for layer, module in plain.named_modules() if layer and not list(module.children())]
    hooks = [plain.get_submodule(n).register_forward_hook(partial(note, layer=n)) for n in leaves]
    try:
        with borrowed(plain, quiet=True), torch.no_grad():
            before = ask(plain, images)
    finally:
        for hook in hooks:
            hook.remove()
    try:
        taps = default_taps(plain)
    except ValueError:
        width = read[0].shape[-1] if read else 0
        fitting = [n for n, shape in shapes.items() if shape.numel() == len(images) * width]
        if not fitting:
            raise ValueError(
                f"{wanted}, and which layer gives them is not plain: name it, wrap(model, taps=...)"
            ) from None
        taps = (fitting[-1],)
        plain.taps = taps  # type: ignore[assignment, unused-ignore]
    features = taps[-1]
    if len(shapes.get(features, ())) == 4:
        parent, _, last = features.rpartition(".")
        setattr(plain.get_submodule(parent), last, nn.Sequential(plain.get_submodule(features), nn.Flatten()))
        with borrowed(plain, quiet=True), torch.no_grad():
            if not torch.equal(ask(plain, images), before):
                raise ValueError(f"{wanted}: {features} gives {tuple(shapes[features])}; put an nn.Flatten behind it")
    return features, head


def _constant(bench: _Bench) -> Defense:
    build = partial(Quantized, quantizer=Quantizer(bench.levels))
    found: Quantized = bench.trained_on(build, train_quantized, scheme="frozen")
    found.undefended = bench.plain
    return found


def _learned(bench: _Bench) -> Defense:
    def build(network: nn.Module) -> nn.Module:
        return Quantized(network, Quantizer(bench.levels, trainable=True))

    if bench.epochs < 2:
        raise ValueError("tq needs at least 2 epochs, the last one with its thresholds as they are deployed")
    found: Quantized = bench.trained_on(build, train_quantized)
    found.undefended = bench.plain
    return found


def _dictionary(bench: _Bench) -> Defense:
    scale = 1 if bench.data.shape[0] == 3 else 4
    return fitted_dictionary(bench.plain, bench.data.train, bench.probe, per_class=100, scale=scale)


def _restored(bench: _Bench) -> Defense:
    training = fitted_restorer(
        bench.plain, bench.data, eps=bench.eps, size="XS", epochs=bench.epochs, seed=bench.seed
    )  # fmt: skip
    restorer: Any = training.model
    return Restoration(bench.plain, restorer, GradientMap(bench.plain))


def _purified(bench: _Bench) -> Defense:
    if any(side % 4 for side in bench.data.shape[1:]):
        raise ValueError(
            f"the purifier halves images twice: their sides must be multiples of 4, not {bench.data.shape}"
        )
    training = fitted_purifier(
        bench.plain, bench.data, (6, 8, 4), eps=bench.eps, epochs=bench.epochs, seed=bench.seed
    )  # fmt: skip
    purifier: Any = training.model
    return Purification(bench.plain, purifier, derivatives=REDUCED)


def _attacked(bench: _Bench) -> dict[str, Any]:
    return {"eps": bench.eps, "steps": _INNER, "step_size": 1 / _INNER + 0.1}


def _adversarial(bench: _Bench) -> Defense:
    return Undefended(bench.trained_on(lambda network: network, train_at, **_attacked(bench)), twin=bench.plain)


def _stabilized(bench: _Bench) -> Defense:
    network = bench.trained_on(lambda network: network, train_sns, **_attacked(bench), probe=200, probe_steps=3)
    images, labels = bench.probe.float_images(), bench.probe.labels
    draws = torch.Generator().manual_seed(bench.seed)
    pairs = make_pairs(network, images, labels, partial(pgd, steps=10), eps=bench.eps, generator=draws)
    return Stabilized(
        network, sensitivity=sensitivity(network, pairs), guides=bench.probe, twin=bench.plain,
        features=bench.features, head=bench.head,
    )  # fmt: skip


_MAKERS: Mapping[str, Callable[[_Bench], Defense]] = {
    "cq": _constant, "tq": _learned, "nip": _dictionary, "trn": _restored, "purifier": _purified, "sns": _stabilized,
    "at": _adversarial,
}  # fmt: skip
