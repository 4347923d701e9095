"""What pages judge, as their studies name it; the command that searches it for holes; and what a page makes of that."""

from __future__ import annotations

import json
import re
from pathlib import Path

import checkout
import pytest
import torch
from holed_study import Holed, Open
from typer.testing import CliRunner, Result

from advdef.book.cells import study_of
from advdef.book.page import Page
from advdef.book.pages import generated
from advdef.book.recordimages import save_images_of_record
from advdef.book.records import Run, holes_folder
from advdef.cli import app
from advdef.data import load
from advdef.evaluation.attacked import read_attacked
from advdef.evaluation.holes import FOUND_LATER
from advdef.evaluation.holes.summary import Searched, read_searches
from advdef.evaluation.packed import read_packed
from advdef.evaluation.results import WORST_CASE, unpack_hits
from advdef.grid import Study
from advdef.papers import PAPERS, STUDIES

pytestmark = pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")


def study(page: str) -> Study:
    kind = study_of(page)
    return kind(load("digits"), kind.profiles["smoke"])


@pytest.mark.parametrize("page", STUDIES)
def test_every_study_names_what_its_attackers_meet(page: str) -> None:
    found = study(page)
    cases = found.cases()
    wanted = {name for paper in PAPERS if paper.id == page for name in (paper.own, paper.undefended, paper.adversarial)}
    assert wanted <= set(cases)
    assert len(set(cases.values())) == len(cases)
    assert found.met in found.settings
    images, labels = found.attacked_images()
    assert len(images) == len(labels) == found.settings[found.met]
    with pytest.raises(ValueError, match=f"no defence 'nobody'; there are {next(iter(cases))}"):
        found.case("nobody")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ADVDEF_ROOT", raising=False)
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADVDEF_PEERS", raising=False)
    monkeypatch.setitem(STUDIES, "good", "holed_study:Holed")
    checkout.make(tmp_path, {"01_bad": checkout.BAD, "02_good": checkout.GOOD})
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def check(file: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["check", str(file), *options])


def holes(*args: str) -> Result:
    return CliRunner().invoke(app, ["holes", *args])


def test_the_command_finds_a_planted_hole_and_the_page_takes_it_in(repository: Path) -> None:
    ran = holes("good", "rounded", "--minutes", "0.08", "--images", "12")
    assert ran.exit_code == 0, ran.output
    folder = repository / "book" / "results" / "good" / "holes"
    done = {search.eps: search for search in read_searches(folder)}
    assert list(done) == [0.1, 0.2]
    assert all(s.images == 12 and s.defence == "rounded" for s in done.values())
    assert done[0.2].after < done[0.2].before
    assert len(done[0.2].by) == done[0.2].before - done[0.2].after
    assert f"eps 0.2: {done[0.2].after} are left" in ran.output
    files = [read_attacked(file) for file in folder.glob("*.safetensors")]
    data = load("digits")
    for file in files:
        assert torch.equal(data.test.labels[file.indices], file.labels)
        assert torch.equal(data.test.float_images()[file.indices], file.originals)

    # a page has all images, and judges what it reads
    page = Holed(data, Holed.profiles["smoke"], holes=holes_folder("good"))
    plain = Holed(data, Holed.profiles["smoke"])
    after, before = (s.curve("rounded")["adaptive"][0.2] for s in (page, plain))
    assert int(before.robust.sum() - after.robust.sum()) == done[0.2].before - done[0.2].after
    run = Run("good", "smoke", data, 0)
    run.add(after, part="worst", defence="rounded", threat="adaptive", model="linear")
    row, worst = run.results.one(attack=FOUND_LATER), run.results.one(attack=WORST_CASE)
    assert row["unique_breaks"] == row["broken"] == int(before.robust.sum()) - worst["correct"]
    assert worst["correct"] == int(after.robust.sum())
    assert row["hits"]
    assert " by " in row["settings"]

    (read,) = Page("good", Holed.profiles, "smoke").studies(Holed).values()
    assert read.holes == folder

    # another seed's networks are others
    other = Holed(data, Holed.profiles["smoke"], seed=1, holes=folder)
    assert torch.equal(other.curve("rounded")["adaptive"][0.2].robust, before.robust)


