"""Neuron sensitivity and Sensitive Neuron Stabilizing (SNS), https://arxiv.org/abs/1909.06978.

``measure`` is the sensitivity, on the dual ``pairs``; ``interventions`` test whether sensitive neurons cause the wrong
decisions. ``training`` is SNS, ``defence`` the network that comes of it, and ``attacks`` are those made against it, all
by the feature ascent of ``ascent``.
"""
