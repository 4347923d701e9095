"""Where data sets come from: the table of what there is, and the three readers that `advdef.data.load` chooses from.

Every reader returns arrays in the layout of a bundle: train_images, train_labels, test_images, test_labels.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from advdef.data import class_names as names
from advdef.data.torchvision_wheel import torchvision
from advdef.store.files import replacing

__all__ = [
    "DATASETS", "Arrays", "BundleError", "DatasetInfo", "DatasetUnavailable", "UnknownDataset", "check_arrays",
    "from_torchvision", "read_bundle", "read_digits", "write_bundle",
]  # fmt: skip

Arrays = Mapping[str, np.ndarray]


class UnknownDataset(ValueError):
    """No data set has this name."""


class DatasetUnavailable(RuntimeError):
    """A known data set that is neither on disk nor can be downloaded."""


class BundleError(ValueError):
    """Images or labels that are not those of the data set they are said to be."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded; the sizes are those originally published.

    Attributes:
        shape: That of an image, (C, H, W).
        class_names: What the classes are called, in the order of the labels.
        train_size: How many training images there are.
        test_size: How many test images there are.
        torchvision_class: What torchvision calls it; "" where it has none.
        torchvision_files: torchvision's files, under its root.
        checksum: That of the published images and labels in their order; "" where we do not know it.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train_size: int
    test_size: int
    torchvision_class: str = ""
    torchvision_files: tuple[str, ...] = ()  # under the root, once downloaded
    checksum: str = ""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


def _idx(folder: str) -> tuple[str, ...]:
    return tuple(f"{folder}/raw/{part}-ubyte" for part in
                 ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"))  # fmt: skip


_GREY, _RGB = (1, 28, 28), (3, 32, 32)
_CIFAR10_FILES = (*(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)), "cifar-10-batches-py/test_batch")
_CIFAR100_FILES = ("cifar-100-python/train", "cifar-100-python/test")
_SVHN_FILES = ("train_32x32.mat", "test_32x32.mat")
# torchvision's GTSRB has the 26,640 training images of the competition's first stage, not all 39,209.
_GTSRB_FILES = ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")

DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({
    "digits": DatasetInfo(_GREY, names.DIGITS, 1_297, 500, checksum="604930d963a6b277"),
    "mnist": DatasetInfo(_GREY, names.DIGITS, 60_000, 10_000, "MNIST", _idx("MNIST"), "1e35582d42a90940"),
    "fashion_mnist": DatasetInfo(
        _GREY, names.FASHION_MNIST, 60_000, 10_000, "FashionMNIST", _idx("FashionMNIST"), "ece172613115fb18"
    ),
    "cifar10": DatasetInfo(_RGB, names.CIFAR10, 50_000, 10_000, "CIFAR10", _CIFAR10_FILES),
    "cifar100": DatasetInfo(_RGB, names.CIFAR100, 50_000, 10_000, "CIFAR100", _CIFAR100_FILES),
    "svhn": DatasetInfo(_RGB, names.DIGITS, 73_257, 26_032, "SVHN", _SVHN_FILES),
    "gtsrb": DatasetInfo(_RGB, names.GTSRB, 39_209, 12_630, "GTSRB", _GTSRB_FILES),
})  # fmt: skip


