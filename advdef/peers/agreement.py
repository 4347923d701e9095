"""Do our attacks break the same images as those of other libraries, at the same settings?

DEEPSEC is a warning of what happens to an evaluation that never asks: its FGSM, BIM and PGD were weaker than everybody
else's (https://github.com/ryderling/DEEPSEC/issues/3, https://github.com/ryderling/DEEPSEC/issues/15).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advdef import peers
from advdef.attacks.attack import Attack
from advdef.attacks.auto_pgd import apgd
from advdef.attacks.composed import each_class
from advdef.attacks.gradient import bim, fgsm, mim, pgd
from advdef.attacks.libraries.verified import reached
from advdef.attacks.losses import Goal, wrong_classes
from advdef.attacks.sparse import jsma, single_pixel
from advdef.attacks.universal_perturbation import universal
from advdef.contract import ask, borrowed
from advdef.devices import exact
from advdef.draws import fresh_seed, image_keys
from advdef.evaluation import check_sound, correct
from advdef.norms import BallNorm, Norm, ball

__all__ = ["Comparison", "Pair", "agreement", "pairs"]


@dataclass(frozen=True)
class Pair:
    """One attack, ours and that of a peer, with equal settings.

    Attributes:
        attack: What both are called.
        norm: The norm of eps.
        eps: The budgets at which they are compared.
        peer: The library, one of ``advdef.peers.PEERS``.
        ours: Our attack.
        theirs: The peer's, called like ours.
        note: What else is to be known of the two.
        share: What both are handed: "start", a random point where they begin; or "targets", each image's likeliest
            wrong class, which then is what must be reached. None: nothing.
    """

    attack: str
    norm: Norm
    eps: Sequence[float]
    peer: str
    ours: Attack
    theirs: Attack
    note: str = ""
    share: Literal["start", "targets"] | None = None


@dataclass(frozen=True)
class Comparison:
    """What a pair did at one eps.

    Attributes:
        attack: What both are called.
        norm: The norm of eps.
        eps: The budget.
        peer: The library.
        version: Its version; "" where it is missing.
        ours: (N,) booleans: the model is right, and our attack failed.
        theirs: (N,) booleans: the same for the peer's; None where it is missing.
        seconds: How long ours took, with the check of what it found.
        their_seconds: The same for the peer's; None where it is missing.
        note: The pair's note or, where the peer is missing, what to do.
    """

    attack: str
    norm: Norm
    eps: float
    peer: str
    version: str
    ours: Tensor
    theirs: Tensor | None
    seconds: float
    their_seconds: float | None
    note: str

    @property
    def points(self) -> float:
        """Our robust accuracy minus theirs, in points; negative where we are stronger, NaN without the peer."""
        return nan if self.theirs is None else 100 * float((exact(self.ours) - exact(self.theirs)).mean())

    @property
    def only_ours(self) -> int:
        """How many images only our attack broke."""
        return 0 if self.theirs is None else int((self.theirs & ~self.ours).sum())

    @property
    def only_theirs(self) -> int:
        """How many images only the peer's attack broke."""
        return 0 if self.theirs is None else int((self.ours & ~self.theirs).sum())


