"""Searches one defence of a page for holes, and keeps what was found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from advdef import peers
from advdef.attacks import Attack, Suite
from advdef.book.repository import InputError
from advdef.book.terminal import say
from advdef.evaluation.attacked import AttackedImages
from advdef.evaluation.holes import Hunt, Judged, add_breaks, found_by, found_later, hunt, read_breaks
from advdef.evaluation.holes.climbs import places
from advdef.evaluation.holes.summary import Searched, add_search
from advdef.grid import Cell, Study
from advdef.papers.further import further_stand_ins
from advdef.store import cache_folder, identity

__all__ = ["searched"]


def searched(
    cell: Cell, study: Study, name: str, *, profile: str, minutes: float, eps: float | None, folder: Path
) -> list[dict[str, Any]]:
    """Search one defence at each budget; what was found goes into the folder, and a line for each into the table.

    Args:
        cell: The page on a data set with a seed.
        study: What the page computes there.
        name: The defence, one of the study's cases.
        profile: The size of the page.
        minutes: How long the defence is searched, divided among its budgets.
        eps: The budget that is searched. None: all that the page has.
        folder: Where breaks are kept.

    Returns the lines of the table. Raises `InputError` for an eps that the page has not.
    """
    say(f"{name} on {cell.dataset}: what the page's attackers leave ...")
    case = study.case(name)
    budgets = sorted(case.adaptive) if eps is None else [known for known in case.adaptive if abs(known - eps) < 1e-6]
    if not budgets:
        raise InputError(f"{name} has no budget {eps:g}; it has: {', '.join(f'{e:g}' for e in sorted(case.adaptive))}")
    judged = partial(
        found_later, case.defence, case.images, case.labels, generator=torch.Generator().manual_seed(cell.seed)
    )
    kept = partial(read_breaks, folder, dataset=cell.dataset, seed=cell.seed, defence=name)
    told = dict(page=cell.page, profile=profile, dataset=cell.dataset, seed=cell.seed, defence=name)
    rows, until = [], time.monotonic() + 60 * minutes
    for number, budget in enumerate(budgets):
        # what fell to a smaller budget has fallen here, too
        smaller = [b for b in kept() if b.eps < budget]
        here = replace(case, adaptive=judged({budget: case.adaptive[budget]}, smaller))
        share = max(0.0, until - time.monotonic()) / (len(budgets) - number) / 60
        left = int(here.adaptive[budget].robust.sum())
        say(f"{name}, eps {budget:g}: {left} of {len(case.labels)} images are left; {share:.1f} minutes ...")
        found = hunt(
            here, eps=budget, seed=cell.seed, minutes=share, more=_libraries(), through=further_stand_ins(case.defence),
            resume=cache_folder("holes"), told=say,
        )  # fmt: skip
        add_breaks(folder, _breaks(here, study, found, budget, told))
        # what counts is what the files hold, judged anew as the page will judge it
        breaks = [b for b in kept() if b.eps <= budget]
        after = judged({budget: case.adaptive[budget]}, breaks)[budget]
        fell = case.images[case.adaptive[budget].robust & ~after.robust].cpu()
        by = [text for b in breaks for text, at in zip(found_by(b), places(b.originals, fell), strict=True) if at >= 0]
        done = Searched(
            cell.page, cell.dataset, profile, cell.seed, name, budget, images=len(case.labels),
            before=int(case.adaptive[budget].robust.sum()), after=int(after.robust.sum()), by=by,
            ways=len(found.tried), minutes=round(sum(way.seconds for way in found.tried) / 60, 1),
        )  # fmt: skip
        add_search(folder, done)
        say(f"{name}, eps {budget:g}: {done.after} are left; {found.ended}, {done.ways} ways")
        rows.append(done.as_row())
    return rows


def _breaks(case: Judged, study: Study, found: Hunt, eps: float, told: Mapping[str, Any]) -> AttackedImages:
    """What a search broke, with the images' places in the test set."""
    rows = torch.nonzero(found.broken)[:, 0]
    originals, test = case.images[rows].cpu(), study.data.test
    facts = {
        **told, "checksum": study.data.checksum, "weights": identity(case.defence),
        "found_by": [found.by[row] for row in rows.tolist()],
    }  # fmt: skip
    return AttackedImages(
        found.attacked[rows].cpu(), originals, case.labels[rows].cpu(), places(originals, test.float_images().cpu()),
        eps, case.adaptive[eps].norm, len(rows), facts,
    )  # fmt: skip


def _libraries() -> Suite:
    """The attacks of libraries that are here and that the package does not have of its own."""
    asked: dict[str, Suite] = {
        "torchattacks": {"torchattacks MIFGSM": partial(peers.torchattacks_mim)},
        "pyautoattack": {
            "pyautoattack APGD": partial(peers.pyautoattack_apgd),
            "pyautoattack APGD-T": partial(peers.pyautoattack_apgd_t),
        },
        "foolbox": {"foolbox PGD": partial(peers.foolbox_pgd), "foolbox MIM": partial(peers.foolbox_mim)},
    }
    found: dict[str, Attack] = {}
    for library, attacks in asked.items():
        try:
            peers.version(library)
        except ImportError:  # it is tried without
            continue
        found |= attacks
    return found