def read_digits() -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 pixels as 28x28: 500 stratified test images, the rest for training."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    images, labels = load_digits(return_X_y=True)
    # Bilinear upsampling in integers, so that the pixels are the same on every machine: the centre of pixel i lies at
    # (4 i - 5) / 14 in the small image, clamped at its border, and the weights are multiples of 1/14.
    place = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)
    weights = np.maximum(14 - np.abs(place[:, None] - 14 * np.arange(8)), 0)
    large = weights @ images.reshape(-1, 8, 8).astype(np.int64) @ weights.T * 255
    scale = 14 * 14 * 16
    pixels = ((large + scale // 2) // scale).astype(np.uint8)
    # RandomState is the generator whose stream numpy has frozen. The test set takes 50 images of each class and deals
    # them out class by class, so that its first 10 k images have k of each class.
    order = np.random.RandomState(0).permutation(len(labels))
    test = np.stack([order[labels[order] == label][:50] for label in range(10)], axis=1).ravel()
    train = order[~np.isin(order, test)]
    return {"train_images": pixels[train], "train_labels": labels[train],
            "test_images": pixels[test], "test_labels": labels[test]}  # fmt: skip


def read_bundle(path: Path, *, more: tuple[str, ...] = ()) -> Arrays:
    """The arrays of an .npz file whose names begin with ``train_`` or ``test_``, and those in ``more``.

    Raises BundleError when it is none, or holds pickled objects.
    """
    try:
        # np.load would leave a file that it opened itself, and cannot read, open.
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("File is not a zip file")
            file.seek(0)
            bundle = np.load(file, allow_pickle=False)
            if not isinstance(bundle, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            wanted = [key for key in bundle.files if key.startswith(("train_", "test_")) or key in more]
            return {key: np.asarray(bundle[key]) for key in wanted}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path}: not a readable .npz archive of plain arrays ({_brief(error)})") from error


def write_bundle(path: Path, arrays: Arrays) -> None:
    """Write a compressed .npz file that appears complete or not at all."""
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type, unused-ignore]


def from_torchvision(name: str, root: Path, *, download: bool) -> Arrays:
    """The data set as torchvision keeps it in `root`; DatasetUnavailable when it cannot be had."""
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        chosen = {"split": part} if name in ("svhn", "gtsrb") else {"train": part == "train"}
        try:
            kind = getattr(torchvision().datasets, DATASETS[name].torchvision_class)
            source = kind(root, download=download, **chosen)
        except Exception as error:  # no internet, a broken archive, no torchvision: all mean the same here
            raise DatasetUnavailable(
                f"{name} is not available: it is not embedded as digits is, there is no bundle {root / name}.npz "
                f"(advdef data export {name}, where there is internet, writes one), and torchvision's "
                f"{'download into' if download else 'files in'} {root} failed ({_brief(error)})"
            ) from error
        if name == "gtsrb":
            source.transform = _resized
            pairs = [source[i] for i in range(len(source))]
            images, labels = np.asarray([image for image, _ in pairs]), np.asarray([label for _, label in pairs])
        elif name == "svhn":
            images, labels = source.data.transpose(0, 2, 3, 1), source.labels
        else:
            images, labels = np.asarray(source.data), np.asarray(source.targets)
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays


def _resized(image: Image.Image) -> np.ndarray:
    # PIL's bilinear filter widens when it shrinks an image, that is, it antialiases.
    return np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))


def check_arrays(arrays: Arrays, info: DatasetInfo, source: str) -> None:
    """BundleError, naming `source`, the key and what was seen, unless the arrays are images and labels of this kind."""
    channels, *size = info.shape
    expected = (*size,) if channels == 1 else (*size, channels)
    for part in ("train", "test"):
        for key in (f"{part}_images", f"{part}_labels"):
            if key not in arrays:
                raise BundleError(f"{source}: no {key}; there are {', '.join(arrays) or 'none of the four arrays'}")
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8:
            raise BundleError(f"{source}: {part}_images must be uint8, not {images.dtype}")
        if images.shape[1:] != expected or not len(images):
            wanted = " x ".join(map(str, expected))
            raise BundleError(f"{source}: {part}_images must be N x {wanted} with N >= 1, not of shape {images.shape}")
        if labels.dtype.kind not in "iu":
            raise BundleError(f"{source}: {part}_labels must be integers, not {labels.dtype}")
        if labels.shape != images.shape[:1]:
            raise BundleError(f"{source}: {part}_labels must have shape ({len(images)},), not {labels.shape}")
        low, high = labels.min(), labels.max()
        if low < 0 or high >= info.num_classes:
            raise BundleError(f"{source}: {part}_labels must lie in 0..{info.num_classes - 1}, not in {low}..{high}")


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
