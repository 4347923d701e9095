"""What all tests share: one thread, as tensors are small here, and a small network that has learned something.

``ADVDEF_TEST_THREADS`` is another number of threads; tests/variants.py sets it, and what else changes rounding.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pretend
import pytest
import torch
from networks import small_network
from torch import Tensor, nn
from variants import THREADS

from advdef.book.repository import Repository
from advdef.data import Dataset, load
from advdef.training import train_standard

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Each core has a worker of its own, and rounding, which training amplifies, depends on the number of threads: notebooks
# and other processes get as many, whoever starts the tests.
os.environ["OMP_NUM_THREADS"] = THREADS

ROOT = Path(__file__).resolve().parents[1]

with suppress(pretend.Missing):  # then tests that need the device say so
    pretend.install()

EXECUTING = (
    "tests/test_notebooks.py", "tests/test_pretended_pages.py", "tests/test_rehearsal.py", "tests/test_guide.py",
)  # fmt: skip
LONG = (
    *EXECUTING, "tests/test_browser.py", "tests/test_faults.py", "tests/test_devices.py", "tests/test_grid.py",
    "tests/test_run", "tests/test_attack_contract.py", "tests/test_report.py", "tests/test_own_commands.py",
)  # fmt: skip
"""What takes long, by the beginnings of names of files."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What a browser would otherwise look up by itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WITHOUT_ALL = "only with --all, as every week: nox -s tests -- --all"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes comes first, else one worker ends long after the other.

    A file is one worker's, with its fixtures, but each executed notebook may be another one's.
    """
    items.sort(key=lambda item: next((i for i, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG)))
    for item in items:
        if item.get_closest_marker("thorough") and not config.getoption("all"):
            item.add_marker(pytest.mark.skip(reason=WITHOUT_ALL))
        case = item.nodeid.partition("[")[2].rstrip("]") if item.nodeid.startswith(EXECUTING[:3]) else ""
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem}-{case}".rstrip("-")))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(int(THREADS))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits")


@pytest.fixture(scope="session")
def _trained_network(digits: Dataset) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_network()
    generator = torch.Generator().manual_seed(0)
    train_standard(network, digits.train, epochs=8, learning_rate=3e-3, generator=generator)
    return network


@pytest.fixture
def network(_trained_network: nn.Sequential) -> nn.Sequential:
    """The network trained on digits, in evaluation mode and without gradients."""
    _trained_network.zero_grad()
    return _trained_network.eval()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def batch(digits: Dataset) -> tuple[Tensor, Tensor]:
    """100 test images and their labels."""
    return digits.test.float_images()[:100], digits.test.labels[:100]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run what takes long and rarely fails as well")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``reseeded`` are the notebooks to execute with another seed."""
    if "reseeded" in metafunc.fixturenames:
        every = sorted(Repository(ROOT).notebooks)
        without = [pytest.param("", marks=pytest.mark.skip(reason=WITHOUT_ALL))]
        metafunc.parametrize("reseeded", every if metafunc.config.getoption("all") else without)
