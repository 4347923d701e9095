"""What ``advdef new`` makes of each kind, and the random defence of the guide: they run, and a seed repeats them."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import checkout
import pytest
import torch
from torch import nn

from advdef.book.notebookfile import parameter_defaults, read_pair
from advdef.book.repository import InputError, Repository
from advdef.book.scaffold import new_defence
from advdef.data import Dataset
from advdef.defenses import Defense
from advdef.evaluation import three_attackers
from advdef.training import trained

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "book" / "add_a_defence.md").read_text(encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = checkout.make(tmp_path, {"01_good": checkout.GOOD})
    (tmp_path / "advdef" / "defenses").mkdir(parents=True)
    (tmp_path / "advdef" / "__init__.py").write_text("")
    (tmp_path / "advdef" / "claims.yml").write_text("")
    for name in ("pyproject.toml", "notebooks/.ruff.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://example.org/them/advdef\n")
    return made


def written(repository: Repository, kind: str) -> dict[str, Any]:
    """The names in the module that the command makes."""
    files = new_defence(repository, "tried", kind=kind)
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff:
        own = [str(path) for path in files if path.suffix == ".py"]
        subprocess.run([ruff, "format", "--no-cache", "--check", "--diff", *own], check=True)
        subprocess.run([ruff, "check", "--no-cache", "--ignore", "I", own[0]], check=True)
    page = repository.notebooks["tried"]
    assert not re.search(r"(?i)new_?defence|THE_[A-Z]+", page.with_suffix(".py").read_text())
    asked = dict.fromkeys(("dataset", "device", "eps", "images", "seeds"))
    assert parameter_defaults(read_pair(page)) == {"profile": "smoke", "seed": 0, **asked}
    return runpy.run_path(str(repository.root / "advdef/defenses/tried.py"))


def left(defence: Defense, digits: Dataset, *, batch_size: int = 5) -> torch.Tensor:
    """What the adaptive attacker leaves, while torch's own generator stands anywhere."""
    torch.rand(batch_size)
    outcome = three_attackers(
        defence.eval(), digits.test.float_images()[:5], digits.test.labels[:5], eps=0.1, steps=1, queries=0,
        generator=torch.Generator().manual_seed(1), batch_size=batch_size, draws=4,
    )["adaptive"]  # fmt: skip
    return outcome.robust if outcome.shares is None else outcome.shares


def test_a_deterministic_and_a_random_one_run_and_repeat(
    repository: Repository, network: nn.Sequential, digits: Dataset
) -> None:
    for kind in ("random", "deterministic"):
        for path in [repository.root / "advdef/defenses/tried.py", *repository.root.glob("notebooks/02_tried.*")]:
            path.unlink(missing_ok=True)
        (repository.root / "advdef/claims.yml").write_text("")
        made = written(repository, kind)["Tried"](network)
        assert made.random == (kind == "random")
        assert torch.equal(left(made, digits), left(made, digits, batch_size=3))
    with pytest.raises(InputError, match="no kind 'secret' of defences; there are deterministic, random, trained"):
        new_defence(repository, "other", kind="secret")


def test_a_trained_one_learns_its_own_part_alone_and_repeats(
    repository: Repository, network: nn.Sequential, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, few = written(repository, "trained"), digits.subset(train=256)
    weights = []
    for number in range(2):
        monkeypatch.setenv("ADVDEF_CACHE", str(tmp_path / str(number)))
        torch.rand(number)
        build = partial(found["Tried"], network, channels=1)
        made: Any = trained(build, found["train_tried"], few, seed=0, epochs=1).model
        assert all(torch.equal(a, b) for a, b in zip(made.classifier.parameters(), network.parameters(), strict=True))
        weights.append(made.filter.weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], build().filter.weight)
    assert left(made, digits).dtype == torch.bool
    assert "train_tried, data,\n        seed=seed" in repository.notebooks["tried"].with_suffix(".py").read_text()


def test_the_random_defence_of_the_guide_repeats(network: nn.Sequential, digits: Dataset, tmp_path: Path) -> None:
    (block,) = re.findall(r":caption: advdef/defenses/shaken\.py\n\n(.*?)```", GUIDE, re.DOTALL)
    (file := tmp_path / "shaken.py").write_text(block)
    defence = runpy.run_path(str(file))["Shaken"](network)
    shares = left(defence, digits)
    assert torch.equal(shares, left(defence, digits, batch_size=3))
    assert 0 < float(shares.mean()) < 1
