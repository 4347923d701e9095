"""A defence in front of a defence: every hard part of the stack is replaced for the adaptive attacker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest
import torch
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import pgd
from advdef.contract import frozen
from advdef.defenses import BitDepth, Defense, GaussianBlur, Jpeg, Median, TotalVariation, Undefended
from advdef.defenses.broken import Detached, RandomInput, ScaledLogits
from advdef.evaluation import adaptive, evaluate, oblivious, stand_ins, threats
from advdef.papers.nip.baselines import AntiAdversary, NoiseVote
from advdef.papers.nip.defence import NIPSelf
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.snn.defence import Purification
from advdef.papers.snn.purifier import Purifier
from advdef.papers.snn.surrogates import Surrogate
from advdef.papers.trn.defence import Restoration
from advdef.papers.trn.models import ImageRestorer

EPS, N = 0.15, 20


def opened(module: nn.Module, seed: int = 0) -> nn.Module:
    """An untrained restorer or purifier leaves the image as it is; this one does a little."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in module.parameters():
            if not bool(parameter.any()):
                nn.init.normal_(parameter, std=0.01)
    return module


def restoring(network: nn.Module) -> Defense:
    return Restoration(frozen(network), opened(ImageRestorer(1, width=4, streams=1, tail=1)))


def purifying(network: nn.Module) -> Defense:
    purifier = opened(Purifier(1, width=2, extractor_width=2, steps=1))
    return Purification(frozen(network), purifier, derivatives={"rate": Surrogate("rate")})


BUILD: Mapping[str, Callable[[nn.Module], Defense]] = {
    "bits": partial(BitDepth, bits=2),
    "median": Median,
    "blur": GaussianBlur,
    "jpeg": partial(Jpeg, quality=30),
    "total variation": partial(TotalVariation, weight=0.05),
    "anti-adversary": partial(AntiAdversary, step=0.02),
    "quantised": lambda network: Quantized(network, Quantizer(4)),
    "nip": lambda network: NIPSelf(network, step=0.02, layer=layer_of(network)),
    "noise": partial(NoiseVote, step=0.05),
    "random input": partial(RandomInput, amount=0.05, draws=5),
    "scaled": ScaledLogits,
    "detached": Detached,
    "restored": restoring,
    "purified": purifying,
    "undefended": Undefended,
}


KINDS = ("jpeg", "quantised", "noise")
"""The kinds that are replaced: by one stand-in, by several, by an expectation."""
PAIRS: Mapping[str, list[str]] = {outer: list(BUILD) if outer in ("jpeg", "noise") else list(KINDS) for outer in BUILD}
"""What stands behind what: each in front of the three kinds, and each behind a hard and a random one."""
FEW = {outer: inner[number % len(KINDS) :: len(KINDS)] for number, (outer, inner) in enumerate(PAIRS.items())}
"""A third of these."""

NO_WAY_BACK = {
    **dict.fromkeys(("jpeg", "quantised", "detached"), "a hard decision cuts the features off"),
    **dict.fromkeys(("nip", "anti-adversary"), "runs more than once in a forward pass"),
}
"""Behind which NIP cannot stand, and what it says."""


def layer_of(network: nn.Module) -> str:
    """The last layer before the logits, wherever the network stands."""
    return next(name for name, module in network.named_modules() if isinstance(module, nn.Flatten))


def left(defence: Defense, images: Tensor, labels: Tensor) -> float:
    attempts = adaptive(defence, {"PGD": partial(pgd, steps=5, loss="margin")}, eps=EPS, steps=3)
    return evaluate(defence, attempts, images, labels, eps=EPS, generator=seeded(), draws=3).interval.value


