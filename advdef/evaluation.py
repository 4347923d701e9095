"""Three threat models, judged on the deployed defence, with the worst case per image.

``oblivious``: crafted on the bare classifier, replayed on the defence. ``direct``: through the deployed defence with
plain autograd. ``adaptive``: through its surrogates, with its own attacks, by transfer and without gradients; it
includes what the other two found. An image counts as robust under a threat model when nothing tried there broke it.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advdef import resume as resuming
from advdef.attacks._balls import Norm, size
from advdef.attacks._common import borrowed, check_logits, validate
from advdef.attacks._types import Attack, Suite, describe, norm_of
from advdef.attacks.suites import stopping
from advdef.defenses.base import Defense
from advdef.outcomes import Finding, Outcome
from advdef.statistics import Interval, wilson

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

Threat = Literal["clean", "oblivious", "direct", "adaptive"]


class UnsoundAttack(RuntimeError):
    """An attack returned images outside its budget or [0, 1], or not finite: no number may come from it."""


@dataclass(frozen=True)
class Attempt:
    """One attack on one target: what is crafted on. Success is always judged on the defence."""

    name: str
    attack: Attack
    target: nn.Module


def oblivious(defence: Defense, suite: Suite) -> list[Attempt]:
    """The suite on the bare classifier."""
    return [Attempt(name, attack, defence.classifier) for name, attack in suite.items()]


def direct(defence: Defense, suite: Suite) -> list[Attempt]:
    """The suite on the deployed defence, with whatever gradient autograd finds there."""
    return [Attempt(name, attack, defence) for name, attack in stopping(suite).items()]


def adaptive(
    defence: Defense,
    suite: Suite,
    *,
    eps: float,
    steps: int | None = None,
    transfer: Mapping[str, nn.Module] | None = None,
    extra: Suite | None = None,
) -> list[Attempt]:
    """The suite on every surrogate (on the defence itself when it has none), then the defence's own attacks.

    ``steps`` is the budget of those own attacks, if not their default. After them come ``extra`` attacks on the
    deployed defence (gradient-free ones) and the suite replayed from ``transfer`` models.
    """
    targets = defence.surrogates() or {"defence": defence}
    through = stopping(suite) if defence.exact else suite
    own = defence.adaptive_attacks(eps)
    if steps is not None:
        own = {name: partial(attack, steps=steps) for name, attack in own.items()}
    attempts = [
        Attempt(f"{name} through {label}", attack, target)
        for label, target in targets.items()
        for name, attack in through.items()
    ]
    attempts += [Attempt(name, attack, defence) for name, attack in {**own, **(extra or {})}.items()]
    for label, source in (transfer or {}).items():
        attempts += [Attempt(f"{name} from {label}", attack, source) for name, attack in suite.items()]
    return attempts


def correct(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 500) -> Tensor:
    """(N,) booleans: images (N, C, H, W) in [0, 1] that ``model`` classifies as their label (N,).

    Raises TypeError or ValueError for images or labels that are none, among them NaN and an empty batch.
    """
    validate(images, labels, 0.0)
    with borrowed(model), torch.no_grad():
        hits = []
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            logits = model(x)
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
    batch_size: int = 250,
    resume: Path | None = None,
    progress: bool = False,
) -> Outcome:
    """Run the attempts in order and judge each result on ``defence``.

    Images (N, C, H, W) in [0, 1], labels (N,). An image leaves the working set once broken, so put cheap attacks first;
    ``exhaustive`` tries every attack on every correct image instead, for tables of single attacks. ``eps`` is a size in
    ``norm``; infinity for attacks that look for the smallest perturbation. ``known`` are earlier outcomes on the same
    images and norm at the same or a smaller eps: what they broke stays broken (so ``adaptive`` contains ``direct`` and
    ``oblivious``, and a curve over eps falls). In the folder ``resume`` each finished attempt is kept, and the same
    evaluation, called again, goes on after it, with the same result unless the defence draws random numbers itself.

    Raises UnsoundAttack when an attack leaves its budget; ValueError for a ``known`` that does not belong here, for an
    attack in another norm, and for an eps above 1 in Linf (8 for 8 / 255, say).
    """
    validate(images, labels, eps, unbounded=True)
    planned, file = list(attempts), None
    for attempt in planned:
        if math.isfinite(eps) and norm_of(attempt.attack) not in (None, norm):
            raise ValueError(f"{attempt.name} is an attack in {norm_of(attempt.attack)}, and eps is a size in {norm}")
    clean = correct(defence, images, labels, batch_size=batch_size)
    robust, adversarial = clean.clone(), images.clone()
    for outcome in [known] if isinstance(known, Outcome) else known:
        if outcome.eps > eps or outcome.norm != norm or len(outcome.clean) != len(images):
            seen = f"eps {outcome.eps:g} in {outcome.norm} and {len(outcome.clean)} images"
            raise ValueError(f"known is for {seen}, not for eps {eps:g} in {norm} and {len(images)} images")
        check_sound("an earlier attack, on these images,", images, outcome.adversarial, eps=outcome.eps, norm=norm)
        new = robust & ~outcome.robust
        adversarial[new] = outcome.adversarial[new]
        robust &= outcome.robust
    if norm == "Linf" and 1 < eps < math.inf:
        raise ValueError(
            f"pixels lie in [0, 1], so eps {eps:g} is no budget in Linf; in steps of 1/255 it is {eps:g} / 255"
        )
    state = resuming.State(robust, adversarial, findings=[], generator=generator.get_state())
    if resume is not None:
        settings = {"eps": eps, "norm": norm, "exhaustive": exhaustive, "batch_size": batch_size}
        start = [images, labels, state.robust, state.adversarial, state.generator]
        steps = [[a.name, a.attack, a.target] for a in planned]
        file = resume / f"{resuming.key(settings, start, defence, steps)}.safetensors"
        state = resuming.load(file, images.device) or state
        generator.set_state(state.generator)
    bar = tqdm(planned[len(state.findings) :], disable=not progress, unit="attack", leave=False)
    for attempt in bar:
        bar.set_postfix_str(attempt.name)
        tried = (clean if exhaustive else state.robust).clone()
        state.findings.append(
            _attempt(defence, attempt, images, labels, eps, norm, tried, state, generator, batch_size)
        )
        if file is not None:
            state.generator = generator.get_state()
            resuming.save(file, state)
    return Outcome(eps, clean, state.robust, state.adversarial, tuple(state.findings), norm)


def _attempt(
    defence: Defense,
    attempt: Attempt,
    images: Tensor,
    labels: Tensor,
    eps: float,
    norm: Norm,
    tried: Tensor,
    state: resuming.State,
    generator: torch.Generator,
    batch_size: int,
) -> Finding:
    """One attempt on the images ``tried`` (N,); writes what it breaks into ``state``."""
    rows = torch.nonzero(tried)[:, 0]
    broken = torch.zeros_like(tried)
    passes = {"forward": 0, "backward": 0}
    started = time.perf_counter()
    for part in rows.split(batch_size) if len(rows) else ():
        x, y = images[part], labels[part]
        with counted(attempt.target, passes):
            found = attempt.attack(attempt.target, x, y, eps=eps, generator=generator).detach()
        check_sound(attempt.name, x, found, eps=eps, norm=norm)
        wins = ~correct(defence, found, y)
        broken[part] = wins
        first = part[wins & state.robust[part]]
        state.adversarial[first] = found[wins & state.robust[part]]
        state.robust[first] = False
    seconds = time.perf_counter() - started
    settings = describe(attempt.attack)
    return Finding(attempt.name, tried, broken, seconds, passes["forward"], passes["backward"], settings)


def evaluate_curve(
    defence: Defense,
    attempts: Mapping[float, list[Attempt]],
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    norm: Norm = "Linf",
    known: Sequence[Mapping[float, Outcome]] = (),
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
            batch_size=batch_size,
            resume=resume,
            progress=progress,
        )
    return outcomes


def check_sound(name: str, images: Tensor, found: Tensor, *, eps: float, norm: Norm = "Linf") -> None:
    """Raise UnsoundAttack unless what an attack found lies in its budget and in [0, 1]."""
    if found.shape != images.shape or not bool(torch.isfinite(found).all()):
        raise UnsoundAttack(f"{name} returned images of shape {tuple(found.shape)}, or not finite")
    moved, low, high = float(size(found - images, norm).max()), float(found.min()), float(found.max())
    if moved > eps + 1e-6 or low < 0 or high > 1:
        unit = "moved pixels by" if norm == "Linf" else f"moved an image in {norm} by"
        raise UnsoundAttack(f"{name} {unit} {moved:g} (eps {eps:g}) into [{low:g}, {high:g}]")


@contextmanager
def counted(target: nn.Module, passes: dict[str, int]) -> Iterator[None]:
    """Count images through ``target.network`` (``target`` itself where it names none), forward and backward."""
    network = getattr(target, "network", target)

    def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passes["forward"] += len(output)
        counted = False

        def from_logits(gradient: Tensor) -> None:
            nonlocal counted
            counted = True
            passes["backward"] += len(gradient)

        def at_images(gradient: Tensor) -> None:
            if not counted:  # an attack on features, whose gradient does not pass the logits
                passes["backward"] += len(gradient)

        if output.requires_grad:
            output.register_hook(from_logits)
        if inputs[0].requires_grad:
            inputs[0].register_hook(at_images)

    handle = network.register_forward_hook(forward)
    try:
        yield
    finally:
        handle.remove()
