"""Judges a classifier of one's own on images of one's own, with a defence of one's own or one of the book's by name.

``judging`` has the one call, ``robustness``: ``deployed`` makes a defence ready, ``attacking`` runs the attackers, and
``report`` is what it returns, a file, a table, a figure and sentences.
``defences`` builds defences by name, ``bring`` finds a network by the name of the function that makes it, ``example``
is one that the package brings, and ``commands`` are ``advdef judge``, ``check`` and ``diff``.
"""
