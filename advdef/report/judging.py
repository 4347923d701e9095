"""One call from a network and images to an honest number: three attackers, the checks of the attack, a report."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef import checks
from advdef.attacks import fgsm, suites
from advdef.book.provenance import provenance
from advdef.checks import Check
from advdef.contract import NaNGradientWarning, NoGradientWarning, ProbabilitiesWarning, ask, borrowed
from advdef.data import Dataset, Split, load
from advdef.defenses import Defense, Undefended
from advdef.defenses.base import is_random
from advdef.draws import seeded
from advdef.evaluation import ATTACKERS, Outcome, Results, Threat, direct, evaluate, three_attackers
from advdef.evaluation.attacked import broken_images
from advdef.grid import shards
from advdef.models import Wrapped, wrap
from advdef.models.wrapped import check_mode
from advdef.norms import BallNorm
from advdef.report.defences import TRAINED, defended
from advdef.report.report import Report
from advdef.statistics import wilson
from advdef.store import StoreWarning, identity

__all__ = [
    "Deployed", "JudgingEffort", "check_attack", "deployed", "image_parts", "meet_attackers", "meet_attackers_on",
    "robustness",
]  # fmt: skip

_SHORT = 10  # steps below which an evaluation is a first look
_CHECKED = {*checks.FAST, "D3", "D4"} - {"B1", "E2"}  # training mode is refused; that it is one network, the limits say
_TOLD = (NaNGradientWarning, NoGradientWarning, StoreWarning)
_PART = "judged"
_PART_OF = 100  # images


def robustness(
    model: nn.Module, data: Dataset | Split | str, *, eps: float, norm: BallNorm = "Linf",
    defence: str | Callable[[nn.Module], Defense] = "undefended", name: str | None = None, images: int = 200,
    steps: int = 50, restarts: int = 1, queries: int = 500, rounds: int = 3, epochs: int = 5, seed: int = 0,
    draws: int = 10, batch_size: int = 100, resume: str | Path | None = None, progress: bool = False,
) -> Report:  # fmt: skip
    """What three attackers leave of a classifier behind a defence, with the checks of the attack.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K), in evaluation mode; :func:`advdef.models.wrap` makes
            such a one of any other. A :class:`~advdef.defenses.Defense` is judged as it is.
        data: A data set, its test images alone (a ``Split``), or a name as :func:`advdef.data.load` takes it.
        eps: The budget, a size in ``norm``: 8 / 255, say.
        norm: "Linf" or "L2".
        defence: A name of :mod:`advdef.report.defences`, or a function that puts one's own in front of the model.
        name: What the report calls the defence. Default: its name.
        images: How many test images are attacked, drawn at random but always the same.
        steps: Steps of each strong attack, before they grow by need. Below ten the checks are brief as well.
        restarts: Random starts of each strong attack, likewise.
        queries: Queries of the Square attack, likewise; it needs the extra ``eval``, and 0 leaves it out.
        rounds: How often the adaptive attacker may go on with twice the effort, as long as that breaks images
            (:func:`advdef.evaluation.three_curves`).
        epochs: Of each training that the defence needs.
        seed: Of trainings and attacks.
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
        resume: A folder that keeps what is finished, so that the same call goes on from there.
        progress: Whether to show a bar.

    Raises TypeError and ValueError, with what to do, for a model or images that would give a wrong number: training
    mode, probabilities, labels that the model does not have, and whatever the attacks refuse.

    >>> from advdef.data import load
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    >>> report = robustness(network, load("digits"), eps=0.1, images=5, steps=2, queries=0)
    >>> report.interval("adaptive").value <= report.interval("clean").value
    True
    """
    started = time.perf_counter()
    effort = JudgingEffort(steps, restarts, queries, rounds, epochs, seed=seed, draws=draws, batch_size=batch_size)
    case = deployed(model, data, eps=eps, norm=norm, defence=defence, name=name, epochs=epochs, seed=seed)
    test, rows = case.sample(images)
    count, x, y = len(case.data.test), test.float_images(), test.labels
    kept = None if resume is None else Path(resume).expanduser()
    notes = list(case.notes)
    if queries and not effort.queried:
        queries = 0
        notes.append("Square, an attack without gradients, was left out: pip install pyautoattack brings it.")
    with _collected(notes):
        found = meet_attackers(case, test, effort, eps=eps, norm=norm, resume=kept, progress=progress)
        row = check_attack(case, test, found, effort, resume=kept) if norm == "Linf" else []
    if is_random(case.defence):
        notes.append("The defence draws random numbers, and each number here varies with its draws.")
    if norm != "Linf":
        notes.append(f"The checks of the attack are for Linf; none ran in {norm}.")
    notes += _of_accuracy(found["adaptive"], case.data.num_classes)
    results = Results()
    where: dict[str, Any] = {"part": _PART, "dataset": case.data.name, "model": case.network, "defence": case.name}
    results.add_hits(found["adaptive"].clean, threat="clean", attack="none", eps=0.0, seed=seed, **where)
    for threat in ATTACKERS:
        results.add(found[threat], threat=threat, seed=seed, **where)
    attacked = broken_images(
        found["adaptive"], x, y, rows, data=case.data.name, checksum=case.data.checksum, network=case.network,
        defence=case.name,
    )  # fmt: skip
    facts = {
        "schema": 1,
        "defence": case.name,
        "network": {"name": case.network, "parameters": sum(p.numel() for p in model.parameters())},
        "data": {
            "name": case.data.name,
            "checksum": case.data.checksum,
            "shape": list(case.data.shape),
            "classes": case.data.num_classes,
            "test_images": count,
            "images": len(y),
        },
        "judged": identity(x.cpu(), y.cpu()),
        "threat": {"norm": norm, "eps": eps},
        "settings": {
            "steps": steps, "restarts": restarts, "queries": queries, "rounds": rounds,
            "epochs": epochs, "draws": draws, "seconds": round(time.perf_counter() - started, 1),
        },
        "provenance": provenance(case.data, seed=seed),
        "shares": {threat: _shares(found[threat]) for threat in ATTACKERS if found[threat].shares is not None},
        "checks": [vars(check) for check in row],
        "notes": notes,
        "limits": _limits(case, len(y), norm),
    }  # fmt: skip
    return Report(facts, results, attacked)


@dataclass(frozen=True)
class JudgingEffort:
    """How much is tried on each image; the names are those of :func:`robustness`.

    Attributes:
        steps: Steps of each strong attack, before they grow by need. Below ten the checks are brief as well.
        restarts: Random starts of each strong attack, likewise.
        queries: Queries of the Square attack, likewise; 0 leaves it out.
        rounds: How often the adaptive attacker may go on with twice the effort, as long as that breaks images.
        epochs: Of each training that the defence needs.
        seed: Of trainings and attacks.
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
    """

    steps: int = 50
    restarts: int = 1
    queries: int = 500
    rounds: int = 3
    epochs: int = 5
    seed: int = 0
    draws: int = 10
    batch_size: int = 100

    @property
    def queried(self) -> int:
        """The queries of Square, where the library that has it is here."""
        return self.queries if importlib.util.find_spec("pyautoattack") is not None else 0

    def numbers(self, offset: int) -> torch.Generator:
        """Random draws that depend on the seed alone; offsets keep uses apart."""
        return torch.Generator().manual_seed(1_000 * self.seed + offset)


def meet_attackers(
    case: Deployed,
    test: Split,
    effort: JudgingEffort,
    *,
    eps: float,
    norm: BallNorm,
    resume: Path | None,
    progress: bool = False,
) -> dict[Threat, Outcome]:
    """What each of the three attackers leaves of a defence; many images are attacked in parts, one after the other.

    Args:
        case: The defence.
        test: The images that are attacked, and their labels.
        effort: How much is tried.
        eps: The budget, a size in ``norm``.
        norm: "Linf" or "L2".
        resume: A folder that keeps what is finished, so that the same call goes on from there; None keeps nothing.
        progress: Show a bar.
    """
    found = [
        meet_attackers_on(case, test, rows, effort, eps=eps, norm=norm, resume=resume, progress=progress)
        for rows in image_parts(len(test))
    ]
    return {threat: Outcome.joined([part[threat] for part in found]) for threat in found[0]}


def meet_attackers_on(
    case: Deployed, test: Split, rows: slice, effort: JudgingEffort, *, eps: float, norm: BallNorm, resume: Path | None,
    progress: bool = False,
) -> dict[Threat, Outcome]:  # fmt: skip
    """What each of the three attackers leaves of a defence on one part of the images.

    Args:
        case: The defence.
        test: All images that are attacked, and their labels.
        rows: The part of them that is attacked here.
        effort: How much is tried.
        eps: The budget, a size in ``norm``.
        norm: "Linf" or "L2".
        resume: A folder that keeps what is finished, so that the same call goes on from there; None keeps nothing.
        progress: Show a bar.
    """
    return three_attackers(
        case.defence, test.float_images()[rows], test.labels[rows], eps=eps, norm=norm, generator=effort.numbers(1),
        steps=effort.steps, restarts=effort.restarts, queries=effort.queried, rounds=effort.rounds, draws=effort.draws,
        batch_size=effort.batch_size, resume=resume, progress=progress,
    )  # fmt: skip


def image_parts(images: int) -> list[slice]:
    """The parts that so many images are attacked in: the search by need looks at the nearest images of each."""
    return shards(images, _PART_OF)


def check_attack(
    case: Deployed, test: Split, found: Mapping[Threat, Outcome], effort: JudgingEffort, *, resume: Path | None
) -> list[Check]:
    """The row of checks of the direct attacker; where its attacks are short, so are the checks."""
    size = checks.BRIEF if effort.steps < _SHORT else checks.QUICK
    x, y, eps, few = test.float_images(), test.labels, found["direct"].eps, slice(size.images)
    plain = {"FGSM": partial(fgsm), "PGD": suites.cleverhans()["PGD"]}
    single = evaluate(
        case.defence, direct(case.defence, plain), x[few], y[few], eps=eps, generator=effort.numbers(2),
        exhaustive=True, resume=resume,
    )  # fmt: skip
    card = {"goal": "any wrong class", "norm": "Linf", "eps": eps, "knowledge": "all of the defence but its draws"}
    card["randomised"] = "what the defence draws" if is_random(case.defence) else "nothing"
    return checks.row(
        case.defence, x, y, eps=eps, generator=effort.numbers(3), single=single, direct=found["direct"],
        oblivious=found["oblivious"], adaptive=found["adaptive"], card=card, effort=size,
        only=_CHECKED, resume=resume,
    )  # fmt: skip


@dataclass(frozen=True)
class Deployed:
    """A defence ready to be judged, on the device of its network, and what is known of it."""

    defence: Defense
    data: Dataset
    name: str
    network: str
    device: torch.device
    notes: tuple[str, ...]

    def sample(self, images: int) -> tuple[Split, Tensor]:
        """So many test images, or all, drawn at random but always the same, and their places in the test set (N,).

        Raises ValueError for no whole number of at least 1.
        """
        if type(images) is not int or images < 1:
            raise ValueError(f"images must be a whole number of at least 1, not {images!r}")
        test = self.data.test
        rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:images]
        at = rows.to(self.device)
        return Split(test.images[at], test.labels[at]), rows


def deployed(
    model: nn.Module, data: Dataset | Split | str, *, eps: float, norm: BallNorm = "Linf",
    defence: str | Callable[[nn.Module], Defense] = "undefended", name: str | None = None, epochs: int = 5,
    seed: int = 0,
) -> Deployed:  # fmt: skip
    """The defence that :func:`robustness` judges, and the data on its device.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K), in evaluation mode. A defence is judged as it is.
        data: A data set, its test images alone (a ``Split``), or a name as :func:`advdef.data.load` takes it.
        eps: The budget that trainings are for, a size in ``norm``.
        norm: "Linf" or "L2".
        defence: A name of :mod:`advdef.report.defences`, or a function that puts one's own in front of the model.
        name: What the report calls the defence. Default: its name.
        epochs: Of each training that the defence needs.
        seed: Of each training.

    Raises TypeError and ValueError, as :func:`robustness` does, for a model, data or a defence that would give a wrong
    number.
    """
    data = load(data) if isinstance(data, str) else data
    if not isinstance(data, Dataset | Split):
        what = "Split.from_loader(loader)" if hasattr(data, "__iter__") else "load(name)"
        raise TypeError(f"data must be a Dataset, a Split or a name, not {type(data).__name__}: {what} makes one")
    own = isinstance(model, Defense)
    ready: nn.Module = model if isinstance(model, Defense | Wrapped) else wrap(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    whole = data if isinstance(data, Dataset) else Dataset.from_splits(data)
    whole = _moved(whole, device)
    classes = _examined(ready, whole.test)
    if isinstance(data, Split):
        whole = Dataset.from_splits(whole.test, class_names=tuple(map(str, range(classes))))
    elif classes != data.num_classes:
        raise ValueError(f"the model has {classes} classes, and {data.name} has {data.num_classes}: not the same ones")
    if own and defence != "undefended":
        raise ValueError("the model is a defence already: judge it as it is, or give the network alone")
    if isinstance(ready, Defense):
        built, called = ready, type(model).__name__
    elif isinstance(defence, str):
        built = defended(defence, ready, whole, eps=eps, norm=norm, epochs=epochs, seed=seed)
        called = defence
    else:
        made = defence(ready)
        if not isinstance(made, Defense):
            raise TypeError(f"defence must make a Defense (advdef.defenses), not {type(made).__name__}")
        built, called = made, type(made).__name__
    network = type(model.model if isinstance(model, Wrapped) else model).__name__
    notes = []
    if isinstance(defence, str) and defence in TRAINED:
        spent = "" if defence == "nip" else f" ({epochs} epoch{'s' * (epochs > 1)})"
        notes.append(
            f"{defence} was made by advdef: {TRAINED[defence]}{spent}. Its authors' own training may do better."
        )
    return Deployed(built, whole, name or called, network, device, tuple(notes))


def _moved(data: Dataset, device: torch.device) -> Dataset:
    """The data set on a device."""
    if data.test.images.device == device:
        return data
    parts = {
        n: Split(s.images.to(device), s.labels.to(device)) for n, s in (("train", data.train), ("test", data.test))
    }
    return Dataset(
        data.name, parts["train"], parts["test"], data.num_classes, data.shape, data.class_names, data.checksum
    )


def _examined(model: nn.Module, test: Split) -> int:
    """How many classes a model has; raises ValueError, with what to do, for one of which no number would be right."""
    if not len(test):
        raise ValueError("the data set has no test images")
    images = test.head(min(16, len(test))).float_images()
    check_mode(model)
    try:
        with borrowed(model, quiet=True), torch.no_grad(), seeded(0, images.device):
            logits = ask(model, images)
    except (RuntimeError, IndexError) as failure:
        said = " ".join(str(failure).split())
        shape = " x ".join(map(str, images.shape[1:]))
        advice = "size and channels (--size, --channels) say how a folder's pictures are read"
        raise ValueError(f"the model does not take images of {shape} ({said:.160}); {advice}") from failure
    if logits.dim() != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError(f"the model must return logits ({len(images)}, classes), not {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError("the model returns NaN or infinite logits: look at its weights, and at mean and std")
    if bool(((logits >= 0) & (logits <= 1)).all()):
        one = bool(((logits.sum(1) - 1).abs() < 1e-4).all())
        two = logits.shape[1] == 2 and bool((logits[:, 0] == 0).all())
        if one or two:
            what = "a softmax" if one else "a sigmoid"
            raise ValueError(f"the model seems to return probabilities: take {what} off its end; logits are needed")
    return logits.shape[1]


@contextmanager
def _collected(notes: list[str]) -> Iterator[None]:
    """Warnings about gradients and files become notes; what else is warned of is warned of again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        said = str(warning.message)
        if issubclass(warning.category, _TOLD):
            notes += [f"Warning: {said}."] if f"Warning: {said}." not in notes else []
        elif not issubclass(warning.category, ProbabilitiesWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _shares(outcome: Outcome) -> list[float]:
    assert outcome.shares is not None
    return [round(share, 4) for share in outcome.shares.tolist()]


def _of_accuracy(outcome: Outcome, classes: int) -> list[str]:
    """A word on a network that hardly knows its images: then its robustness means little."""
    right, total = int(outcome.clean.sum()), len(outcome.clean)
    if wilson(right, total).low > 1.5 / classes:
        return []
    return [
        f"Warning: without an attack {right} of {total} images are right, hardly more than by guessing: are the labels "
        "numbered as in training, and is the normalisation that of training?"
    ]


def _limits(case: Deployed, images: int, norm: str) -> list[str]:
    said = [
        "the true robustness, of which this is an upper bound: a stronger attack can only lower it",
        f"anything of other budgets, of changes that {norm} does not measure, or of data unlike these {images} images",
        "anything of other networks trained alike: one was judged",
    ]
    if isinstance(case.defence, Undefended) or not is_random(case.defence):
        return said
    return [
        *said,
        "how often somebody succeeds who may try again and again: each image is judged by the share of draws",
    ]
