"""A user's own images: a folder with a folder for each class, an .npz file, a loader."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import each
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from advdef.data import BundleError, Dataset, Split, UnknownDataset, dataset_name, export, load


def picture(path: Path, shade: int, *, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    """A picture of one colour, whose first pixel is black; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new(mode, size, shade if mode in ("L", "I;16") else (shade, 0, 255 - shade, *[128] * (len(mode) - 3)))
    made.putpixel((0, 0), 0 if mode in ("L", "I;16") else (0,) * len(mode))
    made.save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of each of three classes, whose names sort otherwise than they are made."""
    for number, name in enumerate(("tram", "bike", "car")):
        for i in range(10):
            picture(tmp_path / "signs" / name / f"{i:02}.png", 10 * number + i)
    return tmp_path / "signs"


def move(folder: Path, *names: str) -> Path:
    """The classes of a folder below another one, for each of the names."""
    target = folder.parent / "parted"
    for name in names:
        for file in folder.rglob("*.png"):
            picture(target / name / file.relative_to(folder), 3 * len(name))
    return target


def test_a_folder_of_classes_is_parted_and_its_checksum_is_of_its_content(folder: Path) -> None:
    data = load(f"folder:{folder}")
    assert (data.name, data.shape, data.num_classes) == ("folder-signs", (3, 4, 6), 3)
    assert data.class_names == ("bike", "car", "tram")
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert sorted(data.train.images[data.train.labels == 2, 0, 1, 1].tolist()) == sorted(
        set(range(10)) - set(data.test.images[4:, 0, 1, 1].tolist())
    )
    assert load(f"folder:{folder}").checksum == data.checksum
    picture(folder / "bike" / "03.png", 200)
    assert load(f"folder:{folder}").checksum != data.checksum


def test_train_and_test_folders_are_what_they_say_and_a_test_folder_alone_will_do(folder: Path) -> None:
    parted = move(folder, "train", "val")
    both = load(f"folder:{parted}")
    assert (len(both.train), len(both.test), both.name) == (30, 30, "folder-parted")
    shutil.rmtree(parted / "train")
    alone = load(f"folder:{parted}")
    assert (len(alone.train), alone.shape) == (0, (3, 4, 6))
    assert torch.equal(alone.test.images, both.test.images)


def test_pictures_are_resized_and_made_grey_or_coloured_on_request(folder: Path) -> None:
    assert load(f"folder:{folder}", size=8).shape == (3, 8, 8)
    assert load(f"folder:{folder}", size=(8, 5), channels=1).shape == (1, 8, 5)
    for file in folder.rglob("*.png"):
        picture(file, 7, mode="L")
    assert load(f"folder:{folder}").shape == (1, 4, 6)
    assert load(f"folder:{folder}", channels=3).shape == (3, 4, 6)
    picture(folder / "bike" / "00.png", 9, mode="RGBA")  # one with colours makes all of them RGB
    assert load(f"folder:{folder}").shape == (3, 4, 6)


def broken(folder: Path) -> None:
    (folder / "car" / "04.png").write_bytes((folder / "car" / "04.png").read_bytes()[:60])
    (folder / "car" / "05.jpg").write_bytes(b"no picture")


def one_class(folder: Path) -> None:
    for name in ("bike", "tram"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()


def other_names(folder: Path) -> Path:
    target = move(folder, "train", "test")
    (target / "test" / "car").rename(target / "test" / "cars")
    return target


REFUSED: dict[str, tuple[Callable[[Path], Path | None], str]] = {
    "no folder": (lambda folder: folder / "none", "no such folder"),
    "nothing inside": (
        lambda folder: folder / "bike",
        "bike: no folders in it; each class needs one",
    ),
    "one class": (one_class, "one class, 'car'"),
    "an empty class": (lambda folder: (folder / "bus").mkdir(), "no valid file for the classes bus"),
    "one picture": (lambda folder: picture(folder / "bus" / "0.png", 1), "class 'bus' has one picture"),
    "broken pictures": (broken, r"2 of 31 pictures cannot be read: car/04\.png \(.+\); car/05\.jpg \(.+\)$"),
    "16 bits": (lambda f: picture(f / "car" / "06.png", 900, mode="I;16"), r"car/06\.png \(pixels of kind I;16"),
    "two sizes": (
        lambda folder: picture(folder / "car" / "07.png", 1, size=(6, 5)),
        r"2 sizes, such as 4x6 \(bike/\d\d\.png\) and 5x6 \(car/07\.png\); resize them: size=64 or --size 64",
    ),
    "other classes": (other_names, "train/ and test/ have different classes: car, cars in one of them alone"),
    "no test set": (lambda folder: move(folder, "train"), "train/ has no test/ or val/"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=list(REFUSED))
def test_folders_that_would_give_a_wrong_number_are_refused_in_one_line(
    folder: Path, change: Callable[[Path], Path | None], message: str
) -> None:
    place = change(folder) or folder
    with pytest.raises(BundleError, match=message) as caught:
        load(f"folder:{place}")
    assert "\n" not in str(caught.value)


def test_an_npz_file_may_have_any_size_and_number_of_classes_and_is_what_export_writes(
    folder: Path, tmp_path: Path
) -> None:
    given = load(f"folder:{folder}")
    again = load(f"npz:{export(f'folder:{folder}', tmp_path / 'out')}")
    assert (again.name, again.checksum) == ("npz-folder-signs", given.checksum)
    assert again.class_names == given.class_names
    images = np.arange(4 * 5 * 7, dtype=np.uint8).reshape(4, 5, 7)
    np.savez(
        tmp_path / "mine.npz", test_images=images, test_labels=np.array([[0], [4], [2], [0]])
    )  # (N, 1), as MedMNIST
    alone = load(f"npz:{tmp_path / 'mine.npz'}")
    assert (alone.shape, alone.num_classes, len(alone.train), len(alone.test)) == ((1, 5, 7), 5, 0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_labels": None}, "no test_labels; there are test_images"),
        ({"test_images": np.zeros((3, 4, 4), np.float32)}, r"uint8, not float32: from \[0, 1\]"),
        ({"test_images": np.zeros((3, 3, 4, 4), np.uint8)}, r"C of 1 or 3, not of shape \(3, 3, 4, 4\)"),
        ({"test_labels": np.array([0, 1])}, r"integers \(3,\) from 0, not int64 \(2,\)"),
        ({"test_labels": np.array([0, -1, 1])}, "from -1"),
        ({"test_labels": np.zeros(3)}, "not float64"),
        (
            {"test_labels": np.zeros(3, int), "class_names": np.array(["one"])},
            "labels go to 0, and there are 1 classes; at least two",
        ),
        ({"train_images": np.zeros((2, 5, 5), np.uint8), "train_labels": np.zeros(2, int)}, "differ in shape"),
    ],
)
def test_npz_files_that_are_none_are_refused_with_what_was_seen(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    arrays = {"test_images": np.zeros((3, 4, 4), np.uint8), "test_labels": np.array([0, 1, 1])} | change
    np.savez(tmp_path / "x.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(BundleError, match=message):
        load(f"npz:{tmp_path / 'x.npz'}")


def test_a_name_means_the_same_data_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert dataset_name("folder:signs") == f"folder:{folder}"
    with pytest.raises(UnknownDataset, match=re.escape(f"{folder.parent / 'signs.npz'}: no such file")):
        dataset_name("npz:signs.npz")
    with pytest.raises(UnknownDataset, match="for that path of yours, write folder:signs"):
        dataset_name("signs")
    for name in ("digits", f"npz:{folder}"):
        with pytest.raises(ValueError, match="size and channels are for folder:PATH"):
            load(name, size=32)
    with pytest.raises(ValueError, match="side of a square, or"):
        load("folder:signs", size=0)


IMAGES, LABELS = torch.randint(256, (7, 3, 4, 4), dtype=torch.uint8), torch.arange(7)
FLOATS = IMAGES.float() / 255


def batches(images: Any, labels: Any = LABELS, **options: Any) -> DataLoader:
    return DataLoader(TensorDataset(images, labels), batch_size=3, **options)


@each(
    "loader",
    [
        batches(IMAGES),
        batches(FLOATS),
        [{"pixel_values": FLOATS, "labels": LABELS}],
        iter([(FLOATS, LABELS.int().numpy())]),
    ],
)
def test_a_loader_gives_its_images_and_labels(loader: Any) -> None:
    split = Split.from_loader(loader)
    assert torch.equal(split.images, IMAGES)
    assert torch.equal(split.labels, LABELS)


def test_only_the_first_images_of_a_loader_can_be_asked_for() -> None:
    assert torch.equal(Split.from_loader(batches(IMAGES), images=4).labels, LABELS[:4])


def augmented(images: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(256, (len(images), 3, 4, 4), dtype=torch.uint8), torch.stack([y for _, y in images])


@each(
    ("loader", "error", "message"),
    [
        (batches(IMAGES, shuffle=True), ValueError, "shuffle=False"),
        (batches(IMAGES, collate_fn=augmented), ValueError, "switch shuffling and augmentation off"),
        (batches(2 * FLOATS - 1), ValueError, "leave Normalize out of the loader"),
        (batches(FLOATS * 0.999), ValueError, "no whole grey levels"),
        (batches(FLOATS / 0), ValueError, "not in"),
        (batches(IMAGES.int()), TypeError, "uint8, or floats"),
        (batches(IMAGES, torch.rand(7)), ValueError, "whole numbers from 0"),
        (batches(IMAGES, LABELS - 1), ValueError, "whole numbers from 0"),
        (batches(IMAGES[:, 0]), ValueError, r"images \(N, C, H, W\)"),
        ([{"x": IMAGES, "labels": LABELS}], TypeError, "it has x, labels"),
        ([IMAGES], TypeError, "a pair of images and labels, not Tensor"),
        ([], ValueError, "no batch"),
        (5, TypeError, "int cannot"),
        ([(IMAGES, LABELS), (IMAGES[:, :, :2], LABELS)], ValueError, "different shapes"),
    ],
)
def test_a_loader_that_would_give_a_wrong_number_is_refused(loader: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Split.from_loader(loader)


def test_a_data_set_of_ones_own_splits() -> None:
    split = Split(IMAGES, LABELS)
    data = Dataset.from_splits(split, split.head(2), class_names="abcdefgh")
    assert (data.num_classes, data.shape, data.class_names[7]) == (8, (3, 4, 4), "h")
    assert Dataset.from_splits(split).num_classes == 7
    with pytest.raises(ValueError, match="labels go to 6, and there are names for 3 classes"):
        Dataset.from_splits(split, class_names="abc")
    with pytest.raises(ValueError, match="differ in shape"):
        Dataset.from_splits(split, Split(IMAGES[:, :1], LABELS))
