"""QuSecNets: input quantisation, https://arxiv.org/abs/1811.01437.

``quantizer`` is the layer, ``defence`` the network behind it, and ``training`` learns both. ``attacks`` searches all
that the layer can show the network; ``certificate`` bounds what any attack can reach. ``measure`` and ``tables`` are
what the page makes of it.
"""
