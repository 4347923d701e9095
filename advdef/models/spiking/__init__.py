"""Spiking networks: neurons, their surrogate gradients, classifiers, and the purifier."""

__all__ = []
