"""A user's own pictures: a folder with a folder for each class, or one .npz file, of any size and number of classes.

Classes are numbered as torchvision's ``ImageFolder`` numbers them, by the sorted names of their folders, so that a
network that was trained with it has the same labels.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from advdef.data.sources import Arrays, BundleError, read_bundle
from advdef.data.torchvision_wheel import torchvision

__all__ = ["OWN", "Channels", "Size", "read_channels", "read_folder", "read_own_bundle", "read_size"]

OWN = ("folder", "npz")
"""What may stand before the colon in the name of a data set that is the user's own: ``folder:PATH``, ``npz:FILE``."""

Size = int | tuple[int, int]
Channels = Literal[1, 3]
_TEST = ("test", "val", "valid")
_HELD_OUT = 0.2
_GREY = {"1", "L", "LA"}
_TOO_DEEP = {"I", "F", "I;16", "I;16B", "I;16L"}
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


def read_folder(
    path: Path, *, size: Size | None = None, channels: Channels | None = None
) -> tuple[Arrays, tuple[str, ...]]:
    """Images and labels below a folder, in the layout of a bundle, and the names of the classes.

    ``path`` holds ``train/`` and ``test/`` (or ``val/``) with a folder for each class, ``test/`` alone, or the folders
    of the classes. In the last case a fifth of each class, drawn with a fixed seed, is the test set.

    Args:
        path: The folder.
        size: Pictures are resized to it, (H, W) or the side of a square. Default: they stay as they are.
        channels: 1 for grey, 3 for RGB. Default: grey if all pictures are, else RGB.

    Raises BundleError, with the names of files, for pictures that cannot be read or differ in size, for fewer than two
    classes, and for classes that differ between the two parts.
    """
    _check_size(size)
    if not path.is_dir():
        raise BundleError(f"{path}: no such folder")
    inside = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    held = next((name for name in _TEST if name in inside), None)
    if inside and inside <= {"train", *_TEST}:
        if held is None:
            raise BundleError(f"{path}: train/ has no test/ or val/ beside it")
        names, test = _listed(path / held)
        known, train = _listed(path / "train") if "train" in inside else (names, [])
        if odd := sorted({*known} ^ {*names}):
            told = f"{', '.join(odd)} in one of them alone"
            raise BundleError(f"{path}: train/ and {held}/ have different classes: {told}")
        found = {"train": train, "test": test}
    else:
        names, files = _listed(path)
        found = _parted(path, names, files)
    if len(names) < 2:
        raise BundleError(f"{path}: one class, {names[0]!r}; a classifier has at least two, each with a folder")
    images = _pictures([file for files in found.values() for file, _ in files], size, channels, path)
    arrays: dict[str, np.ndarray] = {"train_images": images[:0], "train_labels": np.zeros(0, np.int64)}
    for part, files in found.items():
        arrays[f"{part}_images"], images = images[: len(files)], images[len(files) :]
        arrays[f"{part}_labels"] = np.array([label for _, label in files], np.int64)
    return arrays, names


def read_own_bundle(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Images and labels of an .npz file, and the names of the classes: those in ``class_names``, else numbers.

    ``test_images`` are uint8, N x H x W or N x H x W x C with C of 1 or 3, ``test_labels`` integers (N,) or (N, 1) from
    0; ``train_images`` and ``train_labels`` may be missing. Raises BundleError, with what was seen, for anything else.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such file")
    read = read_bundle(path, more=("class_names",))
    arrays: dict[str, np.ndarray] = {}
    for part in ("test", "train"):
        if part == "train" and not {"train_images", "train_labels"} & set(read):
            arrays |= {"train_images": arrays["test_images"][:0], "train_labels": arrays["test_labels"][:0]}
            continue
        for key in (f"{part}_images", f"{part}_labels"):
            if key not in read:
                raise BundleError(f"{path}: no {key}; there are {', '.join(read) or 'none of the four arrays'}")
        images, labels = read[f"{part}_images"], read[f"{part}_labels"]
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if images.dtype != np.uint8:
            advice = ": from [0, 1], (255 * images).round().astype('uint8')" if images.dtype.kind == "f" else ""
            raise BundleError(f"{path}: {part}_images must be uint8, not {images.dtype}{advice}")
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)) or not images.size:
            kind = "N x H x W, or N x H x W x C with C of 1 or 3"
            raise BundleError(f"{path}: {part}_images must be {kind}, not of shape {images.shape}")
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or labels.min() < 0:
            seen = f"{labels.dtype} {labels.shape}" + (f" from {labels.min()}" if labels.dtype.kind in "iu" else "")
            raise BundleError(f"{path}: {part}_labels must be integers ({len(images)},) from 0, not {seen}")
        arrays |= {f"{part}_images": images, f"{part}_labels": labels.astype(np.int64)}
    if arrays["train_images"].shape[1:] != arrays["test_images"].shape[1:]:
        shapes = " and ".join(str(arrays[f"{part}_images"].shape[1:]) for part in ("train", "test"))
        raise BundleError(f"{path}: training and test images differ in shape, {shapes}")
    count = 1 + max(int(arrays[f"{part}_labels"].max(initial=0)) for part in ("train", "test"))
    names = tuple(map(str, read["class_names"])) if "class_names" in read else tuple(map(str, range(count)))
    if len(names) < max(count, 2):
        raise BundleError(
            f"{path}: labels go to {count - 1}, and there are {len(names)} classes; at least two are needed"
        )
    return arrays, names


