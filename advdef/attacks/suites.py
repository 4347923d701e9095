"""Named sets of configured attacks. A suite maps a name to a partial; its keywords go into the record."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from advdef.attacks.gradient import bim, fgsm, mim, pgd

__all__ = ["Attack", "Suite", "cleverhans", "stopping", "strong"]

Attack = partial[Tensor]
"""Called as ``attack(model, images, labels, eps=eps, generator=generator)``."""
Suite = Mapping[str, Attack]

_STOPPABLE = (bim, mim, pgd)


def cleverhans() -> Suite:
    """FGSM, BIM, PGD and MIM with the defaults of Cleverhans v3.0.1, cheapest first; steps are relative to eps."""
    return {
        "FGSM": partial(fgsm),
        "BIM": partial(bim),
        "MIM": partial(mim),
        "PGD": partial(pgd, steps=10, step_size=1 / 6),
    }


def strong(*, steps: int, restarts: int) -> Suite:
    """PGD as an adaptive attacker runs it: a cross-entropy and a margin ascent, with restarts."""
    return {
        f"PGD-{steps} CE": partial(pgd, steps=steps, restarts=restarts),
        f"PGD-{steps} margin": partial(pgd, steps=steps, restarts=restarts, loss="margin"),
    }


def stopping(suite: Suite) -> Suite:
    """The same attacks, leaving an image alone once the attacked model misclassifies it.

    For success judged on the attacked model itself, where a larger margin buys nothing.
    """
    return {
        name: partial(attack, stop_early=True) if attack.func in _STOPPABLE else attack
        for name, attack in suite.items()
    }
