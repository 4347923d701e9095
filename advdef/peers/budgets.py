"""What attacks reach with equal numbers of passes through the model, in the manner of AttackBench.

Steps of one attack are not steps of another: DeepFool asks for the gradient of each class in every step, a search for
the smallest budget runs its attack many times, and Square needs no gradient at all. So each attack gets the same number
of forward and backward passes for an image, and spends them as it likes (https://arxiv.org/abs/2404.19460).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advdef import peers
from advdef.attacks.attack import Attack
from advdef.attacks.auto_pgd import apgd
from advdef.attacks.composed import ClassOrder, each_class, minimal
from advdef.attacks.gradient import pgd
from advdef.attacks.libraries.foolbox import carlini_wagner, ddn, deepfool
from advdef.attacks.libraries.pyautoattack import fab, square
from advdef.devices import exact
from advdef.draws import fresh_seed
from advdef.evaluation import correct, counted
from advdef.norms import BallNorm, size

__all__ = ["Contestant", "Spent", "contestants", "equal_budgets", "local_optimality", "strongest"]

_ROUNDING = 1e-6  # by so much, relative to eps, a smallest perturbation may exceed it


@dataclass(frozen=True)
class Contestant:
    """An attack that can be had for any number of passes.

    Attributes:
        name: Its name.
        library: Whose it is: "advdef", or one of ``advdef.peers.PEERS``.
        norm: The norm of its eps.
        within: The attack that asks for at most so many forward and backward passes of an image, the model's first look
            included.
        closest: Whether it looks for the closest adversarial image; then it gets no eps, and the image counts where it
            is within eps.
    """

    name: str
    library: str
    norm: BallNorm
    within: Callable[[int], Attack]
    closest: bool = False


@dataclass(frozen=True)
class Spent:
    """What one attack left, by what it was allowed to spend.

    Attributes:
        attack: The attack.
        eps: The size of a perturbation that counts.
        budgets: Passes allowed for each image (B,).
        passes: Passes made, forward and backward, the mean over the images (B,).
        robust: (B, N): which images are left; all were right without an attack.
    """

    attack: Contestant
    eps: float
    budgets: Sequence[int]
    passes: Tensor
    robust: Tensor

    @property
    def left(self) -> Tensor:
        """The share of the images that is left (B,)."""
        return exact(self.robust).mean(1)


def contestants(classes: int) -> list[Contestant]:
    """Our attacks and those of foolbox and pyautoattack in Linf and in L2, for a model of so many classes."""
    early: dict[str, Any] = {"stop_early": True}
    found = list[Contestant]()
    for norm in ("Linf", "L2"):
        ball: BallNorm = norm
        ours, theirs = partial(Contestant, library="advdef", norm=ball), partial(Contestant, norm=ball)

        def steps(attack: Callable[..., Tensor], norm: BallNorm = ball, **settings: Any) -> Callable[[int], Attack]:
            return lambda most: partial(attack, norm=norm, steps=max(1, (most - 4) // 2), **settings)

        def starts(most: int, norm: BallNorm = ball) -> Attack:
            length = min(50, max(1, (most - 4) // 2))
            runs = max(1, (most - 2) // (2 * length + 2))
            return partial(pgd, norm=norm, loss="margin", steps=length, restarts=runs, **early)

        def towards(order: ClassOrder, wanted: int, norm: BallNorm = ball) -> Callable[[int], Attack]:
            def within(most: int) -> Attack:
                rest = most - 2 - (classes + 1 if order == "malt" else 0)
                aims = max(1, min(wanted, classes - 1, rest // 16))
                attack = partial(apgd, norm=norm, loss="dlr", steps=max(1, (rest // aims - 5) // 2))
                return partial(each_class, attack=attack, classes=aims, order=order, **early)

            return within

        def search(most: int, norm: BallNorm = ball) -> Attack:
            trials = max(1, min(10, most // 20))
            attack = partial(pgd, norm=norm, loss="margin", steps=max(1, ((most - 4) // trials - 4) // 2), **early)
            return partial(minimal, attack=attack, search="outwards", trials=trials)

        found += [
            ours("PGD CE", within=steps(pgd, **early)),
            ours("PGD margin", within=steps(pgd, loss="margin", **early)),
            ours("PGD margin, starts of 50", within=starts),
            ours("APGD CE", within=steps(apgd, **early)),
            ours("APGD DLR", within=steps(apgd, loss="dlr", **early)),
            ours("APGD-T, likely first", within=towards("likely", 9)),
            ours("APGD-T, near first", within=towards("malt", 3)),
            ours("minimal PGD", within=search, closest=True),
            theirs("PGD", library="foolbox", within=steps(peers.foolbox_pgd)),
            theirs("MIM", library="foolbox", within=steps(peers.foolbox_mim, step_size=0.1)),
            theirs("DeepFool", library="foolbox", within=_deepfool(ball), closest=True),
            theirs("APGD CE", library="pyautoattack", within=steps(peers.pyautoattack_apgd)),
            theirs("APGD-T", library="pyautoattack", within=_targeted(ball, classes)),
            theirs("FAB", library="pyautoattack", within=_boundary(ball, classes), closest=True),
        ]
    return [
        *found,
        Contestant("Square", "pyautoattack", "Linf", lambda most: partial(square, queries=max(1, most - 3))),
        Contestant("DDN", "foolbox", "L2", lambda most: partial(ddn, steps=max(1, (most - 3) // 2)), closest=True),
        Contestant("C&W", "foolbox", "L2", _weights, closest=True),
    ]


def _deepfool(norm: BallNorm) -> Callable[[int], Attack]:
    """Each step asks for the gradient of two wrong classes, each by a pass of its own."""
    return lambda most: partial(deepfool, norm=norm, candidates=3, steps=max(1, (most - 3) // 6))


def _targeted(norm: BallNorm, classes: int) -> Callable[[int], Attack]:
    def within(most: int) -> Attack:
        aims = max(1, min(9, classes - 1, most // 16))
        return partial(peers.pyautoattack_apgd_t, norm=norm, classes=aims, steps=max(1, (most // aims - 6) // 2))

    return within


def _boundary(norm: BallNorm, classes: int) -> Callable[[int], Attack]:
    """Each step asks for the gradient of all logits."""
    return lambda most: partial(fab, norm=norm, steps=max(1, (most - 6) // (classes + 2)))


def _weights(most: int) -> Attack:
    """Five weights of the loss, fewer where the passes are few."""
    weights = max(1, min(5, most // 40))
    return partial(carlini_wagner, binary_search_steps=weights, steps=max(1, (most - 4) // (2 * weights)))


def equal_budgets(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Sequence[Contestant],
    *,
    eps: Mapping[BallNorm, float],
    budgets: Sequence[int],
    generator: torch.Generator,
    progress: bool = False,
) -> list[Spent]:
    """Run each attack with each budget of passes on the images that ``model`` gets right.

    Args:
        model: Maps images to logits (N, K).
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        attacks: The attacks; those whose library is not installed are left out.
        eps: The size of a perturbation that counts, by norm.
        budgets: How many forward and backward passes an attack may make for each image.
        generator: Source of a seed for each attack.
        progress: Whether to show a bar.

    Raises ValueError when the model is right nowhere.
    """
    right = correct(model, images, labels)
    if not bool(right.any()):
        raise ValueError("the model is wrong on all images: there is nothing to compare")
    images, labels, found = images[right], labels[right], []
    for attack in tqdm(attacks, disable=not progress, unit="attack", leave=False):
        seed, size_of = fresh_seed(generator), eps[attack.norm]
        try:
            runs = [_run(model, images, labels, attack, size_of, most, seed) for most in budgets]
        except ImportError:
            continue
        passes = torch.tensor([made for made, _ in runs], dtype=torch.float64)
        found.append(Spent(attack, size_of, tuple(budgets), passes, torch.stack([left for _, left in runs])))
    return found


def _run(
    model: nn.Module, images: Tensor, labels: Tensor, attack: Contestant, eps: float, most: int, seed: int
) -> tuple[float, Tensor]:
    """Passes made for each image, the mean, and which images are left."""
    draws, spent = torch.Generator().manual_seed(seed), {"forward": 0, "backward": 0}
    given = float("inf") if attack.closest else eps
    with counted(model, spent):
        moved = attack.within(most)(model, images, labels, eps=given, generator=draws)
    near = size(moved - images, attack.norm) <= eps * (1 + _ROUNDING)
    return sum(spent.values()) / len(images), (correct(model, moved, labels) | ~near).cpu()


def local_optimality(found: Sequence[Spent]) -> list[float]:
    """How near each attack comes to all of its norm together: 1 means that no other breaks what it leaves.

    It is 1 minus the area between its curve and the envelope, as a share of the area between no attack and the
    envelope, over the logarithm of the passes. The envelope is what none of the attacks breaks with that budget. (In
    AttackBench, https://arxiv.org/abs/2404.19460, the areas are over the size of the perturbation.) NaN where no attack
    breaks anything.
    """
    shares = []
    for one in found:
        rivals = [other for other in found if other.attack.norm == one.attack.norm]
        envelope = exact(torch.stack([rival.robust for rival in rivals]).all(0)).mean(1)
        width = torch.tensor([log(most) for most in one.budgets], dtype=torch.float64)
        beyond, whole = (torch.trapezoid(values - envelope, width) for values in (one.left, torch.ones_like(envelope)))
        shares.append(float(1 - beyond / whole) if whole > 0 else float("nan"))
    return shares


def strongest(found: Sequence[Spent]) -> list[dict[str, str]]:
    """For each norm and budget the attacks that leave the fewest images, ours and the others': rows of a table."""
    rows = []
    for norm, most in dict.fromkeys((one.attack.norm, most) for one in found for most in one.budgets):
        row = {"norm": norm, "passes": f"{most:,}"}
        mine = [one for one in found if one.attack.norm == norm]
        for side in ("ours", "others"):
            group = [one for one in mine if (one.attack.library == "advdef") == (side == "ours")]
            left = [int(one.robust[one.budgets.index(most)].sum()) for one in group]
            first = [one.attack.name for one, count in zip(group, left, strict=True) if count == min(left)]
            row[f"best of {side}"] = ", ".join(first) or "–"
            row[f"{side} leave, %"] = f"{100 * min(left) / mine[0].robust.shape[1]:.1f}" if left else "–"
        rows.append(row)
    return rows
