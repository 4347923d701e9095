"""What a search for holes found, in files, and how an evaluation takes it in: by judging it again on the spot."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advdef.contract import validate
from advdef.defenses.base import Defense
from advdef.evaluation.attacked import AttackedImages, read_attacked
from advdef.evaluation.holes.climbs import Points, places
from advdef.evaluation.outcomes import Outcome
from advdef.evaluation.robustness import evaluate
from advdef.evaluation.threats import Attempt
from advdef.norms import Norm, size, spread

__all__ = ["FOUND_LATER", "add_breaks", "found_by", "found_later", "read_breaks", "replay_breaks"]

FOUND_LATER = "found later"
"""The attack of a row that says what a search for holes has broken."""

_SLACK = 1e-6  # of a budget, as evaluations allow it


def replay_breaks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    found: Points,
    norm: Norm = "Linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """What was found for each of the images (N, C, H, W), where it lies within eps; elsewhere the image itself.

    Draws nothing and asks nothing: whether it still fools the model is for the judge to say.
    """
    images, _, budget = validate(images, labels, eps, norm=norm)
    points = found.of(images).clamp(0, 1)
    allowed = size(points.double() - images.double(), norm) <= budget.flatten().double() * (1 + _SLACK) + _SLACK
    return torch.where(spread(allowed), points, images)


def found_later(
    defence: Defense,
    images: Tensor,
    labels: Tensor,
    outcomes: Mapping[float, Outcome],
    breaks: Sequence[AttackedImages],
    *,
    generator: torch.Generator,
    draws: int = 10,
) -> dict[float, Outcome]:
    """The outcomes of a defence by budget, with one attempt more: what was broken later, replayed and judged anew.

    Nothing is taken from a file but images: each must lie within the budget, and what it counts for is asked of the
    defence here and now, of a random one by ``draws`` fresh passes. So it does not matter who made the file, for which
    weights, or whether somebody changed it. What all attacks before it broke is not replayed: so what this attempt
    broke is what they had left.

    Args:
        defence: What is judged.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        outcomes: What was found on these images before, by budget.
        breaks: Broken images, which may be of other images, too.
        generator: Gives the seed of the draws.
        draws: Passes that judge a defence which draws random numbers.

    Returns the outcomes as they are where no break is about these images.
    """
    done: dict[float, Outcome] = {}
    seed = generator.initial_seed()
    for eps, outcome in sorted(outcomes.items()):
        usable = [
            b for b in sorted(breaks, key=lambda b: b.eps) if b.eps <= eps * (1 + _SLACK) and b.norm == outcome.norm
        ]
        at = torch.cat([places(b.originals, images.cpu()) for b in usable]) if usable else torch.zeros(0).long()
        left = (at >= 0) & outcome.robust.cpu()[at]
        if not bool(left.any()):
            done[eps] = outcome
            continue
        points = Points(torch.cat([b.originals for b in usable])[left], torch.cat([b.attacked for b in usable])[left])
        attempt = Attempt(FOUND_LATER, partial(replay_breaks, found=points, norm=outcome.norm), defence)
        judged = evaluate(
            defence, [attempt], images, labels, eps=eps, norm=outcome.norm, draws=draws, exhaustive=True,
            generator=torch.Generator().manual_seed(seed), known=[*done.values(), outcome],
        )  # fmt: skip
        (finding,) = judged.findings
        how = [text for b in usable for text in found_by(b)]
        by = {place: how[i] for i, place in reversed([*enumerate(at.tolist())])}  # of several points the first
        of = Counter(by[place] for place in torch.nonzero(finding.broken)[:, 0].tolist())
        finding = replace(finding, settings="; ".join(f"{n} by {text}" for text, n in of.most_common()))
        done[eps] = replace(
            judged, exhaustive=outcome.exhaustive, search=outcome.search, findings=(*outcome.findings, finding)
        )
    return done


def found_by(breaks: AttackedImages) -> list[str]:
    """The attack that broke each of the images, with its settings, as text."""
    told = list(breaks.facts.get("found_by", ()))
    return told if len(told) == len(breaks) else ["a search that did not say how"] * len(breaks)


def add_breaks(folder: Path, found: AttackedImages) -> Path | None:
    """Add broken images to those in a folder, and return their file; None where there is none to add.

    ``facts`` name the "dataset", the "profile", the "seed" and the "defence"; a file is about one of each and one
    budget. An image that is in it already is not added again. Raises AttackedImagesError for a damaged file.
    """
    f = found.facts
    said = re.sub(r"[^\w.+]+", "-", str(f["defence"])).strip("-")
    name = f"{f['dataset']}-{f['profile']}-seed{f['seed']}-{said}-eps{found.eps:.4g}.safetensors"
    path, parts = folder / name, [found]
    if path.is_file():
        known = read_attacked(path)
        fresh = ~torch.isin(found.indices, known.indices)
        parts = [known, _of(found, fresh)]
    attacked, originals, labels, indices = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("attacked", "originals", "labels", "indices")
    )
    if len(labels) == 0:
        return None
    told = dict(f) | {"found_by": [text for part in parts for text in found_by(part)]}
    AttackedImages(attacked, originals, labels, indices, found.eps, found.norm, len(labels), told).save(path)
    return path


def read_breaks(folder: Path, *, dataset: str, seed: int, defence: str) -> list[AttackedImages]:
    """The broken images in a folder that are of one defence on one data set; raises AttackedImagesError and OSError."""
    wanted = {"dataset": dataset, "seed": seed, "defence": defence}
    files = map(read_attacked, sorted(folder.glob(f"{dataset}-*-seed{seed}-*.safetensors")))
    return [found for found in files if all(found.facts.get(name) == value for name, value in wanted.items())]


def _of(found: AttackedImages, rows: Tensor) -> AttackedImages:
    told = dict(found.facts) | {"found_by": [t for t, keep in zip(found_by(found), rows.tolist(), strict=True) if keep]}
    return AttackedImages(
        found.attacked[rows], found.originals[rows], found.labels[rows], found.indices[rows], found.eps, found.norm,
        int(rows.sum()), told,
    )  # fmt: skip
