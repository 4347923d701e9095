"""One call judges a classifier, and its report is a file, a table, a figure and sentences."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
import pytest
import torch
from cases import each
from torch import Tensor, nn

from advdef import compare, read_report, robustness, wrap
from advdef.data import Dataset, Split
from advdef.defenses import BitDepth, Defense, Undefended
from advdef.evaluation import correct
from advdef.evaluation.attacked import AttackedImages, AttackedImagesError, read_attacked, rejudge
from advdef.models import SmallResNet
from advdef.papers import PAPERS
from advdef.papers.nip.baselines import NoiseVote
from advdef.plotting import COLOURS
from advdef.report.defences import DEFENCE_NAMES, TRAINED, DefenceName, defended
from advdef.report.deployed import deployed
from advdef.report.report import Report, ReportError, plot_reports

EPS = 0.1
quick = partial(robustness, eps=EPS, images=10, steps=2, queries=0, rounds=0)


@pytest.fixture(scope="module")
def _reports(_trained_network: nn.Sequential, digits: Dataset) -> dict[str, Report]:
    network = _trained_network.eval()
    return {
        "undefended": quick(network, digits, rounds=1),
        "bitdepth": quick(network, digits, defence="bitdepth"),
        "noise": quick(network, digits, defence=partial(NoiseVote, step=0.1), name="noise"),
    }


@pytest.fixture
def reports(_reports: dict[str, Report]) -> dict[str, Report]:
    return _reports


def test_a_report_says_the_number_what_broke_what_which_checks_fired_and_what_it_does_not_say(
    reports: dict[str, Report],
) -> None:
    report = reports["bitdepth"]
    values = [report.interval(threat).value for threat in ("clean", "oblivious", "direct", "adaptive")]
    assert values[3] == min(values)
    assert float(report.hits().double().mean()) == values[3]
    said = str(report)
    assert said.startswith("bitdepth on digits, Linf 0.1\n")
    assert f"Robust accuracy {report.interval()} % under an attacker who knows the defence" in said
    assert "B5 gradient is not zero (missing in 100 % (ce)" in said
    assert "Not said: the true robustness, of which this is an upper bound" in said
    assert "B5" not in str(reports["undefended"])
    table = report.table()
    assert list(table["attacker"]) == ["clean", "oblivious", "direct", "adaptive"]
    assert "straight-through" in " ".join(table["broken by"]) or "none broke more" in " ".join(table["broken by"])
    assert "<li>Robust accuracy" in report._repr_html_()


def test_a_random_defence_is_judged_by_shares_and_its_seed_repeats_it(
    reports: dict[str, Report], network: nn.Sequential, digits: Dataset
) -> None:
    noise = reports["noise"]
    assert set(noise.facts["shares"]) == {"oblivious", "direct", "adaptive"}
    assert "try again and again" in str(noise)
    again = quick(network, digits, defence=partial(NoiseVote, step=0.1), name="noise", batch_size=5)
    assert torch.equal(again.hits(), noise.hits())
    assert again.attacked is not None
    assert noise.attacked is not None
    assert torch.allclose(again.attacked.attacked, noise.attacked.attacked, atol=1e-6)


def test_reports_are_compared_on_the_same_images_and_drawn(reports: dict[str, Report]) -> None:
    table = compare(list(reports.values()))
    assert list(table["defence"]) == list(reports)
    first, *gains = table["adaptive − undefended"]
    assert first == "–"
    assert all("[" in gain for gain in gains)
    for figure in (plot_reports(list(reports.values())), reports["noise"].plot()):
        assert figure.axes[0].get_xlabel() == "accuracy, Linf 0.1, %"
        plt.close(figure)
    other = replace(reports["bitdepth"], facts={**reports["bitdepth"].facts, "judged": "other"})
    with pytest.raises(ReportError, match=r"bitdepth on digits, Linf 0\.1 is on other images"):
        compare([reports["undefended"], other])
    with pytest.raises(ReportError, match="no report"):
        compare([])


def test_a_saved_report_is_read_again_with_its_images(reports: dict[str, Report], tmp_path: Path) -> None:
    for name, report in reports.items():
        again = read_report(report.save(tmp_path / f"{name}.json"))
        assert str(again) == str(report)
        assert again.attacked is not None
        assert report.attacked is not None
        assert torch.equal(again.attacked.attacked, report.attacked.attacked)
    with pytest.raises(ValueError, match=r"a report is a \.json file"):
        reports["bitdepth"].save(tmp_path / "b.txt")
    file = tmp_path / "bitdepth.json"
    content = json.loads(file.read_text())
    for change, message in (
        ({"threat": {"norm": "L7", "eps": 1}}, "threat/norm: 'L7' is not one of"),
        ({"data": content["data"] | {"images": 11}}, "the row of clean is of 10 images, not 11"),
        ({"results": content["results"][1:]}, "no row has threat 'clean'"),
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(ReportError, match=message) as caught:
            read_report(file)
        assert "\n" not in str(caught.value)
    file.write_text("{")
    with pytest.raises(ReportError, match="is no report"):
        read_report(file)


# The attacked images


@pytest.fixture
def kept(reports: dict[str, Report], tmp_path: Path) -> AttackedImages:
    reports["undefended"].save(tmp_path / "r.json")
    return read_attacked(tmp_path / "r.safetensors")


def test_attacked_images_are_judged_again_without_the_run(
    kept: AttackedImages, network: nn.Sequential, digits: Dataset, reports: dict[str, Report]
) -> None:
    found = rejudge(kept, defence=Undefended(network), data=digits)
    count = int((reports["undefended"].hits("clean") & ~reports["undefended"].hits()).sum())
    assert (found.images, found.within, found.original, found.broken) == (count, count, count, count)
    assert found.holds
    assert rejudge(kept).holds
    noise = reports["noise"].attacked
    assert noise is not None
    assert rejudge(noise, defence=NoiseVote(network, 0.1), data=digits).holds


def too_far(kept: AttackedImages) -> AttackedImages:
    return replace(kept, eps=kept.eps / 2)


def out_of_range(kept: AttackedImages) -> AttackedImages:
    return replace(kept, attacked=kept.attacked - 0.001)


def not_a_number(kept: AttackedImages) -> AttackedImages:
    return replace(kept, attacked=kept.attacked / 0)


def other_originals(kept: AttackedImages) -> AttackedImages:
    return replace(kept, indices=kept.indices + 1)


def beyond_the_data(kept: AttackedImages) -> AttackedImages:
    return replace(kept, indices=kept.indices + 10_000)


def other_labels(kept: AttackedImages) -> AttackedImages:
    return replace(kept, labels=(kept.labels + 1) % 10)


def unbroken(kept: AttackedImages) -> AttackedImages:
    return replace(kept, attacked=kept.originals)


@pytest.mark.parametrize(
    "forge", [too_far, out_of_range, not_a_number, other_originals, beyond_the_data, other_labels, unbroken]
)
def test_forged_images_do_not_hold(
    kept: AttackedImages, network: nn.Sequential, digits: Dataset, forge: Callable[[AttackedImages], AttackedImages]
) -> None:
    assert not rejudge(forge(kept), defence=Undefended(network), data=digits).holds


def test_a_file_of_images_is_small_exact_and_refused_when_damaged(kept: AttackedImages, tmp_path: Path) -> None:
    file = tmp_path / "images.safetensors"
    kept.save(file, limit=20_000)
    sample = read_attacked(file)
    assert file.stat().st_size < 22_000
    assert 0 < len(sample) < len(kept) == sample.of
    assert all(any(torch.equal(image, other) for other in kept.attacked) for image in sample.attacked)
    whole = (255 * kept.attacked).round() / 255
    replace(kept, attacked=whole).save(file)
    assert file.stat().st_size < len(kept) * 2 * 28 * 28 + 5_000  # bytes, as they lose nothing
    assert torch.equal(read_attacked(file).attacked, whole)
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    for wrong, message in ((bytes(content), "damaged"), (b"short", "no safetensors file"), (content[:-9], "cut off")):
        file.write_bytes(wrong)
        with pytest.raises(AttackedImagesError, match=message):
            read_attacked(file)


# What is refused, and what is said


class Sigmoid(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3)).sigmoid()


TWO = Split(torch.zeros(4, 1, 8, 8).byte(), torch.tensor([0, 1, 1, 0]))


@each(
    ("model", "data", "options", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(784, 10)), "digits", {}, r"call model\.eval"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1)).eval(), "digits", {}, "take a softmax off"),
        (wrap(Sigmoid().eval()), TWO, {}, "a sigmoid off"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 7)).eval(), "digits", {}, "has 7 classes, and digits has 10"),
        (SmallResNet((3, 32, 32), 10).eval(), "digits", {}, "does not take images of 1 x 28 x 28"),
        (nn.Flatten(), [1, 2], {}, r"Split\.from_loader"),
        (nn.Flatten(0).eval(), "digits", {}, r"logits \(16, classes\)"),
        (nn.Flatten(), "pets", {}, "no data set 'pets'"),
        (None, "digits", {"defence": "tqq"}, "no defence 'tqq'; there are undefended, jpeg,"),
        (None, "digits", {"defence": "sns", "norm": "L2"}, "sns and the attacks made for it are for Linf; in L2"),
        (None, "test", {"defence": "at"}, r"at needs training images .+, and own has 0 training images for 10 classes"),
        (None, "digits", {"defence": lambda model: model}, "must make a Defense"),
        (None, "digits", {"eps": 8}, "it is 8 / 255"),
        (None, "digits", {"images": 0}, "images must be"),
    ],
)  # fmt: skip
def test_what_would_give_a_wrong_number_is_refused_in_one_line(
    model: nn.Module | None, data: Any, options: dict[str, Any], message: str, network: nn.Sequential, digits: Dataset
) -> None:
    given = {"eps": EPS, "images": 4, "steps": 1, "queries": 0, **options}
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        robustness(network if model is None else model, digits.test if data == "test" else data, **given)
    assert "\n" not in str(caught.value)


def test_a_network_that_guesses_is_told(digits: Dataset) -> None:
    torch.manual_seed(0)
    guessing = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()
    assert "hardly more than by guessing" in str(quick(guessing, digits))


def test_l2_two_classes_and_images_of_ones_own(network: nn.Sequential, digits: Dataset) -> None:
    two = digits.test.labels < 2
    split = Split(digits.test.images[two], digits.test.labels[two])
    pair = wrap(network, output=lambda logits: logits[:, 1] - logits[:, 0])
    report = robustness(pair, split, eps=3.0, norm="L2", images=12, steps=3, queries=0, rounds=0)
    assert report.facts["data"]["classes"] == 2
    assert "none ran in L2" in str(report)
    assert report.interval().value < report.interval("clean").value
    assert str(report).startswith("undefended on own, L2 3\n")


def test_what_is_finished_is_kept(network: nn.Sequential, digits: Dataset, tmp_path: Path) -> None:
    first = quick(network, digits, resume=tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) > 3
    assert str(quick(network, digits, resume=tmp_path)) == str(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept


def test_a_defence_is_judged_as_it_is(network: nn.Sequential, digits: Dataset, reports: dict[str, Report]) -> None:
    report = quick(BitDepth(network), digits)
    assert report.facts["defence"] == "BitDepth"
    assert torch.equal(report.hits(), reports["bitdepth"].hits())
    with pytest.raises(ValueError, match="a defence already"):
        quick(BitDepth(network), digits, defence="tv")


OWN = """
from advdef.papers.nip.baselines import NoiseVote

