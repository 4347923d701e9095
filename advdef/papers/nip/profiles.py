"""How large the page about NIP is: its profiles, its networks, and what depends on the kind of image."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from advdef.models import VGG19, AlexNet, LeNet5, ResNet, SmallVGG

__all__ = ["NIP_MEANINGS", "NIP_PROFILES"]

NIP_PROFILES: dict[str, dict[str, Any]] = {
    "smoke": dict(
        datasets={"digits": ("LeNet-5",)}, epochs=dict(digits=6), at_epochs=3, seeds=1,
        images=20, minimal=(6, 8), eleven=6, least=4, boundary=10, levels=50, kept=2,
        per_class=30, tried=3, steps=10, adaptive_images=12, adaptive_steps=2, rounds=0, queries=10,
        curve=3, tested=6, defences="few", checks="brief", timed=(16, 2), long=(5, 10), cw=(2, 10),
    ),
    "laptop": dict(
        datasets=dict(cifar10=("SmallVGG",), gtsrb=("small ResNet-20",), fashion_mnist=("LeNet-5",)),
        epochs=dict(cifar10=8, gtsrb=20, fashion_mnist=8), at_epochs=6, seeds=5,
        images=300, minimal=(20, 40), eleven=100, least=20, boundary=1_000, levels=500, kept=2,
        per_class=100, tried=20, steps=40, adaptive_images=100, adaptive_steps=50,
        queries=500, rounds=3, curve=4, tested=50, defences="all", checks="fast", timed=(128, 5),
        long=(20, 200), cw=(4, 100),
    ),
    "gpu": dict(
        datasets=dict(cifar10=("VGG-19",), gtsrb=("ResNet-20",), fashion_mnist=("LeNet-5",)),
        epochs=dict(cifar10=10, gtsrb=20, fashion_mnist=10), at_epochs=6, seeds=2,
        images=500, minimal=(20, 40), eleven=100, least=20, boundary=1_000, levels=500, kept=2,
        per_class=100, tried=20, steps=20, adaptive_images=100, adaptive_steps=20,
        queries=500, rounds=2, curve=3, tested=50, defences="all", checks="fast", timed=(256, 20),
        long=(20, 200), cw=(4, 100),
    ),
    "paper": dict(
        datasets=dict(
            cifar10=("VGG-19", "AlexNet"), gtsrb=("LeNet-5", "ResNet-20"), fashion_mnist=("LeNet-5", "ResNet-20"),
        ),
        epochs=dict(cifar10=30, gtsrb=30, fashion_mnist=20), at_epochs=15, seeds=5,
        images=1_000, minimal=(20, 40), eleven=200, least=20, boundary=5_000, levels=1_000, kept=10,
        per_class=200, tried=100, steps=40, adaptive_images=300, adaptive_steps=100,
        queries=1_000, rounds=4, curve=4, tested=200, defences="all", checks="all", timed=(256, 20),
        long=(100, 1_000), cw=(6, 500),
    ),
}  # fmt: skip
"""How much is computed, by profile."""

NIP_MEANINGS = {
    "datasets": "networks, by data set",
    "epochs": "of training",
    "at_epochs": "epochs of adversarial training",
    "seeds": "trainings of what is compared",
    "images": "test images under single attacks; training images by which steps are chosen",
    "minimal": "halvings and steps of PGD-min",
    "eleven": "test images under the eleven attacks",
    "least": "images that an attack must fool for a row on features",
    "boundary": "steps of the Boundary attack",
    "levels": "budgets that FGSM and noise try upwards",
    "per_class": "training images of a class in a bank",
    "kept": "their directions that the bank keeps",
    "tried": "noises among which the oracle finds the best",
    "steps": "of PGD and its relatives",
    "adaptive_images": "test images under the three attackers",
    "adaptive_steps": "steps of their strong attacks",
    "rounds": "how often the adaptive attacker may go on with twice the effort",
    "queries": "of Square, for each image",
    "curve": "number of budgets of the three attackers",
    "tested": "images of the six tests of the attacks",
    "defences": "which ones meet the three attackers",
    "checks": "sanity checks: all of them, or the fast ones (in brief)",
    "timed": "batch and runs of the cost table",
    "long": "few and many steps of PGD in the six tests",
    "cw": "halvings and steps of C&W",
}
"""What the settings are."""

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "SmallVGG": SmallVGG, "LeNet-5": LeNet5, "VGG-19": VGG19, "AlexNet": AlexNet,
    "ResNet-20": partial(ResNet, blocks=(3, 3, 3), width=16),
    "small ResNet-20": partial(ResNet, blocks=(3, 3, 3), width=16, stem_stride=2),
}  # fmt: skip
OTHER = ("LeNet-5",)  # the networks of data sets that no profile has
TRAINING: dict[str, Any] = dict(learning_rate=2e-3, schedule="one_cycle", shift=2)
FLIPPED = ("cifar10",)

# by channels: on grey images attacks are larger, and so are the answers to them
EPS = {1: 0.1, 3: 4 / 255}
HUGE = {1: 0.6, 3: 64 / 255}
SCALE = {1: 4, 3: 1}
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
RELEASED = (0.001, 0.005, 0.008)
