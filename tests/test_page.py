"""What all notebooks do in the same way."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from IPython.display import HTML

from advdef.book import page as notebook
from advdef.book.cells import study_of
from advdef.book.page import (
    Page,
    check_table,
    choose,
    choose_datasets,
    choose_device,
    provenance_table,
    resume_folder,
    sample,
    show_eps,
    table,
    verdict_cards,
)
from advdef.book.records import Run, read_record, results_folder
from advdef.checks import Check
from advdef.claims import Claim, Condition, decide
from advdef.data import Dataset, Split, load
from advdef.papers import STUDIES
from advdef.statistics import Interval
from advdef.store import tally


def test_wrong_choices_list_what_exists_in_one_line() -> None:
    for wrong, expected in [
        (lambda: choose({"smoke": 1, "laptop": 2}, "huge"), "unknown profile 'huge'; profiles: smoke, laptop"),
        (lambda: choose_datasets("imagenet", ()), "no data set 'imagenet'; there are digits"),
        (lambda: choose_device("tpu"), "no device 'tpu'; there are cpu"),
    ]:
        with pytest.raises(ValueError, match=expected) as error:
            wrong()
        assert "\n" not in str(error.value)


def test_a_page_says_so_where_images_are_larger_than_its_sizes_were_chosen_for(tmp_path: Path) -> None:
    pictures, labels = np.zeros((8, 64, 64, 3), np.uint8), np.arange(8, dtype=np.uint8) % 2
    np.savez(
        tmp_path / "large.npz", train_images=pictures, train_labels=labels, test_images=pictures, test_labels=labels
    )
    with pytest.warns(UserWarning, match="images of 3 x 64 x 64 in .*large.* hold 4.0 times the values of CIFAR-10's"):
        Page("nip", PROFILES, "smoke", dataset=f"npz:{tmp_path / 'large.npz'}")


def test_choices() -> None:
    assert choose({"smoke": 1}, "smoke") == 1
    assert choose_datasets(None, ["digits", "mnist"]) == ("digits", "mnist")
    assert choose_datasets("mnist", ["digits"]) == ("mnist",)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_all_text_of_a_table_is_escaped_but_what_says_that_it_is_markup() -> None:
    bad = "<script>x</script>"
    frame = pd.DataFrame({"a & b": [bad, HTML("<b>y</b>"), None], bad: [[bad], 0.25, float("nan")], "n": [1.5, 2, 3]})
    frame.index = pd.Index([bad, "i", "j"], name=bad)
    for shown in (frame, frame.set_index("n", append=True), frame.T):
        page = table(shown, bad, index=True)._repr_html_()
        assert "<script" not in page
        assert page.count("&lt;script&gt;") >= 4
        assert "a &amp; b" in page
        assert "<b>y</b>" in page
        assert "–" in page
    numbers = pd.DataFrame({"share": [0.5, 0.125], "of": [[1, 2], "two"]})
    plain = table(numbers, "Numbers")._repr_html_()
    assert re.findall(r"<td>(.*?)</td>", plain) == ["0.500", "[1,\u00a02]", "0.125", "two"]


def test_verdicts_are_words_with_a_badge_and_say_whose_wording_it_is() -> None:
    claim = Claim("x-Q1", "x", "a > b", "inferred", "by looking")
    word = decide(claim, "digits", [Condition.above("it", Interval(-0.2, -0.3, -0.1))])
    page = verdict_cards([word], "Verdicts", {"digits": "toy"})._repr_html_()
    assert '<span class="verdict contradicted">contradicted</span>' in page
    assert "a &gt; b" in page
    assert "implied; our wording" in page


def test_a_sample_is_random_fixed_and_nested() -> None:
    split = Split(torch.arange(1000).remainder(256).to(torch.uint8).view(-1, 1, 1, 1), torch.arange(1000))
    small, large = sample(split, 50), sample(split, 100)
    assert torch.equal(small.labels, large.labels[:50])
    assert torch.equal(small.images[:, 0, 0, 0], (small.labels % 256).to(torch.uint8))
    assert len(set(large.labels.tolist())) == 100
    assert int(large.labels.max()) > 900  # not the first ones
    assert len(sample(split, 5_000)) == 1000


@pytest.mark.parametrize(
    ("eps", "shown"),
    [
        (8 / 255, "8/255"), (1 / 255, "1/255"), (64 / 255, "64/255"), (0.3, "0.3"), (0.05, "0.05"), (0.2, "0.2"),
        (0.01, "0.01"), (0.03, "0.03"), (0.001, "0.001"), (0.0, "0"), (1.0, "1"), (7.9 / 255, "0.0309804"),
    ],
)  # fmt: skip
def test_budgets_are_written_as_the_field_writes_them(eps: float, shown: str) -> None:
    assert show_eps(eps) == shown


def test_provenance_tells_what_was_stored_and_is_text(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("nip", "<b>smoke</b>", digits, seed=0)
    monkeypatch.setattr("advdef.store.tally._seconds", [])
    page = provenance_table([run])._repr_html_()
    assert "&lt;b&gt;smoke" in page
    assert re.search(r"from stored results</th>\s*<td>none", page)
    tally.note(30.0)
    tally.note(12.4)
    assert "2 results, which had taken 42 s" in provenance_table([run])._repr_html_()


def test_checks_become_a_matrix_without_the_lines_that_ran_nowhere() -> None:
    rows = {
        "honest": [Check("B2", "calm", "pass", "fine"), Check("D1", "averaged", "not run", "no reason")],
        "noisy": [Check("B2", "calm", "fire", "differ by <1>"), Check("D1", "averaged", "not run", "no reason")],
    }
    rows["honest"].append(Check("A1", "inside", "guaranteed", ""))
    page = check_table(rows, "Checks")._repr_html_()
    assert "B2 calm" in page
    assert "<strong>FIRES</strong><br><small>differ by &lt;1&gt;</small>" in page
    assert page.count("pass") == 1
    assert "D1" not in page
    before, _, folded = page.partition("<details>")
    assert "Checks; of 2 that ran 1 fired: B2" in before
    assert "A1 inside" not in before
    assert "guaranteed" in folded
    assert "fired" not in check_table({"honest": rows["honest"]}, "Checks")._repr_html_()


def test_evaluations_are_kept_where_a_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADVDEF_RESUME", raising=False)
    assert resume_folder() is None
    monkeypatch.setenv("ADVDEF_RESUME", "")
    assert resume_folder() is None
    monkeypatch.setenv("ADVDEF_RESUME", "kept")
    assert resume_folder() == Path("kept")


PROFILES = {"smoke": {"datasets": ("digits",), "images": 4}, "laptop": {"datasets": ("mnist",), "images": 400}}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a page records, by name."""
    monkeypatch.setenv("ADVDEF_RESULTS", str(tmp_path))
    seen: dict[str, Any] = {}
    monkeypatch.setattr(notebook, "record", lambda name, value, **options: seen.update({name: (value, options)}))
    return seen


