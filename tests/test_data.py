"""Data sets: sources, errors, batches. Everything but the tests marked `realdata` runs on made-up or embedded data."""

from __future__ import annotations

import builtins
import importlib
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import each

from advdef import data
from advdef.data import DATASETS, BundleError, DatasetUnavailable, Split, UnknownDataset, load
from advdef.data import sources as _data_sources
from advdef.data.torchvision_wheel import torchvision

GREY = ("mnist", "fashion_mnist")
DOWNLOADED = tuple(name for name in DATASETS if name != "digits")


def make_split(n: int = 20, shape: tuple[int, int, int] = (3, 8, 10), seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randint(256, (n, *shape), dtype=torch.uint8, generator=generator), torch.arange(n))


def make_arrays(name: str, train: int = 12, test: int = 5) -> dict[str, np.ndarray]:
    rng, info = np.random.default_rng(0), DATASETS[name]
    size = (28, 28) if name in GREY else (32, 32, 3)
    return {
        "train_images": rng.integers(0, 256, (train, *size), dtype=np.uint8),
        "train_labels": rng.integers(0, info.num_classes, train),
        "test_images": rng.integers(0, 256, (test, *size), dtype=np.uint8),
        "test_labels": rng.integers(0, info.num_classes, test),
    }


def no_internet(*args: object, **kwargs: object) -> None:
    raise URLError("no internet")


# Split


