"""Measurements on NIP: how far attacks move features, and what the released protocol and its controls restore."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.contract import borrowed
from advdef.evaluation import Results, correct
from advdef.norms import rms_normalised, show_eps
from advdef.papers.nip.bank import DirectionBank
from advdef.papers.nip.defence import NIPSelf
from advdef.papers.nip.influence import class_directions, front_and_tail, influence, inverse_direction, trace
from advdef.papers.nip.oracle import NIPOracle
from advdef.papers.nip.repair import repair
from advdef.papers.nip.shift import equal_norm_noise, features, matched, shift
from advdef.store import kept, key
from advdef.taps import tapped

__all__ = [
    "InfluenceFacts",
    "Reach",
    "bank_cosines",
    "direction_facts",
    "front_and_tail_maps",
    "front_and_tail_shifts",
    "hits_by_seed",
    "influence_facts",
    "label_free_rows",
    "open_settings",
    "oracle_and_controls",
    "oracle_by_step",
    "reach",
    "shifts_of_fooled",
    "under_settings",
]


@dataclass(frozen=True)
class Reach:
    """What an attack does to a classifier: whom it fools, (N,) of all images, and the median size of those changes.

    ``share`` is of the images that were right; the sizes are NaN where no image is fooled.
    """

    fooled: Tensor
    share: float
    linf: float
    l2: float


def reach(model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor) -> Reach:
    """What the perturbations ``adversarial - images`` (N, C, H, W) of images with labels (N,) do to a classifier.

    >>> from advdef.models import LeNet5
    >>> images = torch.rand(4, 1, 28, 28)
    >>> reach(LeNet5((1, 28, 28), 10).eval(), images, images, torch.arange(4)).share
    0.0
    """
    right = correct(model, images, labels)
    fooled = right & ~correct(model, adversarial, labels)
    change = (adversarial - images)[fooled].flatten(1)
    share = int(fooled.sum()) / max(1, int(right.sum()))
    if not len(change):
        return Reach(fooled, share, float("nan"), float("nan"))
    return Reach(fooled, share, change.abs().amax(1).median().item(), change.norm(dim=1).median().item())


def front_and_tail_shifts(
    model: nn.Module,
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    *,
    layer: str,
    match_seed: int,
    noise_seed: int | None,
) -> dict[str, Tensor]:
    """How far an attack moves front and tail: the 5 % of the features with the largest and the smallest influence.

    The influence is that on the labels. Returns numbers (N,) by name; changes are in units of the mean activation.

    - "middle": the mean change of the features that belong to neither.
    - "front": the mean change of the front.
    - "front, matched": a control, the mean change of as many features of the middle that are about as active
      (:func:`advdef.papers.nip.shift.matched`).
    - "front, noise": the other control, the mean change of the front under noise as long as the perturbation; left out
      without a ``noise_seed``, and where a perturbation is longer than any noise in [0, 1].
    - "front, size", "front, matched, size" and "front, noise, size": means of absolute changes.
    - "front, activation of matched": how active the matched features are, as a share of the front's activation.
    - The same six for "tail".

    Args:
        model: The classifier.
        images: (N, C, H, W), in [0, 1].
        adversarial: (N, C, H, W): the same images, attacked.
        labels: (N,), int64.
        layer: The layer of the features: the last in the model's ``taps``, whose influence is measured.
        match_seed: Seed of the draw of matched features.
        noise_seed: Seed of the noise; None leaves it out.
    """
    clean, after = (features(model, x, layer) for x in (images, adversarial))
    noisy = None
    if noise_seed is not None:
        generator = torch.Generator().manual_seed(noise_seed)
        with suppress(ValueError):  # longer than any noise in [0, 1]
            noisy = features(model, equal_norm_noise(images, adversarial, generator=generator), layer)
    weights = front_and_tail(influence(model, images, labels), front=0.05, tail=0.05)
    unit = clean.mean()
    found = {"middle": shift(clean, after, weights == 0) / unit}
    for part, sign in (("front", 1), ("tail", -1)):
        chosen, opposite = weights == sign, weights == -sign
        # out of reach, so that the control comes from the middle; what little is reached is left out
        away = clean.masked_fill(opposite, -1e6 if sign > 0 else 1e6)
        control = matched(away, chosen, generator=torch.Generator().manual_seed(match_seed)) & ~opposite
        own, others = ((clean * which).sum(1) / which.sum(1).clamp_min(1) for which in (chosen, control))
        found[f"{part}, activation of matched"] = others / own.mean()
        states = [(part, after, chosen), (f"{part}, matched", after, control)]
        states += [] if noisy is None else [(f"{part}, noise", noisy, chosen)]
        for name, state, which in states:
            found[name] = shift(clean, state, which) / unit
            found[f"{name}, size"] = shift(torch.zeros_like(clean), (state - clean).abs(), which) / unit
    return found


def shifts_of_fooled(
    model: nn.Module,
    images: Tensor,
    attacked: Mapping[str, Tensor],
    labels: Tensor,
    *,
    layer: str,
    least: int,
    match_seed: int,
    noise_seed: int,
) -> dict[str, dict[str, Tensor]]:
    """What :func:`front_and_tail_shifts` returns, by attack; (n,) each, NaN for the images that did not fool the model.

    Attacks that fooled fewer than ``least`` images are left out. AUNA, which is noise itself, has no noise beside it.

    Args:
        model: The classifier.
        images: (N, C, H, W), in [0, 1].
        attacked: By attack, (n, C, H, W): the first n images, attacked.
        labels: (N,), int64.
        layer: The layer of the features: the last in the model's ``taps``.
        least: How many images an attack has to fool.
        match_seed: Seed of the draw of matched features.
        noise_seed: Seed of the noise.
    """
    found = {}
    for attack, adversarial in attacked.items():
        clean, y = images[: len(adversarial)], labels[: len(adversarial)]
        fooled = reach(model, clean, adversarial, y).fooled
        if int(fooled.sum()) >= least:
            changes = front_and_tail_shifts(
                model, clean[fooled], adversarial[fooled], y[fooled], layer=layer, match_seed=match_seed,
                noise_seed=None if attack == "AUNA" else noise_seed,
            )  # fmt: skip
            found[attack] = {
                part: torch.full_like(fooled, torch.nan, dtype=values.dtype).masked_scatter(fooled, values)
                for part, values in changes.items()
            }
    return found


def front_and_tail_maps(
    model: nn.Module, images: Tensor, adversarial: Tensor, labels: Tensor, *, layer: str
) -> dict[str, Tensor]:
    """The maps of ``layer`` that hold the features of largest and smallest influence on labels (N,): (N, 1, h, w) each.

    They are called by part, "front" or "tail", and state, "clean" or "attacked", on two lines; each pair is scaled by
    its largest value. The layer must have the channels of the classifier's features, in their order.
    """
    values = influence(model, images, labels)
    with borrowed(model, quiet=True), torch.no_grad(), tapped(model, [layer]) as seen:
        states = []
        for x in (images, adversarial):
            model(x)
            states.append(seen[layer])
    found: dict[str, Tensor] = {}
    for part, feature in (("front", values.argmax(1)), ("tail", values.argmin(1))):
        channel = feature // (values.shape[1] // states[0].shape[1])
        maps = [state[torch.arange(len(images), device=images.device), channel] for state in states]
        top = torch.maximum(*maps).amax((1, 2), keepdim=True).clamp_min(1e-12)
        found |= {f"{part},\n{of}": (m / top)[:, None] for of, m in zip(("clean", "attacked"), maps, strict=True)}
    return found


def oracle_and_controls(
    classifier: nn.Module, images: Tensor, adversarial: Tensor, *, step: float, noises: int
) -> dict[str, Tensor]:
    """Which attacked images (N, C, H, W) get the prediction of the clean ones back, (N,) by control.

    "V0 oracle" is the released protocol (:class:`advdef.papers.nip.oracle.NIPOracle` with a front of 1, a tail of 5 and
    the probability). The controls replace its direction, by that of another image, white noise and the best of
    ``noises`` noises; or take its knowledge of the sign away.
    """
    with borrowed(classifier, quiet=True), torch.no_grad():
        answer = classifier(images).argmax(1)
    twin = inverse_direction(classifier, images, front=1, tail=5, score="probability")
    generator = torch.Generator().manual_seed(11)
    white = [rms_normalised(torch.randn(images.shape, generator=generator).to(images)) for _ in range(noises)]
    directions = {
        "V0 oracle": [twin],
        "another image's direction": [twin.roll(1, 0)],
        "white noise, oracle sign": white[:1],
        f"best of {noises} noises, oracle sign": white,
        "V0, plus only": [twin],
        "white noise, plus only": white[:1],
    }
    found = {}
    for name, tried in directions.items():
        told = NIPOracle(classifier, step=step, sign="plus" if name.endswith("plus only") else "oracle")
        repaired = told(adversarial, clean_prediction=answer, directions=tried)
        found[name] = repaired.argmax(1) == answer
    return found


def oracle_by_step(
    classifier: nn.Module,
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    *,
    steps: Sequence[float],
    noises: int,
    resume: Path | None = None,
) -> dict[float, dict[str, Tensor]]:
    """:func:`oracle_and_controls` by step, on the attacked images that fool a classifier; {} if none.

    Args:
        classifier: The classifier.
        images: (N, C, H, W), in [0, 1].
        adversarial: (N, C, H, W): the same images, attacked.
        labels: (N,), int64.
        steps: Sizes of what is added (RMS, in pixel units).
        noises: Of how many noises one control takes the best.
        resume: A folder that keeps what was found; None keeps nothing.
    """
    fooled = reach(classifier, images, adversarial, labels).fooled
    if not fooled.any():
        return {}
    restore = partial(oracle_and_controls, classifier, images[fooled], adversarial[fooled], noises=noises)

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = [restore(step=step) for step in steps]
        return {"restored": torch.stack([torch.stack([*hits.values()]) for hits in found])}, {"controls": [*found[0]]}

    if resume is None:
        tensors, facts = make()
    else:
        entry = kept(resume, key("oracle", restore=restore, steps=list(steps)), make, label="oracle")
        tensors, facts = entry.tensors, entry.facts
    by_step = tensors["restored"].to(labels.device)
    return {step: dict(zip(facts["controls"], hits, strict=True)) for step, hits in zip(steps, by_step, strict=True)}


def bank_cosines(model: nn.Module, images: Tensor, bank: DirectionBank, *others: DirectionBank) -> list[Tensor]:
    """For each bank, the cosine (K, N) of each class's direction in it with the image's own direction for that class.

    ``images`` are (N, C, H, W). Their own directions have the weights of the first bank.
    """
    own = class_directions(model, images, bank.weights).flatten(2)
    return [torch.cosine_similarity(own, b.directions.flatten(1)[:, None], dim=2) for b in (bank, *others)]


def open_settings(taps: Sequence[str], *, front: int) -> dict[str, dict[str, Any]]:
    """Settings of :func:`advdef.papers.nip.influence.inverse_direction` that the definitions leave open, by name.

    ``taps`` are the layers that the network declares, ``front`` is one more size of front and tail that is tried.
    """
    return {
        "default": {},
        "probability instead of the logit": {"score": "probability"},
        "tail: the other script's slice": {"tail_slice": "skipping"},
        "front and tail 1": {"front": 1, "tail": 1},
        "front 1, tail 5 (released)": {"front": 1, "tail": 5},
        "front and tail 10": {"front": 10, "tail": 10},
        f"front and tail {front}": {"front": front, "tail": front},
        "front and tail 5 %": {"front": 0.05, "tail": 0.05},
        f"layer {taps[-2]} (the last maps)": {"layer": taps[-2]},
        f"layer {taps[0]} (the first maps)": {"layer": taps[0]},
    }


def under_settings(
    model: nn.Module,
    sample: Tensor,
    images: Tensor,
    attacked: Mapping[str, Tensor],
    labels: Tensor,
    *,
    step: float,
    settings: Mapping[str, Any],
) -> tuple[float, dict[str, float]]:
    """What other settings of :func:`advdef.papers.nip.influence.inverse_direction` change.

    Returns the mean cosine of a sample's directions with those of the default settings, and percentages of images that
    are right: under each attack with V0 and with V1, and without an attack with V1.

    Args:
        model: The classifier.
        sample: (M, C, H, W), in [0, 1]: the images whose directions are compared.
        images: (N, C, H, W), in [0, 1]: images that the classifier gets right.
        attacked: By attack, (N, C, H, W): the same images, attacked.
        labels: (N,), int64.
        step: Size of what is added (RMS, in pixel units).
        settings: The settings, by their names there.
    """
    default, changed = (inverse_direction(model, sample, **chosen).flatten(1) for chosen in ({}, settings))
    twin = inverse_direction(model, images, **settings)
    told, own = NIPOracle(model, step=step), NIPSelf(model, step=step, **settings)
    found = {}
    for attack, partners in attacked.items():
        restored = told(partners, clean_prediction=labels, directions=[twin]).argmax(1) == labels
        repaired = repair(own, images, partners, labels)
        found[f"{attack}: right with V0"] = float(100 * restored.float().mean())
        found[f"{attack}: right with V1"] = 100 * repaired.robust.value
        found["benign with V1"] = 100 * repaired.benign_accuracy.value
    return float(torch.cosine_similarity(default, changed).mean()), found


def direction_facts(directions: Tensor) -> dict[str, float]:
    """Medians over directions (N, C, H, W) of their root mean square, largest pixels, and likeness to the next one.

    The likeness is the absolute value of the cosine.
    """
    pixels = directions.abs().flatten(1)
    cosines = torch.cosine_similarity(directions.flatten(1)[:-1], directions.flatten(1)[1:])
    medians = {
        "RMS": directions.square().mean((1, 2, 3)).sqrt(),
        "largest pixel": pixels.amax(1),
        "99th percentile": pixels.quantile(0.99, dim=1),
        "size of the cosine between two images": cosines.abs(),
    }
    return {name: float(values.median()) for name, values in medians.items()}


@dataclass(frozen=True)
class InfluenceFacts:
    """Medians and shares of influence on the predicted class, over images.

    Attributes:
        features: How many features there are.
        silent: Share of them that are zero.
        against: Share of images whose five features of smallest influence (a tail of 5, "lowest") all have a negative
            one.
        against_skipping: The same for the five next ones (a tail of 5, "skipping").
        sure: How many predictions have a probability above 0.99.
        on_probability: Median over these of the largest influence on the probability, by size; NaN where there are
            none.
        on_logit: The same for influence on the logit.
        front: How many features count as the front in ``agreement``.
        agreement: Mean share of the front by influence on the logit that is in the front by that on the probability.
    """

    features: int
    silent: float
    against: float
    against_skipping: float
    sure: int
    on_probability: float
    on_logit: float
    front: int
    agreement: float


def influence_facts(model: nn.Module, images: Tensor) -> InfluenceFacts:
    """Statistics of influence over images (N, C, H, W), at the last of the model's ``taps``."""
    traced = trace(model, images)
    predicted = traced.logits.argmax(1)
    by_logit, by_probability = traced.influence(predicted), traced.influence(predicted, score="probability")
    count = by_logit.shape[1]
    front = min(50, count // 4)
    one, other = (front_and_tail(values, front=front, tail=front) == 1 for values in (by_logit, by_probability))
    lowest = by_logit.sort(1).values
    sure = traced.logits.detach().softmax(1).amax(1) > 0.99
    largest = [float(v[sure].abs().amax(1).median()) if sure.any() else nan for v in (by_probability, by_logit)]
    return InfluenceFacts(
        features=count,
        silent=float((traced.features == 0).float().mean()),
        against=float((lowest[:, 4] < 0).float().mean()),
        against_skipping=float((lowest[:, 5:10] < 0).all(1).float().mean()),
        sure=int(sure.sum()),
        on_probability=largest[0],
        on_logit=largest[1],
        front=front,
        agreement=float(((one & other).sum(1) / front).mean()),
    )


def label_free_rows(results: Results, eps: float) -> dict[str, Results]:
    """Rows of the part "label-free" by attack, PGD-min and PGD with ``eps``, each with those without an attack."""
    return {
        "PGD-min": results.select(part="label-free", attack=("none", "PGD-min")),
        f"PGD {show_eps(eps)}": results.select(part="label-free", attack=("none", "PGD"), eps=(0.0, eps)),
    }


def hits_by_seed(results: Results, *defences: str) -> tuple[Tensor, ...]:
    """For each defence, the hits (S, N) of its networks of S seeds on the same N images, in the order of the rows."""
    seeds = results.values("seed")
    return tuple(torch.stack([results.hits(defence=k, seed=seed) for seed in seeds]) for k in defences)
