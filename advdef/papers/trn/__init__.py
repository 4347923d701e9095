"""TRN: two-stream restoration, https://arxiv.org/abs/2202.01117.

``maps`` are the gradient maps and their controls, ``models`` the restorers, ``training`` trains them, ``defence`` puts
one in front of a classifier; ``ladder`` climbs from weak to strong attacks, with the decoy of ``attacks`` and the
smooth twins of ``smoothing``.
"""
