"""The command ``advdef holes``: a second search, of another kind, on what the attackers of a page left of a defence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from advdef.book.repository import PROFILES, InputError, check_profile, find
from advdef.book.terminal import guarded

__all__ = ["holes"]


@guarded
def holes(
    page: Annotated[str, typer.Argument(help="A page by name, e.g. five_defences.")],
    defences: Annotated[
        list[str] | None, typer.Argument(metavar="[DEFENCE]...", help="By their names on it; default: all.")
    ] = None,
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "smoke",
    dataset: Annotated[str | None, typer.Option(help="A data set; default: those of the page.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The page's first seed, and that of the search.")] = 0,
    images: Annotated[
        int | None, typer.Option(min=1, help="Judge only so many of the page's images; default: all.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long each defence is searched.")] = 10.0,
    eps: Annotated[float | None, typer.Option(help="One budget of the page; default: all, in equal times.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: cpu]")] = None,
    out: Annotated[Path | None, typer.Option(help="Where breaks are kept; default: book/results/PAGE/holes.")] = None,
) -> None:
    """Search for adversarial images that the attackers of a page did not find.

    Tried is everything, on the images that the adaptive attacker left: all combinations of loss, gradient, start and
    rule for the steps, searches without gradients, the attacks of other libraries. The same command goes on from where
    it ended.

    What is found is kept as images, beside the page's record. When the page runs again, they are replayed on its
    defence: each must lie within the budget, and counts only if the defence, asked there and then, gets it wrong. So
    the page's adaptive number includes them, and its record has them as "found later".
    """
    repository, chosen = find(), check_profile(profile)
    (paper,) = repository.select([page])
    from advdef.book.cells import PageRun
    from advdef.book.searching import searched
    from advdef.evaluation.attacked import AttackedImagesError
    from advdef.grid.worker import ATTEMPTS
    from advdef.papers import STUDIES
    from advdef.store import cache_folder

    if paper not in STUDIES:
        raise InputError(f"{paper} has no study, so nothing names its defences; pages with one: {', '.join(STUDIES)}")
    folder = out or repository.committed_results / paper / "holes"
    studies = []
    for cell in PageRun(paper, dataset, seed).cells(chosen, device):
        settings = dict(cell.settings)
        if images is not None:
            settings[cell.kind.met] = min(images, settings[cell.kind.met])
        made = replace(cell, settings=settings)
        studies.append((made, made.make(cache_folder(ATTEMPTS))))
    known = list(dict.fromkeys(name for _, study in studies for name in study.cases()))
    if unknown := [name for name in defences or () if name not in known]:
        raise InputError(f"{paper} has no defence {unknown[0]!r}; it has: {', '.join(known)}")
    rows = []
    try:
        for cell, study in studies:
            for name in [name for name in defences or known if name in study.cases()]:
                rows += searched(cell, study, name, profile=chosen, minutes=minutes, eps=eps, folder=folder)
    except AttackedImagesError as damaged:
        raise InputError(f"{damaged}; remove it, or restore it") from damaged
    from tabulate import tabulate

    typer.echo(tabulate(rows, headers="keys", disable_numparse=True, maxcolwidths=[*[None] * 6, 60]))
