"""Tables of results as the site shows them."""

from __future__ import annotations

import csv
import io
import json
import re

import pandas as pd
import pytest

from advdef.book.page import table
from advdef.book.tables import presented


def shown(
    frame: pd.DataFrame, caption: str = "Accuracy", *, index: bool = False, stem: str = "04_trn"
) -> tuple[str, dict[str, str]]:
    page = f"<p>before</p>{table(frame, caption, index=index).data}<p>after</p>"
    return presented(page, prefix=f"{stem[:2]}-", folder="../_static/tables/", stem=stem)


def heads(page: str) -> list[tuple[str, str]]:
    """The name and the classes of each column of the first table."""
    found = re.findall(r'<th role="columnheader"(?: class="([^"]*)")?>(.*?)</th>', page.partition("</thead>")[0])
    return [(name, kinds) for kinds, name in found]


WORST = pd.DataFrame(
    {
        "defence": ["none", "TRN"], "eps": ["0.1", "0.2"], "clean %": [90.0, 88.5], "oblivious %": ["0.0", "80.0"],
        "adaptive %": ["0.0 [0.0, 3.7]", "2.0 [0.6, 7.0]"],
    }
)  # fmt: skip


def test_a_table_has_a_number_an_anchor_and_its_data_and_the_rest_of_the_page_stays() -> None:
    page, files = shown(WORST)
    assert page.startswith('<p>before</p><div class="numbered" id="table-1">')
    assert page.endswith("</div><p>after</p>")
    assert '<span class="table-number">Table 04-1</span> Accuracy</caption>' in page
    assert 'href="../_static/tables/04_trn-table-1.csv"' in page
    assert 'href="../_static/tables/04_trn-table-1.json"' in page
    lines = list(csv.reader(io.StringIO(files["04_trn-table-1.csv"])))
    assert lines[0] == list(WORST.columns)
    assert lines[2] == ["TRN", "0.2", "88.5", "80.0", "2.0 [0.6, 7.0]"]
    told = json.loads(files["04_trn-table-1.json"])
    assert told["caption"] == "Accuracy"
    assert told["rows"][1] == dict(zip(lines[0], lines[2], strict=True))


def test_the_deciding_column_and_the_labels_of_a_row_are_marked() -> None:
    page, _ = shown(WORST)
    assert heads(page) == [
        ("defence", "key"), ("eps", "label number"), ("clean %", "number"), ("oblivious %", "number"),
        ("adaptive %", "deciding number"),
    ]  # fmt: skip
    assert 'TRN<small class="also">eps 0.2</small></th>' in page
    assert '2.0 <small class="ci">[0.6,\u00a07.0]</small>' in page


@pytest.mark.parametrize(
    ("columns", "deciding"),
    [
        (["clean %", "FGSM %"], "clean %"),  # where none is known, the first number decides
        (["clean %", "true %", "error, points"], "true %"),
        (["training s", "worst case %"], "worst case %"),
        (["oblivious %", "adaptive %", "adaptive − undefended"], "adaptive %"),
        (["proven robust %", "robust to the adaptive attacker %"], "robust to the adaptive attacker %"),
        (["direct − adaptive", "adaptive − undefended", "adaptive − AT"], "adaptive − AT"),
        (["replayed", "direct", "surrogates", "made for it", "Square", "noise", "of"], "made for it"),
        (["further parameters", "training s", "multiply-adds, of undefended"], "multiply-adds, of undefended"),
        (["training s", "adaptive attack s", "forward passes"], "training s"),
        (["left by direct", "then broken by", "left"], "left"),
        (["parameters", "clean accuracy %", "trained in s"], "clean accuracy %"),
        (["images", "middle", "front, activation of matched", "front", "front, size"], "front"),
        (["passes", "best of ours", "ours leave, %", "others leave, %"], "ours leave, %"),
        (["images", "broken at 0.99 times the optimum, %", "broken at 1.05 times the optimum, %"],
         "broken at 1.05 times the optimum, %"),
        (["wanted", "measured", "goal"], "measured"),
        (["area under the curve", "flagged %", "if flagged images are refused: wrong and not refused %"],
         "if flagged images are refused: wrong and not refused %"),
        (["without most sensitive %", "without random %", "sensitive cost more than random by"],
         "sensitive cost more than random by"),
        (["forward passes", "one image, ms", "times the bare classifier"], "times the bare classifier"),
        (["clean %", "clean, − its own", "PGD %", "PGD, − its own"], "PGD, − its own"),
    ],
)  # fmt: skip
def test_what_decides(columns: list[str], deciding: str) -> None:
    frame = pd.DataFrame({"defence": ["a", "b"], **{name: ["1.0", "+2.0"] for name in columns}})
    assert [name for name, kinds in heads(shown(frame)[0]) if "deciding" in kinds] == [deciding]


