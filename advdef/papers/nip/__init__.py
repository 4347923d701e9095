"""NIP: neuron-level inverse perturbation, https://arxiv.org/abs/2112.13060.

``influence`` measures neurons and turns the measure into directions, ``bank`` keeps a dictionary of them, one per
class, and ``defence`` adds them to images, on what ``offset`` shares with ``baselines``: noise, and another gradient.
``oracle`` is the released code, which is told the answer. ``attacks`` are made against all of these. ``shift`` measures
what an attack does to neurons, ``repair`` what a defence does to attacked images. For its page, ``variants`` lists
what is compared, ``measure`` puts questions to these, ``price`` tells what they cost, and ``judging`` tests whether
attacks work; ``tables`` and ``figures`` show what comes out, and ``verdicts`` decides the claims. ``study`` makes tasks
of all that, on the networks and images of ``attacked``, as large as ``profiles`` says.
"""
