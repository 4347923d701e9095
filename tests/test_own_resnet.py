"""The steps of *Judge your own*: torchvision's ResNet-18 on a folder of PNGs, an object with logits, noise."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import safetensors.torch
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
    safetensors.torch.save_file(made_by("signs:network").state_dict(), "signs.safetensors")
    pictures = torch.randint(0, 256, (14, 24, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        classes = made_by("signs:build")(pictures.permute(0, 3, 1, 2) / 255).argmax(1)
    classes[-7:] = torch.arange(7)
    for number, (picture, label) in enumerate(zip(pictures, classes.tolist(), strict=True)):
        (folder := tmp_path / "signs" / "test" / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(folder / f"{number:03}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "options", "title"),
    [
        pytest.param(("signs:packed",), ("--images", "2"), "undefended on", id="an object with logits"),
        pytest.param(
            ("signs:build", "--weights", "signs.safetensors"), ("--images", "7", "--defence", "signs:noisy"),
            "NoiseVote on", id="noise", marks=pytest.mark.thorough,
        ),
    ],
)  # fmt: skip
def test_each_gets_its_report(place: Path, model: tuple[str, ...], options: tuple[str, ...], title: str) -> None:
    few = ("--eps", "2/255", "--quick", "--steps", "1", "--queries", "0", "--rounds", "0")
    done = CliRunner().invoke(app, ("judge", *model, "--data", "folder:signs", *few, *options))
    assert done.exit_code == 0, done.output
    assert f"{title} folder-signs, Linf 2/255\n  Robust accuracy" in done.stdout
