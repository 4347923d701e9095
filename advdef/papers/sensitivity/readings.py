"""Whether it matters which definition of sensitivity is meant, where neurons are read, and on how many pairs."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import pandas as pd
from torch import Tensor, nn

from advdef.papers.sensitivity.interventions import rescaled
from advdef.papers.sensitivity.measure import Definition, Pairs, sensitivity
from advdef.selection import jaccard
from advdef.statistics import rank_correlation
from advdef.taps import default_taps

__all__ = [
    "READINGS", "agreement_of_first", "before_relu", "common_share", "mean_over_layers", "pairwise_table",
    "rank_agreement", "reordered", "reversing_factors",
]  # fmt: skip

READINGS: dict[str, Definition] = {
    "D1 absolute": "absolute",
    "D2 relative": "relative",
    "D3 pooled": "pooled",
    "D4 standardised": "standardized",
    "relative per pair": "relative_per_pair",
    "L2 / dim": "absolute_l2",
    "largest": "largest",
}
"""Definitions of sensitivity by the names that the page gives them."""

Found = TypeVar("Found")


def mean_over_layers(values: Mapping[str, float]) -> float:
    """Mean of one number per layer."""
    return float(np.mean(list(values.values())))


def rank_agreement(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Rank correlation of two sensitivities (C,) of the same layers, averaged over those where neither is constant."""
    return float(np.nanmean([rank_correlation(one[layer], other[layer]) for layer in one]))


def common_share(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Common share (Jaccard) of two choices of neurons of the same layers, averaged over these."""
    return mean_over_layers(jaccard(one, other))


def agreement_of_first(model: nn.Module, pairs: Pairs) -> dict[int, float]:
    """How well D1 of the first 10, 20, 50, .. of the pairs agrees with D1 of all."""
    final, counts = sensitivity(model, pairs), [n for n in (10, 20, 50, 100, 200, 500, 1_000) if n < len(pairs)]
    return {n: rank_agreement(sensitivity(model, pairs.of(slice(n))), final) for n in counts}


def pairwise_table(found: Mapping[str, Found], how: Callable[[Found, Found], float]) -> pd.DataFrame:
    """How well each two of these agree, as a square table with their names.

    >>> float(pairwise_table({"a": 1, "b": 3}, lambda one, other: one / other).loc["b", "a"])
    3.0
    """
    cells = [[how(one, other) for other in found.values()] for one in found.values()]
    return pd.DataFrame(cells, index=list(found), columns=list(found))


def before_relu(model: nn.Module, pairs: Pairs) -> dict[str, Tensor]:
    """D1 of those taps of a network that are sequences, read after their second module, the batch normalisation.

    Returns (C,) by tap. Raises ValueError where there is no such tap.
    """
    inside = dict(model.named_modules())
    layers = {f"{tap}.1": tap for tap in default_taps(model) if f"{tap}.1" in inside}
    return {layers[layer]: values for layer, values in sensitivity(model, pairs, layers=layers).items()}


def reordered(model: nn.Module, tap: str, sigma: Tensor) -> nn.Module:
    """A network of the same function in which the order of sensitivities ``sigma`` (C,) of a tap is turned round.

    ``tap`` is the first convolution of a residual block, ``.inner``; see
    :func:`~advdef.papers.sensitivity.interventions.rescaled`, which raises what does not fit.
    """
    following = f"{tap.removesuffix('inner')}second.0"
    return rescaled(model, f"{tap}.1", following, reversing_factors(sigma).float())


def reversing_factors(values: Tensor) -> Tensor:
    """Factors (C,) that turn the order of sensitivities (C,) round: the smallest becomes the largest, and so on.

    Sensitivities count as no less than 1e-4, so that no factor is infinite.

    >>> import torch
    >>> values = torch.tensor([4.0, 1.0, 2.0])
    >>> values * reversing_factors(values)
    tensor([1., 4., 2.])
    """
    order = values.argsort()
    ascending = values[order].clamp(min=1e-4)
    return (ascending.flip(0) / ascending)[order.argsort()]
