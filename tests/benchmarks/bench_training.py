"""What a training step costs: SNS beside adversarial training, and that beside a plain loop with foolbox's PGD.

    pytest -s --override-ini python_files='bench_*.py' tests/benchmarks

Random images of CIFAR-10's shape and networks with random weights, as speed does not depend on them. Runs alternate and
their medians are compared, on a CPU of the time that the process itself was given, so that another one on the machine
does not decide. With ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stopwatch import CLOCK, DEVICE, seconds
from torch import Tensor, nn

from advdef.data import Split
from advdef.models import ResNet18, SmallResNet
from advdef.papers.sensitivity.training import train_sns
from advdef.training import train_alp, train_at, train_trades
from advdef.training.adversarial import ascend

EPS, STEPS, STEP_SIZE = 8 / 255, 10, 0.25
# network -> images in a batch, batches, rounds; on a CPU a ResNet-18 takes seconds for a few images
SIZES: dict[type[nn.Module], tuple[int, int, int]] = {SmallResNet: (128, 4, 5), ResNet18: (4, 1, 3)}
if DEVICE.type == "cuda":
    SIZES = {SmallResNet: (512, 8, 7), ResNet18: (512, 2, 7)}
CIFAR, PROBE = 50_000, 1_024  # images in an epoch of CIFAR-10, and those that neurons are chosen by


def random_split(count: int) -> Split:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return Split(images.to(DEVICE), torch.randint(10, (count,), generator=draws).to(DEVICE))


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind((3, 32, 32), 10).to(DEVICE)


@pytest.mark.parametrize("kind", list(SIZES), ids=lambda kind: kind.__name__)
def test_a_stabilizing_step_costs_at_most_a_quarter_more(kind: type[nn.Module]) -> None:
    size, batches, rounds = SIZES[kind]
    split, model = random_split(size * batches), network(kind)
    options: dict[str, Any] = {"eps": EPS, "steps": STEPS, "step_size": STEP_SIZE, "epochs": 1, "batch_size": size}

    def run(train: Callable[..., object], **more: Any) -> None:
        train(model, split, generator=torch.Generator().manual_seed(0), **options, **more)

    took = seconds(
        {
            "AT": partial(run, train_at),
            "SNS": partial(run, train_sns, probe=1, probe_steps=1),  # all but the choice, which is no part of a step
            "SNS, all neurons": partial(run, train_sns, probe=1, probe_steps=1, which="all"),
            "ALP": partial(run, train_alp),
            "TRADES": partial(run, train_trades),
            "choice": partial(run, train_sns, probe=size, probe_steps=STEPS),
        },
        rounds,
        clock=CLOCK,
        warm_up=True,
    )
    step = took["AT"] / batches
    print(f"\n{kind.__name__}, PGD-{STEPS}, batches of {size}, {DEVICE}: a step of AT takes {1e3 * step:.1f} ms")
    for name in list(took)[1:-1]:
        print(f"  {name:16} {took[name] / took['AT']:.2f} x AT")
    choice = (took["choice"] - took["SNS"]) * PROBE / size
    print(f"  choosing by {PROBE:,} images adds {choice / (step * CIFAR / size):.1%} to an epoch of {CIFAR:,}")
    assert took["SNS"] <= 1.25 * took["AT"]


def test_adversarial_training_is_at_least_as_fast_as_a_plain_loop_with_foolbox() -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox comes with the extra eval")
    size, batches, rounds = SIZES[SmallResNet]
    split, attack = random_split(size * batches), foolbox.attacks.LinfPGD(rel_stepsize=STEP_SIZE, steps=STEPS)

    def attacked(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        bounded = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device=images.device)
        found: Tensor = attack(bounded, images, labels, epsilons=EPS)[1]
        return found

    def theirs(model: nn.Module) -> None:
        descent = torch.optim.Adam(model.parameters(), lr=1e-3)
        for images, labels in split.batches(size, shuffle=True):
            found = attacked(model, images, labels)
            model.train()
            descent.zero_grad()
            F.cross_entropy(model(found), labels).backward()
            descent.step()

    def ours(model: nn.Module) -> None:
        options: dict[str, Any] = {"eps": EPS, "steps": STEPS, "step_size": STEP_SIZE, "batch_size": size}
        train_at(model, split, epochs=1, generator=torch.Generator().manual_seed(0), **options)

    # Equal results first: both attacks raise the loss as far.
    model = network(SmallResNet).eval()
    images, labels = split.float_images(), split.labels
    value = partial(F.cross_entropy, target=labels, reduction="none")
    found = ascend(model, images, value, eps=EPS, steps=STEPS, step_size=STEP_SIZE), attacked(model, images, labels)
    with torch.no_grad():
        clean, own, other = (float(value(model(x)).mean()) for x in (images, *found))
    assert own - clean == pytest.approx(other - clean, rel=0.05)

    took = seconds(
        {"advdef": partial(ours, network(SmallResNet)), "foolbox": partial(theirs, network(SmallResNet))},
        rounds,
        clock=CLOCK,
        warm_up=True,
    )
    print(f"\nadversarial training, PGD-{STEPS}, {batches} batches of {size}, {DEVICE}: the attack raises the loss by "
          f"{own - clean:.3f}, foolbox's by {other - clean:.3f}")  # fmt: skip
    for name, duration in took.items():
        print(f"  {name:8} {1e3 * duration / batches:7.1f} ms a step  {duration / took['advdef']:.2f} x advdef")
    assert took["advdef"] <= took["foolbox"]
