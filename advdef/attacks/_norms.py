"""The norms in which a perturbation may be measured."""

from typing import Literal

__all__ = ["BallNorm", "Norm"]

BallNorm = Literal["Linf", "L2"]
Norm = Literal["Linf", "L2", "L1", "L0"]