@each(
    ("images", "labels", "message"),
    [
        (torch.zeros(3, 1, 4, 4), torch.zeros(3).long(), "float32"),
        (torch.zeros(3, 4, 4).byte(), torch.zeros(3).long(), r"\(3, 4, 4\)"),
        (torch.zeros(3, 1, 4, 4).byte(), torch.zeros(3), "float32"),
        (torch.zeros(3, 1, 4, 4).byte(), torch.zeros(2).long(), r"\(2,\)"),
        (torch.zeros(3, 1, 4, 4).byte(), torch.zeros(3, device="meta").long(), "meta"),
    ],
)
def test_split_rejects_tensors_of_another_kind(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


def test_split_length_head_floats_and_repr() -> None:
    split = make_split()
    assert len(split) == 20
    assert torch.equal(split.head(7).images, split.images[:7])
    assert split.head(7).labels.tolist() == list(range(7))
    floats = split.float_images()
    assert floats.dtype == torch.float32
    assert torch.equal(floats, split.images.to(torch.float32) / 255)
    assert repr(split) == "Split(20 images of 3x8x10 on cpu)"


def test_head_rejects_what_is_not_there() -> None:
    for n in [-1, 0, 21]:
        with pytest.raises(ValueError, match=f"first {n} images.*has 20"):
            make_split().head(n)


@each(
    ("options", "message"),
    [
        ({"size": 0}, "size.*not 0"),
        ({"size": -3}, "size.*not -3"),
        ({"size": 2.5}, "size.*not 2.5"),
        ({"size": 4, "shift": -1}, "shift.*not -1"),
        ({"size": 4, "shift": 9}, "shift.*0 to 8.*not 9"),
        ({"size": 4, "shift": 1.0}, "shift.*not 1.0"),
    ],
)
def test_batches_reject_bad_options_at_the_call(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_split().batches(**options)


def test_batches_reject_a_generator_on_another_device() -> None:
    class OnGpu(torch.Generator):
        device = torch.device("cuda")

    with pytest.raises(ValueError, match="cpu, not on cuda"):
        make_split().batches(4, generator=OnGpu())


def test_plain_batches_are_the_images_in_order() -> None:
    for size in [1, 6, 20, 1000]:
        split = make_split()
        images, labels = zip(*split.batches(size), strict=True)
        assert [len(part) for part in images[:-1]] == [size] * (len(images) - 1)
        assert torch.equal(torch.cat(images), split.float_images())
        assert torch.equal(torch.cat(labels), split.labels)


def test_changing_a_batch_leaves_the_split_alone() -> None:
    split = make_split()
    before = split.images.clone()
    for images, _ in split.batches(6):
        images.zero_()
    assert torch.equal(split.images, before)


def test_shuffled_batches_hold_every_image_once_with_its_label() -> None:
    split = make_split(50)
    images, labels = (torch.cat(part) for part in zip(*split.batches(7, shuffle=True), strict=True))
    assert sorted(labels.tolist()) == list(range(50))
    assert labels.tolist() != list(range(50))
    assert torch.equal(images, split.float_images()[labels])


def test_a_seed_decides_the_epoch_and_the_next_one_differs() -> None:
    split, options = make_split(50), {"shuffle": True, "shift": 2, "flip": True}

    def epoch(generator: torch.Generator) -> torch.Tensor:
        return torch.cat([images for images, _ in split.batches(8, generator=generator, **options)])

    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.equal(epoch(first), epoch(second))
    assert not torch.equal(epoch(first), epoch(torch.Generator().manual_seed(1)))
    global_state = torch.get_rng_state()
    epoch(first)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_random_numbers_are_drawn_at_the_call() -> None:
    split, generator = make_split(50), torch.Generator().manual_seed(1)
    batches = split.batches(8, shuffle=True, generator=generator)
    state = generator.get_state()
    expected = torch.cat([labels for _, labels in split.batches(8, shuffle=True, generator=generator.manual_seed(1))])
    assert torch.equal(generator.get_state(), state)
    generator.manual_seed(99)
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected)


@pytest.mark.parametrize("shift", [0, 1, 2, 5])
@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_equals_a_slow_reference(shift: int, flip: bool) -> None:
    for shuffle, shape in product((False, True), ((1, 6, 6), (3, 5, 9))):
        split, (_, height, width) = make_split(30, shape), shape
        generator = torch.Generator().manual_seed(3)
        order = torch.randperm(30, generator=generator) if shuffle else torch.arange(30)
        offsets = torch.randint(2 * shift + 1, (2, 30), generator=generator) if shift else torch.zeros(2, 30).long()
        mirrored = torch.randint(2, (30,), generator=generator) if flip else torch.zeros(30).long()
        expected = []
        for position, index in enumerate(order.tolist()):
            padded = np.pad(split.images[index].numpy(), ((0, 0), (shift, shift), (shift, shift)))
            top, left = offsets[:, position].tolist()
            image = padded[:, top : top + height, left : left + width]
            expected.append(torch.from_numpy(image[:, :, ::-1].copy() if mirrored[position] else image.copy()))
        options = {"shuffle": shuffle, "shift": shift, "flip": flip, "generator": generator.manual_seed(3)}
        images, labels = (torch.cat(part) for part in zip(*split.batches(7, **options), strict=True))
        assert torch.equal(images, torch.stack(expected).float() / 255)
        assert torch.equal(labels, order)


def test_augmentation_uses_every_offset_and_both_mirrorings_evenly() -> None:
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 255
    split = Split(image.expand(6000, 1, 5, 5), torch.zeros(6000, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    seen = torch.cat([images for images, _ in split.batches(512, shift=1, flip=True, generator=generator)])
    frequency = seen.mean(dim=(0, 1))
    assert seen.unique().tolist() == [0.0, 1.0]
    # The dot moves to 3x3 places around column 1, or, mirrored, around column 3; the two squares share column 2.
    expected = torch.zeros(5, 5)
    expected[1:4, 0:3] += 1 / 18
    expected[1:4, 2:5] += 1 / 18
    assert (frequency - expected).abs().max() < 0.015


def test_batches_lie_in_the_unit_interval() -> None:
    for images, labels in make_split(100).batches(16, shuffle=True, shift=4, flip=True):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.is_contiguous()
        assert 0 <= images.min() <= images.max() <= 1


# The table and the embedded digits


def test_the_table() -> None:
    assert tuple(DATASETS) == ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "gtsrb")
    assert [info.num_classes for info in DATASETS.values()] == [10, 10, 10, 10, 100, 10, 43]
    assert all(len(set(info.class_names)) == info.num_classes for info in DATASETS.values())
    assert list(DATASETS["cifar100"].class_names) == sorted(DATASETS["cifar100"].class_names)
    assert {info.shape for info in DATASETS.values()} == {(1, 28, 28), (3, 32, 32)}
    with pytest.raises(TypeError):
        DATASETS["more"] = DATASETS["digits"]  # type: ignore[index]


def test_class_names_are_torchvisions_where_it_has_them() -> None:
    theirs = torchvision().datasets.FashionMNIST.classes
    assert list(DATASETS["fashion_mnist"].class_names) == [name.lower() for name in theirs]


def test_digits() -> None:
    digits = load("digits")
    assert (digits.name, digits.num_classes, digits.shape) == ("digits", 10, (1, 28, 28))
    assert (len(digits.train), len(digits.test)) == (DATASETS["digits"].train_size, DATASETS["digits"].test_size)
    assert digits.checksum == load("digits").checksum
    assert digits.test.labels.tolist() == list(range(10)) * 50
    counts = digits.train.labels.bincount()
    assert counts.min() >= 120
    assert digits.train.head(300).labels.bincount().min() >= 15
    images = torch.cat([digits.train.images, digits.test.images])
    assert len(images.flatten(1).unique(dim=0)) > 1780  # no image on both sides; a few of the originals are equal


def test_digits_are_the_bilinear_upsampling_of_the_originals() -> None:
    from sklearn.datasets import load_digits

    originals, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(originals).view(-1, 1, 8, 8) * 255 / 16
    expected = F.interpolate(small, size=28, mode="bilinear").flatten(1)
    digits = load("digits")
    images = torch.cat([digits.train.images, digits.test.images]).flatten(1).double()
    nearest, index = torch.cdist(images, expected).min(dim=1)
    assert (images - expected[index]).abs().max() <= 0.5 + 1e-6
    assert torch.equal(torch.from_numpy(labels)[index], torch.cat([digits.train.labels, digits.test.labels]))
    assert nearest.max() < 28


def test_subset_keeps_the_first_images_and_the_checksum() -> None:
    digits = load("digits")
    small = digits.subset(train=100, test=30)
    assert torch.equal(small.train.images, digits.train.images[:100])
    assert torch.equal(small.test.labels, digits.test.labels[:30])
    assert small.checksum == digits.checksum
    assert digits.subset().train is digits.train
    with pytest.raises(ValueError, match="first 501 images"):
        digits.subset(test=501)


# Arguments of load


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UnknownDataset) as caught:
        load("imagenet")
    assert isinstance(caught.value, ValueError)
    there = f"{', '.join(DATASETS)}, folder:PATH and npz:FILE"
    assert str(caught.value) == f"no data set 'imagenet'; there are {there}"


def test_unknown_or_absent_device() -> None:
    for device in ["tpu", "cuda:77", "meta", "", torch.device("meta")]:
        with pytest.raises(ValueError, match=r"^no device .*; there are cpu.*$") as caught:
            load("digits", device=device)
        assert "\n" not in str(caught.value)


def test_devices_listed_are_those_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"there are cpu, cuda, cuda:0, cuda:1$"):
        load("digits", device="mps")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_cuda_equal_those_on_the_cpu() -> None:
    options = {"shuffle": True, "shift": 2, "flip": True}
    here, there = load("digits"), load("digits", device="cuda")
    assert here.checksum == there.checksum
    pairs = zip(
        here.train.batches(100, generator=torch.Generator().manual_seed(0), **options),
        there.train.batches(100, generator=torch.Generator().manual_seed(0), **options),
        strict=True,
    )
    for (images, labels), (images_there, labels_there) in pairs:
        assert images_there.is_cuda
        assert torch.equal(labels, labels_there.cpu())
        assert torch.equal(images, images_there.cpu())


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADVDEF_DATA", str(tmp_path))
    assert data.default_root() == tmp_path
    monkeypatch.setenv("ADVDEF_DATA", "~/images")
    assert data.default_root() == Path.home() / "images"
    monkeypatch.setenv("ADVDEF_DATA", "")
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: f"/cache/{name}")
    assert data.default_root() == Path("/cache/advdef/data")