def test_a_page_holds_its_settings_data_and_runs(recorded: dict[str, Any]) -> None:
    page = Page("neuron_sensitivity", PROFILES, "smoke", seed=3, device="cpu", train=100)
    assert page.settings == PROFILES["smoke"]
    assert len(page.data["digits"].train) == 100
    assert page.run is page.runs["digits"]
    assert page.run.data is page.data["digits"]
    assert page.run_line == "profile smoke, digits, seed 3, device cpu"
    assert recorded["run_line"][0] == page.run_line
    assert page.draws(2).initial_seed() == 3_002
    assert "400" in page.profiles()._repr_html_()
    told = Page("nip", {"smoke": PROFILES["smoke"] | {"curve": {1: (0.1, 8 / 255)}}}, "smoke").profiles()
    assert "1: (0.1, 8/255)" in told._repr_html_()
    for wrong, said in [
        (lambda: Page("nip", PROFILES, "huge"), "unknown profile 'huge'"),
        (lambda: Page("nip", PROFILES, "smoke", dataset="imagenet"), "no data set 'imagenet'"),
        (lambda: Page("nip", PROFILES, "smoke", device="tpu"), "no device 'tpu'"),
    ]:
        with pytest.raises(ValueError, match=said):
            wrong()


@pytest.mark.parametrize("paper", STUDIES)
def test_every_setting_of_a_study_has_a_meaning(paper: str) -> None:
    study: Any = study_of(paper)
    assert set(study.meanings) == {name for settings in study.profiles.values() for name in settings}


