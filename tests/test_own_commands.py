"""``advdef judge`` and ``check`` as somebody uses them who has a network, its weights and a folder of pictures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from cases import each
from holed_study import Open
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from advdef.book.page import Page
from advdef.book.recordimages import save_images_of_record
from advdef.book.repository import InputError
from advdef.cli import app
from advdef.data import Dataset, load
from advdef.evaluation.attacked import AttackedImages
from advdef.evaluation.packed import read_packed
from advdef.papers import STUDIES

QUICK = ("--eps", "0.1", "--images", "6", "--steps", "1", "--queries", "0", "--rounds", "0")
MODULE = """
import torch
from networks import small_network
from advdef.papers.nip.baselines import NoiseVote

def build():
    return small_network().eval()

def whole():
    network = build()
    network.load_state_dict(torch.load("mine.pt"))
    return network

def noisy(network):
    return NoiseVote(network, 0.1)

def broken():
    raise RuntimeError("out of\\nluck")

def nothing():
    return 5

number = 5
"""


def advdef(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, _trained_network: nn.Sequential, digits: Dataset) -> Path:
    """A folder with a module, weights in two formats, and pictures of the digits from 0 to 9."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MODULE)
    torch.save(_trained_network.state_dict(), folder / "mine.pt")
    safetensors.torch.save_file(
        {n: v.contiguous() for n, v in _trained_network.state_dict().items()}, folder / "mine.safetensors"
    )
    for number, (image, label) in enumerate(zip(digits.test.images[:40], digits.test.labels, strict=False)):
        (target := folder / "pictures" / "test" / str(int(label))).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(target / f"{number:03}.png")
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(place)
    return tmp_path


WEIGHTS = ("mine:build", "--weights", "mine.safetensors", "--data", "folder:pictures")


def test_a_folder_of_pictures_gets_its_reports_and_they_can_be_checked(here: Path) -> None:
    out = here / "out"
    done = advdef("judge", *WEIGHTS, *QUICK, "--out", str(out), "--defence", "bitdepth", "--defence", "mine:noisy")
    assert done.exit_code == 0, done.output
    assert "[2/2] mine:noisy on folder-pictures ..." in done.stdout
    assert "bitdepth on folder-pictures, Linf 0.1\n  Robust accuracy " in done.stdout
    assert re.search(r"NoiseVote .+ \[.+\]", done.stdout)
    assert sorted(path.name for path in out.iterdir()) == [
        f"folder-pictures-{name}.{kind}" for name in ("bitdepth", "mine-noisy") for kind in ("json", "safetensors")
    ]
    file = out / "folder-pictures-bitdepth.json"
    checked = advdef("check", str(file), *WEIGHTS[1:], "--model", "mine:build")  # the file names bitdepth
    assert checked.exit_code == 0, checked.output
    broken = re.findall(r"(\d) of (\d)$", checked.stdout, re.MULTILINE)
    assert len(broken) == 3
    assert all(one == other for one, other in broken)
    alone = advdef("check", str(file.with_suffix(".safetensors")))
    assert (alone.exit_code, alone.stdout.count("not asked")) == (0, 2)
    other = advdef("check", str(file), "--model", "mine:build")  # the weights are others, so what they do is luck
    assert "broken" not in other.stderr
    assert advdef("diff", str(file), str(file)).stdout == "nothing differs\n"
    assert advdef("diff", str(file), str(out / "folder-pictures-mine-noisy.json")).exit_code == 1


def test_a_quick_look_is_small_but_where_one_says_otherwise(here: Path) -> None:
    done = advdef("judge", *WEIGHTS, "--eps", "0.1", "--quick", "--steps", "2", "--queries", "0", "--out", str(here))
    assert done.exit_code == 0, done.output
    facts = json.loads((here / "folder-pictures-undefended.json").read_text())
    assert facts["data"]["images"] == 20
    assert {n: facts["settings"][n] for n in ("steps", "queries", "rounds")} == {"steps": 2, "queries": 0, "rounds": 1}


