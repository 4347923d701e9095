"""Data sets as uint8 tensors on one device, and batches of them as floats in [0, 1].

    digits            scikit-learn's handwritten digits, upsampled to 28x28: embedded, always there
    folder:PATH       a user's own pictures, with a folder for each class (advdef.data.own)
    npz:FILE          a user's own arrays, of any size and number of classes
    every other one   a bundle <root>/<name>.npz, or torchvision's downloader into <root>

A bundle holds train_images, train_labels, test_images and test_labels: uint8 images, N x H x W or N x H x W x 3, and
integer labels (N,). `export` writes one, for machines without internet.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor

from advdef.data.loader import collected
from advdef.data.own import OWN, Channels, Size, read_folder, read_own_bundle
from advdef.data.sources import (
    DATASETS,
    Arrays,
    BundleError,
    DatasetInfo,
    DatasetUnavailable,
    UnknownDataset,
    check_arrays,
    from_torchvision,
    read_bundle,
    read_digits,
    write_bundle,
)
from advdef.devices import accelerators

__all__ = [
    "DATASETS", "BundleError", "Dataset", "DatasetInfo", "DatasetStatus", "DatasetUnavailable", "Split",
    "UnknownDataset", "dataset_info", "dataset_name", "default_root", "export", "find_device", "load", "status",
]  # fmt: skip

Source = Literal["embedded", "bundle", "torchvision files", "missing"]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images, uint8 (N, C, H, W), and their labels, int64 (N,), on one device.

    Raises ValueError when the tensors are of another kind, or not equally many.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels must be int64 ({len(self.images)},), one for each image, "
                             f"not {self.labels.dtype} {tuple(self.labels.shape)}")  # fmt: skip
        if self.labels.device != self.images.device:
            raise ValueError(f"images are on {self.images.device}, labels on {self.labels.device}")

    @classmethod
    def from_loader(cls, loader: Iterable[Any], *, images: int | None = None) -> Split:
        """The images of a ``DataLoader``, or of anything that gives batches, at most the first ``images``.

        A batch is a pair (images, labels), or a mapping as Hugging Face's are. Images are uint8, or floats in [0, 1] as
        ``ToTensor`` makes them; normalisation belongs to :func:`advdef.models.wrap`. Raises TypeError and ValueError,
        with what to do, for others, and for a loader that shuffles.

        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> Split.from_loader(DataLoader(TensorDataset(torch.zeros(5, 1, 8, 8), torch.arange(5)), batch_size=2))
        Split(5 images of 1x8x8 on cpu)
        """
        return cls(*collected(loader, most=images))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self)} images of {'x'.join(map(str, self.images.shape[1:]))} on {self.images.device})"

    def head(self, n: int) -> Split:
        """The first n images, sharing memory with this split; ValueError unless 1 <= n <= len(self)."""
        if not 1 <= n <= len(self):
            raise ValueError(f"the first {n} images were asked for, but the split has {len(self)}")
        return Split(self.images[:n], self.labels[:n])

    def sample(self, n: int) -> Split:
        """n images, or all, drawn at random but always the same; a smaller sample is part of a larger one.

        The first images of a test set need not be typical: those of MNIST are the easier half.
        """
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n].to(self.images.device)
        return Split(self.images[rows], self.labels[rows])

    def float_images(self) -> Tensor:
        """All images as float32 in [0, 1]."""
        return _floats(self.images)

    def batches(
        self,
        size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        shift: int = 0,
        flip: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches: float32 images (size, C, H, W) in [0, 1] and labels; the last may be smaller.

        `shift` crops at a random offset after padding with that many zero pixels on each side; `flip` mirrors left and
        right with probability 1/2. This call draws all random numbers of the epoch, from `generator` (on the CPU;
        None: torch's default one), so that a seed gives the same batches on any device.

        Raises ValueError for size < 1, a negative shift or one larger than the image, a generator on another device.

        >>> split = load("digits").test
        >>> images, labels = next(split.batches(100, shift=2, generator=torch.Generator().manual_seed(0)))
        >>> images.shape, images.dtype, labels[:5].tolist()
        (torch.Size([100, 1, 28, 28]), torch.float32, [0, 1, 2, 3, 4])
        """
        n, _, height, width = self.images.shape
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size must be an integer of at least 1, not {size!r}")
        if not isinstance(shift, int) or not 0 <= shift <= min(height, width):
            raise ValueError(f"shift must be an integer from 0 to {min(height, width)}, the image size, not {shift!r}")
        if generator is not None and generator.device.type != "cpu":
            raise ValueError(f"generator must be on the cpu, not on {generator.device}")
        device = self.images.device
        # Drawn at once: no synchronisation inside the epoch, and other users of the generator cannot come between.
        order = torch.randperm(n, generator=generator).to(device) if shuffle else None
        offsets = torch.randint(2 * shift + 1, (2, n), generator=generator).to(device) if shift else None
        mirrored = torch.randint(2, (n,), generator=generator).bool().to(device) if flip else None
        return self._epoch(size, shift, order, offsets, mirrored)

    def _epoch(
        self, size: int, shift: int, order: Tensor | None, offsets: Tensor | None, mirrored: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            if order is None:
                images, labels = self.images[part], self.labels[part]
            else:
                images, labels = self.images.index_select(0, order[part]), self.labels.index_select(0, order[part])
            if offsets is not None:
                images = _crop(images, offsets[:, part], shift)
            if mirrored is not None:
                images = torch.where(mirrored[part].view(-1, 1, 1, 1), images.flip(-1), images)
            yield _floats(images), labels


def _crop(images: Tensor, offsets: Tensor, shift: int) -> Tensor:
    n, channels, height, width = images.shape
    padded = F.pad(images, (shift,) * 4)
    stride = padded.shape[3]
    # Every row of a crop is a run of `width` pixels of the padded batch. Selecting runs copies whole rows at once, many
    # times faster than indexing with four tensors.
    planes = torch.arange(n * channels, device=images.device).view(n, channels, 1) * padded[0, 0].numel()
    corners = (offsets[0] * stride + offsets[1]).view(n, 1, 1)
    rows = planes + corners + torch.arange(height, device=images.device) * stride
    return padded.flatten().unfold(0, width, 1).index_select(0, rows.flatten()).view(images.shape)


def _floats(images: Tensor) -> Tensor:
    # CUDA replaces division by a Python number with multiplication by its reciprocal, which rounds differently; a
    # divisor on the device gives the same floats everywhere.
    return images.float().div_(torch.full((), 255.0, device=images.device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set.

    Attributes:
        name: Its name, a key of `DATASETS`, or of one's own `folder-NAME`, `npz-NAME` or "own".
        train: Training images and labels; there may be none.
        test: Test images and labels.
        num_classes: How many classes there are.
        shape: That of an image, (C, H, W).
        class_names: What the classes are called, in the order of the labels.
        checksum: 16 hex digits of a sha256 over all pixels and labels.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    shape: tuple[int, int, int]
    class_names: tuple[str, ...] = field(repr=False)
    checksum: str

    @classmethod
    def from_splits(
        cls, test: Split, train: Split | None = None, *, name: str = "own", class_names: Sequence[str] | None = None
    ) -> Dataset:
        """A data set of one's own splits; without ``train`` it has no training images.

        Classes are called by their numbers, up to the largest label, unless ``class_names`` are given. Raises
        ValueError for splits of different shapes, and for fewer names than labels, or than two.
        """
        train = Split(test.images[:0], test.labels[:0]) if train is None else train
        if train.images.shape[1:] != test.images.shape[1:]:
            shapes = f"{tuple(train.images.shape[1:])} and {tuple(test.images.shape[1:])}"
            raise ValueError(f"training and test images differ in shape, {shapes}")
        count = 1 + max(int(split.labels.max()) if len(split) else 0 for split in (train, test))
        names = tuple(map(str, range(max(2, count)))) if class_names is None else tuple(class_names)
        if len(names) < max(2, count):
            raise ValueError(f"labels go to {count - 1}, and there are names for {len(names)} classes")
        digest = hashlib.sha256()
        for split in (train, test):
            for array in (split.images.cpu().numpy(), split.labels.cpu().numpy()):
                digest.update(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).data)
        channels, height, width = test.images.shape[1:]
        return cls(name, train, test, len(names), (channels, height, width), names, digest.hexdigest()[:16])

    def subset(self, *, train: int | None = None, test: int | None = None) -> Dataset:
        """Only the first images of each split (None: all); the checksum stays that of the whole data set.

        Raises ValueError for less than one image or more than there are.

        >>> load("digits").subset(train=1000, test=100).test
        Split(100 images of 1x28x28 on cpu)
        """
        return replace(
            self,
            train=self.train if train is None else self.train.head(train),
            test=self.test if test is None else self.test.head(test),
        )


def default_root() -> Path:
    """Where data sets are kept: $ADVDEF_DATA, else `data` in the user's cache folder for advdef."""
    chosen = os.environ.get("ADVDEF_DATA")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("advdef")) / "data"


def load(
    name: str,
    *,
    device: str | torch.device = "cpu",
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    size: Size | None = None,
    channels: Channels | None = None,
) -> Dataset:
    """The data set `name` on a device: a key of `DATASETS`, or one's own, `folder:PATH` or `npz:FILE`.

    It comes from the first source that has it: embedded in the package (digits), a bundle `<root>/<name>.npz`,
    torchvision's files in `<root>`, which are downloaded when they are not there and `download` is true. `root`
    defaults to `default_root()`. A bundle may hold a part of the data set; images and labels have to be of its kind.

    One's own may have any size and number of classes: :func:`advdef.data.own.read_folder` and
    :func:`~advdef.data.own.read_own_bundle` say what they look like. It is called `folder-NAME` or `npz-NAME`. The
    pictures of a folder are resized to `size`, (H, W) or the side of a square, if that is given, and read with so many
    `channels`.

    Raises UnknownDataset, DatasetUnavailable, BundleError, and ValueError for a device this machine does not have.

    >>> digits = load("digits")
    >>> digits.shape, len(digits.train), len(digits.test), digits.checksum
    ((1, 28, 28), 1297, 500, '604930d963a6b277')
    """
    if (own := _own(name)) is not None:
        return _load_own(*own, find_device(device), size, channels)
    if size is not None or channels is not None:
        raise ValueError("size and channels are for folder:PATH; other data sets are as they are")
    info, where, target = dataset_info(name), _root(root), find_device(device)
    bundle = where / f"{name}.npz"
    if name == "digits":
        arrays, source = read_digits(), "scikit-learn's digits"
    elif bundle.exists():
        arrays, source = read_bundle(bundle), str(bundle)
    else:
        arrays, source = from_torchvision(name, where, download=download), f"torchvision's files in {where}"
    check_arrays(arrays, info, source)
    return _dataset(name, arrays, info.class_names, target)


def _load_own(kind: str, path: str, device: torch.device, size: Size | None, channels: Channels | None) -> Dataset:
    if kind == "npz" and (size is not None or channels is not None):
        raise ValueError("size and channels are for folder:PATH; the arrays of a file are as they are")
    place = Path(path).expanduser()
    arrays, names = read_own_bundle(place) if kind == "npz" else read_folder(place, size=size, channels=channels)
    stem = place.resolve().stem if kind == "npz" else place.resolve().name
    return _dataset(f"{kind}-{re.sub(r'[^A-Za-z0-9_.]+', '-', stem)[:60]}", arrays, names, device)


def _dataset(name: str, arrays: Arrays, names: tuple[str, ...], device: torch.device) -> Dataset:
    found = Dataset.from_splits(_split(arrays, "test"), _split(arrays, "train"), name=name, class_names=names)
    train, test = (Split(split.images.to(device), split.labels.to(device)) for split in (found.train, found.test))
    return replace(found, train=train, test=test)


def _own(name: str) -> tuple[str, str] | None:
    """Kind and path of one's own data set; None for another name."""
    kind, _, path = name.partition(":")
    return (kind, path) if path and kind in OWN else None


def dataset_name(name: str) -> str:
    """A name that means the same data set from any working folder; raises UnknownDataset for one that means none.

    >>> dataset_name("digits")
    'digits'
    """
    if (own := _own(name)) is None:
        dataset_info(name)
        return name
    kind, path = own
    place = Path(path).expanduser().resolve()
    if not (place.is_file() if kind == "npz" else place.is_dir()):
        raise UnknownDataset(f"{place}: no such {'file' if kind == 'npz' else 'folder'}")
    return f"{kind}:{place}"


def export(
    name: str,
    folder: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    channels: Channels | None = None,
) -> Path:
    """Write the data set as a compressed bundle `<folder>/<name>.npz`, loading it as `load` does; returns the path.

    One's own is read again as `npz:FILE`; the pictures of a folder are written with their `size` and `channels`.

    The bundle appears complete or not at all. Raises what `load` raises.
    """
    dataset = load(name, root=root, size=size, channels=channels)
    target = Path(folder).expanduser() / f"{dataset.name}.npz"
    arrays: dict[str, np.ndarray] = {"class_names": np.array(dataset.class_names)} if _own(name) else {}
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        if not len(split):  # one's own may have no training images
            continue
        images = split.images.numpy()
        arrays[f"{part}_images"] = images[:, 0] if dataset.shape[0] == 1 else images.transpose(0, 2, 3, 1)
        arrays[f"{part}_labels"] = split.labels.numpy()
    write_bundle(target, arrays)
    return target


@dataclass(frozen=True)
class DatasetStatus:
    """Where a data set would come from; `path` is the bundle (looked for, when missing) or torchvision's root."""

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    source: Source
    path: Path | None


def status(root: str | os.PathLike[str] | None = None) -> list[DatasetStatus]:
    """Where each data set would come from, without reading or downloading anything.

    >>> status()[0]
    DatasetStatus(name='digits', shape=(1, 28, 28), num_classes=10, source='embedded', path=None)
    """
    where, found = _root(root), []
    for name, info in DATASETS.items():
        path: Path | None = where / f"{name}.npz"
        source: Source = "missing"
        if name == "digits":
            path, source = None, "embedded"
        elif (where / f"{name}.npz").exists():
            source = "bundle"
        elif all((where / file).exists() for file in info.torchvision_files):
            path, source = where, "torchvision files"
        found.append(DatasetStatus(name, info.shape, info.num_classes, source, path))
    return found


def dataset_info(name: str) -> DatasetInfo:
    """What is known of a data set before it is loaded; raises UnknownDataset, which lists what there is."""
    if name not in DATASETS:
        for kind, there in (("folder", Path(name).is_dir()), ("npz", name.endswith(".npz") and Path(name).is_file())):
            if there:
                raise UnknownDataset(f"no data set {name!r}; for that path of yours, write {kind}:{name}")
        raise UnknownDataset(f"no data set {name!r}; there are {', '.join(DATASETS)}, folder:PATH and npz:FILE")
    return DATASETS[name]


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name, as "cuda:1"; raises ValueError, which lists what there is, for one that is not here."""
    there = ["cpu"]
    for kind, count in accelerators().items():
        there += [kind, *(f"{kind}:{i}" for i in range(count))]
    if str(device) not in there:
        raise ValueError(f"no device {str(device)!r}; there are {', '.join(there)}")
    return torch.device(device)


def _root(root: str | os.PathLike[str] | None) -> Path:
    return default_root() if root is None else Path(root).expanduser()


def _split(arrays: Arrays, part: str) -> Split:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Split(torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64)))
