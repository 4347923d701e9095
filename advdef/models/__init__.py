"""Classifiers, (N, C, H, W) in [0, 1] -> logits (N, classes): networks of the papers, and ``wrap`` for any other."""

from advdef.models.classic import AlexNet, CleverhansCNN, LeNet5
from advdef.models.resnet import ResNet, ResNet18, SmallResNet
from advdef.models.vgg import VGG, VGG16, VGG19, SmallVGG
from advdef.models.wrapped import Wrapped, wrap

__all__ = [
    "VGG",
    "VGG16",
    "VGG19",
    "AlexNet",
    "CleverhansCNN",
    "LeNet5",
    "ResNet",
    "ResNet18",
    "SmallResNet",
    "SmallVGG",
    "Wrapped",
    "wrap",
]