def test_the_same_command_goes_on_and_loses_nothing(repository: Path) -> None:
    asked = ("good", "--minutes", "0.02", "--images", "6", "--eps", "0.2")
    assert holes(*asked).exit_code == 0
    (file,) = (repository / "book" / "results" / "good" / "holes").glob("*.json")
    first = json.loads(file.read_text())
    assert holes(*asked).exit_code == 0
    (again,), (before,) = json.loads(file.read_text()), first
    assert again["ways"] >= before["ways"]
    assert again["after"] <= before["after"]
    assert again["before"] == before["before"]
    assert again["by"][: len(before["by"])] == before["by"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nobody"], "unknown notebook 'nobody'; notebooks: bad, good"),
        (["bad"], "bad has no study, so nothing names its defences; pages with one: qusecnets"),
        (["good", "flat"], "good has no defence 'flat'; it has: rounded"),
        (["good", "--eps", "0.3"], "rounded has no budget 0.3; it has: 0.1, 0.2"),
        (["good", "--profile", "huge"], "unknown profile 'huge'"),
        (["good", "--dataset", "nothing"], "nothing"),
    ],
)
def test_what_makes_no_sense_is_one_line(repository: Path, args: list[str], said: str) -> None:
    ran = holes(*args)
    assert ran.exit_code == 2
    (line,) = [line for line in ran.output.splitlines() if line.startswith("advdef:")]
    assert said in line


def test_a_damaged_file_is_named(repository: Path) -> None:
    folder = repository / "book" / "results" / "good" / "holes"
    folder.mkdir(parents=True)
    (folder / "digits-smoke-seed0-rounded-eps0.1.safetensors").write_bytes(b"{}")
    ran = holes("good", "--minutes", "0.01")
    assert ran.exit_code == 2
    assert "digits-smoke-seed0-rounded-eps0.1.safetensors is no safetensors file" in ran.output


def test_there_is_no_folder_where_nobody_searched(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert holes_folder("good") is None
    monkeypatch.chdir("/")
    assert holes_folder("good") is None


def test_the_site_has_a_line_for_each_search() -> None:
    done = Searched("nip", "digits", "smoke", 0, "<V1>", 0.1, 30, 9, 7, ["Square", "Square"], 12, 3.2)
    text = generated([], [], [done])["_generated/holes.md"]
    for cell in ("nip", "&lt;V1&gt;", "9", "7", "2 by Square", "12 in 3 min"):
        assert f"<td>{cell}</td>" in text
    assert generated([], [])["_generated/holes.md"] == "No page has been searched yet.\n"


def test_a_page_leaves_the_images_of_its_attackers_beside_its_record(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STUDIES, "good", "holed_study:Open")
    monkeypatch.setenv("ADVDEF_RESULTS", str(repository / "results"))
    page = Page("good", Open.profiles, "smoke")
    (study,) = page.studies(Open).values()
    found = study.curve("rounded")["adaptive"]
    for eps in found:
        page.run.add(found[eps], part="worst", defence="rounded", threat="adaptive", model="linear")
    page.finish()
    file = repository / "results" / "good" / "digits-smoke-seed0.safetensors"
    kept = read_packed(file)
    assert kept.facts["page"] == "good"
    assert [one.eps for one in kept.sets] == [0.1, 0.2]
    for one in kept.sets:
        assert torch.equal(one.robust, found[one.eps].robust)
        assert torch.equal(kept.originals, study.attacked_images()[0])
    assert int(kept.sets[1].broken.sum()) > 3
    data = study.data
    assert torch.equal(data.test.labels[kept.indices], kept.labels)
    assert torch.equal(data.test.float_images()[kept.indices], kept.originals)

    broken = sum(int(one.broken.sum()) for one in kept.sets)
    said = check(file)
    assert said.exit_code == 0, said.output
    assert re.search(rf"rounded +{broken} +{broken} +{broken}\n", said.output)
    assert "worst cases of the record with hits of single images: 2; these images say the same: 2" in said.output
    said = check(file.with_suffix(".json"), "--networks")
    assert said.exit_code == 0, said.output
    assert re.search(rf"rounded +{broken} +{broken} +{broken} +{broken}\n", said.output)

    # the same file comes of what the run has left behind
    file.unlink()
    again = read_packed(save_images_of_record(file.with_suffix(".json")))
    for one, other in zip(kept.sets, again.sets, strict=True):
        assert torch.equal(one.attacked, other.attacked)
        assert torch.equal(one.broken, other.broken)

    # a record that says something else is found out
    record = file.with_suffix(".json")
    content = json.loads(record.read_text())
    row = next(row for row in content["results"] if row["attack"] == WORST_CASE)
    row["hits"] = f"{int(row['hits'], 16) ^ (1 << (row['n'] - 1)):0{len(row['hits'])}x}"
    row["correct"] = int(unpack_hits(row["hits"], row["n"]).sum())
    row["accuracy"] = row["correct"] / row["n"]
    record.write_text(json.dumps(content))
    said = check(file)
    assert said.exit_code == 1
    assert "single images: 2; these images say the same: 1" in said.output
    assert "these images are not what they are said to be" in said.stderr

    for wrong, told in [
        (("--data", "digits"), "a record says what its data and its networks are"),
        (("--model", "a:b"), "a record says what its data and its networks are"),
        (("--networks", "--device", "tpu"), "no device 'tpu'"),
    ]:
        said = check(file, *wrong)
        assert said.exit_code == 2
        assert told in said.stderr
        assert len(said.stderr.splitlines()) == 1