def read_size(text: str | None) -> Size | None:
    """What a command says of a size, "64" or "48x64" (height x width); raises ValueError for another text.

    >>> read_size("64"), read_size("48x64"), read_size(None)
    (64, (48, 64), None)
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"size {text!r} is none; write 64, or 48x64 for height x width")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def read_channels(number: int | None) -> Channels | None:
    """What a command says of channels; raises ValueError unless that is 1, 3 or nothing."""
    if number == 1:
        return 1
    if number == 3:
        return 3
    if number is not None:
        raise ValueError(f"channels must be 1 or 3, not {number}")
    return None


def _check_size(size: Size | None) -> None:
    sides = size if isinstance(size, tuple) else (size,) * 2
    if size is not None and not (len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)):
        raise ValueError(f"size must be the side of a square, or (H, W), in pixels, not {size!r}")


def _listed(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """The classes of a folder, and its pictures with their labels, in the order of ``ImageFolder``."""
    kept = torchvision().datasets.folder
    try:
        classes, numbers = kept.find_classes(str(folder))
    except FileNotFoundError:
        raise BundleError(f"{folder}: no folders in it; each class needs one, with its pictures") from None
    try:
        files = kept.make_dataset(str(folder), numbers, extensions=kept.IMG_EXTENSIONS)
    except FileNotFoundError as error:
        raise BundleError(f"{folder}: {error}") from error
    return tuple(classes), [(Path(file), label) for file, label in files]


def _parted(path: Path, names: Sequence[str], files: Sequence[tuple[Path, int]]) -> dict[str, list[tuple[Path, int]]]:
    """Training and test pictures: of each class a fifth is held out, at least one."""
    draws, test = torch.Generator().manual_seed(0), set[int]()
    for label, name in enumerate(names):
        own = [number for number, (_, found) in enumerate(files) if found == label]
        if len(own) < 2:
            raise BundleError(f"{path}: class {name!r} has one picture; two are needed, one of them to test with")
        order = torch.randperm(len(own), generator=draws).tolist()
        test |= {own[place] for place in order[: max(1, round(_HELD_OUT * len(own)))]}
    return {
        "train": [file for number, file in enumerate(files) if number not in test],
        "test": [file for number, file in enumerate(files) if number in test],
    }


def _pictures(files: Sequence[Path], size: Size | None, channels: Channels | None, path: Path) -> np.ndarray:
    """All pictures, uint8, N x H x W if they are grey, else N x H x W x 3."""
    broken, found = list[str](), list[np.ndarray]()
    grey = channels == 1
    for file in files:
        try:
            with Image.open(file) as picture:
                if picture.mode in _TOO_DEEP:
                    raise ValueError(f"pixels of kind {picture.mode}, more than 8 bits; save it with 8")
                one = picture.mode in _GREY if channels is None else grey
                made = picture.convert("L" if one else "RGB")
            if size is not None:
                height, width = size if isinstance(size, tuple) else (size, size)
                made = made.resize((width, height), Image.Resampling.BILINEAR)
            found.append(np.asarray(made))
        except _UNREADABLE as error:
            broken.append(f"{file.relative_to(path)} ({' '.join(str(error).split())})")
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise BundleError(
            f"{path}: {len(broken)} of {len(files)} pictures cannot be read: {'; '.join(broken[:3])}{more}"
        )
    if len(shapes := {array.shape[:2] for array in found}) > 1:
        first = next(i for i, array in enumerate(found) if array.shape[:2] != found[0].shape[:2])
        seen = " and ".join(
            f"{'x'.join(map(str, found[i].shape[:2]))} ({files[i].relative_to(path)})" for i in (0, first)
        )
        raise BundleError(
            f"{path}: pictures of {len(shapes)} sizes, such as {seen}; resize them: size=64 or --size 64, say; "
            f"for a page, advdef data export folder:{path} OUT --size 64, and then npz:OUT/..."
        )
    if any(array.ndim == 3 for array in found):
        found = [array if array.ndim == 3 else np.repeat(array[..., None], 3, 2) for array in found]
    return np.stack(found)