def pairs(
    *,
    linf: Sequence[float] = (),
    l2: Sequence[float] = (),
    pixels: Sequence[float] = (),
    universal_linf: Sequence[float] = (),
    steps: int = 100,
    rounds: int = 10,
) -> list[Pair]:
    """The attacks that have a sound peer, each at every eps given for its kind.

    ``steps`` are those of PGD and APGD; ``rounds`` those of ART's universal perturbation over the images. ``pixels``
    are the budgets of the saliency map attack, and call for the single pixel too; both are alike on grey images only.
    """
    norms: list[tuple[BallNorm, Sequence[float]]] = [("Linf", linf), ("L2", l2)]
    table = []
    for norm, eps in norms:
        pgds = _both(pgd, peers.foolbox_pgd, norm=norm, steps=steps)
        mims = _both(mim, peers.foolbox_mim, norm=norm)
        published = mims[0], partial(mims[1], as_published=True)
        ce, dlr = (_both(apgd, peers.pyautoattack_apgd, norm=norm, steps=steps, loss=loss) for loss in ("ce", "dlr"))
        towards = partial(each_class, attack=dlr[0], stop_early=True)
        targeted = towards, partial(peers.pyautoattack_apgd_t, norm=norm, steps=steps)
        table += [
            Pair("FGSM", norm, eps, "foolbox", *_both(fgsm, peers.foolbox_fgsm, norm=norm)),
            Pair("BIM", norm, eps, "foolbox", *_both(bim, peers.foolbox_bim, norm=norm)),
            Pair("PGD", norm, eps, "foolbox", *pgds, "same start", "start"),
            Pair("MIM, corrected", norm, eps, "foolbox", *published, "foolbox corrected: accumulates gradients"),
            Pair("MIM", norm, eps, "foolbox", *mims, "foolbox accumulates directions, not gradients"),
            Pair("APGD-CE", norm, eps, "pyautoattack", *ce, "same start", "start"),
            Pair("APGD-DLR", norm, eps, "pyautoattack", *dlr, "same start", "start"),
            Pair("APGD-T", norm, eps, "pyautoattack", *targeted, "each from its own start"),
        ]
    jsmas, others = _both(jsma, peers.torchattacks_jsma), _both(jsma, peers.art_jsma)
    aim, rule = "same targets", "theirs is a rule that looks at the target alone"
    one, singles = (1,) if pixels else (), _both(single_pixel, peers.torchattacks_single_pixel)
    universals = partial(universal), partial(peers.art_universal, rounds=rounds)
    return [
        *table,
        Pair("MIM", "Linf", linf, "torchattacks", *_both(mim, peers.torchattacks_mim)),
        Pair("JSMA", "L0", pixels, "torchattacks", *jsmas, aim, "targets"),
        Pair("JSMA", "L0", pixels, "art", *others, f"{aim}; {rule}", "targets"),
        Pair("single pixel", "L0", one, "torchattacks", *singles, "ours tries all pixels, theirs evolves one"),
        Pair(
            "universal", "Linf", universal_linf, "art", *universals, "ours takes all images at once, theirs one by one"
        ),
    ]


def _both(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], **settings: Any) -> tuple[Attack, Attack]:
    return partial(ours, **settings), partial(theirs, **settings)


def agreement(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    pairs: Sequence[Pair],
    *,
    generator: torch.Generator,
    progress: bool = False,
) -> list[Comparison]:
    """Compare the attacks of each pair on the images (N, C, H, W) that ``model`` gets right, in one batch.

    ``generator`` (CPU) draws a seed for each comparison, with which both sides start. Raises UnsoundAttack when an
    attack leaves its budget, ValueError when the model is right nowhere.
    """
    right = correct(model, images, labels)
    if not bool(right.any()):
        raise ValueError("the model is wrong on all images: there is nothing to compare")
    tasks = [(pair, eps) for pair in pairs for eps in pair.eps]
    bar = tqdm(tasks, disable=not progress, unit="comparison", leave=False)
    return [_compare(model, images, labels, right, pair, eps, generator) for pair, eps in bar]


def _compare(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    right: Tensor,
    pair: Pair,
    eps: float,
    generator: torch.Generator,
) -> Comparison:
    seed = fresh_seed(generator) % 2**31
    images, labels = images[right], labels[right]
    options, targets = {}, None
    if pair.share == "start":
        around = ball(images, images.new_full((1, 1, 1, 1), eps), "L2" if pair.norm == "L2" else "Linf")
        options["start"] = around.sample(image_keys(images, seed))
    elif pair.share == "targets":
        with borrowed(model), torch.no_grad():
            targets = wrong_classes(ask(model, images), labels)[:, 0]
        options["targets"] = targets

    def left(attack: Attack) -> tuple[Tensor, float]:
        draws, started = torch.Generator().manual_seed(seed), time.perf_counter()
        found = attack(model, images, labels, eps=eps, generator=draws, **options)
        check_sound(pair.attack, images, found, eps=eps, norm=pair.norm)
        seconds = time.perf_counter() - started
        with borrowed(model), torch.no_grad():
            survives = right.clone()
            survives[right] = ~reached(ask(model, found), Goal(labels, targets))
        return survives.cpu(), seconds

    ours, seconds = left(pair.ours)
    compare = partial(Comparison, pair.attack, pair.norm, eps, pair.peer)
    try:
        version = peers.version(pair.peer)
    except ImportError as error:
        return compare("", ours, None, seconds, None, str(error))
    theirs, their_seconds = left(pair.theirs)
    return compare(version, ours, theirs, seconds, their_seconds, pair.note)
