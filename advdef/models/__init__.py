"""Classifiers named in the papers: images (N, C, H, W) in [0, 1] -> logits (N, classes)."""

from advdef.models.cleverhans import CleverhansCNN
from advdef.models.inception import SmallInception
from advdef.models.resnet import ResNet, ResNet18, SmallResNet
from advdef.models.vgg import VGG16

__all__ = ["CleverhansCNN", "ResNet", "ResNet18", "SmallInception", "SmallResNet", "VGG16"]
