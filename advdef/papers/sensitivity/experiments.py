"""What sensitive neurons do, with controls: what mending them restores, what losing them costs, what they look at."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from advdef.contract import NoGradientWarning, borrowed
from advdef.devices import exact
from advdef.evaluation import correct
from advdef.papers.sensitivity.interventions import (
    Ablated,
    activation_matched,
    correct_after_substitution,
    energy_matched,
    mean_activations,
    mean_change,
)
from advdef.papers.sensitivity.keeping import kept_call
from advdef.papers.sensitivity.measure import Pairs, channel_mask, select
from advdef.taps import tapped

__all__ = [
    "CONTROLS", "OCCLUDED", "channel_views", "occluded_accuracy", "restored_accuracy", "skip_occlusion",
    "skip_restoration",
]  # fmt: skip

Mode = Literal["zero", "mean"]
Inputs = dict[str, Callable[[nn.Module], Tensor]]

_POWERS = {"equal change": 1, "equal energy": 2}
_SHARES: dict[str, Literal["top", "bottom"]] = {"most sensitive": "top", "least sensitive": "bottom"}

CONTROLS = ("most sensitive", "equal change", "equal energy", "random", "equally active", "least sensitive")
"""Which neurons :func:`restored_accuracy` substitutes: the most sensitive ones, and what they are compared with."""

OCCLUDED = ("most sensitive", "random", "equal change", "equal energy", "least sensitive")
"""Which neurons :func:`occluded_accuracy` occludes."""


def restored_accuracy(
    model: nn.Module,
    turned: Pairs,
    ranking: Mapping[str, Tensor],
    *,
    shares: Sequence[float],
    draws: int,
    generator: torch.Generator,
    resume: Path | None = None,
) -> dict[str, Tensor]:
    """How often each attacked image is right when some neurons of one layer get their clean activations back.

    Returns accuracies (shares, layers, N) in [0, 1] by what gets them back (:data:`CONTROLS`):

    - "most sensitive" and "least sensitive": a share of the layer;
    - "random": as many, drawn at random;
    - "equally active": as many that are about as active;
    - "equal change" and "equal energy": random ones that together change as much from image to partner as the most
      sensitive do, as a sum of absolute differences (L1) or of squares.

    Args:
        model: The network.
        turned: Images and their adversarial partners.
        ranking: Sensitivities (C,) by layer.
        shares: Which shares of a layer's neurons are substituted, each in (0, 1].
        draws: How many sets of random neurons of each kind are averaged.
        generator: Source of all random numbers, on the CPU.
        resume: A folder that keeps what was found; None keeps nothing.

    Raises as :func:`~advdef.papers.sensitivity.interventions.substitute` does.
    """
    asked: dict[str, Any] = dict(model=model, turned=turned, ranking=dict(ranking), shares=tuple(shares), draws=draws)
    return kept_call(resume, _restored, device=turned.images.device, generator=generator, **asked)


def _restored(
    *,
    model: nn.Module,
    turned: Pairs,
    ranking: Mapping[str, Tensor],
    shares: Sequence[float],
    draws: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    held = {
        control: mean_change(model, turned.images, ranking, power=power, partners=turned.adversarial)
        for control, power in _POWERS.items()
    }
    active = mean_activations(model, turned.images, ranking)
    found: dict[str, list[Tensor]] = {control: [] for control in CONTROLS}
    for layer in ranking:
        plan = [_controls(layer, share, ranking, held, active, draws, generator) for share in shares]
        sets = [(at, control, rows) for at, sets in enumerate(plan) for control in CONTROLS for rows in sets[control]]
        chosen = [{layer: rows} for _, _, rows in sets]
        right = exact(correct_after_substitution(model, turned.adversarial, turned.images, turned.labels, chosen))
        for control in CONTROLS:
            places = [[i for i, (at, c, _) in enumerate(sets) if (at, c) == (n, control)] for n in range(len(shares))]
            found[control].append(torch.stack([right[rows].mean(0) for rows in places]))
    return {control: torch.stack(layers, 1) for control, layers in found.items()}


def skip_restoration(ranking: Mapping[str, Tensor], *, shares: int, draws: int, generator: torch.Generator) -> None:
    """Bring a generator to where :func:`restored_accuracy` leaves it with so many shares and draws."""
    for sigma in ranking.values():
        for _ in range((len(CONTROLS) - len(_SHARES)) * shares * draws):
            torch.randperm(len(sigma), generator=generator)


def _controls(
    layer: str,
    share: float,
    ranking: Mapping[str, Tensor],
    held: Mapping[str, Mapping[str, Tensor]],
    active: Mapping[str, Tensor],
    draws: int,
    generator: torch.Generator,
) -> dict[str, list[Tensor]]:
    """Sets of neurons by control: one, or several draws of a random one."""
    sigma = {layer: ranking[layer]}
    top = select(sigma, ratio=share)[layer]

    def drawn(draw: Callable[[], Tensor]) -> list[Tensor]:
        return [draw() for _ in range(draws)]

    return {
        "most sensitive": [top],
        **{c: drawn(partial(energy_matched, e[layer], top, generator=generator)) for c, e in held.items()},
        "random": drawn(lambda: select(sigma, ratio=share, which="random", generator=generator)[layer]),
        "equally active": drawn(lambda: activation_matched(active[layer], top, generator=generator)),
        "least sensitive": [select(sigma, ratio=share, which="bottom")[layer]],
    }


def occluded_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ranking: Mapping[str, Tensor],
    *,
    shares: Sequence[float],
    draws: int,
    generator: torch.Generator,
    reference: Tensor,
    attack: Callable[[nn.Module], Tensor] | None = None,
    resume: Path | None = None,
) -> dict[tuple[Mode, str], dict[str, Tensor]]:
    """How often each image is right when a share of one layer's neurons is set to zero, or to their mean.

    Returns accuracies (shares, layers, N) in [0, 1], by (mode, neurons) and then by kind of images.

    The mode is "zero" or "mean". The neurons (:data:`OCCLUDED`) are

    - "most sensitive" and "least sensitive": a share of the layer;
    - "random": as many, drawn at random;
    - "equal change" and "equal energy": random ones that together lose as much activation on ``reference`` as the most
      sensitive do, as a sum of absolute differences or of squares.

    The images are "clean"; with an ``attack``, and for the mode "zero", also "replayed", adversarial examples of the
    intact network, and "attacked anew", those of the occluded one.

    Args:
        model: The network.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        ranking: Sensitivities (C,) by layer.
        shares: Which shares of a layer's neurons are occluded, each in (0, 1].
        draws: How many sets of random neurons of each kind are averaged.
        generator: Source of all random numbers, on the CPU.
        reference: (M, C, H, W): images on which mean activations are taken.
        attack: Makes adversarial versions of ``images`` for a network. Default: none.
        resume: A folder that keeps what was found; None keeps nothing.

    Raises as :class:`~advdef.papers.sensitivity.interventions.Ablated` does.
    """
    asked: dict[str, Any] = dict(model=model, images=images, labels=labels, ranking=dict(ranking), attack=attack)
    drawn: dict[str, Any] = dict(shares=tuple(shares), draws=draws, generator=generator, reference=reference)
    found: dict[tuple[Mode, str], dict[str, Tensor]] = {}
    for name, right in kept_call(resume, _occluded, device=images.device, **asked, **drawn).items():
        mode, which, kind = name.split("/")
        found.setdefault((cast(Mode, mode), which), {})[kind] = right
    return found


def skip_occlusion(ranking: Mapping[str, Tensor], *, shares: int, draws: int, generator: torch.Generator) -> None:
    """Bring a generator to where :func:`occluded_accuracy` leaves it with so many shares and draws."""
    random = len(OCCLUDED) - len(_SHARES)
    for _, sigma, _ in product(range(len(get_args(Mode)) * random * shares), ranking.values(), range(draws)):
        torch.randperm(len(sigma), generator=generator)


def _occluded(
    *,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ranking: Mapping[str, Tensor],
    shares: Sequence[float],
    draws: int,
    generator: torch.Generator,
    reference: Tensor,
    attack: Callable[[nn.Module], Tensor] | None,
) -> dict[str, Tensor]:
    clean: Inputs = {"clean": lambda without: images}
    under_attack = clean
    if attack is not None:
        replayed = attack(model)
        under_attack = clean | {"replayed": lambda without: replayed, "attacked anew": partial(_anew, attack)}
    means = mean_activations(model, reference, ranking)
    found: dict[str, Tensor] = {}
    modes: dict[Mode, tuple[Mapping[str, Tensor] | None, Inputs]] = {
        "zero": (None, under_attack),
        "mean": (means, clean),
    }
    for (mode, (values, inputs)), which in product(modes.items(), OCCLUDED):
        held = mean_change(model, reference, ranking, power=_POWERS[which], values=values) if which in _POWERS else None
        right = _without(model, labels, ranking, which, held, shares, draws, generator, values, inputs)
        found |= {f"{mode}/{which}/{kind}": hits for kind, hits in right.items()}
    return found


def _anew(attack: Callable[[nn.Module], Tensor], without: nn.Module) -> Tensor:
    """Attack a network without some neurons; one that is left with a constant output has no gradient, rightly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoGradientWarning)
        return attack(without)


