"""What data sets are called in prose and in figures."""

import re

__all__ = ["data_name", "data_named"]

_NAMES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits", "fashion_mnist": "Fashion-MNIST",
    "gtsrb": "GTSRB", "mnist": "MNIST", "svhn": "SVHN",
}  # fmt: skip


def data_name(dataset: str) -> str:
    """A data set's name in prose; that of an unknown one is its own.

    >>> data_name("fashion_mnist")
    'Fashion-MNIST'
    """
    return _NAMES.get(dataset, dataset)


def data_named(text: str) -> str:
    """Words with the names of data sets as prose writes them.

    >>> data_named("the claim is about cifar10, fashion_mnist")
    'the claim is about CIFAR-10, Fashion-MNIST'
    """
    return re.sub(rf"\b({'|'.join(_NAMES)})\b", lambda found: data_name(found[1]), text)
