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
from advdef.defenses.base import Defense, is_random
from advdef.evaluation.attacked import AttackedImages, read_attacked
from advdef.evaluation.holes.climbs import Points, places
from advdef.evaluation.judge import Judge
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
    """What was found for each of the images, where it lies within eps; elsewhere the image itself.

    Draws nothing and asks nothing: whether it still fools the model is for the judge to say.

    Args:
        model: Not used; there so that all attacks are called alike.
        images: (N, C, H, W), float32 or float64, in [0, 1].
        labels: (N,), int64.
        eps: Largest perturbation that counts, in ``norm``.
        found: The points that were found, by their images.
        norm: The norm of eps.
        generator: Not used; there so that all attacks are called alike.
    """
    images, _, _ = validate(images, labels, eps, norm=norm)
    return _within(found.of(images), images, eps, norm)


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

    Only images are taken from a file. Each must lie within the budget, and the defence is asked about it here and now,
    a random one in ``draws`` fresh passes. So it does not matter who made the file, for which weights, or whether
    somebody changed it. Where there are several points for one image, the one that the defence gets wrong most often
    counts. Images that earlier attacks broke are not replayed: the attempt breaks only what they had left.

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
    seed, draws = generator.initial_seed(), draws if is_random(defence) else 0
    for eps, outcome in sorted(outcomes.items()):
        usable = [
            b for b in sorted(breaks, key=lambda b: b.eps) if b.eps <= eps * (1 + _SLACK) and b.norm == outcome.norm
        ]
        points, at, how = _points_of(usable, images, outcome.robust)
        if len(at) == 0:
            done[eps] = outcome
            continue
        judge = Judge(
            defence, images, labels, eps=eps, norm=outcome.norm, seed=seed, draws=draws, batch_size=250, folder=None
        )
        best_first = _by_strength(judge, _within(points.points, points.images, eps, outcome.norm), at)
        points = Points(points.images[best_first], points.points[best_first])
        attempt = Attempt(FOUND_LATER, partial(replay_breaks, found=points, norm=outcome.norm), defence)
        judged = evaluate(
            defence, [attempt], images, labels, eps=eps, norm=outcome.norm, draws=max(1, draws), exhaustive=True,
            generator=torch.Generator().manual_seed(seed), known=[*done.values(), outcome],
        )  # fmt: skip
        (finding,) = judged.findings
        by = {int(at[i]): how[i] for i in best_first.flip(0).tolist()}  # of several points the first
        of = Counter(by[place] for place in torch.nonzero(finding.broken)[:, 0].tolist() if place in by)
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
    budget. A new break takes the place of an earlier one of the same image, which may be of other weights. Raises
    AttackedImagesError for a damaged file.
    """
    f = found.facts
    said = re.sub(r"[^\w.+]+", "-", str(f["defence"])).strip("-")
    name = f"{f['dataset']}-{f['profile']}-seed{f['seed']}-{said}-eps{found.eps:.4g}.safetensors"
    path, parts = folder / name, [found]
    if path.is_file():
        known = read_attacked(path)
        parts = [_of(known, ~torch.isin(known.indices, found.indices)), found]
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


def _points_of(breaks: Sequence[AttackedImages], images: Tensor, robust: Tensor) -> tuple[Points, Tensor, list[str]]:
    """The breaks of images (N, C, H, W) that are robust (N,), their places among these (M,), and what found each."""
    if not breaks:
        return Points(images[:0], images[:0]), torch.zeros(0, dtype=torch.long), []
    originals, attacked = (torch.cat([getattr(b, name) for b in breaks]) for name in ("originals", "attacked"))
    at = places(originals, images.cpu())
    left = (at >= 0) & robust.cpu()[at]
    how = [text for b in breaks for text in found_by(b)]
    told = [text for text, keep in zip(how, left.tolist(), strict=True) if keep]
    return Points(originals[left].to(images), attacked[left].to(images)), at[left].to(images.device), told


def _within(points: Tensor, images: Tensor, eps: float, norm: Norm) -> Tensor:
    """The points (N, C, H, W) that lie within eps of their images; the image itself in the place of others."""
    points = points.clamp(0, 1)
    allowed = size(points.double() - images.double(), norm) <= eps * (1 + _SLACK) + _SLACK
    return torch.where(spread(allowed), points, images)


def _by_strength(judge: Judge, points: Tensor, at: Tensor) -> Tensor:
    """The order (M,) of points for the images at some places: first what fewest passes get right, by most."""
    hits, near = judge.answers(points, "choose", at)
    order = near.argsort(descending=True, stable=True)
    return order[hits.mean(1)[order].argsort(stable=True)]


def _of(found: AttackedImages, rows: Tensor) -> AttackedImages:
    told = dict(found.facts) | {"found_by": [t for t, keep in zip(found_by(found), rows.tolist(), strict=True) if keep]}
    return AttackedImages(
        found.attacked[rows], found.originals[rows], found.labels[rows], found.indices[rows], found.eps, found.norm,
        int(rows.sum()), told,
    )  # fmt: skip