def _without(
    model: nn.Module,
    labels: Tensor,
    ranking: Mapping[str, Tensor],
    which: str,
    held: Mapping[str, Tensor] | None,
    shares: Sequence[float],
    draws: int,
    generator: torch.Generator,
    values: Mapping[str, Tensor] | None,
    inputs: Inputs,
) -> dict[str, Tensor]:
    """Accuracy by kind of input, (shares, layers, N); ``inputs`` gives the images for the network that is left."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in inputs}
    for share in shares:
        for layer in ranking:
            hits: dict[str, list[Tensor]] = {kind: [] for kind in inputs}
            sigma = {layer: ranking[layer]}
            for _ in range(1 if which in _SHARES else draws):
                rows = select(sigma, ratio=share, which=_SHARES.get(which, "top"), generator=generator)
                if held is not None:
                    rows = {layer: energy_matched(held[layer], rows[layer], generator=generator)}
                elif which == "random":
                    rows = select(sigma, ratio=share, which="random", generator=generator)
                left = Ablated(model, rows, values=values)
                for kind, images in inputs.items():
                    hits[kind].append(correct(left, images(left), labels))
            for kind, drawn in hits.items():
                found[kind].append(exact(torch.stack(drawn)).mean(0))
    return {kind: torch.stack(cells).unflatten(0, (len(shares), -1)) for kind, cells in found.items()}


def channel_views(model: nn.Module, pairs: Pairs, layer: str, sigma: Tensor) -> dict[str, Tensor]:
    """Images, and where the most and the least sensitive channel of a layer are active on them and on their partners.

    By name, (N, C, H, W), dimmed where the channel is not active. ``sigma`` (C,) are the sensitivities; channels of
    less than the median activation do not count, as there is nothing to see.
    """
    active = mean_activations(model, pairs.images, [layer])[layer]
    seen = active >= active.median()
    most, least = int(sigma.where(seen, -1).argmax()), int(sigma.where(seen, torch.inf).argmin())
    views = {"clean": pairs.images}
    for what, channel in (("most sensitive", most), ("least sensitive", least)):
        for kind, images in (("clean", pairs.images), ("adversarial", pairs.adversarial)):
            with borrowed(model, quiet=True), torch.no_grad(), tapped(model, [layer]) as maps:
                model(images)
            mask = channel_mask(maps[layer][:, channel], (images.shape[2], images.shape[3]))
            views[f"{what}\n(channel {channel}), {kind}"] = images * (0.2 + 0.8 * mask[:, None])
    return views
