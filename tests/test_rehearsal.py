"""Rehearsals of the pages whose profile "paper" needs real data and a GPU.

All their code runs, on two architectures and 32x32 colour images, so that a typo or a shape that does not fit shows
here and not after hours of training. Their numbers are small, most of their networks are narrow and shallow, and their
images are made up.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from variants import kernel_settings

from advdef.book.cells import study_of
from advdef.book.execution import execute
from advdef.book.notebookfile import read_pair
from advdef.data import Split, load
from advdef.data.sources import write_bundle
from advdef.papers import STUDIES

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHOICES = "P = notebook.choose(PROFILES, profile)", "page = notebook.Page("  # the first that a page has
Images = Callable[[Split], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How the profile "paper" of a notebook is made small: settings and other changes of its code, and its images."""

    notebook: str
    claims: tuple[str, ...]
    models: tuple[str, ...]
    attacked: tuple[str, ...]  # of the models, those that meet the long list of attacks
    settings: dict[str, Any]
    changes: dict[str, str]
    imports: str
    images: Images

    @property
    def paper(self) -> str:
        return self.notebook[3:]


def dark_or_bright(digits: Split) -> tuple[Tensor, Tensor]:
    """Threes and eights as classes 3 and 8 of CIFAR-10: dark and bright, which a few steps learn.

    Within a class brightness varies by so much that 8/255 carry about a third of the images across, of even the best
    classifier of brightness: each attack finds images to break, and leaves some to the next one.
    """
    draws = torch.Generator().manual_seed(0)
    kept = torch.isin(digits.labels, torch.tensor([3, 8]))
    strokes, labels = F.interpolate(digits.images[kept] / 255, 32, mode="bilinear"), digits.labels[kept]
    colours = torch.where(labels == 3, 0.46, 0.54)[:, None] + 0.03 * torch.randn(len(labels), 3, generator=draws)
    return (colours[:, :, None, None] + 0.2 * (strokes - 0.5)).clamp(0, 1), labels


def pale_digits(digits: Split) -> tuple[Tensor, Tensor]:
    """All ten digits as the classes of CIFAR-10, so pale that 4/255 carry some across: a bank needs every class."""
    strokes = F.interpolate(digits.images / 255, 32, mode="bilinear")
    return (0.1 + 0.6 * strokes).expand(-1, 3, -1, -1), digits.labels


