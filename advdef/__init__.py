"""advdef: adversarial defences for image classifiers, reproduced and attacked.

Import the module of a topic (``advdef.data``, ``advdef.attacks``, ``advdef.defenses``, ...); importing the package
itself costs nothing.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