# Bundles


@pytest.mark.parametrize("name", DOWNLOADED)
def test_a_bundle_is_loaded_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_DATA", str(tmp_path))
    arrays = make_arrays(name)
    np.savez(tmp_path / f"{name}.npz", **arrays)
    dataset = load(name, download=False)
    assert dataset.shape == DATASETS[name].shape == tuple(dataset.train.images.shape[1:])
    for part, split in (("train", dataset.train), ("test", dataset.test)):
        images = arrays[f"{part}_images"]
        expected = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
        assert np.array_equal(split.images.numpy(), expected)
        assert np.array_equal(split.labels.numpy(), arrays[f"{part}_labels"])
        assert split.images.is_contiguous()


def test_labels_may_be_any_integers(tmp_path: Path) -> None:
    for dtype in [np.uint8, np.int32, np.uint64, ">i8"]:
        arrays = make_arrays("mnist")
        np.savez(tmp_path / "mnist.npz", **arrays)
        plain = load("mnist", root=tmp_path)
        arrays["train_labels"] = arrays["train_labels"].astype(dtype)
        np.savez(tmp_path / "mnist.npz", **arrays)
        other = load("mnist", root=tmp_path)
        assert torch.equal(other.train.labels, plain.train.labels)
        assert other.checksum == plain.checksum