def test_where_nothing_was_broken_there_is_nothing_to_judge(tmp_path: Path) -> None:
    none, no_numbers = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)
    AttackedImages(none, none, no_numbers, no_numbers, 0.1, "Linf", 0).save(tmp_path / "none.safetensors")
    done = advdef("check", str(tmp_path / "none.safetensors"))
    assert (done.exit_code, done.stdout.splitlines()[1:]) == (0, ["  nothing was broken, so there is nothing to judge"])


@pytest.mark.thorough
def test_processes_find_what_one_process_finds(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("--eps", "0.1", "--images", "104", "--steps", "1", "--queries", "0", "--epochs", "1", "--rounds", "0")
    asked = ("judge", *WEIGHTS[:3], "--data", "digits", *few, "--defence", "at", "--defence", "bitdepth")
    reports, kept = [], []
    for jobs in ((), ("--jobs", "2")):
        monkeypatch.setenv("ADVDEF_CACHE", str(here / f"cache{len(jobs)}"))
        out = here / f"out{len(jobs)}"
        done = advdef(*asked, "--out", str(out), *jobs)
        assert done.exit_code == 0, done.output
        reports.append({file.name: json.loads(file.read_text()) for file in out.glob("*.json")})
        kept.append({file.name for file in (here / f"cache{len(jobs)}" / "judged").iterdir()})
    # a training, and for each defence two parts of the images and a row of checks
    assert "grid: 7 done, 0 from the store" in done.stderr
    assert kept[0] == kept[1]
    alone, shared = reports
    assert sorted(alone) == sorted(shared) == ["digits-at.json", "digits-bitdepth.json"]
    for name, report in alone.items():
        for row in (row for found in (report, shared[name]) for row in found["results"]):
            row.pop("seconds", None)
        for field in ("results", "checks", "shares", "judged"):
            assert report[field] == shared[name][field]


def test_a_job_fails_when_the_whole_interval_lies_below(here: Path) -> None:
    asked = ("judge", "mine:whole", "--data", "digits", *QUICK, "--out", str(here / "out"), "--at-least")
    low = advdef(*asked, "99")
    assert low.exit_code == 1
    assert low.stderr == "advdef: below 99 %, interval included: undefended\n"
    report = json.loads((here / "out" / "digits-undefended.json").read_text())
    right = next(r["accuracy"] for r in report["results"] if r["threat"] == "adaptive" and r["attack"] == "worst case")
    assert advdef(*asked, str(100 * right + 1)).exit_code == 0  # within the interval


BAD = (
    (("mine",), (), "'mine' names no function; write module:function"),
    (("mine.py:build",), (), "name the module, mine:build"),
    (("nobody:build",), (), "nobody cannot be imported: ModuleNotFoundError"),
    (("mine:number",), (), "mine has no function 'number'; it has build, whole, noisy"),
    (("mine:broken",), (), "mine:broken failed: RuntimeError: out of luck"),
    (("mine:nothing",), (), r"mine:nothing must return a torch.nn.Module, not int"),
    (("mine:build",), ("--weights", "none.safetensors"), "none.safetensors: No such file"),
    (("mine:build",), ("--weights", "mine.pt"), "a pickled file, .+: --trust, if you trust it"),
    (("mine:build",), ("--weights", "mine.py"), "a pickled file"),
    (("mine:build",), ("--weights", "mine.py", "--trust"), "cannot be read as weights"),
    (("mine:build",), ("--data", "folder:nowhere"), "nowhere: no such folder"),
    (("mine:build",), ("--data", "imagenet"), "no data set 'imagenet'; there are digits"),
    (("mine:build",), ("--data", "pictures"), "no data set 'pictures'; .+, write folder:pictures"),
    (("mine:build",), ("--data", "mine.pt"), "no data set 'mine.pt'; there are digits"),
    (("mine:build",), ("--eps", "8/0"), "eps '8/0' is no number"),
    (("mine:build",), ("--eps", "eight"), "eps 'eight' is no number"),
    (("mine:build",), ("--eps", "8"), "it is 8 / 255"),
    (("mine:build",), ("--norm", "L1"), "no norm 'L1'; there are Linf, L2"),
    (("mine:build",), ("--at-least", "400"), "a percentage from 0 to 100"),
    (("mine:build",), ("--defence", "jpg"), "no defence 'jpg'; there are undefended"),
    (("mine:build",), ("--defence", "tv", "--defence", "tv"), "--defence tv is there twice"),
    (("mine:build",), ("--defence", "mine:none"), "mine has no function 'none'"),
    (("mine:build",), ("--defence", "mine:build"), "mine:build failed|takes 0 positional"),
    (("mine:build",), ("--mean", "a,b"), "are no numbers with commas"),
    (("mine:build",), ("--mean", "nan"), "mean must be finite"),
    (("mine:build",), ("--mean", "123"), "divide mean and std by 255"),
    (("mine:build",), ("--std", "0"), "std must be above zero"),
    (("mine:build",), ("--mean", "0.1,0.2,0.3"), "mean and std are those of 3 channels, and the images have 1"),
    (("mine:build",), ("--size", "big"), "size 'big' is none; write 64, or 48x64"),
    (("mine:build",), ("--size", "32"), "does not take images of 1 x 32 x 32"),
    (("mine:build",), ("--channels", "3"), "does not take images of 3 x 28 x 28"),
    (("mine:build",), ("--channels", "2"), "channels must be 1 or 3"),
    (("mine:build",), ("--device", "tpu"), "no device 'tpu'; there are cpu"),
    (("mine:build",), ("--output", "scores"), "output='scores' .+ is no tensor"),
    (("mine:build",), ("--data", "digits", "--size", "8"), "size and channels are for folder:PATH"),
    (("mine:build",), ("--defence", "at"), "at needs training images"),
)


@each(("arguments", "options", "message"), BAD, ids=[" ".join(a + o) for a, o, _ in BAD])
def test_bad_input_is_one_line(here: Path, arguments: tuple[str, ...], options: tuple[str, ...], message: str) -> None:
    given = [*QUICK, *(() if "--data" in options else ("--data", "folder:pictures")), *options]
    done = advdef("judge", *arguments, *given, "--out", str(here / "out"))
    assert done.exit_code == (1 if "No such file" in message else 2), done.output
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.startswith("advdef: ")
    assert done.stderr.count("\n") == 1
    assert not (here / "out").exists()


def test_images_of_another_defence_or_data_set_are_refused_in_one_line(here: Path) -> None:
    assert advdef("judge", *WEIGHTS, *QUICK, "--out", str(here), "--defence", "mine:noisy").exit_code == 0
    assert advdef("judge", "mine:whole", *WEIGHTS[3:], *QUICK, "--out", str(here), "--defence", "median").exit_code == 0
    noisy, other = (str(here / f"folder-pictures-{name}.safetensors") for name in ("mine-noisy", "median"))
    network = ("--model", "mine:whole")
    for arguments, message in (
        ((noisy, *network), "of a defence of yours, NoiseVote: name it, --defence module:function"),
        ((other, *network, "--defence", "jpeg"), "of the defence median, not of jpeg: leave --defence out"),
        ((other, "--data", "digits"), "is of other images than digits: of folder-pictures, says the file"),
    ):
        done = advdef("check", *arguments)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert advdef("check", noisy, *network, "--defence", "mine:noisy", "--data", "folder:pictures").exit_code == 0


def test_a_file_that_is_none_is_one_line(here: Path) -> None:
    (damaged := here / "x.safetensors").write_bytes(b"nothing of the kind")
    for file, message in ((damaged, "no safetensors file"), (here / "none.json", "No such file")):
        done = advdef("check", str(file))
        assert done.exit_code in (1, 2)
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def own_file(file: Path, digits: Dataset, *, first: int = 0) -> str:
    """The name of a data set of one's own: digits, of which the test images begin with ``first``."""
    train, test = slice(0, 400), slice(first, first + 40)
    np.savez(
        file, train_images=digits.train.images[train, 0].numpy(), train_labels=digits.train.labels[train].numpy(),
        test_images=digits.test.images[test, 0].numpy(), test_labels=digits.test.labels[test].numpy(),
    )  # fmt: skip
    return f"npz:{file}"


def test_a_record_on_data_of_ones_own_is_checked_with_them(
    here: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    monkeypatch.setenv("ADVDEF_RESULTS", str(here / "results"))
    monkeypatch.setitem(STUDIES, "good", "holed_study:Open")
    mine, other = own_file(here / "mine.npz", digits), own_file(here / "other.npz", digits, first=40)
    page = Page("good", Open.profiles, "smoke", dataset=mine)
    (study,) = page.studies(Open).values()
    for outcome in study.curve("rounded")["adaptive"].values():
        page.run.add(outcome, part="worst", defence="rounded", threat="adaptive", model="linear")
    page.finish()
    file = here / "results" / "good" / "npz-mine-smoke-seed0.safetensors"
    broken = sum(int(one.broken.sum()) for one in read_packed(file).sets)
    assert broken

    for options, columns in ((("--data", mine), 3), (("--data", mine, "--networks"), 4), ((), 2)):
        done = advdef("check", str(file), *options)
        assert done.exit_code == 0, done.output
        assert re.search(rf"rounded{f' +{broken}' * columns}\n", done.stdout)
        assert ("originals are not compared: npz-mine are data of your own" in done.stdout) == (not options)
    record, first = file.with_suffix(".json"), read_packed(file)
    file.unlink()
    again = read_packed(save_images_of_record(record, own=mine))
    assert again.facts == first.facts
    assert all(torch.equal(a.attacked, b.attacked) for a, b in zip(again.sets, first.sets, strict=True))
    for downloaded in (file, record):  # the site has them under other names
        shutil.copy(downloaded, here / f"good-npz-mine-smoke{downloaded.suffix}")
    done = advdef("check", str(here / "good-npz-mine-smoke.safetensors"))
    assert done.exit_code == 0, done.output
    assert re.search(r"hits of single images: ([1-9]\d*); these images say the same: \1\n", done.stdout)
    missing = (None, "npz-mine are data of your own"), (other, "is of other images"), ("npz:no", "no such file")
    for own, said in missing:
        with pytest.raises(InputError, match=said):
            save_images_of_record(record, own=own)

    for options, message in (
        (("--data", other), f"is of other images than {other}: checksum {load(mine).checksum}, not"),
        (("--data", other, "--networks"), f"is of other images than {other}"),
        (("--data", "digits"), "is of other images than digits"),
        (("--data", "npz:none.npz"), "none.npz: no such file"),
        (("--networks",), "npz-mine are data of your own: name them, --data npz:FILE"),
        (("--data", mine, "--size", "8"), "a record says what its data and its networks are"),
    ):
        done = advdef("check", str(file), *options)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_folder_is_exported_in_one_size_for_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label in ("one", "two"):
        (folder := tmp_path / "mixed" / "test" / label).mkdir(parents=True)
        for side in (20, 30):
            Image.new("L", (side, side), side).save(folder / f"{side}.png")
    refused = advdef("data", "export", "folder:mixed", "out")
    assert refused.exit_code == 2
    assert "for a page, advdef data export folder:mixed OUT --size 64, and then npz:OUT/..." in refused.stderr
    for options, shape in ((("--size", "24"), (1, 24, 24)), (("--size", "8x12", "--channels", "3"), (3, 8, 12))):
        done = advdef("data", "export", "folder:mixed", "out", *options)
        assert done.stdout == f"{Path('out', 'folder-mixed.npz')}\n", done.output
        found = load("npz:out/folder-mixed.npz")
        assert (found.shape, len(found.train), len(found.test)) == (shape, 0, 4)
    for name, options, message in (
        ("folder:mixed", ("--size", "big"), "size 'big' is none; write 64, or 48x64"),
        ("folder:mixed", ("--size", "8", "--channels", "2"), "channels must be 1 or 3, not 2"),
        ("digits", ("--size", "8"), "size and channels are for folder:PATH"),
    ):
        done = advdef("data", "export", name, "out", *options)
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
