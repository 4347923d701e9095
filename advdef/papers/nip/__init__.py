"""NIP: neuron-level inverse perturbation, https://arxiv.org/abs/2112.13060.

``influence`` measures neurons and turns it into directions, ``bank`` keeps a dictionary of them, ``defence`` adds them
(by ``offset``); ``oracle`` is told the label, ``baselines`` add noise or another gradient; ``attacks`` are made against
all of these. ``shift`` and ``repair`` measure what an attack moves and what the defence moves back.
"""