def test_the_checksum_sees_every_array(tmp_path: Path) -> None:
    for key in ["train_images", "train_labels", "test_images", "test_labels"]:
        arrays = make_arrays("cifar10")
        np.savez(tmp_path / "cifar10.npz", **arrays)
        before = load("cifar10", root=tmp_path).checksum
        arrays[key].flat[0] = (int(arrays[key].flat[0]) + 1) % 10
        np.savez(tmp_path / "cifar10.npz", **arrays)
        after = load("cifar10", root=tmp_path).checksum
        assert before != after
        assert len(after) == 16
        int(after, 16)


@pytest.mark.parametrize(
    ("name", "key", "change", "message"),
    [
        ("mnist", "test_labels", lambda a: None, "no test_labels; there are train_images, train_labels, test_images"),
        ("mnist", "train_images", lambda a: None, "no train_images; there are"),
        ("mnist", "train_images", lambda a: a.astype(np.float32), "train_images must be uint8, not float32"),
        ("mnist", "train_images", lambda a: a[:, :27], r"train_images must be N x 28 x 28 .* \(12, 27, 28\)"),
        ("mnist", "test_images", lambda a: a[..., None], r"test_images must be N x 28 x 28 .* \(5, 28, 28, 1\)"),
        ("mnist", "test_images", lambda a: np.uint8(3), r"test_images must be N x 28 x 28 .* \(\)"),
        ("cifar10", "test_images", lambda a: np.moveaxis(a, 3, 1), r"N x 32 x 32 x 3 .* \(5, 3, 32, 32\)"),
        ("cifar10", "train_images", lambda a: a[:0], r"train_images .* N >= 1, not of shape \(0, 32, 32, 3\)"),
        ("mnist", "train_labels", lambda a: a[:-1], r"train_labels must have shape \(12,\), not \(11,\)"),
        ("mnist", "train_labels", lambda a: a[:, None], r"train_labels must have shape \(12,\), not \(12, 1\)"),
        ("mnist", "test_labels", lambda a: a.astype(float), "test_labels must be integers, not float64"),
        ("mnist", "test_labels", lambda a: a.astype(bool), "test_labels must be integers, not bool"),
        ("mnist", "test_labels", lambda a: np.array([0, 1, 10, 2, 3]), r"test_labels must lie in 0..9, not in 0..10"),
        ("gtsrb", "test_labels", lambda a: np.array([0, 1, -1, 2, 42]), r"test_labels .* 0..42, not in -1..42"),
        ("mnist", "train_labels", lambda a: a.astype(object), "not a readable .npz archive.*allow_pickle"),
    ],
)
def test_bad_bundles(
    name: str, key: str, change: Callable[[np.ndarray], np.ndarray | None], message: str, tmp_path: Path
) -> None:
    arrays = make_arrays(name)
    changed = change(arrays.pop(key))
    if changed is not None:
        arrays[key] = changed
    path = tmp_path / f"{name}.npz"
    np.savez(path, **arrays)
    with pytest.raises(BundleError, match=message) as caught:
        load(name, root=tmp_path)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def write_truncated(path: Path) -> None:
    np.savez(path, **make_arrays("mnist"))
    path.write_bytes(path.read_bytes()[:-100])


def write_damaged(path: Path) -> None:
    np.savez_compressed(path, **make_arrays("mnist"))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)