NARROW_RESTORERS = """from advdef.papers.trn.models import SIZES

SIZES |= {
    "XS": {"width": 4, "streams": 1, "tail": 1},
    "S": {"width": 8, "streams": 1, "tail": 1},
}"""
PLANS = {
    "neuron_sensitivity": Plan(
        "02_neuron_sensitivity",
        claims=tuple(str(i) for i in range(1, 7)),
        models=("ResNet18", "VGG16"),
        attacked=("ResNet18", "VGG16"),
        settings={
            "train": 96, "epochs": 2, "train_steps": 1, "ramp": 1, "probe": 16, "probe_steps": 1, "seeds": 2,
            "pairs": 16, "measuring": 2, "substituted": 8, "draws": 1, "occluded": 8, "images": 12,
            "adaptive_images": 4, "steps": 2, "long": (2, 1), "queries": 5, "alone": 4, "curve": 1,
            "checks": "fast",
        },
        changes={},
        imports="""from functools import partial
from advdef.models.resnet import ResNet
from advdef.models.vgg import VGG
from advdef.papers.sensitivity import networks
from advdef.papers.sensitivity.methods import MODELS
from advdef.papers.sensitivity.study import Stabilization

assert MODELS.keys() > {"ResNet18", "VGG16"}
MODELS["ResNet18"] = partial(ResNet, blocks=(1, 1), width=4, stem_stride=2)
MODELS["VGG16"] = partial(VGG, stages=((4, 1), (8, 1), (8, 1)))
networks.trained = partial(networks.trained, batch_size=8)  # so few images make enough steps to learn something
Stabilization.second = ("SNS",)  # the same again for the others""",
        images=dark_or_bright,
    ),
    "nip": Plan(
        "03_nip",
        claims=tuple(f"{i}" for i in range(1, 11)),
        models=("VGG-19", "AlexNet"),
        attacked=("VGG-19", "AlexNet"),
        settings={
            "datasets": {"cifar10": ("VGG-19", "AlexNet")}, "epochs": {"cifar10": 5}, "at_epochs": 1, "seeds": 2,
            "images": 8, "minimal": (3, 2), "eleven": 4, "least": 2, "boundary": 2, "levels": 5, "per_class": 4,
            "kept": 2, "tried": 2, "steps": 2, "adaptive_images": 6, "adaptive_steps": 2, "queries": 3,
            "curve": 3, "tested": 2, "checks": "fast", "timed": (4, 1), "long": (1, 2), "cw": (1, 2),
        },
        changes={},
        imports="""from advdef.models import VGG
from advdef.papers.nip import profiles as sized

narrow = partial(VGG, stages=((4, 1), (8, 1), (8, 1)))
sized.NETWORKS |= {"VGG-19": partial(narrow, hidden=(16,)), "AlexNet": narrow}
# so few images make enough steps to learn every class
sized.TRAINING = dict(learning_rate=2e-3, schedule="one_cycle", batch_size=20)
sized.FLIPPED, sized.EPS = (), sized.EPS | {3: 2 / 255}
sized.STEPS = (0.001, 0.005, 0.02)  # the same again: more steps""",
        images=pale_digits,
    ),
    "trn": Plan(
        "04_trn",
        claims=tuple(str(i) for i in range(1, 12)),
        models=("ResNet-18", "small ResNet", "LeNet-5"),
        attacked=("ResNet-18",),
        settings={
            "datasets": {"cifar10": "ResNet-18"}, "epochs": 6, "size": "XS", "train": 20, "restorer_epochs": 1,
            "seeds": 2, "larger": "S", "images": 20, "steps": 2, "strong": (2, 1), "wide": 6, "ladder_images": 8,
            "ladder_steps": 2, "queries": 3, "curve": 2, "checks": "fast", "timed": (4, 1), "least": (1, 3),
        },
        changes={},
        imports=f"""from functools import partial
from advdef.models.resnet import ResNet
from advdef.papers.trn import networks
{NARROW_RESTORERS}
assert networks.NETWORKS.keys() > {{"ResNet-18", "small ResNet"}}
networks.NETWORKS["ResNet-18"] = partial(ResNet, blocks=(1, 1), width=8, stem_stride=2)
networks.NETWORKS["small ResNet"] = partial(ResNet, blocks=(1, 1), width=4, stem_stride=2)
networks.BUDGETS["cifar10"] = 1 / 255  # each attack on a rung leaves images to the next one
networks.CLASSIFIER_TRAINING |= {{"batch_size": 20, "shift": 0}}  # few images, but enough steps to learn each class""",
        images=pale_digits,
    ),
    "snn_purification": Plan(
        "05_snn_purification",
        claims=tuple(str(i) for i in range(1, 8)),
        models=("DS-ResNet-20",),
        attacked=("DS-ResNet-20",),
        settings={
            "width": 4, "T": 2, "held": 20, "train": 150, "epochs": 5, "batch": 10, "rate": 1e-2, "networks": 2,
            "inner": 1, "unet": 2, "extractor": 2, "pairs": 20, "purifier_epochs": 1, "purifier_batch": 10, "seeds": 2,
            "images": 12, "few": 8, "steps": 2, "strong": 2, "queries": 3, "curve": (0.5, 1.0), "counts": (1, 2),
            "checks": "fast", "timed": 4,
        },
        changes={},
        imports="""from functools import partial
from advdef.papers.snn.classifiers import SpikingResNet
from advdef.papers.snn.networks import ARCHITECTURES

ARCHITECTURES["DS-ResNet-20"] = partial(SpikingResNet, blocks=(1, 1), stem_stride=2)""",
        images=dark_or_bright,
    ),
    "five_defences": Plan(
        "30_five_defences",
        claims=(),
        models=("ResNet-18",),
        attacked=("ResNet-18",),
        settings={
            "train": (None, 20, 20), "epochs": (5, 1, 1), "inner": 1, "per_class": 4, "size": "XS",
            "purifier": (2, 2, 2),
            "derivatives": 2, "images": 8, "few": 6, "steps": 2, "queries": 3, "curve": (0.5, 1.0), "checks": "fast",
        },
        changes={},
        # so few images make enough steps to learn every class
        imports=f"""from functools import partial
from advdef.models.vgg import VGG
from advdef.papers import line_up
{NARROW_RESTORERS}
line_up.NETWORKS["ResNet-18"] = partial(VGG, stages=((4, 1), (8, 1), (8, 1)))
line_up.EPS[3] = 2 / 255
line_up.trained = partial(line_up.trained, batch_size=20)""",
        images=pale_digits,
    ),
}  # fmt: skip

Rehearsal = tuple[Plan, nbformat.NotebookNode, dict[str, Any]]


def write_images(folder: Path, images: Images) -> None:
    """A bundle that passes for CIFAR-10."""
    digits, arrays = load("digits"), dict[str, np.ndarray]()
    for part, split in (("train", digits.train), ("test", digits.test)):
        made, labels = (part[:600] for part in images(split))
        arrays[f"{part}_images"] = (255 * made).round().byte().permute(0, 2, 3, 1).numpy()
        arrays[f"{part}_labels"] = labels.numpy()
    write_bundle(folder / "cifar10.npz", arrays)


