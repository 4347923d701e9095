"""SNN image purification with multi-level firing, https://arxiv.org/abs/2404.17092.

``neurons`` fire (computed by ``fused`` and, on a CPU, by ``cpu``), and ``surrogates`` stand for their derivative;
``layers`` and ``classifiers`` are networks of them, ``through`` gives such a network another derivative. ``purifier``
takes the perturbation off an image, ``training`` trains it, ``defence`` puts it in front of a classifier, with and
without a detector, and ``attacks`` are those made for the detector. ``footprint`` counts what all of this needs.
``networks`` trains all of it as the page does, and ``study`` attacks that, task by task. ``measure`` and ``figures``
are what the page measures and draws besides; ``verdicts`` decides its claims.
"""
