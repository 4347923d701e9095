"""Training: the one ``loop``, ``adversarial`` training on top of it, ``pairs`` to learn from, and ``weights`` on disk.

Pairs are attacked images beside their originals, for what learns to restore or purify.
"""

from advdef.training.adversarial import Branches, Penalty, fit_pairs, train_alp, train_at, train_trades
from advdef.training.loop import Objective, TrainingDiverged, fit, train_standard
from advdef.training.pairs import AttackedPairs, Recipe, cached_pairs
from advdef.training.weights import Training, trained

__all__ = [
    "AttackedPairs",
    "Branches",
    "Objective",
    "Penalty",
    "Recipe",
    "Training",
    "TrainingDiverged",
    "cached_pairs",
    "fit",
    "fit_pairs",
    "train_alp",
    "train_at",
    "train_standard",
    "train_trades",
    "trained",
]
