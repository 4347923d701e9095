"""Other networks from which ``robustness`` and ``advdef judge`` transfer attacks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from cases import each
from networks import small_network
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from advdef import read_report, robustness, wrap
from advdef.cli import app
from advdef.data import Dataset
from advdef.defenses import BitDepth
from advdef.report.attacking import JudgingEffort
from advdef.report.bring import Brought
from advdef.report.report import ReportError
from advdef.report.tasks import JudgedDefences, judging_cell
from advdef.training import train_standard

EPS, SMALL = 0.2, 0.02  # a budget that breaks much, and one that leaves images for every attack
LIMIT = "what attacks transferred from other networks would break: no transfer source was given"
quick = partial(robustness, eps=EPS, images=20, steps=2, queries=0, rounds=0)
MODULE = """
import safetensors.torch
from networks import small_network

def loaded(file):
    network = small_network().eval()
    network.load_state_dict(safetensors.torch.load_file(file))
    return network

def build():
    return loaded("one.safetensors")

def other():
    return loaded("other.safetensors")

def learning():
    return other().append(__import__("torch").nn.Dropout()).train()
"""


class Stepped(nn.Module):
    """A network behind a hard step, which no gradient passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network((15 * images).round() / 15)


@pytest.fixture(scope="module")
def _other(digits: Dataset) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = small_network()
    train_standard(network, digits.train, epochs=4, learning_rate=3e-3, generator=torch.Generator().manual_seed(1))
    return network.eval()


@pytest.fixture
def other(_other: nn.Sequential) -> nn.Sequential:
    """Another network for digits."""
    return copy.deepcopy(_other)


