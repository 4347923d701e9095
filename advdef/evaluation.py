"""Judges attempts on the deployed defence, with the worst case per image.

An image counts as robust under a threat model (:mod:`advdef.threats`) when nothing tried there broke it. Whatever runs
here gives the same result for batches of any size, on shards, after an interruption, without gradients and in inference
mode: what an attack draws depends on the image, the seed and the attack's name alone.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advdef.attacks._balls import Norm
from advdef.attacks._common import (
    NoGradientWarning,
    ask,
    borrowed,
    check_logits,
    check_weights,
    is_watched,
    validate,
    watched,
)
from advdef.attacks._types import norm_of
from advdef.defenses.base import Defense, is_random, reseed
from advdef.draws import fresh_seed, image_keys, seeded
from advdef.judge import Judge, UnsoundAttack, check_sound, counted, in_parts
from advdef.outcomes import Finding, Outcome
from advdef.statistics import Interval, wilson
from advdef.store import identity
from advdef.threats import Attempt, Threat, adaptive, direct, oblivious

__all__ = [
    "Attempt",
    "Finding",
    "Outcome",
    "Threat",
    "UnsoundAttack",
    "accuracy",
    "adaptive",
    "check_sound",
    "correct",
    "counted",
    "direct",
    "evaluate",
    "evaluate_curve",
    "oblivious",
]


def correct(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 500, seed: int = 0) -> Tensor:
    """(N,) booleans: images (N, C, H, W) in [0, 1] that ``model`` classifies as their label (N,).

    A model that draws from torch's generator draws under ``seed``. Raises TypeError or ValueError for images or labels
    that are none, among them NaN and an empty batch, and for weights that are not finite.
    """
    images, labels, _ = validate(images, labels, 0.0)
    _check_batch_size(batch_size)
    hits = []
    with borrowed(model), torch.no_grad(), seeded(seed, images.device):
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            logits = ask(model, x)
            check_logits(logits, y)
            hits.append(logits.argmax(1) == y)
    return torch.cat(hits)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Interval:
    """Clean accuracy with its Wilson interval."""
    hits = correct(model, images, labels)
    return wilson(int(hits.sum()), len(hits))


def evaluate(
    defence: Defense,
    attempts: Iterable[Attempt],
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator,
    norm: Norm = "Linf",
    known: Outcome | Sequence[Outcome] = (),
    exhaustive: bool = False,
    draws: int = 10,
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> Outcome:
    """Run the attempts in order and judge each result on ``defence``.

    Images (N, C, H, W) in [0, 1], labels (N,). An image leaves the working set once broken, so put cheap attacks first;
    ``exhaustive`` tries every attack on every correct image instead, for tables of single attacks. ``eps`` is a size in
    ``norm``; infinity for attacks that look for the smallest perturbation. ``known`` are earlier outcomes of this
    defence on the same images and norm at the same or a smaller eps: what they broke stays broken (so ``adaptive``
    contains ``direct`` and ``oblivious``, and a curve over eps falls). The seed comes from ``generator``. In the folder
    ``resume`` each finished attempt is kept, and the same evaluation, called again, goes on after it. What does not fit
    into memory is tried in halves.

    **A defence that draws random numbers** says so (``random = True``) and is judged by shares: each result by
    ``draws`` passes. The worst attempt on an image is the one that fewest of them get right, no attack among them; of
    equals the last. Another ``draws`` passes, which chose nothing, give the share that is reported. All attempts meet
    the same draws; those seen while an attack is crafted, while attempts are compared, and in the report are three
    sequences. In ``clean`` and ``robust`` an image is right when most of the reported passes are.

    Raises UnsoundAttack when an attack leaves its budget; ValueError for nothing to try, a ``known`` that does not
    belong here, an attack in another norm, an eps above 1 in Linf, weights that are not finite, and a defence that
    draws random numbers without saying so. Warns with NoGradientWarning when no attack found a gradient and the defence
    has no surrogate.
    """
    planned, earlier = list(attempts), [known] if isinstance(known, Outcome) else list(known)
    images, labels, _ = validate(images, labels, eps, norm=norm, unbounded=True)
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, such as torch.Generator().manual_seed(0), not {generator!r}"
        )
    if not planned and not earlier:
        raise ValueError("nothing to try: an empty list of attempts would make clean accuracy pass for robust accuracy")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    _check_batch_size(batch_size)
    for attempt in planned:
        if math.isfinite(eps) and norm_of(attempt.attack) not in (None, norm):
            raise ValueError(f"{attempt.name} is an attack in {norm_of(attempt.attack)}, and eps is a size in {norm}")
    for model in {id(m): m for m in (defence, *(attempt.target for attempt in planned))}.values():
        check_weights(model)
    reseed(defence, 0)
    empty = Outcome(eps, labels < 0, labels < 0, images, (), norm, identity(defence), image_keys(images, 0) + labels)
    for outcome in earlier:
        _check_known(outcome, empty)
    random = is_random(defence)
    judge = Judge(
        defence, images, labels, eps=eps, norm=norm, seed=fresh_seed(generator), draws=draws if random else 0,
        batch_size=batch_size, folder=None if resume is None else Path(resume),
    )  # fmt: skip
    with borrowed(defence), watched():
        if not random:
            _check_repeats(defence, images[: min(32, batch_size)])
        clean = judge.shares(images, "choose")
        worst, fewest = images.clone(), clean.clone()
        for outcome in earlier:
            check_sound("an earlier attack, on these images,", images, outcome.adversarial, eps=outcome.eps, norm=norm)
            found = outcome.adversarial.to(images)
            right = judge.shares(found, "choose") if random else outcome.robust.to(fewest) * fewest
            _keep(torch.arange(len(images)), found, right, worst, fewest, ties=random)
        findings = []
        bar = tqdm(planned, disable=not progress, unit="attack", leave=False)
        for attempt in bar:
            bar.set_postfix_str(attempt.name)
            tried = (clean if exhaustive else fewest) > 0
            rows, found, right, finding = judge.run(attempt, tried)
            _keep(rows, found, right, worst, fewest, ties=random)
            findings.append(finding)
    told = [finding.gradient for finding in findings if finding.gradient is not None]
    if told and not any(told) and not defence.surrogates() and not is_watched():
        text = "no gradient reached any image (no_grad, detach, a hard decision, a saturated softmax): that the attacks"
        warnings.warn(f"{text} fail says nothing; give the defence a surrogate, or try square", NoGradientWarning, 2)
    if random:
        with borrowed(defence), watched():
            clean, fewest = judge.shares(images, "report"), judge.shares(worst, "report")
    return replace(
        empty,
        clean=clean > 0.5,
        robust=(fewest > 0.5) & (clean > 0.5),
        adversarial=worst,
        findings=tuple(findings),
        shares=fewest if random else None,
        clean_shares=clean if random else None,
    )


def evaluate_curve(
    defence: Defense,
    attempts: Mapping[float, list[Attempt]],
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    norm: Norm = "Linf",
    known: Sequence[Mapping[float, Outcome]] = (),
    draws: int = 10,
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> dict[float, Outcome]:
    """Robust accuracy over eps: one evaluation per eps in ascending order, each on what smaller eps left.

    ``attempts`` maps eps to what is tried there; ``known`` may hold the curves of weaker threat models, whose breaks
    count too. Raises what :func:`evaluate` raises.
    """
    outcomes: dict[float, Outcome] = {}
    previous: Outcome | None = None
    for eps in sorted(attempts):
        before = [outcome for outcome in (previous, *(curve.get(eps) for curve in known)) if outcome is not None]
        previous = outcomes[eps] = evaluate(
            defence,
            attempts[eps],
            images,
            labels,
            eps=eps,
            generator=generator,
            norm=norm,
            known=before,
            draws=draws,
            batch_size=batch_size,
            resume=resume,
            progress=progress,
        )
    return outcomes


def _keep(rows: Tensor, found: Tensor, right: Tensor, worst: Tensor, fewest: Tensor, *, ties: bool) -> None:
    """Note what is worse for an image than all before it."""
    rows = rows.to(fewest.device)
    worse = (right <= fewest[rows]) if ties else (right < fewest[rows])
    worst[rows[worse]], fewest[rows[worse]] = found[worse], right[worse]


def _check_known(known: Outcome, here: Outcome) -> None:
    """Raise ValueError for an outcome that says nothing about this evaluation."""
    if known.eps > here.eps or known.norm != here.norm or len(known.clean) != len(here.clean):
        seen = f"eps {known.eps:g} in {known.norm} and {len(known.clean)} images"
        raise ValueError(f"known is for {seen}, not for eps {here.eps:g} in {here.norm} and {len(here.clean)} images")
    if known.defence != here.defence:
        raise ValueError(
            "known is the outcome of another defence, or of this one before its weights or settings changed"
        )
    if known.keys is not None and here.keys is not None and not torch.equal(known.keys.to(here.keys), here.keys):
        raise ValueError("known is the outcome on other images, on other labels or in another order")


def _check_repeats(defence: Defense, images: Tensor) -> None:
    """Raise ValueError for a defence that decides otherwise when it is asked again."""
    rows = torch.arange(len(images), device=images.device)
    with torch.no_grad():
        first, second = (in_parts(lambda part: ask(defence, images[part]), rows, len(images)) for _ in range(2))
    if first.shape == second.shape and not torch.allclose(
        first, second, rtol=1e-4, atol=1e-4 * float(first.abs().max())
    ):
        how = "set `random = True` on it: then it is attacked through the expectation and judged on fresh draws"
        raise ValueError(
            f"{type(defence).__name__} gives other logits when asked again, so it draws random numbers; {how}"
        )


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