def write_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(pickle.dumps({"train_images": 1})),
        lambda path: path.mkdir(),
        write_truncated,
        write_damaged,
        write_array,
    ],
    ids=["empty", "text", "pickle", "folder", "truncated", "damaged", "npy"],
)
def test_files_that_are_no_bundles(write: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    write(path)
    with pytest.raises(BundleError, match="not a readable") as caught:
        load("mnist", root=tmp_path)
    assert str(path) in str(caught.value)
    assert "allow_pickle" not in str(caught.value)  # nobody should load such a file unsafely
    assert caught.value.__cause__ is not None


def test_an_empty_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", other=np.zeros(3))
    with pytest.raises(BundleError, match="no train_images; there are none of the four arrays"):
        load("mnist", root=tmp_path)


def test_export_round_trip_grey(tmp_path: Path) -> None:
    path = data.export("digits", tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "digits.npz"
    digits, copy = load("digits"), load("mnist", root=path.rename(path.with_name("mnist.npz")).parent)
    assert torch.equal(copy.train.images, digits.train.images)
    assert torch.equal(copy.train.labels, digits.train.labels)
    assert torch.equal(copy.test.images, digits.test.images)
    assert torch.equal(copy.test.labels, digits.test.labels)
    assert copy.checksum == digits.checksum


def test_export_round_trip_colour(tmp_path: Path) -> None:
    arrays = make_arrays("cifar100")
    np.savez(tmp_path / "cifar100.npz", **arrays)
    path = data.export("cifar100", tmp_path / "copy", root=tmp_path)
    with np.load(path) as written:
        assert set(written.files) == set(arrays)
        assert all(np.array_equal(written[key], arrays[key]) for key in arrays)
        assert written["train_images"].dtype == np.uint8


def test_export_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data.export("digits", tmp_path)
    before = path.read_bytes()

    def full(file: object, **arrays: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        data.export("digits", tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_export_may_overwrite_its_own_source(tmp_path: Path) -> None:
    np.savez(tmp_path / "svhn.npz", **make_arrays("svhn"))
    before = load("svhn", root=tmp_path).checksum
    data.export("svhn", tmp_path, root=tmp_path)
    assert load("svhn", root=tmp_path).checksum == before


# torchvision's files


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def fake_mnist(root: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    for ours, theirs in (("train", "train"), ("test", "t10k")):
        write_idx(root / folder / "raw" / f"{theirs}-images-idx3-ubyte", arrays[f"{ours}_images"])
        write_idx(root / folder / "raw" / f"{theirs}-labels-idx1-ubyte", arrays[f"{ours}_labels"])


def fake_cifar(root: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    kind = torchvision().datasets.CIFAR10 if classes == 10 else torchvision().datasets.CIFAR100
    # The real files are recognised by their md5 sums.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: Path(path).is_file())
    folder, key = root / kind.base_folder, "labels" if classes == 10 else "fine_labels"
    folder.mkdir(parents=True)
    for part, files in (("train", kind.train_list), ("test", kind.test_list)):
        rows = np.array_split(np.moveaxis(arrays[f"{part}_images"], 3, 1).reshape(-1, 3072), len(files))
        labels = np.array_split(arrays[f"{part}_labels"], len(files))
        for (file, _), pixels, numbers in zip(files, rows, labels, strict=True):
            (folder / file).write_bytes(pickle.dumps({"data": pixels, key: numbers.tolist()}))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["name"] * classes}))


def fake_svhn(root: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5=None: Path(path).is_file())
    root.mkdir(parents=True, exist_ok=True)
    for part in ("train", "test"):
        labels = np.where(arrays[f"{part}_labels"] == 0, 10, arrays[f"{part}_labels"]).astype(np.uint8)
        pixels = arrays[f"{part}_images"].transpose(1, 2, 3, 0)
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": labels[:, None]})


def fake_gtsrb(root: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    training, test = root / "gtsrb/GTSRB/Training", root / "gtsrb/GTSRB/Final_Test/Images"
    test.mkdir(parents=True)
    for label in range(43):
        (training / f"{label:05d}").mkdir(parents=True)
    # torchvision reads the training images class by class, and wants one of each class.
    for label, pixels in zip(arrays["train_labels"], arrays["train_images"], strict=True):
        Image.fromarray(pixels).save(training / f"{label:05d}" / "00000.ppm")
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i, (label, pixels) in enumerate(zip(arrays["test_labels"], arrays["test_images"], strict=True)):
        Image.fromarray(pixels).save(test / f"{i:05d}.ppm")
        lines.append(f"{i:05d}.ppm;32;32;0;0;31;31;{label}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines) + "\n")


FAKES: dict[str, Callable[[Path, dict[str, np.ndarray], pytest.MonkeyPatch], None]] = {
    "mnist": lambda root, arrays, patch: fake_mnist(root, arrays, patch, "MNIST"),
    "fashion_mnist": lambda root, arrays, patch: fake_mnist(root, arrays, patch, "FashionMNIST"),
    "cifar10": lambda root, arrays, patch: fake_cifar(root, arrays, patch, 10),
    "cifar100": lambda root, arrays, patch: fake_cifar(root, arrays, patch, 100),
    "svhn": fake_svhn,
    "gtsrb": fake_gtsrb,
}


@pytest.mark.parametrize("name", DOWNLOADED)
def test_torchvisions_files_are_read_as_they_are(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision()
    arrays = make_arrays(name, train=43)
    if name == "gtsrb":
        arrays["train_labels"] = np.arange(43)
    root = tmp_path / "root"
    FAKES[name](root, arrays, monkeypatch)
    for function in ("download_url", "download_and_extract_archive"):
        for module in ("mnist", "cifar", "svhn", "gtsrb"):
            # Files that are there are not fetched again; SVHN alone leaves that decision to download_url.
            fetch = no_internet if (module, function) != ("svhn", "download_url") else (lambda *args: None)
            monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", fetch, raising=False)
    assert {record.name: record for record in data.status(root)}[name].source == "torchvision files"
    datasets = [load(name, root=root, download=download) for download in (False, True)]
    np.savez(root / f"{name}.npz", **arrays)
    bundle = load(name, root=root)
    for dataset in datasets:
        for ours, theirs in ((dataset.train, bundle.train), (dataset.test, bundle.test)):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
        assert dataset.checksum == bundle.checksum


def test_gtsrb_is_resized_with_antialiasing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_arrays("gtsrb", train=43)
    arrays["train_labels"] = np.arange(43)
    # Stripes of one pixel: without antialiasing, halving the size would keep them or lose them, not average them.
    arrays["test_images"] = np.zeros((5, 64, 70, 3), dtype=np.uint8)
    arrays["test_images"][:, ::2] = 200
    fake_gtsrb(tmp_path, arrays, monkeypatch)
    images = load("gtsrb", root=tmp_path, download=False).test.images
    assert images.shape == (5, 3, 32, 32)
    assert (images[:, :, 2:-2].float() - 100).abs().max() <= 2


@pytest.mark.parametrize("name", DOWNLOADED)
def test_unavailable_without_internet(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision()
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_internet)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops=3: url)
    with pytest.raises(DatasetUnavailable) as caught:
        load(name, root=tmp_path)
    message = str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value.__cause__, OSError | RuntimeError)
    assert "\n" not in message
    for part in (str(tmp_path / f"{name}.npz"), "digits", "torchvision's download into", "no internet"):
        assert part in message


def test_unavailable_when_not_to_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision()
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *args: pytest.fail("downloads"))
    root = tmp_path / "absent"
    for name in DOWNLOADED:
        with pytest.raises(DatasetUnavailable, match="torchvision's files in"):
            load(name, root=root, download=False)
        assert not root.exists()


def test_unavailable_when_torchvision_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("torchvision is not installed")

    monkeypatch.setattr(_data_sources, "torchvision", missing)
    with pytest.raises(DatasetUnavailable, match="torchvision is not installed"):
        load("mnist", root=tmp_path)


def test_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10.npz").write_bytes(b"not read")
    fake_mnist(tmp_path, make_arrays("mnist"), monkeypatch, "MNIST")
    records = {record.name: record for record in data.status(tmp_path)}
    assert list(records) == list(DATASETS)
    assert (records["digits"].source, records["digits"].path) == ("embedded", None)
    assert (records["cifar10"].source, records["cifar10"].path) == ("bundle", tmp_path / "cifar10.npz")
    assert (records["mnist"].source, records["mnist"].path) == ("torchvision files", tmp_path)
    assert (records["gtsrb"].source, records["gtsrb"].path) == ("missing", tmp_path / "gtsrb.npz")
    assert (records["gtsrb"].shape, records["gtsrb"].num_classes) == ((3, 32, 32), 43)


# Importing torchvision


def test_torchvision_is_the_package_and_its_parts_work() -> None:
    package = torchvision()
    assert package is torchvision() is importlib.import_module("torchvision")
    assert hasattr(package.datasets, "MNIST")
    assert hasattr(package.models, "resnet18")


def test_torchvision_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        torchvision()


def test_torchvision_passes_other_errors_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    for error in (RuntimeError("another failure"), ModuleNotFoundError("no PIL", name="PIL")):
        with pytest.raises(type(error), match=str(error)):
            torchvision()


def test_torchvision_is_imported_late_and_only_missing_operators_are_repaired() -> None:
    """In a fresh process: a healthy torchvision is left as it is, one without operators is made usable."""
    code = (
        "import sys, advdef.data, advdef.data.torchvision_wheel as t\n"
        "advdef.data.load('digits')\n"
        "assert 'torchvision' not in sys.modules\n"
        "try:\n    import torchvision\n    healthy = True\nexcept RuntimeError:\n    healthy = False\n"
        "package = t.torchvision()\n"
        "assert (t._library is None) == healthy\n"
        "assert package.datasets.CIFAR10 and sys.modules['torchvision'] is package\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Real data


def real(name: str) -> data.Dataset:
    root = os.environ.get("ADVDEF_DATA")
    if not root:
        pytest.skip("ADVDEF_DATA is not set")
    if not (Path(root) / f"{name}.npz").is_file():
        pytest.skip(f"no bundle {name}.npz in the folder named by ADVDEF_DATA")
    return load(name, download=False)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "first_labels", "first_sums", "train_counts", "test_counts"),
    [
        ("mnist", ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4]), (27525, 18454), (5421, 6742), (892, 1135)),
        ("fashion_mnist", ([9, 0, 0, 3, 0], [9, 2, 1, 1, 6]), (76247, 33456), (6000, 6000), (1000, 1000)),
    ],
)
def test_real_grey(
    name: str,
    first_labels: tuple[list[int], list[int]],
    first_sums: tuple[int, int],
    train_counts: tuple[int, int],
    test_counts: tuple[int, int],
) -> None:
    dataset, info = real(name), DATASETS[name]
    assert (len(dataset.train), len(dataset.test)) == (info.train_size, info.test_size)
    for split, labels, total, counts in zip(
        (dataset.train, dataset.test), first_labels, first_sums, (train_counts, test_counts), strict=True
    ):
        assert split.labels[:5].tolist() == labels
        assert int(split.images[0].sum()) == total
        assert [int(n) for n in split.labels.bincount().aminmax()] == list(counts)


