"""Classifiers named in the papers: images (N, C, H, W) in [0, 1] -> logits (N, classes)."""

from advdef.models.cleverhans import CleverhansCNN

__all__ = ["CleverhansCNN"]