def rehearsed(plan: Plan) -> nbformat.NotebookNode:
    """The notebook with a small profile "paper"."""
    notebook = read_pair(NOTEBOOKS / f"{plan.notebook}.py")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    choice = next(line for line in CHOICES if any(line in cell.source for cell in code))
    small = f"""{plan.imports}

assert {set(plan.settings)!r} <= PROFILES["paper"].keys(), "the rehearsal sets what the profile does not have"
PROFILES["paper"] |= {plan.settings!r}
{choice}"""
    for old, new in (plan.changes | {choice: small}).items():
        found = sum(cell.source.count(old) for cell in code)
        assert found == 1, f"the notebook says {old!r} {found} times: adapt the rehearsal"
        for cell in code:
            cell.source = cell.source.replace(old, new)
    return notebook


def settings_of(page: str) -> dict[str, set[str]]:
    """The names in its profiles, which its study has, or the page itself, by profile."""
    if page[3:] in STUDIES:
        profiles = study_of(page[3:]).profiles
        return {profile: set(settings) for profile, settings in profiles.items()}
    cells = read_pair(NOTEBOOKS / f"{page}.py").cells
    trees = [ast.parse(cell.source) for cell in cells if "\nPROFILES = {" in f"\n{cell.source}"]
    (made,) = (
        line.value
        for tree in trees
        for line in tree.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "PROFILES"
    )
    assert isinstance(made, ast.Dict)
    names = [{setting.arg for setting in profile.keywords if setting.arg} for profile in made.values]  # type: ignore[attr-defined]
    return dict(zip(map(ast.literal_eval, filter(None, made.keys)), names, strict=True))


@pytest.mark.parametrize("page", sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.py")))
def test_all_profiles_of_a_page_have_the_same_settings(page: str) -> None:
    smoke, *others = settings_of(page).values()
    assert [names ^ smoke for names in others] == [set()] * 3


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
def test_each_rehearsal_still_fits_its_page(plan: Plan) -> None:
    rehearsed(plan)  # says what it does not find
    assert plan.settings.keys() <= settings_of(plan.notebook)["paper"]


@pytest.fixture(
    scope="module", params=[pytest.param(paper, marks=[pytest.mark.slow, pytest.mark.thorough]) for paper in PLANS]
)
def rehearsal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """The executed notebook, and its record."""
    plan: Plan = PLANS[request.param]
    folder, file = tmp_path_factory.mktemp("rehearsal"), NOTEBOOKS / f"{plan.notebook}.py"
    notebook = rehearsed(plan)
    write_images(folder, plan.images)
    places = {"ADVDEF_DATA": folder, "ADVDEF_CACHE": folder / "cache", "ADVDEF_RESULTS": folder / "results"}
    settings = {"ADVDEF_RESUME": "", **kernel_settings()}
    execution = execute(
        notebook,
        folder / file.with_suffix(".ipynb").name,
        paper=plan.paper,
        parameters={"profile": "paper", "device": "cpu"},
        environment=settings | {name: str(place) for name, place in places.items()},
        folder=folder,
    )
    assert execution.failure is None, f"cell {execution.failure.cell}: {execution.failure.error}"
    record = folder / "results" / plan.paper / "cifar10-paper-seed0.json"
    return plan, nbformat.read(execution.notebook, as_version=4), json.loads(record.read_text())


def test_the_paper_profile_leaves_a_complete_record(rehearsal: Rehearsal) -> None:
    plan, _, record = rehearsal
    assert (record["profile"], record["dataset"]) == ("paper", "cifar10")
    assert [verdict["claim"].split("-")[-1] for verdict in record["verdicts"]] == list(plan.claims)
    assert {row["model"] for row in record["results"]} == set(plan.models)


def test_every_attack_met_images_of_each_network(rehearsal: Rehearsal) -> None:
    """Else its code was not rehearsed: an attack that is left no image does nothing."""
    plan, _, record = rehearsal
    for model in plan.attacked:
        tried: dict[str, int] = {}
        for row in record["results"]:
            if row["model"] == model and "tried" in row:
                tried[row["attack"]] = tried.get(row["attack"], 0) + row["tried"]
        assert len(tried) > 10
        assert min(tried.values()) > 0, tried


def test_nothing_warns(rehearsal: Rehearsal) -> None:
    _, notebook, _ = rehearsal
    streams = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream"]
    assert [o.text for o in streams if o.name == "stdout" or "Warning" in o.text] == []