@pytest.fixture(scope="module", autouse=True)
def _few_draws() -> Iterator[None]:
    """The mean over 5 draws, in place of 20, in every pair that draws: they were two thirds of all that is computed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threats, "_DRAWS", 5)
        yield


@pytest.fixture(scope="module")
def alone(_trained_network: nn.Module, digits: object) -> dict[str, float]:
    images, labels = digits.test.float_images()[:N], digits.test.labels[:N]  # type: ignore[attr-defined]
    return {name: left(build(_trained_network).eval(), images, labels) for name, build in BUILD.items()}


@pytest.mark.parametrize("pairs", [FEW, pytest.param(PAIRS, marks=pytest.mark.thorough)], ids=["few", "all"])
@each("outer", list(PAIRS))
def test_a_stack_is_no_better_than_its_better_part(
    outer: str,
    pairs: Mapping[str, list[str]],
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    alone: dict[str, float],
) -> None:
    images, labels = batch[0][:N], batch[1][:N]
    for inner in pairs[outer]:
        stack = BUILD[outer](BUILD[inner](network).eval()).eval()
        if outer == "nip" and inner in NO_WAY_BACK:
            continue
        allowed = max(alone[outer], alone[inner]) + 3 / N  # three images
        assert left(stack, images, labels) <= allowed, (outer, inner)


def test_behind_what_nip_cannot_stand(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    for inner, said in NO_WAY_BACK.items():
        with pytest.raises(ValueError, match=said):
            BUILD["nip"](BUILD[inner](network).eval()).eval()(batch[0][:2])


def test_three_defences_in_a_row(network: nn.Module, batch: tuple[Tensor, Tensor], alone: dict[str, float]) -> None:
    images, labels = batch[0][:N], batch[1][:N]
    stack = BUILD["jpeg"](BUILD["quantised"](BUILD["bits"](network)))
    assert left(stack, images, labels) <= max(alone["jpeg"], alone["quantised"], alone["bits"]) + 3 / N
    assert "straight-through over identity over straight-through" in stand_ins(stack)


def test_a_stand_in_has_the_values_of_the_stack(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images = batch[0][:10]
    stack = Jpeg(BitDepth(network, bits=1), quality=50)
    for stand_in in stand_ins(stack).values():
        assert torch.equal(stand_in(images), stack(images))
        point = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(stand_in(point).sum(), point)
        assert bool(slope.flatten(1).any(1).all())
    assert stack.network.bits == 1  # the deployed defence is as it was


def test_a_layer_in_between_hides_no_defence(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch[0][:N], batch[1][:N]
    inside = Jpeg(network, quality=30)
    plain, wrapped = BitDepth(inside, bits=3), BitDepth(nn.Sequential(nn.Identity(), inside), bits=3)
    assert list(stand_ins(wrapped)) == list(stand_ins(plain)) == ["straight-through over straight-through"]
    assert left(wrapped, images, labels) == left(plain, images, labels)
    (attempt,) = oblivious(wrapped, {"PGD": partial(pgd)})
    assert torch.equal(attempt.target(images), network(images))


class Both(Undefended):
    """Two defences side by side."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__(one)
        self.other = other

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + self.other(images)


def test_defences_side_by_side_are_both_replaced(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    stack = Both(Jpeg(network, quality=30), BitDepth(network, bits=1))
    (stand_in,) = stand_ins(stack).values()
    point = batch[0][:5].clone().requires_grad_()
    assert torch.equal(stand_in(point), stack(point))
    (slope,) = torch.autograd.grad(stand_in(point).sum(), point)
    assert bool(slope.flatten(1).any(1).all())


def test_a_defence_that_cannot_be_copied_says_what_to_do(network: nn.Module) -> None:
    class Locked(Jpeg):
        def __init__(self, classifier: nn.Module) -> None:
            super().__init__(classifier)
            self.lock = threading.Lock()

    with pytest.raises(TypeError, match=r"Locked cannot be copied .*override its method over\(classifier\)"):
        stand_ins(Locked(BitDepth(network)))


def test_who_ignores_a_stack_attacks_what_is_behind_it(network: nn.Module) -> None:
    suite = {"PGD": partial(pgd)}
    (attempt,) = oblivious(Jpeg(BitDepth(network)), suite)
    assert attempt.target is network
    twin = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    (attempt,) = oblivious(Jpeg(Undefended(network, twin=twin)), suite)
    assert attempt.target is twin


def test_a_defence_moves_to_another_network_with_all_that_refers_to_the_first(network: nn.Module) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    defence = Quantized(network, Quantizer(4))
    moved = defence.over(other)
    assert moved.network is other
    assert defence.network is network
    assert moved.quantizer is not defence.quantizer