def test_settings_stand_beside_what_they_mean(recorded: dict[str, Any]) -> None:
    told = Page("trn", {"smoke": PROFILES["smoke"] | {"own": 3}}, "smoke").profiles()._repr_html_()
    assert re.search(r"<th>images</th>\s*<td>test images under attacks on the bare classifier</td>\s*<td>4</td>", told)
    assert re.search(r"<th>own</th>\s*<td></td>\s*<td>3</td>", told)
    assert "<th>meaning</th>" not in Page("my_defence", PROFILES, "smoke").profiles()._repr_html_()


@pytest.mark.parametrize(("channels", "shown"), [(1, ["0.0314", "0.2", "0.0333"]), (3, ["8/255", "0.2", "0.0333333"])])
def test_a_page_writes_budgets_in_steps_of_bytes_for_colour_images_alone(
    channels: int, shown: list[str], tmp_path: Path, recorded: dict[str, Any]
) -> None:
    pictures, labels = np.zeros((8, 8, 8, channels), np.uint8), np.arange(8, dtype=np.uint8) % 2
    file = tmp_path / "own.npz"
    np.savez(file, train_images=pictures, train_labels=labels, test_images=pictures, test_labels=labels)
    page = Page("my_defence", PROFILES, "smoke", dataset=f"npz:{file}")
    assert [page.budget(eps) for eps in (8 / 255, 0.2, 0.1 / 3)] == shown
    page.runs["digits"] = Run("my_defence", "smoke", load("digits"), seed=0)
    assert page.budget(8 / 255, "digits") == "0.0314"
    assert page.budget(8 / 255, next(iter(page.data))) == shown[0]
    with pytest.raises(ValueError, match="too many values"):
        page.budget(0.1)


def test_a_page_decides_its_claims_and_names_those_about_other_data(recorded: dict[str, Any]) -> None:
    page = Page("qusecnets", PROFILES, "smoke")
    no = Condition.above("it", Interval(-0.2, -0.3, -0.1))
    unsure = replace(no, interval=Interval(0.0, -0.3, 0.3))
    found = {"QSN-2": [no], "QSN-3": [unsure, unsure], "QSN-4": [no]}
    shown = page.verdicts({"digits": found}, volatile=["QSN-4"])
    assert [verdict.word for verdict in page.run.verdicts] == ["not testable here", "undecided", "contradicted"]
    assert recorded["digits/verdict/QSN-3"] == ("undecided", {"kind": "text"})
    assert recorded["digits/verdict/QSN-4"] == ("contradicted", {"kind": "info"})
    text = shown._repr_html_()
    assert "about other data: QSN-2" in text
    assert "<details><summary>2 conditions (QSN-3, digits)</summary>" in text
    assert "QSN-2</strong>" not in text
    assert "toy scale" in text
    assert "<td>QSN-5</td>" in page.rules()._repr_html_()
    with pytest.raises(ValueError, match="no claim Q1; those of qusecnets are QSN-1"):
        page.verdicts({"digits": {"Q1": [no]}})


def test_a_page_records_how_large_its_networks_are(recorded: dict[str, Any]) -> None:
    page = Page("qusecnets", PROFILES, "smoke", train=100)
    page.add_network("m", torch.nn.Linear(3, 3))
    assert page.run.networks == [{"name": "m", "parameters": 12, "images": 100, "of": 1297}]


def test_a_page_shows_and_records_its_checks(recorded: dict[str, Any]) -> None:
    page = Page("neuron_sensitivity", PROFILES, "smoke")
    found = {("digits", "AT"): [Check("B2", "calm", "pass", ""), Check("B4", "a gradient", "fire", "none")]}
    assert "B4 a gradient" in page.checks(found, "Checks", exact=("AT",))._repr_html_()
    assert recorded["digits/checks/AT"] == ("B4", {"kind": "text"})
    assert [check["status"] for check in page.run.checks] == ["pass", "fire"]


def test_a_finished_page_has_written_its_records(recorded: dict[str, Any]) -> None:
    page = Page("my_defence", PROFILES, "smoke")
    page.run.add_clean(torch.tensor([True, False]), defence="mine", model="m")
    page.headline(page.results().pivot(["defence"], "threat"), "Accuracy")
    assert "Provenance" in page.finish()._repr_html_()
    found = read_record(results_folder() / "my_defence" / "digits-smoke-seed0.json")
    assert found["results"].rows == page.results().rows
    assert "headline_table" in recorded
