"""Neuron sensitivity and Sensitive Neuron Stabilizing (SNS), https://arxiv.org/abs/1909.06978.

``measure`` is the sensitivity, over the dual ``pairs``; ``interventions`` test whether sensitive neurons cause wrong
decisions; ``training`` is SNS, ``defence`` the network it gives, ``attacks`` (by the ascents of ``ascent``) are made
against it.
"""
