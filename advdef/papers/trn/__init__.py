"""TRN: two-stream restoration, https://arxiv.org/abs/2202.01117.

``maps`` are the gradient maps and their controls, ``models`` the restorers, ``training`` trains them, and ``defence``
puts one in front of a classifier. ``ladder`` climbs from weak attacks on it to strong ones, with the decoy of
``attacks``, and with the smooth twins of ``smoothing`` that make second derivatives useful. What its page compares is
in ``variants``; ``measure``, ``tables`` and ``figures`` show what comes out, and ``verdicts`` decides its claims.
``networks`` and ``study`` hold what the page computes, task by task.
"""
