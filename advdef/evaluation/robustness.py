"""Runs attempts on a defence and judges them on the deployed defence, with the worst case per image.

An image counts as robust under a threat model when nothing that was tried there broke it. The result does not depend on
the size of batches, on shards, on interruptions, nor on whether the caller has gradients switched off or is in
inference mode: what the package's attacks draw depends on the image, the seed and the attempt's name alone. Exceptions
are attacks that use the batch itself (:func:`advdef.attacks.universal`, and attacks by decisions) and a user's own
attacks, if they draw for a batch in one block.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.contract import ask, borrowed, check_logits, check_weights, is_watched, validate, watched
from advdef.defenses.base import Defense, is_random, reseed
from advdef.draws import fresh_seed, image_keys, seeded
from advdef.evaluation.admission import admitted, check_count, check_known, check_repeats, warn_of_gradients
from advdef.evaluation.batches import Batches
from advdef.evaluation.judge import Judge, check_sound
from advdef.evaluation.outcomes import Outcome
from advdef.evaluation.progress import attack_bar, show_attack
from advdef.evaluation.threats import Attempt
from advdef.norms import Norm
from advdef.statistics import Interval, wilson
from advdef.store import identity

__all__ = ["accuracy", "correct", "evaluate", "evaluate_curve"]


def correct(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 500, seed: int = 0) -> Tensor:
    """Which images (N, C, H, W) in [0, 1] a model classifies as their label (N,): (N,) booleans.

    A model that draws random numbers draws under ``seed``. Raises TypeError or ValueError for what are no images or
    labels (NaN and an empty batch included), and ValueError for weights that are not finite.
    """
    images, labels, _ = validate(images, labels, 0.0)
    check_count("batch_size", batch_size)

    def right(part: Tensor) -> Tensor:
        reseed(model, seed)
        logits = ask(model, images[part])
        check_logits(logits, labels[part])
        return logits.argmax(1) == labels[part]

    with borrowed(model), torch.no_grad(), seeded(seed, images.device):
        return Batches(batch_size)(right, torch.arange(len(images), device=images.device))


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Interval:
    """Accuracy on images as they are, with its Wilson interval."""
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
    among: Tensor | None = None,
    exhaustive: bool = False,
    draws: int = 10,
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> Outcome:
    """Run the attempts in order, judge each result on ``defence``, and keep the worst case of each image.

    Args:
        defence: What is attacked; the deployed defence alone decides what counts as broken.
        attempts: What is tried, cheap attacks first: an image leaves the working set once it is broken. Made by
            :func:`oblivious`, :func:`direct` and :func:`adaptive`.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: Budget of all attacks, a size in ``norm``; infinity for attacks that look for the smallest perturbation.
        generator: Source of the seed from which all random numbers follow.
        norm: The norm of eps.
        known: Earlier outcomes of this defence on the same images, in the same norm and at the same or a smaller eps.
            What they broke counts as broken, so that ``adaptive`` contains ``direct`` and ``oblivious``, and a curve
            over eps can only fall (for a random defence: apart from sampling).
        among: (N,) booleans: the only images that are attacked. The outcome is about all. Default: all.
        exhaustive: Try every attack on every image that is correct without one, for tables of single attacks.
        draws: Passes by which a random defence is judged; others need one.
        batch_size: Images attacked at a time. What does not fit into memory is tried in halves, with a MemoryWarning.
        resume: A folder in which each finished attempt is kept; the same evaluation, called again, goes on after it.
        progress: Show a progress bar.

    **A defence that draws random numbers** says so (``random = True``). Each result is then judged by ``draws`` passes,
    and counts by the share of them that is right. The worst attempt on an image, the image itself included, is the one
    with the smallest share; of equals, the last. Another ``draws`` passes, which had no part in that choice, give the
    share that is reported; in ``clean`` and ``robust`` an image is right when most of them are. All attempts meet the
    same draws; the draws that an attack sees, those by which attempts are compared, and those of the report are three
    separate sequences. A defence that has a generator of its own needs a method ``reseed(seed)``. It is called, and the
    generator's earlier state is not restored.

    Raises UnsoundAttack when an attack leaves its budget; TypeError for what is no defence, attempt, outcome or
    generator; ValueError for nothing to try, two attempts of one name, a ``known`` that does not belong here, an attack
    in another norm, an eps above 1 in Linf, weights that are not finite, and a defence that draws random numbers
    without saying so, or whose draws no seed repeats. Warns with NaNGradientWarning, and with NoGradientWarning when
    most gradients that were needed were zero: through the stand-ins or, where the defence has none, directly.
    """
    planned, earlier, eps = admitted(defence, attempts, known, eps=eps, norm=norm, generator=generator)
    images, labels, _ = validate(images, labels, eps, norm=norm, unbounded=True)
    check_count("draws", draws)
    check_count("batch_size", batch_size)
    if among is not None and (among.dtype != torch.bool or among.shape != labels.shape):
        raise ValueError(f"among must be booleans of shape {tuple(labels.shape)}, one per image")
    random, targets = is_random(defence), list(dict.fromkeys(attempt.target for attempt in planned))
    for model in (defence, *targets):
        check_weights(model)
    reseed(defence, 0)
    empty = Outcome(
        eps, labels < 0, labels < 0, images, (), norm, identity(defence), image_keys(images, 0) + labels,
        exhaustive=exhaustive,
    )  # fmt: skip
    for outcome in earlier:
        check_known(outcome, empty)
    judge = Judge(
        defence, images, labels, eps=eps, norm=norm, seed=fresh_seed(generator), draws=draws if random else 0,
        batch_size=batch_size, folder=None if resume is None else Path(resume),
    )  # fmt: skip
    quiet = is_watched()
    with ExitStack() as stack:
        stack.enter_context(watched())
        for model in dict.fromkeys((defence, *targets)):
            stack.enter_context(borrowed(model))
        check_repeats(defence, images[: min(32, batch_size)], judge.batches, random=random)
        hits, margin = judge.answers(images, "choose")
        clean = hits.mean(1)
        worst, fewest = images.clone(), clean.clone()
        for outcome in earlier:
            check_sound("an earlier attack, on these images,", images, outcome.adversarial, eps=outcome.eps, norm=norm)
            found = outcome.adversarial.to(images)
            right = judge.shares(found, "choose") if random else outcome.robust.to(fewest) * fewest
            _keep(torch.arange(len(images)), found, right, worst, fewest, ties=random)
            margin = margin if outcome.margin is None else torch.maximum(margin, outcome.margin.to(margin))
        findings = []
        bar = attack_bar(planned, shown=progress)
        for attempt in bar:
            show_attack(bar, attempt.name)
            tried = (clean if exhaustive else fewest) > 0
            tried = tried if among is None else tried & among.to(tried.device)
            rows, found, right, finding = judge.run(attempt, tried)
            # of a random defence some that are tried have been lost before, by most of its passes and not by all
            finding = replace(finding, broken=finding.broken & ((clean if exhaustive else fewest) > 0.5))
            _keep(rows, found, right, worst, fewest, ties=random)
            margin = torch.maximum(margin, finding.margin) if finding.margin is not None else margin
            findings.append(finding)
        outcome = replace(
            empty, clean=clean > 0.5, robust=fewest > 0.5, adversarial=worst, findings=tuple(findings), margin=margin
        )
        if random:
            (before, _), (after, _) = judge.answers(images, "report"), judge.answers(worst, "report")
            clean, left = before.mean(1), after.mean(1)
            fresh: dict[str, Any] = {"shares": left, "clean_shares": clean}
            fresh |= {"passes": after.mean(0), "clean_passes": before.mean(0)}
            outcome = replace(outcome, clean=clean > 0.5, robust=(left > 0.5) & (clean > 0.5), **fresh)
    if not quiet:
        warn_of_gradients(defence, planned, findings)
    return outcome


def evaluate_curve(
    defence: Defense,
    attempts: Mapping[float, list[Attempt]],
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    norm: Norm = "Linf",
    known: Sequence[Mapping[float, Outcome]] = (),
    then: Callable[[Outcome, int], Outcome] | None = None,
    draws: int = 10,
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> dict[float, Outcome]:
    """Robust accuracy over eps: one evaluation for each eps in ascending order, each on what smaller eps left.

    Args:
        defence: What is attacked.
        attempts: What is tried, by eps.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        generator: Source of the seeds.
        norm: The norm of every eps.
        known: Curves of weaker threat models; what they broke at the same or a smaller eps counts too.
        then: What is made of each outcome before the next eps, given the outcome and its seed.
        draws: Passes by which a random defence is judged.
        batch_size: Images attacked at a time.
        resume: A folder in which each finished attempt is kept.
        progress: Show a progress bar.

    Returns the outcomes by eps. Raises what :func:`evaluate` raises.
    """
    outcomes: dict[float, Outcome] = {}
    previous: Outcome | None = None
    for eps in sorted(attempts):
        before = [outcome for curve in known for size, outcome in sorted(curve.items()) if size <= eps]
        before += [] if previous is None else [previous]
        seed = fresh_seed(generator)
        found = evaluate(
            defence, attempts[eps], images, labels, eps=eps, generator=torch.Generator().manual_seed(seed), norm=norm,
            known=before, draws=draws, batch_size=batch_size, resume=resume, progress=progress,
        )  # fmt: skip
        previous = outcomes[eps] = found if then is None else then(found, seed)
    return outcomes


def _keep(rows: Tensor, found: Tensor, right: Tensor, worst: Tensor, fewest: Tensor, *, ties: bool) -> None:
    """Note, for the images ``rows``, what was found and its share of right passes, where that is a new worst case."""
    rows = rows.to(fewest.device)
    worse = (right <= fewest[rows]) if ties else (right < fewest[rows])
    worst[rows[worse]], fewest[rows[worse]] = found[worse], right[worse]