@pytest.mark.parametrize(
    ("stem", "caption", "columns", "deciding"),
    [
        ("01_qusecnets", "Gain in points", ["undefended %", "CQ", "TQ", "CQ released"], "TQ"),
        ("01_qusecnets", "Sanity checks", ["mnist undefended", "mnist TQ", "mnist AT"], "MNIST TQ"),
        ("03_nip", "Success", ["none: DSR %", "fooled %", "V2 mean-logit: DSR %"], "V2 mean-logit: DSR %"),
        ("21_attack_agreement", "The profiles; this page: profile gpu, seed 0", ["smoke", "laptop", "gpu"], "gpu"),
        ("20_broken_on_purpose", "Sanity checks; B2 fired", ["honest", "random input"], "honest"),
    ],
)
def test_what_a_page_is_about_decides(stem: str, caption: str, columns: list[str], deciding: str) -> None:
    """The defence of its paper, or the profile of its run; names of things that are beside each other label no row."""
    frame = pd.DataFrame({name: ["pass" if name == "honest" else "1.0"] for name in columns}, index=["x"])
    page, _ = shown(frame, caption, index=True, stem=stem)
    assert [name for name, kinds in heads(page) if "deciding" in kinds] == [deciding]
    assert not [name for name, kinds in heads(page) if "label" in kinds]


def test_a_result_in_words_decides_and_labels_no_row() -> None:
    frame = pd.DataFrame({"defence": ["a"], "test": ["it holds still"], "result": ["fails"], "numbers": ["6 % / 6 %"]})
    names = dict(heads(shown(frame)[0]))
    assert ("label" in names["test"], "deciding" in names["result"]) == (True, True)


def test_in_a_wide_table_the_deciding_column_comes_first_but_not_in_its_data() -> None:
    frame = pd.DataFrame({"method": ["a"], **{f"{name} %": [1] for name in "ABCDEFG"}, "adaptive %": [2]})
    page, files = shown(frame)
    assert [name for name, _ in heads(page)][:3] == ["method", "adaptive %", "A %"]
    assert files["04_trn-table-1.csv"].splitlines()[0] == ",".join(frame.columns)


def test_each_data_set_has_a_part_under_one_number_and_what_never_changes_is_in_the_caption() -> None:
    frame = pd.DataFrame(
        {
            "data": ["cifar10", "cifar10", "mnist"], "network": ["VGG", "VGG", "LeNet"], "defence": ["x", "y", "x"],
            "clean %": [1, 2, 3],
        }
    )  # fmt: skip
    page, files = shown(frame, "Accuracy on cifar10 and mnist")
    captions = re.findall(r"<caption>(.*?)</caption>", page)
    assert [re.sub("<.*?>", "", caption) for caption in captions] == [
        "Table 04-1 CIFAR-10, VGG. Accuracy on CIFAR-10 and MNIST", "Table 04-1 MNIST, LeNet",
    ]  # fmt: skip
    assert [name for name, _ in heads(page)] == ["defence", "clean %"]
    assert len(files) == 2
    assert files["04_trn-table-1.csv"].splitlines()[3] == "mnist,LeNet,x,3"


def test_rows_beyond_twelve_can_be_folded_and_none_is_missing() -> None:
    long = pd.DataFrame({"attack": [f"A{i}" for i in range(16)], "broken %": range(16)})
    page, _ = shown(long)
    assert 'data-shown="12"' in page
    assert page.count('<tr role="row">') == 17
    assert "data-shown" not in shown(long[:15])[0]  # a button would save three rows


def test_no_header_is_empty_and_roles_are_complete() -> None:
    frame = pd.DataFrame({"honest": ["pass", "fire"], "noisy": ["pass", "pass"]}, index=["A1 inside", "B2 calm"])
    page, _ = shown(frame, "Sanity checks", index=True)
    assert [name for name, _ in heads(page)] == ["check", "honest", "noisy"]
    assert heads(shown(frame, "The profiles", index=True)[0])[0][0] == "setting"
    assert '<th scope="row" role="rowheader" class="key">A1 inside</th>' in page
    assert page.count('role="cell"') == 4


def test_text_stays_text() -> None:
    bad = pd.DataFrame({"<i>defence</i>": ["<script>x</script>", "&"], "n": [1, 2]})
    page, files = shown(bad, "<b>x</b>")
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "<script>x</script>" in files["04_trn-table-1.csv"]


def test_a_long_reason_is_folded_and_a_short_one_is_not() -> None:
    fires, long = "<strong>FIRES</strong><br><small>{}</small>", "left: " + 12 * "rate 88 %, "
    made = table(pd.DataFrame({"check": ["D4", "B6"], "TRN": ["LONG", "SHORT"]}), "Checks", index=False).data
    made = made.replace("LONG", fires.format(long)).replace("SHORT", fires.format("83 tensors"))
    page, files = presented(made, prefix="04-", folder="../_static/tables/", stem="04_trn")
    assert f'<strong>FIRES</strong><details class="why"><summary>why</summary><small>{long}</small></details>' in page
    assert fires.format("83 tensors") in page
    assert long.strip() in files["04_trn-table-1.csv"]


def test_a_long_tally_is_folded_under_its_sum() -> None:
    tally = "SA-PGD, adaptive: 1, PGD-50 CE, 5 starts through rate: 12, Square-500: 3, noise: 1"
    frame = pd.DataFrame({"defence": ["RAT", "none"], "broken by the rest": [tally, "noise: 1, FGSM: 2"]})
    page, files = shown(frame, "Worst cases")
    folded = f'<details class="why"><summary>17 in 4 kinds</summary><small>{tally}</small></details>'
    assert folded in page
    assert page.count("<details") == 1
    assert tally in files["04_trn-table-1.csv"]


def test_the_profiles_and_what_else_few_read_is_folded() -> None:
    frame = pd.DataFrame({"smoke": [1], "laptop": [2]}, index=["images"])
    for caption, folded in (("The profiles; this page: laptop", True), ("Profiles of two waves", False)):
        assert shown(frame, caption, index=True)[0].startswith("<p>before</p><details>") == folded
