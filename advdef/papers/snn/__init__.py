"""SNN image purification with multi-level firing, https://arxiv.org/abs/2404.17092.

``neurons`` fire (computed by ``fused`` and, on a CPU, by ``cpu``), ``surrogates`` stand for their derivative;
``layers`` and ``classifiers`` are networks of them, ``through`` their stand-ins. ``purifier`` takes a perturbation off,
``training`` trains it, ``defence`` uses it, ``attacks`` are made against its gate, ``footprint`` counts its cost.
"""
