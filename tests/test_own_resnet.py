"""The steps of *Judge your own*: torchvision's ResNet-18 on a folder of PNGs, an object with logits, noise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from advdef.cli import app
from advdef.data.torchvision_wheel import torchvision
from advdef.report.bring import made_by

MODULE = """
from types import SimpleNamespace

import torch
from advdef import wrap
from advdef.papers.nip.baselines import NoiseVote
from torch import nn
from torchvision.models import resnet18

CHANNELS = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

class Packed(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return SimpleNamespace(logits=self.network(images), hidden_states=None)

def network():
    torch.manual_seed(0)
    return resnet18(num_classes=7).eval()

def build():
    return wrap(network(), **CHANNELS)

def packed():
    return wrap(Packed(network()).eval(), **CHANNELS)

def noisy(model):
    return NoiseVote(model, 0.02)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module and pictures of seven classes, which are what the network takes most of them for."""
    torchvision()  # whose wheel does not load by itself beside a CPU build of torch
    monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "signs.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "signs", raising=False)
    pictures = torch.randint(0, 256, (14, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        classes = made_by("signs:build")(pictures.permute(0, 3, 1, 2) / 255).argmax(1)
    classes[-7:] = torch.arange(7)
    for number, (picture, label) in enumerate(zip(pictures, classes.tolist(), strict=True)):
        (folder := tmp_path / "signs" / "test" / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(folder / f"{number:03}.png")
    return tmp_path


@pytest.mark.thorough
def test_each_gets_its_report(place: Path) -> None:
    quick = ("--data", "folder:signs", "--eps", "2/255", "--quick", "--images", "7", "--steps", "1", "--queries", "0")
    reports = []
    for model, defence in (("signs:build", "signs:noisy"), ("signs:packed", "undefended")):
        asked = ("judge", model, *quick, "--rounds", "0", "--defence", defence, "--out", f"out-{model[6:]}")
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        reports.append(done.stdout)
    assert "NoiseVote" in reports[0]
    for report in reports:
        assert "Robust accuracy" in report
