"""The attacked images of a record: what is written comes back, fits, is judged, and is refused when it is damaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.data import Dataset
from advdef.defenses import Defense, Undefended
from advdef.evaluation import direct, evaluate_curve
from advdef.evaluation.attacked import AttackedImages, AttackedImagesError, read_attacked, rejudge, still_wrong
from advdef.evaluation.packed import PackedImages, attacked_sets, is_packed, pack, read_packed
from advdef.papers.nip.baselines import NoiseVote

BUDGETS = (0.05, 0.1, 0.2)
LIMIT = 1_000_000
Wrong = Callable[[str, AttackedImages], Tensor]


def attacked(defence: Defense, digits: Dataset, images: int = 24) -> PackedImages:
    test = digits.test.head(images)
    tried = direct(defence, {"PGD": partial(pgd, steps=3)})
    curve = evaluate_curve(
        defence, dict.fromkeys(BUDGETS, tried), test.float_images(), test.labels,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    sets = attacked_sets("mine", {"direct": curve, "adaptive": curve})
    return PackedImages(
        test.float_images(), test.labels, torch.arange(images), images, tuple(sets), {"checksum": digits.checksum}
    )


@pytest.fixture
def whole(network: nn.Sequential, digits: Dataset) -> PackedImages:
    return attacked(Undefended(network), digits)


@pytest.fixture
def wrong(network: nn.Sequential) -> Wrong:
    return lambda name, images: still_wrong(network, images)


def test_what_is_written_comes_back(
    whole: PackedImages, wrong: Wrong, network: nn.Sequential, digits: Dataset, tmp_path: Path
) -> None:
    file = tmp_path / "there" / "a.safetensors"
    written = pack(file, whole, wrong, limit=LIMIT)
    kept = read_packed(file)
    assert is_packed(file)
    assert len(kept) == len(written) == kept.of == len(whole)
    assert kept.facts == whole.facts
    for name in ("originals", "labels", "indices"):
        assert torch.equal(getattr(kept, name), getattr(whole, name))
    assert [(s.defence, s.threat, s.eps, s.norm) for s in kept.sets] == [
        ("mine", threat, eps, "Linf") for threat in ("direct", "adaptive") for eps in BUDGETS
    ]
    for before, after in zip(whole.sets, kept.sets, strict=True):
        assert all(torch.equal(getattr(before, n), getattr(after, n)) for n in ("clean", "robust", "broken"))
        assert torch.equal(after.broken, after.clean & ~after.robust)
        assert (before.attacked - after.attacked)[after.broken].abs().max() <= after.eps / 2 / 127 + 1e-6
        assert torch.equal(after.attacked[~after.broken], kept.originals[~after.broken])
        found = rejudge(kept.broken(after), defence=network, data=digits)
        assert (found.images, found.within, found.original, found.broken) == (int(after.broken.sum()),) * 4
    assert int(kept.sets[-1].broken.sum()) >= 5
    # each perturbation once: the second attacker found the same, and larger budgets have those of smaller ones
    tensors = safetensors.torch.load_file(file)
    distinct = {tuple(s.attacked[row].flatten().tolist()) for s in kept.sets for row in torch.nonzero(s.broken)[:, 0]}
    assert len(tensors["step_image"]) + len(tensors["exact_image"]) == len(distinct)


def test_what_rounding_would_undo_is_kept_in_full(whole: PackedImages, tmp_path: Path) -> None:
    kept = pack(tmp_path / "a", whole, lambda name, images: torch.zeros(len(images), dtype=torch.bool), limit=LIMIT)
    for before, after in zip(whole.sets, kept.sets, strict=True):
        assert torch.equal(before.attacked[before.broken], after.attacked[after.broken])


def test_other_norms_are_kept_in_full(whole: PackedImages, tmp_path: Path) -> None:
    def never(name: str, images: AttackedImages) -> Tensor:
        raise AssertionError("nothing was rounded")

    sets = tuple(replace(one, norm="L2", eps=28 * one.eps) for one in whole.sets)
    kept = pack(tmp_path / "a", replace(whole, sets=sets), never, limit=LIMIT)
    assert all(one.norm == "L2" for one in kept.sets)
    assert torch.equal(kept.sets[-1].attacked[kept.sets[-1].broken], whole.sets[-1].attacked[whole.sets[-1].broken])


def test_as_many_images_as_fit_are_kept_whole(whole: PackedImages, wrong: Wrong, tmp_path: Path) -> None:
    file = tmp_path / "a"
    sizes = []
    for limit in (12_000, 18_000, 30_000):
        kept = pack(file, whole, wrong, limit=limit)
        assert file.stat().st_size <= limit
        assert kept.of == len(whole)
        assert torch.equal(kept.originals, whole.originals[: len(kept)])
        for before, after in zip(whole.sets, kept.sets, strict=True):
            assert torch.equal(before.broken[: len(kept)], after.broken)
        sizes.append(len(kept))
    assert 0 < sizes[0] < sizes[1] < sizes[2] <= len(whole)
    with pytest.raises(ValueError, match="not even one attacked image fits into 900 bytes"):
        pack(file, whole, wrong, limit=900)


def test_a_random_defence_counts_what_most_passes_get_wrong(
    network: nn.Sequential, digits: Dataset, tmp_path: Path
) -> None:
    defence = NoiseVote(network, 0.3)
    whole = attacked(defence, digits)
    kept = pack(tmp_path / "a", whole, lambda name, images: still_wrong(defence, images), limit=LIMIT)
    last = kept.sets[-1]
    assert bool((last.broken <= (last.clean & ~last.robust)).all())
    assert rejudge(kept.broken(last), defence=defence, data=digits).holds


def test_other_files_and_damaged_ones_are_refused(whole: PackedImages, wrong: Wrong, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    pack(file, whole, wrong, limit=LIMIT)
    with pytest.raises(AttackedImagesError, match="holds no attacked images: it is of another format"):
        read_attacked(file)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(AttackedImagesError, match="is damaged: its content does not fit its checksum"):
        read_packed(file)
    file.write_bytes(content[:-100])
    with pytest.raises(AttackedImagesError, match="cut off"):
        read_packed(file)
    whole.broken(whole.sets[-1]).save(file)
    assert not is_packed(file)
    with pytest.raises(AttackedImagesError, match="holds no attacked images of a record"):
        read_packed(file)


def test_originals_that_are_no_grey_levels_are_refused(whole: PackedImages, wrong: Wrong, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="originals are no whole grey levels"):
        pack(tmp_path / "a", replace(whole, originals=whole.originals + 0.001), wrong, limit=LIMIT)