def noisy(network):
    return NoiseVote(network, 0.1)

def bare(network):
    return network

def nothing():
    return None
"""


def test_a_defence_of_ones_own_is_given_as_a_function_or_by_its_name(
    network: nn.Sequential, digits: Dataset, reports: dict[str, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_defence", raising=False)
    (tmp_path / "own_defence.py").write_text(OWN)
    report = quick(network, digits, defence="own_defence:noisy")
    assert report.facts["defence"] == "NoiseVote"
    assert torch.equal(report.hits(), reports["noise"].hits())
    case = deployed(network, digits, eps=EPS, defence="own_defence:noisy", name="own_defence:noisy")  # as page 40
    assert (case.name, type(case.defence)) == ("own_defence:noisy", NoiseVote)
    for name, message in (
        ("own_defence:none", "own_defence has no function 'none'; it has noisy, bare, nothing"),
        ("own_defence:bare", "must make a Defense"),
        ("own_defence:nothing", "own_defence:nothing failed: TypeError"),
        ("nobody:noisy", "nobody cannot be imported"),
    ):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            quick(network, digits, defence=name)
        assert "\n" not in str(caught.value)


# Defences by name


@pytest.mark.parametrize("name", get_args(DefenceName))
def test_every_defence_by_name_stands_in_front_of_a_network_that_names_no_layers(
    name: str, network: nn.Sequential, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path))
    few, before = digits.subset(train=200), {n: v.clone() for n, v in network.state_dict().items()}
    defence = defended(name, wrap(network, mean=0.1), few, eps=EPS, epochs=2)
    assert isinstance(defence, Defense)
    assert not defence.training
    images, labels = digits.test.float_images()[:50], digits.test.labels[:50]
    assert float(correct(defence, images, labels).double().mean()) > 0.5
    assert bool(any(tmp_path.rglob("*.safetensors"))) == (name in TRAINED and name != "nip")
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())


class NoLinear(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10]


class Pooled(nn.Module):
    """As torchvision's ResNets: what the last linear layer reads is flattened by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.flatten(self.body(images), 1))


def test_layers_that_a_defence_needs_are_found_or_named(digits: Dataset) -> None:
    few = digits.subset(train=100)
    with pytest.raises(ValueError, match=r"trn looks at the features .+ no linear layer with 10 outputs"):
        defended("trn", wrap(NoLinear()), few, eps=EPS)
    torch.manual_seed(0)
    defence = defended("sns", wrap(Pooled().eval()), few, eps=EPS, epochs=1)
    assert (defence.features, defence.head) == ("model.body.2", "model.head")
    odd = Dataset.from_splits(*(Split(s.images[..., :26], s.labels) for s in (few.test, few.train)))
    with pytest.raises(ValueError, match="multiples of 4"):
        defended("purifier", wrap(Pooled().eval()), odd, eps=EPS)


def test_the_book_calls_a_defence_the_same_on_every_page() -> None:
    assert set(DEFENCE_NAMES) == set(get_args(DefenceName))
    of_papers = {form for paper in PAPERS for form in (paper.defence, *paper.forms)}
    assert {"undefended", "AT", *of_papers} <= set(DEFENCE_NAMES.values())
    assert of_papers <= set(COLOURS)