@pytest.mark.realdata
def test_real_cifar10() -> None:
    dataset = real("cifar10")
    assert dataset.train.labels.bincount().tolist() == [5000] * 10
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    assert [dataset.class_names[label] for label in dataset.train.labels[:4]] == ["frog", "truck", "truck", "deer"]
    assert int(dataset.train.images[0].sum()) == 317790
    # The channel means that every CIFAR-10 recipe carries, so the channels are in the order red, green, blue.
    means = dataset.train.images.view(50_000, 3, -1).float().mean(dim=(0, 2)) / 255
    assert torch.allclose(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-4)


@pytest.mark.realdata
def test_real_gtsrb() -> None:
    dataset = real("gtsrb")
    assert len(dataset.test) == DATASETS["gtsrb"].test_size
    assert dataset.test.labels[:8].tolist() == [16, 1, 38, 33, 11, 38, 18, 12]
    assert [int(n) for n in dataset.test.labels.bincount().aminmax()] == [60, 750]
    assert dataset.train.labels.bincount(minlength=43).min() > 0
    # Stop signs and "no entry" are red, "ahead only" and "keep right" are blue.
    centre = dataset.test.images[:, :, 8:24, 8:24].float().mean(dim=(2, 3))
    redness = centre[:, 0] - centre[:, 2]
    for red, blue in (("stop", "ahead only"), ("no entry", "keep right")):
        mean = [redness[dataset.test.labels == dataset.class_names.index(name)].mean() for name in (red, blue)]
        assert mean[0] > mean[1] + 20


def test_the_package_prints_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builtins, "print", lambda *args, **kwargs: pytest.fail("prints"))
    next(load(data.export("digits", tmp_path).stem).train.batches(10))
