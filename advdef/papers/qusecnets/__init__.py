"""QuSecNets: input quantisation, https://arxiv.org/abs/1811.01437.

``quantizer`` is the layer, ``defence`` the network behind it, ``training`` learns both, ``attacks`` searches the levels
that it can show, ``certificate`` bounds what any attack can reach.
"""
