"""One call from a network and images to an honest number: three attackers, the checks of the attack, a report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from advdef.book.provenance import provenance
from advdef.contract import NaNGradientWarning, NoGradientWarning, ProbabilitiesWarning
from advdef.data import Dataset, Split
from advdef.defenses import Defense, Undefended
from advdef.defenses.base import is_random
from advdef.evaluation import ATTACKERS, Outcome, Results, correct
from advdef.evaluation.attacked import broken_images
from advdef.norms import BallNorm
from advdef.report.attacking import JudgingEffort, check_attack, meet_attackers
from advdef.report.deployed import Deployed, deployed, facts_of
from advdef.report.report import Report
from advdef.statistics import wilson
from advdef.store import StoreWarning, identity

__all__ = ["robustness"]

_TOLD = (NaNGradientWarning, NoGradientWarning, StoreWarning)
_PART = "judged"


def robustness(
    model: nn.Module, data: Dataset | Split | str, *, eps: float, norm: BallNorm = "Linf",
    defence: str | Callable[[nn.Module], Defense] = "undefended", name: str | None = None, images: int = 200,
    steps: int = 50, restarts: int = 1, queries: int = 500, rounds: int = 3, transfer: Sequence[nn.Module] = (),
    epochs: int = 5, seed: int = 0, draws: int = 10, batch_size: int = 100, resume: str | Path | None = None,
    progress: bool = False,
) -> Report:  # fmt: skip
    """What three attackers leave of a classifier behind a defence, with the checks of the attack.

    Args:
        model: Maps images (N, C, H, W) in [0, 1] to logits (N, K), in evaluation mode; :func:`advdef.models.wrap` makes
            such a one of any other. A :class:`~advdef.defenses.Defense` is judged as it is.
        data: A data set, its test images alone (a ``Split``), or a name as :func:`advdef.data.load` takes it.
        eps: The budget, a size in ``norm``: 8 / 255, say.
        norm: "Linf" or "L2".
        defence: A name of :mod:`advdef.report.defences`, or a function that puts one's own in front of the model, given
            itself or as ``module:function``; modules of the working folder count.
        name: What the report calls the defence. Default: its name, of one's own that of its class.
        images: How many test images are attacked, drawn at random but always the same.
        steps: Steps of each strong attack, before they grow by need. Below ten the checks are brief as well.
        restarts: Random starts of each strong attack, likewise.
        queries: Queries of the Square attack, likewise; it needs the extra ``eval``, and 0 leaves it out.
        rounds: How often the adaptive attacker may go on with twice the effort, as long as that breaks images
            (:func:`advdef.evaluation.three_curves`).
        transfer: Other networks for the same classes and image size, given as ``model`` is, on its device, and none a
            defence: the adaptive attacker replays on the defence what fools them. The papers' pages take at least two.
        epochs: Of each training that the defence needs.
        seed: Of trainings and attacks.
        draws: Passes that judge a defence which draws random numbers.
        batch_size: How many images are attacked at a time.
        resume: A folder that keeps what is finished, so that the same call goes on from there.
        progress: Whether to show a bar.

    Raises TypeError and ValueError, with what to do, for a model or images that would give a wrong number: training
    mode, probabilities, labels that the model does not have, and whatever the attacks refuse; likewise for a network
    of ``transfer``, by its number, and for one that is there twice or is the model itself.

    >>> from advdef.data import load
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    >>> report = robustness(network, load("digits"), eps=0.1, images=5, steps=2, queries=0)
    >>> report.interval("adaptive").value <= report.interval("clean").value
    True
    """
    started = time.perf_counter()
    effort = JudgingEffort(steps, restarts, queries, rounds, epochs, seed=seed, draws=draws, batch_size=batch_size)
    case = deployed(
        model, data, eps=eps, norm=norm, defence=defence, name=name, epochs=epochs, seed=seed, transfer=transfer
    )  # fmt: skip
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
    sources = [
        facts_of(source) | {"right": int(correct(source, x, y, batch_size=batch_size).sum())}
        for source in case.transfer.values()
    ]
    notes += _of_accuracy(found["adaptive"], sources, case.data.num_classes)
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
        "network": facts_of(model),
        "transfer": sources,
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


def _of_accuracy(outcome: Outcome, sources: Sequence[Mapping[str, Any]], classes: int) -> list[str]:
    """A word on a network that hardly knows its images: then its robustness, or transfer from it, means little."""
    total = len(outcome.clean)
    right = {"": int(outcome.clean.sum())}
    right |= {f" by transfer source {n}": source["right"] for n, source in enumerate(sources, start=1)}
    return [
        f"Warning: without an attack {count} of {total} images are right{by}, hardly more than by guessing: are the "
        "labels numbered as in training, and is the normalisation that of training?"
        for by, count in right.items()
        if wilson(count, total).low <= 1.5 / classes
    ]


def _limits(case: Deployed, images: int, norm: str) -> list[str]:
    said = [
        "the true robustness, of which this is an upper bound: a stronger attack can only lower it",
        f"anything of other budgets, of changes that {norm} does not measure, or of data unlike these {images} images",
        "anything of other networks trained alike: one was judged",
    ]
    if not case.transfer:
        said.append("what attacks transferred from other networks would break: no transfer source was given")
    elif len(case.transfer) == 1:
        said.append("what attacks transferred from a second network would break: one was given, pages here have two")
    if isinstance(case.defence, Undefended) or not is_random(case.defence):
        return said
    return [
        *said,
        "how often somebody succeeds who may try again and again: each image is judged by the share of draws",
    ]
