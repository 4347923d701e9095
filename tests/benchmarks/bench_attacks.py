"""PGD-20 against foolbox's, and the working set against attacking every image to the end; both at equal results.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks

The Cleverhans CNN, trained a little on the digits; 200 images. Runs alternate and their medians are compared, so that
another process on the machine does not decide.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from advdef.attacks import Suite, bim, fgsm, mim, pgd
from advdef.data import load
from advdef.defenses import Undefended
from advdef.evaluation import Outcome, correct, direct, evaluate, oblivious
from advdef.models import CleverhansCNN
from advdef.training import train_standard

IMAGES, STEPS, STEP_SIZE = 200, 20, 0.125
EPS, LARGER_EPS = 0.08, 0.12  # about one half and one sixth of the images survive


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def setting() -> tuple[nn.Module, Tensor, Tensor]:
    digits = load("digits")
    torch.manual_seed(0)
    model = CleverhansCNN(digits.shape, digits.num_classes)
    train_standard(model, digits.train, epochs=3, generator=torch.Generator().manual_seed(0))
    return model, digits.test.float_images()[:IMAGES], digits.test.labels[:IMAGES]


def seconds(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each, running in turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pgd_is_at_least_as_fast_as_foolbox(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = setting
    peer_model = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.LinfPGD(rel_stepsize=STEP_SIZE, steps=STEPS, random_start=True)

    def ours() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        found = pgd(model, images, labels, eps=EPS, steps=STEPS, step_size=STEP_SIZE, generator=generator)
        return correct(model, found, labels)

    def theirs() -> Tensor:
        torch.manual_seed(0)
        success: Tensor = peer(peer_model, images, labels, epsilons=EPS)[2]
        return ~success

    left, their_left = int(ours().sum()), int(theirs().sum())
    clean = int(correct(model, images, labels).sum())
    assert 0.1 * clean < left < 0.9 * clean  # neither everything nor nothing: a difference would show
    assert abs(left - their_left) <= 1

    took = seconds({"advdef": ours, "foolbox": theirs}, rounds=5)
    ratio = took["foolbox"] / took["advdef"]
    print(f"\nPGD-{STEPS}, {IMAGES} images: advdef {took['advdef']:.2f} s, foolbox {took['foolbox']:.2f} s")
    print(f"advdef is {ratio:.2f} times as fast; {left} and {their_left} of {clean} images left")
    assert ratio >= 1


def test_the_working_set_is_twice_as_fast(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = setting
    defence = Undefended(model)
    # without random numbers both do the same to an image, so that the results can be compared image by image
    suite: Suite = {
        "FGSM": partial(fgsm),
        "BIM": partial(bim),
        "MIM": partial(mim),
        "PGD": partial(pgd, steps=STEPS, random_start=False),
        "PGD margin": partial(pgd, steps=STEPS, random_start=False, loss="margin"),
    }

    def working_set() -> Outcome:
        generator = torch.Generator().manual_seed(0)
        return evaluate(defence, direct(defence, suite), images, labels, eps=LARGER_EPS, generator=generator)

    def everything() -> Outcome:
        generator = torch.Generator().manual_seed(0)
        attempts = oblivious(defence, suite)  # the same attacks on the same model, without stopping early
        return evaluate(defence, attempts, images, labels, eps=LARGER_EPS, generator=generator, exhaustive=True)

    quick, full = working_set(), everything()
    assert torch.equal(quick.robust, full.robust)
    assert 0 < int(full.robust.sum()) < int(full.clean.sum())
    took = seconds({"working set": working_set, "everything": everything}, rounds=3)
    ratio = took["everything"] / took["working set"]
    passes = sum(f.forwards for f in full.findings) / sum(f.forwards for f in quick.findings)
    print(f"\n{len(suite)} attacks, {IMAGES} images: working set {took['working set']:.2f} s, everything "
          f"{took['everything']:.2f} s")  # fmt: skip
    print(f"the working set is {ratio:.1f} times as fast, with {passes:.1f} times fewer forward passes; "
          f"{int(full.robust.sum())} of {int(full.clean.sum())} images left")  # fmt: skip
    assert ratio >= 2
