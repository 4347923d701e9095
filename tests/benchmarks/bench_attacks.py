"""How fast the attacks are: against other libraries, against AutoAttack, and how cost grows. All at equal results.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks

The Cleverhans CNN, trained a little on the digits. Runs alternate and their medians are compared, so that another
process on the machine does not decide. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from stopwatch import DEVICE, seconds, tell
from torch import Tensor, nn

from advdef import peers
from advdef.attacks import Attack, Suite, apgd, bim, fgsm, mim, pgd
from advdef.attacks.suites import standard
from advdef.data import load
from advdef.defenses import Undefended
from advdef.evaluation import Attempt, Outcome, correct, direct, evaluate, oblivious
from advdef.models import CleverhansCNN
from advdef.training import train_standard

IMAGES, STEP, JUDGED = 128, 0.0625, 60
EPS, LARGER_EPS = 0.08, 0.12  # about one half and one tenth of the images survive


@pytest.fixture(scope="module")
def setting() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and 1,000 images: those of the test set first."""
    digits = load("digits", device=DEVICE)
    torch.manual_seed(0)
    model = CleverhansCNN(digits.shape, digits.num_classes).to(DEVICE)
    train_standard(model, digits.train, epochs=3, generator=torch.Generator().manual_seed(0))
    images = torch.cat([digits.test.float_images(), digits.train.float_images()])[:1_000]
    return model, images, torch.cat([digits.test.labels, digits.train.labels])[:1_000]


def _foolbox(name: str, **options: Any) -> Attack:
    peers.version("foolbox")
    import foolbox

    attack = getattr(foolbox.attacks, name)(**options)

    def run(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float) -> Tensor:
        bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        found: Tensor = attack(bounded, images, labels, epsilons=eps)[1]
        return found

    return partial(run)


def _torchattacks(name: str, **options: Any) -> Attack:
    peers.version("torchattacks")
    import torchattacks

    def run(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float) -> Tensor:
        scaled = {"alpha": options["alpha"] * eps} if "alpha" in options else {}
        found: Tensor = getattr(torchattacks, name)(model, eps=eps, **options | scaled)(images, labels)
        return found

    return partial(run)


def _pyautoattack(**options: Any) -> Attack:
    peers.version("pyautoattack")
    from pyautoattack.autopgd_base import APGDAttack

    def run(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float) -> Tensor:
        found: Tensor = APGDAttack(model, norm="Linf", eps=eps, seed=0, device=DEVICE, **options).perturb(
            images, labels
        )
        return found

    return partial(run)


OURS: dict[str, Attack] = {
    "PGD-40": partial(pgd, steps=40, step_size=STEP),
    "MIM-40": partial(mim, steps=40, step_size=STEP),
    "APGD-100": partial(apgd, steps=100),
}
# called as their users call them, without our checks
THEIRS: dict[str, dict[str, Callable[[], Attack]]] = {
    "PGD-40": {
        "foolbox": partial(_foolbox, "LinfPGD", steps=40, rel_stepsize=STEP),
        "torchattacks": partial(_torchattacks, "PGD", steps=40, alpha=STEP),
    },
    "MIM-40": {
        "foolbox": partial(_foolbox, "LinfMomentumIterativeFastGradientMethod", steps=40, rel_stepsize=STEP),
        "torchattacks": partial(_torchattacks, "MIFGSM", steps=40, alpha=STEP),
    },
    "APGD-100": {
        "pyautoattack": partial(_pyautoattack, n_iter=100),
        "torchattacks": partial(_torchattacks, "APGD", steps=100),
    },
}


@pytest.mark.parametrize("name", list(OURS))
def test_an_attack_is_at_least_as_fast_as_the_fastest_peer_that_is_right(
    setting: tuple[nn.Module, Tensor, Tensor], name: str
) -> None:
    """Robust accuracy of one attack on the attacked model itself, as an evaluation asks for it."""
    model, images, labels = (setting[0], setting[1][:IMAGES], setting[2][:IMAGES])

    def run(attack: Attack) -> int:
        torch.manual_seed(0)
        found = attack(model, images, labels, eps=EPS).detach()
        ball = (images - EPS).clamp(min=0), (images + EPS).clamp(max=1)
        return int(correct(model, found.clamp(*ball), labels).sum())

    contestants = {
        "advdef": partial(run, partial(OURS[name], stop_early=True)),
        "advdef to the end": partial(run, OURS[name]),
    }
    for library, make in THEIRS[name].items():
        try:
            contestants[library] = partial(run, make())
        except ImportError as missing:
            print(f"\n{name}: {library} does not take part: {missing}")
    left = {contestant: contest() for contestant, contest in contestants.items()}
    clean = int(correct(model, images, labels).sum())
    assert 0.1 * clean < left["advdef"] < 0.9 * clean  # neither everything nor nothing: a difference would show
    took = seconds(contestants, rounds=3)
    right = [peer for peer in THEIRS[name] if peer in left and left[peer] <= left["advdef"] + 0.01 * IMAGES]
    assert right, f"no peer is right: {left}"
    print(f"\n{name}, {IMAGES} images, {clean} correct, eps {EPS}, {DEVICE}")
    for contestant, duration in took.items():
        print(
            f"  {contestant:20} {duration:6.2f} s  {left[contestant]:4} left  {duration / took['advdef']:.2f} x advdef"
        )
    fastest, shown = min(took[peer] for peer in right), ", ".join(f"{who} {n} left" for who, n in left.items())
    row = name.partition("-")[0].lower()
    tell(f"{row} end", fastest / took["advdef to the end"], took, shown)
    tell(f"{row} used", fastest / took["advdef"], took, shown)
    assert max(left["advdef"], left["advdef to the end"]) <= min(left[peer] for peer in right) + 0.01 * IMAGES
    assert fastest >= took["advdef"]


