"""Networks of the papers: classifiers, (N, C, H, W) in [0, 1] -> logits (N, classes), and restorers of images."""

from advdef.models.classic import AlexNet, CleverhansCNN, LeNet5
from advdef.models.inception import SmallInception
from advdef.models.resnet import ResNet, ResNet18, SmallResNet
from advdef.models.vgg import VGG, VGG16, VGG19, SmallVGG
from advdef.papers.snn.classifiers import SmallSpikingResNet, SpikingResNet, SpikingVGG, SpikingVGG11
from advdef.papers.snn.neurons import Firing
from advdef.papers.snn.purifier import Purifier

__all__ = [
    "VGG",
    "VGG16",
    "VGG19",
    "AlexNet",
    "CleverhansCNN",
    "Firing",
    "LeNet5",
    "Purifier",
    "ResNet",
    "ResNet18",
    "SmallInception",
    "SmallResNet",
    "SmallSpikingResNet",
    "SmallVGG",
    "SpikingResNet",
    "SpikingVGG",
    "SpikingVGG11",
]
