"""The page parameters eps, images, seeds: what they change, what they leave, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkout
import pytest
from typer.testing import CliRunner

from advdef.book.cells import PageRun, page_runs, study_of
from advdef.book.notebookfile import parameter_defaults, read_pair
from advdef.book.page import Page
from advdef.book.records import check_content
from advdef.book.repository import InputError, Repository
from advdef.book.together import together
from advdef.cli import app
from advdef.data import load
from advdef.grid import Asked, Study
from advdef.papers import STUDIES

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
USUAL = {"qusecnets": 0.3, "neuron_sensitivity": 0.1, "nip": 0.1, "trn": 0.2, "snn_purification": 0.05}
USUAL |= {"five_defences": 0.1}


def study(page: str, asked: Asked | None = None, profile: str = "smoke") -> Study:
    kind = study_of(page)
    settings = kind.profiles[profile] if asked is None else asked.changed(kind.profiles[profile], page, kind)
    return kind(load("digits"), settings)


def budgets(found: Any) -> list[float]:
    """The budgets of the curve of a study's first case."""
    case = next(iter(found.cases().values()))
    for name in ("curve_eps", "budgets"):
        if isinstance(value := getattr(found, name, None), list | tuple):
            return list(value)
    return list(found.sizes(*case)) if hasattr(found, "sizes") else [s * found.eps for s in found.settings["curve"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_page_has_the_parameters_and_none_is_set(path: Path) -> None:
    defaults = parameter_defaults(read_pair(path.with_suffix(".ipynb")))
    assert [defaults[name] for name in ("eps", "images", "seeds")] == [None] * 3


@pytest.mark.parametrize("page", STUDIES)
def test_a_study_takes_another_budget_other_images_other_seeds(page: str) -> None:
    usual = study(page)
    assert usual.eps == USUAL[page]  # type: ignore[attr-defined]
    found: Any = study(page, Asked(0.02, 8, 3 if study_of(page).several else None))
    assert found.eps == 0.02
    images, labels = found.attacked_images()
    assert len(images) == len(labels) == 8
    share = {round(eps / 0.02, 6) for eps in budgets(found)}
    assert share == {round(eps / USUAL[page], 6) for eps in budgets(usual)}
    if page != "nip":  # its curve has the budgets of the figure
        assert 0.02 in budgets(found)
    for name in (found.met, *found.fewer):
        assert found.settings[name] <= max(8, usual.settings[name])
        assert found.settings[name] == 8 or usual.settings[name] < usual.settings[found.met]
    if found.several:
        assert found.seeds == [0, 1, 2]


@pytest.mark.parametrize("page", STUDIES)
def test_nothing_asked_changes_nothing(page: str) -> None:
    kind = study_of(page)
    for settings in kind.profiles.values():
        assert Asked().changed(settings, page, kind) == settings
    (plain,), (asked,) = PageRun(page).cells("smoke"), PageRun(page, asked=Asked()).cells("smoke")
    assert plain.key() == asked.key()
    (other,) = PageRun(page, asked=Asked(images=9)).cells("smoke")
    assert other.key() != plain.key()


def test_more_images_leave_those_on_which_less_is_tried() -> None:
    kind = study_of("nip")
    given = kind.profiles["laptop"]
    more, fewer = (Asked(images=n).changed(given, "nip", kind) for n in (150, 60))
    assert [more[k] for k in ("adaptive_images", "images", "eleven", "tested")] == [150, 150, 150, 50]
    assert [fewer[k] for k in ("adaptive_images", "images", "eleven", "tested")] == [60, 60, 60, 50]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (dict(eps=0.0), "eps must be a number above 0 and at most 1, such as 0.03, not 0.0"),
        (dict(eps=1.5), "not 1.5"),
        (dict(eps=float("nan")), "not nan"),
        (dict(eps="8/255"), "not '8/255'"),
        (dict(eps=True), "not True"),
        (dict(images=0), "images must be a whole number of at least 1, not 0"),
        (dict(images=2.5), "images must be a whole number of at least 1, not 2.5"),
        (dict(images=5_000), "images 5000 are more than the 500 test images of digits"),
        (dict(seeds=0), "seeds must be a whole number of at least 1, not 0"),
        (dict(seeds=-1), "not -1"),
        (dict(eps=0.6), "eps 0.6 is too large for nip, which also tries 2 times as much, and no pixel changes by more "
                        "than 1: give at most 0.5"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as raised:
        Page("nip", study_of("nip").profiles, "smoke", **given)
    assert told in str(raised.value)


def test_a_page_of_one_seed_says_how_to_have_more() -> None:
    profiles = {"smoke": dict(datasets=("digits",), images=20)}
    with pytest.raises(ValueError, match=r"one run of mine has one seed, not 3: advdef reproduce mine --seeds 3 makes"):
        Page("mine", profiles, "smoke", seeds=3)
    assert Page("mine", profiles, "smoke", seeds=1).settings == profiles["smoke"]
    with pytest.raises(ValueError, match="no setting that says how many images"):
        Page("mine", {"smoke": dict(datasets=("digits",))}, "smoke", images=3)


def test_a_page_that_compares_over_seeds_needs_two() -> None:
    kind = study_of("neuron_sensitivity")
    with pytest.raises(ValueError, match="neuron_sensitivity compares over seeds, so it needs at least 2, not 1"):
        Asked(seeds=1).changed(kind.profiles["smoke"], "neuron_sensitivity", kind)
    assert study_of("trn").fewest == 1  # as its profile smoke has it


def test_the_record_and_the_run_line_say_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVDEF_RESULTS", str(tmp_path))
    page = Page("mine", {"smoke": dict(datasets=("digits",), images=20)}, "smoke", eps=0.05, images=8)
    assert page.settings == dict(datasets=("digits",), images=8, eps=0.05)
    assert page.run_line.endswith(", eps 0.05, images 8")
    page.finish()
    record = json.loads((tmp_path / "mine" / "digits-smoke-seed0.json").read_text())
    assert record["parameters"] == {"eps": 0.05, "images": 8}
    with pytest.raises(ValueError, match="parameters/eps"):
        check_content(record | {"parameters": {"eps": 3}})
    other = json.loads(json.dumps(record)) | {"parameters": {}}
    other["provenance"]["seed"] = 1
    with pytest.raises(InputError, match="the runs of mine had other parameters each"):
        together([record, other])


def test_runs_of_a_grid_take_them_and_begin_where_others_end() -> None:
    runs = page_runs(["qusecnets", "five_defences"], profile="smoke", seeds=2, asked=Asked(images=9))
    assert [(run.paper, run.seed) for run in runs] == [
        ("qusecnets", 0), ("qusecnets", 2), ("five_defences", 0), ("five_defences", 1),
    ]  # fmt: skip
    assert runs[0].label == "qusecnets default seed 0, images 9"
    assert runs[0].cells("smoke")[0].settings["adaptive_images"] == 9
    runs = page_runs(["qusecnets"], profile="smoke", seeds=2, asked=Asked(seeds=4))
    assert [run.seed for run in runs] == [0, 4]
    with pytest.raises(InputError, match=r"eps 0\.9 is too large for qusecnets"):
        page_runs(["qusecnets"], profile="smoke", asked=Asked(eps=0.9))


def test_a_run_with_parameters_lies_apart() -> None:
    place = Repository(Path("x")).run("smoke", "nip", seed=3, parameters={"eps": 0.05, "images": 8})
    assert (place.name, place.dataset, place.seed) == ("default-eps0.05-images8-seed3", "default-eps0.05-images8", "3")


@pytest.mark.parametrize("command", [("reproduce",), ("grid", "run"), ("grid", "list")])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eps", "2"), "eps must be a number above 0 and at most 1"),
        (("--images", "0"), "images must be a whole number of at least 1"),
        (("--seeds-each", "0"), "seeds must be a whole number of at least 1"),
        (("--eps", "0.7"), "eps 0.7 is too large for nip"),
    ],
)
def test_the_commands_refuse_them_in_one_line(command: tuple[str, ...], options: tuple[str, ...], told: str) -> None:
    said = CliRunner().invoke(app, [*command, "nip", *options])
    assert said.exit_code == 2
    assert told in said.stderr
    assert len(said.stderr.splitlines()) == 1


PAGE = checkout.GOOD.replace("seed = 0", "seed = 0\nimages = None\neps = None\nseeds = None", 1)


def test_reproduce_hands_them_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = checkout.make(tmp_path, {"01_good": PAGE})
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["reproduce", "good", "--no-site", "--images", "8", "--eps", "0.05"])
    assert said.exit_code == 0, said.output
    (done,) = repository.finished("smoke", "good")
    assert done.name == "default-eps0.05-images8-seed0"
    text = (done.finished / "01_good.ipynb").read_text()
    assert "images = 8" in text
    assert "eps = 0.05" in text