@pytest.fixture
def here(network: nn.Sequential, other: nn.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that builds both networks, which is the working folder."""
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two_networks.py").write_text(MODULE)
    for name, built in (("one", network), ("other", other)):
        safetensors.torch.save_file({n: v.contiguous() for n, v in built.state_dict().items()}, f"{name}.safetensors")
    return tmp_path


def transferred(folder: Path) -> set[str]:
    """The files of transferred attacks that were kept in a folder."""
    return {path.name for path in folder.glob("*-from-source-*")}


def test_what_fools_another_network_breaks_one_without_a_gradient(
    network: nn.Sequential, other: nn.Sequential, digits: Dataset, tmp_path: Path
) -> None:
    stepped = Stepped(copy.deepcopy(network)).eval()
    alone, both = quick(stepped, digits), quick(stepped, digits, transfer=(network, wrap(other)))
    assert int(both.hits().sum()) < int(alone.hits().sum())
    assert torch.equal(both.hits("direct"), alone.hits("direct"))
    attacks = {row["attack"] for row in both.results if row["threat"] == "adaptive"}
    assert {f"PGD-2 CE from source {number}" for number in (1, 2)} <= attacks
    assert (alone.facts["transfer"], LIMIT in alone.facts["limits"]) == ([], True)
    assert LIMIT not in both.facts["limits"]
    first, second = both.facts["transfer"]
    assert first["name"] == second["name"] == "Sequential"
    assert first["parameters"] == sum(p.numel() for p in network.parameters())
    said = f"source 1 is Sequential, {first['right']} of 20 images right; source 2 is Sequential, {second['right']} of"
    assert said in str(both)
    assert "transferred from other networks: " not in str(alone)
    assert read_report(both.save(tmp_path / "both.json")).facts["transfer"] == [first, second]


def test_the_file_of_a_report_is_checked_and_older_ones_are_read(
    network: nn.Sequential, other: nn.Sequential, digits: Dataset, tmp_path: Path
) -> None:
    report = quick(network, digits, images=4, transfer=[other])
    content = json.loads((file := report.save(tmp_path / "report.json")).read_text())
    file.write_text(json.dumps(content | {"transfer": [{"name": "it"}]}))
    with pytest.raises(ReportError, match="transfer/0: 'parameters' is a required"):
        read_report(file)
    del content["transfer"]
    file.write_text(json.dumps(content))
    assert "Robust accuracy" in str(read_report(file))


def test_a_changed_source_is_never_served_from_the_store(
    network: nn.Sequential, other: nn.Sequential, digits: Dataset, tmp_path: Path
) -> None:
    judged = partial(quick, network, digits, eps=SMALL, images=8, resume=tmp_path)
    judged(transfer=[other])
    first, every = transferred(tmp_path), set(tmp_path.iterdir())
    assert first
    judged(transfer=[copy.deepcopy(other)])
    assert set(tmp_path.iterdir()) == every
    with torch.no_grad():
        other[0].weight[0, 0, 0, 0] += 0.01  # type: ignore[union-attr]
    judged(transfer=[other])
    assert len(transferred(tmp_path)) == 2 * len(first)


def test_a_source_that_guesses_is_told(network: nn.Sequential, digits: Dataset) -> None:
    torch.manual_seed(0)
    said = quick(network, digits, transfer=[nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval()]).facts["notes"]
    assert sum("right by transfer source 1, hardly more than by guessing" in note for note in said) == 1
    assert not any("images are right, hardly" in note for note in said)


def linear(classes: int, *more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes), *more)


@each(
    ("transfer", "message"),
    [
        (lambda own: own, "transfer must be a list of networks, not Sequential"),
        (lambda own: "my_module:build", "transfer must be a list of networks, not str"),
        (lambda own: [nn.Flatten], r"transfer source 1: a model must be a torch\.nn\.Module, not a class"),
        (lambda own: [linear(10), linear(10, nn.Dropout())], r"transfer source 2: .+ training mode, .+ model\.eval"),
        (lambda own: [linear(7)], "transfer source 1 has 7 classes, and the model 10"),
        (lambda own: [linear(10, nn.Softmax(1))], "transfer source 1: the model seems to return probabilities"),
        (lambda own: [nn.Sequential(nn.Flatten(), nn.Linear(64, 10))], "source 1: .+ does not take images of 1 x 28"),
        (lambda own: [BitDepth(own)], "transfer source 1 is a defence: give the network alone"),
        (lambda own: [copy.deepcopy(own)], "transfer source 1 is the model itself: only another network adds"),
        (lambda own: [wrap(own)], "transfer source 1 is the model itself"),
        (lambda own: [one := linear(10), one], "transfer source 2 is source 1 again: only another network adds"),
        (lambda own: [linear(10).to("meta")], "transfer source 1: it is on meta, and the model on cpu"),
    ],
)  # fmt: skip
def test_a_source_that_would_say_nothing_is_refused_in_one_line(
    transfer: Callable[[nn.Module], Any], message: str, network: nn.Sequential, digits: Dataset
) -> None:
    for model in (network, BitDepth(network)):
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            quick(model, digits, images=1, steps=1, transfer=transfer(network))
        assert "\n" not in str(caught.value)


def test_processes_attack_from_the_same_sources(here: Path, digits: Dataset) -> None:
    brought = Brought("digits", "two_networks:build", transfer=("two_networks:other",))
    effort = JudgingEffort(steps=2, queries=0, rounds=0)
    cell = judging_cell(brought, digits, ("undefended",), SMALL, "Linf", 8, effort, "content")
    study = JudgedDefences(digits, cell.settings, resume=here / "kept")
    study.part("undefended", 0)
    assert list(study.relatives_of("undefended")) == ["source 1"]
    kept = transferred(here / "kept")
    assert kept
    robustness(
        brought.network(), digits, eps=SMALL, images=8, resume=here / "kept", transfer=brought.sources(), **vars(effort)
    )  # fmt: skip
    assert transferred(here / "kept") == kept
    less = judging_cell(replace(brought, transfer=()), digits, ("undefended",), SMALL, "Linf", 8, effort, "content")
    assert less.key().digest != cell.key().digest


def test_a_plain_source_is_normalised_as_the_network_is(here: Path) -> None:
    brought = Brought("digits", "two_networks:build", mean="0.1", std="0.3", transfer=("two_networks:other",))
    (source,) = brought.sources()
    assert torch.equal(source.mean, torch.tensor([0.1]))
    assert torch.equal(source.std, torch.tensor([0.3]))
    assert asdict(brought)["transfer"] == ("two_networks:other",)


def advdef_judge(*arguments: str) -> Result:
    few = ("--eps", "0.1", "--images", "4", "--steps", "1", "--queries", "0", "--rounds", "0", "--out", "out")
    return CliRunner().invoke(app, ("judge", "two_networks:build", "--data", "digits", *few, *arguments))


def test_the_command_transfers_and_says_when_it_does_not(here: Path) -> None:
    (here / "third_network.py").write_text("from networks import small_network\nbuild = lambda: small_network().eval()")
    without, given = (), ("--transfer", "two_networks:other", "--transfer", "third_network:build")
    for options, count in ((without, 0), (given[:2], 1), (given, 2)):
        done = advdef_judge(*options)
        assert done.exit_code == 0, done.output
        report = json.loads((here / "out" / "digits-undefended.json").read_text())
        assert len(report["transfer"]) == count
        assert done.stdout.count(f"Not said: {LIMIT}.") == (count == 0)
        assert done.stdout.count("transferred from a second network would break: one was given") == (count == 1)


def test_what_a_source_is_belongs_to_what_processes_are_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("advdef.book.gridcommand.spread_out", lambda cells, **_: asked.append(cells[0].key().digest))
    judged = partial(advdef_judge, "--jobs", "1", "--transfer", "two_networks:other")
    for weights in ("other", "other", "changed"):
        if weights == "changed":
            safetensors.torch.save_file(small_network().state_dict(), "other.safetensors")
        assert (done := judged()).exit_code == 0, done.output
    assert asked[0] == asked[1] != asked[2]


@each(
    ("source", "message"),
    [
        ("two_networks", "'two_networks' names no function; write module:function"),
        ("two_networks:none", "two_networks has no function 'none'"),
        ("two_networks:learning", "two_networks:learning: the model is in training mode"),
        ("two_networks:build", "transfer source 1 is the model itself"),
    ],
)
def test_a_bad_source_of_the_command_is_one_line(here: Path, source: str, message: str) -> None:
    done = advdef_judge("--transfer", source)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith(f"advdef: {message}")
    assert done.stderr.count("\n") == 1
