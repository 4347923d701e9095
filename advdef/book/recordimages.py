"""The attacked images of a record: what the attackers of its page made, packed into a small file beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advdef.book.cells import PageRun, study_of
from advdef.book.records import COMPARISON, holes_folder, images_file, read_record
from advdef.book.repository import InputError, check_profile
from advdef.data import DATASETS, Dataset, DatasetUnavailable, dataset_name, load
from advdef.evaluation.answered import Answered, answered
from advdef.evaluation.attacked import AttackedImages, still_wrong
from advdef.evaluation.packed import AttackedSet, PackedImages, attacked_sets, pack
from advdef.evaluation.results import WORST_CASE, Results, unpack_hits
from advdef.grid import Asked, Study
from advdef.grid.study import seeded_name
from advdef.grid.worker import ATTEMPTS
from advdef.papers import STUDIES
from advdef.store import cache_folder

__all__ = [
    "PAGE_LIMIT", "agreeing", "data_address", "save_images", "save_images_of_record", "save_images_of_study",
    "study_behind",
]  # fmt: skip

_PARTS = ("curve", "judged", "worst")  # of a page's rows, those about all that its three attackers found
_ASKED = 12  # images of the comparison that all defences are asked about
PAGE_LIMIT = 2_000_000
"""Bytes that the attacked images of all records of one run of a page take, at most."""


def save_images_of_study(study: Study, record: Path, facts: Mapping[str, Any], *, limit: int = PAGE_LIMIT) -> Path:
    """Write what the three attackers made of each case of a study, beside its record; returns the file.

    What was evaluated before is taken as it is: from memory, or from the study's folder.
    """
    cases = study.cases()
    sets = [one for name, which in cases.items() for one in attacked_sets(name, study.curve(*which))]
    images, labels = study.attacked_images()

    def defence(name: str) -> nn.Module:
        return study.deployed(*cases[name])

    return save_images(record, study.data, images, labels, sets, defence, facts, limit=limit)


def save_images_of_record(record: Path, *, own: str | None = None, limit: int = PAGE_LIMIT) -> Path:
    """Write the images beside a record that has none, from the evaluations in the store; returns the file.

    It computes with as many threads as the run had, as what is kept depends on it. What is not in the store is
    computed. ``own`` is as in :func:`data_address`. Raises `InputError` as :func:`study_behind` and :func:`read_record`
    do, and for data that cannot be had.
    """
    told = read_record(record)
    origin = told["provenance"]
    facts = {"page": told["paper"], "profile": told["profile"], "seed": origin["seed"], "run": told["run"]}
    facts |= {"parameters": told.get("parameters", {})}
    threads = torch.get_num_threads()
    torch.set_num_threads(origin.get("threads") or threads)
    try:
        try:
            address = data_address(told["dataset"], origin["data_checksum"], own)
        except (DatasetUnavailable, ValueError) as missing:
            raise InputError(str(missing)) from missing
        study = study_behind(facts | {"dataset": address}, origin.get("device") or "cpu")
        study.holes = holes_folder(told["paper"])
        return save_images_of_study(study, record, facts, limit=limit)
    finally:
        torch.set_num_threads(threads)


def save_images(
    record: Path,
    data: Dataset,
    images: Tensor,
    labels: Tensor,
    sets: Sequence[AttackedSet],
    defence: Callable[[str], nn.Module],
    facts: Mapping[str, Any],
    *,
    limit: int = PAGE_LIMIT,
) -> Path:
    """Write attacked images beside a record, the first ones where not all fit into ``limit`` bytes.

    Args:
        record: The record's file.
        data: The data set.
        images: (N, C, H, W): the test images that were attacked.
        labels: (N,), int64.
        sets: What attackers made of them.
        defence: The defence of a name, which is asked about each image that is kept with rounding.
        facts: What is told of the run.
        limit: The most bytes.
    """
    told = {**facts, "dataset": data.name, "checksum": data.checksum, "classes": list(data.class_names)}
    few = _answers(images[:_ASKED].cpu(), sets, defence) if facts.get("page") == COMPARISON else None
    whole = PackedImages(images.cpu(), labels.cpu(), _places(data, images, labels), len(labels), tuple(sets), told, few)

    def wrong(name: str, again: AttackedImages) -> Tensor:
        return still_wrong(defence(name), again)

    file = images_file(record)
    pack(file, whole, wrong, limit=limit)
    return file


def _answers(images: Tensor, sets: Sequence[AttackedSet], defence: Callable[[str], nn.Module]) -> Answered:
    """What each defence answers to the first images, and to what was made of them: for readers who compare defences."""
    names = dict.fromkeys(one.defence for one in sets)
    moved = [(one.defence, one.attacked[: len(images)]) for one in sets]
    return answered({name: defence(name) for name in names}, images, moved)


def agreeing(kept: PackedImages, rows: Results) -> tuple[int, int]:
    """How many worst cases of a record are about a set of these images, and how many of them say the same of each."""
    compared, same, first = 0, 0, kept.facts["seed"]
    for row in rows:
        told = row["attack"] == WORST_CASE and row["part"] in _PARTS and row.get("hits")
        if not told or row["n"] != kept.of:
            continue
        name, hits = seeded_name(row["defence"], row["seed"], first), unpack_hits(row["hits"], row["n"])
        for one in kept.sets:
            if (one.defence, one.threat) == (name, row["threat"]) and abs(one.eps - row["eps"]) < 1e-6:
                compared += 1
                same += bool(torch.equal(hits[: len(kept)], one.robust))
    return compared, same


def data_address(dataset: str, checksum: str, own: str | None) -> str:
    """What :func:`~advdef.data.load` takes to give the data set of a record again.

    Args:
        dataset: Its name in the record, which for data of one's own does not say where they are.
        checksum: Its checksum in the record.
        own: Where data of one's own are, ``npz:FILE`` or ``folder:PATH``; None for a data set with a name.

    Raises `InputError` where ``own`` is not asked for or has other images, and DatasetUnavailable where it is missing.
    """
    if dataset in DATASETS:
        if own is not None:
            says = f"a record says what its data and its networks are: it is on {dataset}"
            raise InputError(f"{says}; --data is for data of your own")
        return dataset
    if own is None:
        raise DatasetUnavailable(f"{dataset} are data of your own: name them, --data npz:FILE or --data folder:PATH")
    if (found := load(own, download=False).checksum) != checksum:
        raise InputError(f"the record is of other images than {own}: checksum {checksum}, not {found}")
    return dataset_name(own)


def study_behind(facts: Mapping[str, Any], device: str) -> Study:
    """The study of a record: its networks and evaluations come from the store, or are made when they are asked for.

    ``facts`` are those of the images beside it. Raises `InputError` for a page without a study, and for a data set or
    device that is not here.
    """
    if facts["page"] not in STUDIES:
        raise InputError(f"{facts['page']} has no study that names its networks; pages with one: {', '.join(STUDIES)}")
    profile, wanted = check_profile(facts["profile"]), facts["dataset"]
    own = wanted in study_of(facts["page"]).profiles[profile]["datasets"]
    run = PageRun(facts["page"], None if own else wanted, facts["seed"], Asked(**facts["parameters"]))
    (cell,) = [cell for cell in run.cells(profile, device) if cell.dataset == wanted]
    return cell.make(cache_folder(ATTEMPTS))


def _places(data: Dataset, images: Tensor, labels: Tensor) -> Tensor:
    """Where each image stands in the test set (N,): the first place with its pixels and its label."""
    test: dict[tuple[bytes, int], int] = {}
    for place, (image, label) in enumerate(zip(data.test.images.cpu(), data.test.labels.tolist(), strict=True)):
        test.setdefault((image.numpy().tobytes(), label), place)
    levels = (255 * images.cpu()).round().to(torch.uint8)
    asked = zip(levels, labels.tolist(), strict=True)
    return torch.tensor([test[image.numpy().tobytes(), label] for image, label in asked])
