"""The line-up of the page that compares all defences."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from advdef.data import load
from advdef.evaluation import Outcome
from advdef.papers import PAPERS
from advdef.papers.comparison import FiveDefences
from advdef.papers.line_up import LineUp
from advdef.papers.qusecnets.defence import Quantized
from advdef.training import Training


def untrained(study: LineUp, name: str) -> Training:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Training(study.network().eval(), {}, 0.0, from_cache=False)


def test_what_was_measured_comes_back_in_the_order_of_the_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SNS attacks the last layer but one, and a file of tensors keeps no order."""
    monkeypatch.setattr(LineUp, "training", untrained)
    data = load("digits")
    made, stored = (LineUp(data, FiveDefences.profiles["smoke"], resume=tmp_path) for _ in range(2))
    first, second = (dict(vars(study.defence("SNS"))["sensitivity"]) for study in (made, stored))
    assert stored.fitted("SNS").from_store
    assert list(first) == list(second) != sorted(first)
    assert all(torch.equal(first[layer], second[layer]) for layer in first)


def tried(robust: list[bool], clean: list[bool]) -> Outcome:
    found = {"robust": torch.tensor(robust), "clean": torch.tensor(clean)}
    return cast("Outcome", SimpleNamespace(**found))


def test_the_form_to_deploy_is_the_most_robust_one(monkeypatch: pytest.MonkeyPatch) -> None:
    study = FiveDefences(load("digits"), FiveDefences.profiles["smoke"])
    outcomes = {"first": tried([True, False], [True, False]), "second": tried([False, True], [True, True])}
    monkeypatch.setattr(study, "trial", outcomes.__getitem__)
    assert study.chosen(("first", "second")) == "second"  # as robust, and more often right
    outcomes["first"] = tried([True, True], [True, True])
    assert study.chosen(("first", "second")) == "first"
    outcomes["second"] = outcomes["first"]
    assert study.chosen(("second", "first")) == "second"


def test_forms_are_tried_on_training_images_that_no_classifier_saw() -> None:
    data = load("digits")
    for train in (800, None):
        settings = FiveDefences.profiles["smoke"] | {"train": (train, 500, 400)}
        study = LineUp(data, settings)
        seen, held = study.images_of_classifiers.train, study.held_out
        assert len(seen) + len(held) == len(data.train)
        assert len(held) >= len(data.train) // 10
        assert torch.equal(torch.cat([seen.images, held.images]), data.train.images)


def test_both_forms_of_the_quantiser_are_trained_alike() -> None:
    study = LineUp(load("digits"), FiveDefences.profiles["smoke"] | {"train": (60, 60, 60), "epochs": (2, 1, 1)})
    constant, learned = (study.defence(name) for name in ("CQ", "TQ"))
    assert isinstance(constant, Quantized)
    assert isinstance(learned, Quantized)
    assert constant.quantizer.thresholds.tolist() == [0.5]
    assert learned.quantizer.thresholds.tolist() != [0.5]
    assert constant.classifier is learned.classifier is study.classifier()


def test_every_form_of_a_paper_is_in_the_line_up() -> None:
    for paper in PAPERS:
        assert {paper.defence, *paper.forms} <= set(FiveDefences.names)
        assert not paper.forms or paper.defence in paper.forms
