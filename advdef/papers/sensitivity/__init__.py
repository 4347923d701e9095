"""Neuron sensitivity and Sensitive Neuron Stabilizing (SNS), https://arxiv.org/abs/1909.06978.

``measure`` is the sensitivity, on the dual ``pairs`` and summed in a ``meter``; ``interventions`` test whether
sensitive neurons cause the wrong decisions. ``training`` is SNS, ``defence`` the network that comes of it, and
``attacks`` are those made against it, all by the feature ascent of ``ascent``.

For its page, ``experiments`` intervene on every layer and share of neurons, ``readings`` compare the readings of
sensitivity, ``migration`` follows choices from one network to another, ``comparison`` sets defences side by side;
``tables`` and ``figures`` show all of it, and ``verdicts`` decides the claims. ``study`` names all that it computes, on
``networks`` trained by the ``methods``, and ``keeping`` keeps results.
"""
