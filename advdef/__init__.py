"""advdef: adversarial defences for image classifiers, reproduced and attacked.

What judging a classifier of one's own needs is imported from here: ``load`` images, ``wrap`` a network, ask for its
``robustness``, ``compare`` reports, ``read_report``. All else comes from the module of its topic (``advdef.attacks``,
``advdef.defenses``, ...); importing the package itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advdef.data import load
    from advdef.models import wrap
    from advdef.report.judging import robustness
    from advdef.report.report import compare, read_report

__all__ = ["__version__", "compare", "load", "read_report", "robustness", "wrap"]

__version__ = "0.1.0"

_HOMES = {
    "compare": "advdef.report.report",
    "load": "advdef.data",
    "read_report": "advdef.report.report",
    "robustness": "advdef.report.judging",
    "wrap": "advdef.models",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'advdef' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
