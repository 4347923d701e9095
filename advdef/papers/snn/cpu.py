"""Multi-level firing on a CPU, compiled by numba: the passes of :mod:`advdef.papers.snn.fused`, neuron by neuron.

In PyTorch each addition is a pass over memory of its own; here a block of neurons stays in the first-level cache for
all levels and steps. In the forward pass the values are those of PyTorch to the last bit.
"""

from typing import Any

import numpy as np
from numba import njit

__all__ = ["KINDS", "gradient", "spikes"]

KINDS = (
    "rectangle", "triangle", "exponential", "arctan", "fast sigmoid", "straight-through", "adaptive", "averaged"
)  # fmt: skip
"""Surrogates, in the order of the numbers by which :func:`gradient` knows them."""

_BLOCK = 512


def compiled(function: Any) -> Any:
    """``function``, compiled by numba and kept on disk, where there is a folder for that."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written
        return njit(nogil=True)(function)


@compiled
def spikes(current: np.ndarray, out: np.ndarray, thresholds: np.ndarray, decay: np.float32) -> None:
    """Write the spikes of ``current`` (T or 1, M) into ``out`` (T, M); all are float32."""
    steps, neurons = out.shape
    constant = len(current) != steps
    membranes = np.empty(_BLOCK, np.float32)
    zero = np.float32(0)
    for start in range(0, neurons, _BLOCK):
        size = min(_BLOCK, neurons - start)
        out[:, start : start + size] = 0
        for threshold in thresholds:
            membranes[:] = 0
            for t in range(steps):
                now, made = current[0 if constant else t, start : start + size], out[t, start : start + size]
                for i in range(size):
                    value = membranes[i] * decay + now[i]
                    fires = value > threshold
                    made[i] += np.float32(fires)
                    membranes[i] = zero if fires else value


@compiled
def gradient(
    current: np.ndarray,
    incoming: np.ndarray,
    out: np.ndarray,
    thresholds: np.ndarray,
    decay: np.float32,
    kind: int,
    width: np.float32,
    scale: np.float32,
    reset: bool,
) -> None:
    """Write the gradient at the currents into ``out``, given that at the spikes; all arrays are float32.

    Args:
        current: (T, M), or (1, M) where it is constant.
        incoming: (T, M): the gradient at the spikes.
        out: (T, M) or (1, M), like the current.
        thresholds: (K,).
        decay: By what a membrane is multiplied in each step.
        kind: The surrogate, as its place in ``KINDS``.
        width: Its width.
        scale: Its scale.
        reset: Whether the gradient passes the reset.
    """
    steps, neurons = incoming.shape
    constant = len(current) != steps
    membranes = np.empty((steps, _BLOCK), np.float32)
    slopes, carried, widths = np.empty((3, _BLOCK), np.float32)
    zero = np.float32(0)
    for start in range(0, neurons, _BLOCK):
        size = min(_BLOCK, neurons - start)
        out[:, start : start + size] = 0
        for threshold in thresholds:
            membranes[0, :size] = current[0, start : start + size]
            for t in range(1, steps):
                now = current[0 if constant else t, start : start + size]
                before, after = membranes[t - 1], membranes[t]
                for i in range(size):
                    after[i] = (zero if before[i] > threshold else before[i]) * decay + now[i]
            carried[:] = 0
            if kind == 6:
                _widths(membranes, threshold, size, width, widths)
            for t in range(steps - 1, -1, -1):
                here, given = membranes[t], incoming[t, start : start + size]
                made = out[0 if constant else t, start : start + size]
                if kind == 6:
                    _adapted(here, threshold, size, widths, slopes)
                else:
                    _slopes(here, threshold, size, kind, width, scale, slopes)
                if kind == 7:
                    _sum(given, slopes, carried)
                elif reset:
                    _back_through_reset(here, given, slopes[:size], threshold, decay, carried, made)
                else:
                    _back(here, given, slopes[:size], threshold, decay, carried, made)
            if kind == 7:
                _spread(carried, out[:, start : start + size], np.float32(1 if constant else steps))


@compiled
def _back(
    membranes: np.ndarray,
    incoming: np.ndarray,
    slopes: np.ndarray,
    threshold: np.float32,
    decay: np.float32,
    carried: np.ndarray,
    out: np.ndarray,
) -> None:
    """One step back in time: ``carried`` becomes the error of this step, and is added to ``out``."""
    zero = np.float32(0)
    for i in range(len(slopes)):
        kept = zero if membranes[i] > threshold else carried[i]
        error = incoming[i] * slopes[i] + kept * decay
        carried[i] = error
        out[i] += error


@compiled
def _back_through_reset(
    membranes: np.ndarray,
    incoming: np.ndarray,
    slopes: np.ndarray,
    threshold: np.float32,
    decay: np.float32,
    carried: np.ndarray,
    out: np.ndarray,
) -> None:
    """The same where the gradient also passes the spike that resets the membrane."""
    zero = np.float32(0)
    for i in range(len(slopes)):
        kept = zero if membranes[i] > threshold else carried[i]
        error = (incoming[i] - decay * membranes[i] * carried[i]) * slopes[i] + kept * decay
        carried[i] = error
        out[i] += error


@compiled
def _sum(incoming: np.ndarray, slopes: np.ndarray, carried: np.ndarray) -> None:
    """Add what passes a step to ``carried``."""
    for i in range(len(incoming)):
        carried[i] += incoming[i] * slopes[i]


@compiled
def _spread(carried: np.ndarray, out: np.ndarray, steps: np.float32) -> None:
    """Add to each row of ``out`` an equal part of what was summed over time."""
    for made in out:
        for i in range(len(made)):
            made[i] += carried[i] / steps


@compiled
def _widths(membranes: np.ndarray, threshold: np.float32, size: int, width: np.float32, out: np.ndarray) -> None:
    """Write how wide the slope of each neuron is, from its distances to the threshold over all steps."""
    steps, more, least = np.float32(len(membranes)), np.float32(1.5), np.float32(1e-4)
    for i in range(size):
        mean, apart = np.float32(0), np.float32(0)
        for t in range(len(membranes)):
            mean += abs(membranes[t, i] - threshold)
        mean /= steps
        for t in range(len(membranes)):
            apart += abs(abs(membranes[t, i] - threshold) - mean)
        out[i] = width * (mean + more * (apart / steps) + least)


@compiled
def _adapted(membranes: np.ndarray, threshold: np.float32, size: int, widths: np.ndarray, out: np.ndarray) -> None:
    """Write ds/du into ``out``, for a slope that is as wide as each neuron needs."""
    one, pi = np.float32(1), np.float32(np.pi)
    for i in range(size):
        turned = pi * (membranes[i] - threshold) / widths[i]
        out[i] = one / (widths[i] * (one + turned * turned))


@compiled
def _slopes(
    membranes: np.ndarray,
    threshold: np.float32,
    size: int,
    kind: int,
    width: np.float32,
    scale: np.float32,
    out: np.ndarray,
) -> None:
    """Write ds/du into ``out``, in one loop for each kind: a branch inside would keep it from being vectorised."""
    zero, one, half = np.float32(0), np.float32(1), width / np.float32(2)
    if kind == 0:
        height = one / width
        for i in range(size):
            out[i] = height if abs(membranes[i] - threshold) < half else zero
    elif kind in (1, 7):
        area = width * width
        for i in range(size):
            out[i] = max(width - abs(membranes[i] - threshold), zero) / area
    elif kind == 2:
        for i in range(size):
            out[i] = scale * np.exp(-abs(membranes[i] - threshold) / width)
    elif kind == 3:
        steep = np.float32(np.pi) / width
        for i in range(size):
            turned = steep * abs(membranes[i] - threshold)
            out[i] = one / (one + turned * turned)
    elif kind == 4:
        for i in range(size):
            wide = one + abs(membranes[i] - threshold) / width
            out[i] = one / (wide * wide)
    else:
        out[:size] = one
