"""A second search, for the holes that a first one left: all that it did not try, on the images that it did not break.

``hunt`` searches what an adaptive attacker left of a defence, as a page ``Judged`` it. ``add_breaks`` and
``read_breaks`` keep what it finds in files, and ``found_later`` lets an evaluation take it in, judged anew.
"""

from advdef.evaluation.holes.judged import Hunt, Judged, Tried
from advdef.evaluation.holes.later import FOUND_LATER, add_breaks, found_by, found_later, read_breaks, replay_breaks
from advdef.evaluation.holes.search import hunt

__all__ = [
    "FOUND_LATER",
    "Hunt",
    "Judged",
    "Tried",
    "add_breaks",
    "found_by",
    "found_later",
    "hunt",
    "read_breaks",
    "replay_breaks",
]