@pytest.mark.parametrize(("row", "eps"), [("verdict tenth", LARGER_EPS), ("verdict half", EPS)])
def test_a_verdict_is_faster_than_that_of_autoattack_and_leaves_no_more_images(
    setting: tuple[nn.Module, Tensor, Tensor], row: str, eps: float
) -> None:
    """The standard suite, worst case of each image, against AutoAttack as its users call it."""
    peers.version("pyautoattack")
    from pyautoattack import AutoAttack

    model, images, labels = (setting[0], setting[1][:JUDGED], setting[2][:JUDGED])
    defence, ends = Undefended(model), dict[str, int]()

    def ours() -> None:
        draws = torch.Generator().manual_seed(0)
        found = evaluate(defence, direct(defence, standard()), images, labels, eps=eps, generator=draws)
        ends["suite"] = int(found.robust.sum())

    def theirs() -> None:
        attack = AutoAttack(model, norm="Linf", eps=eps, version="standard", seed=0, device=DEVICE)
        found = attack.run_standard_evaluation(images, labels, batch_size=250)[0]
        ends["AutoAttack"] = int(correct(model, found, labels).sum())

    took = seconds({"suite": ours, "AutoAttack": theirs}, 1)
    clean = int(correct(model, images, labels).sum())
    print(f"\n{JUDGED} images at eps {eps}, {clean} correct, {DEVICE}")
    for name, duration in took.items():
        print(f"  {name:12} {duration:7.1f} s  {ends[name]:4} left")
    told = f"of {clean} right images the suite leaves {ends['suite']}, AutoAttack {ends['AutoAttack']}"
    tell(row, took["AutoAttack"] / took["suite"], took, told)
    assert ends["suite"] <= ends["AutoAttack"]
    assert took["AutoAttack"] >= 3 * took["suite"]


def test_the_working_set_is_twice_as_fast(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = (setting[0], setting[1][:IMAGES], setting[2][:IMAGES])
    defence = Undefended(model)
    # without random numbers both do the same to an image, so that the results can be compared image by image
    suite: Suite = {
        "FGSM": partial(fgsm),
        "BIM": partial(bim),
        "MIM": partial(mim),
        "PGD": partial(pgd, random_start=False),
        "PGD margin": partial(pgd, random_start=False, loss="margin"),
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


def test_cost_grows_linearly_in_images_and_steps(setting: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = setting

    def run(count: int, steps: int) -> None:
        pgd(model, images[:count], labels[:count], eps=EPS, steps=steps, generator=torch.Generator().manual_seed(0))

    sizes = {"images": [(n, 20) for n in (125, 250, 500, 1_000)], "steps": [(250, s) for s in (10, 20, 40, 80)]}
    print()
    for what, points in sizes.items():
        took = seconds({str(point): partial(run, *point) for point in points}, rounds=3)
        unit = [took[str((n, s))] / (n * (s + 2)) for n, s in points]  # an attack looks at the image and at the end too
        shown = ", ".join(f"{n} x {s}: {1e6 * u:.0f}" for (n, s), u in zip(points, unit, strict=True))
        print(f"PGD, microseconds for an image and a step, growing {what}: {shown}")
        assert max(unit) < 1.5 * min(unit)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process forget its peak")
def test_peak_memory_is_set_by_the_batch_size() -> None:
    def peak(images: int, batch_size: int) -> float:
        command = [sys.executable, __file__, str(images), str(batch_size)]
        # without these glibc keeps what was freed, more or less by chance
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(finished.stdout) / 1024

    used = {point: peak(*point) for point in [(250, 125), (1_000, 125), (1_000, 500)]}
    print()
    for (count, batch_size), extra in used.items():
        print(f"PGD on {count} images in batches of {batch_size}: {extra:.0f} MiB more than before")
    images = 1_000 * 28 * 28 * 4 / 2**20
    assert used[1_000, 125] <= used[250, 125] * 1.25 + 2 * images  # the images and what was found
    assert used[1_000, 500] > 1.5 * used[1_000, 125]


def _peak(count: int, batch_size: int) -> None:
    """Print by how many KiB an evaluation of PGD on that many images raises the memory of a process at most."""

    def status(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]

    torch.set_num_threads(1)
    digits = load("digits")
    defence = Undefended(CleverhansCNN(digits.shape, digits.num_classes).eval())
    images = digits.train.float_images()[:count]
    with torch.no_grad():  # labels that are all right, so that all images are attacked
        labels = torch.cat([defence(part).argmax(1) for part in images.split(batch_size)])
    attempts = [Attempt("PGD", partial(pgd, steps=3), defence)]
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports is not ours
    before = status("VmRSS")
    evaluate(
        defence, attempts, images, labels, eps=0.01, generator=torch.Generator(), batch_size=batch_size, exhaustive=True
    )
    print(status("VmHWM") - before)


if __name__ == "__main__":
    _peak(int(sys.argv[1]), int(sys.argv[2]))
