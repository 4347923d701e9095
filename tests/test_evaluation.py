"""Evaluation: judged on the deployed defence, worst case per image, nothing unsound; DEEPSEC's mistakes by name."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import safetensors.torch
import torch
from networks import small_network
from torch import Tensor, nn

from advdef import store
from advdef.attacks import Suite, bim, ddn, each_class, expectation, fgsm, pgd, stopping
from advdef.attacks.suites import cleverhans
from advdef.defenses import Defense, Undefended
from advdef.defenses.broken import Detached, RandomInput, ScaledLogits
from advdef.evaluation import (
    Attempt,
    Finding,
    Outcome,
    UnsoundAttack,
    accuracy,
    adaptive,
    correct,
    craft,
    direct,
    evaluate,
    evaluate_curve,
    oblivious,
)
from advdef.papers.qusecnets.defence import Quantized
from advdef.papers.qusecnets.quantizer import Quantizer
from advdef.papers.sensitivity.attacks import neuron_targeted
from advdef.store import StoreWarning

Pair = tuple[Tensor, Tensor]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Threshold(nn.Module):
    """Label 1 for images whose mean exceeds ``limit``, label 0 for others."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        value = images.flatten(1).mean(1) - self.limit
        return torch.stack([-value, value], 1)


def greys(*values: float) -> Pair:
    """Even grey images, labelled 0."""
    images = torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    return images, torch.zeros(len(values), dtype=torch.int64)


def move(
    model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, by: float, generator: torch.Generator | None = None
) -> Tensor:
    """Not an attack to be proud of: all pixels up by a constant, which may be too much."""
    return images + by


def moving(name: str, by: float, target: nn.Module) -> Attempt:
    return Attempt(name, partial(move, by=by), target)


class Lying(Defense):
    """A defence whose surrogate and bare classifier fall at once, while it does not, or the other way round."""

    def __init__(self, deployed: float, surrogate: float, bare: float) -> None:
        super().__init__()
        self.deployed, self.stand_in, self.bare = Threshold(deployed), Threshold(surrogate), Threshold(bare)

    @property
    def classifier(self) -> nn.Module:
        return self.bare

    def forward(self, images: Tensor) -> Tensor:
        return self.deployed(images)

    def surrogates(self) -> dict[str, nn.Module]:
        return {"stand-in": self.stand_in}


# Judging


@pytest.mark.parametrize("threat", ["oblivious", "direct", "adaptive"])
def test_success_is_judged_on_the_deployed_defence(threat: str) -> None:
    images, labels = greys(0.1, 0.2, 0.3, 0.45)
    easy, hard = Lying(0.5, 0.35, 0.35), Lying(0.5, 0.9, 0.9)
    suite: Suite = {"PGD": partial(pgd, steps=5)}
    for defence in (easy, hard):
        attempts = {
            "oblivious": oblivious(defence, suite),
            "direct": direct(defence, suite),
            "adaptive": adaptive(defence, suite, eps=0.1),
        }[threat]
        outcome = evaluate(defence, attempts, images, labels, eps=0.1, generator=seeded())
        expected = correct(defence, images + 0.1, labels)  # the best attack there is
        assert bool((outcome.robust >= expected).all())
        assert torch.equal(outcome.robust, correct(defence, outcome.adversarial, labels))
        # the surrogate and the bare classifier of `easy` say that 0.3 is broken too; it is not
        assert outcome.robust.tolist()[:3] == [True] * 3


def test_targets_are_those_of_the_threat_model() -> None:
    twin = Threshold(0.4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    defence = Quantized(network, Quantizer(2), undefended=twin)
    suite = cleverhans()
    assert all(a.target is twin for a in oblivious(defence, suite))
    assert all(a.target is defence for a in direct(defence, suite))
    # replayed examples want a large margin; on the judge itself a broken image is done
    assert [a.attack.keywords.get("stop_early") for a in oblivious(defence, suite)] == [None] * 4
    assert [a.attack.keywords.get("stop_early") for a in direct(defence, suite)] == [None, True, True, True]
    bare = adaptive(
        Undefended(network), suite, eps=0.1, transfer={"twin": twin}, extra={"extra": partial(bim, steps=2)}
    )
    assert [a.name for a in bare] == [
        *(f"{name} through defence" for name in suite), "extra", *(f"{name} from twin" for name in suite),
    ]  # fmt: skip
    assert {type(a.target) for a in bare[:5]} == {Undefended}
    assert all(a.target is twin for a in bare[5:])


def test_accuracy_counts_what_is_right() -> None:
    images, labels = greys(0.1, 0.2, 0.6, 0.7, 0.3)
    labels[3] = 1
    model = Threshold(0.5).train()
    assert correct(model, images, labels, batch_size=2).tolist() == [True, True, False, True, True]
    assert accuracy(model, images, labels).value == pytest.approx(0.8)
    assert model.training
    with pytest.raises(ValueError, match=r"0\.\.1; seen: 2 to 2"):
        correct(model, images, labels * 0 + 2)


# The working set


@pytest.mark.parametrize("eps", [0.05, 0.1])
def test_the_working_set_finds_what_trying_everything_finds(network: nn.Module, batch: Pair, eps: float) -> None:
    defence, (images, labels) = Undefended(network), batch
    # without random numbers an attack does the same to an image whatever else is in its batch
    suite: Suite = {
        "FGSM": partial(fgsm),
        "BIM": partial(bim),
        "PGD": partial(pgd, steps=10, random_start=False, loss="margin"),
    }
    quick = evaluate(defence, direct(defence, suite), images, labels, eps=eps, generator=seeded(), batch_size=33)
    attempts = oblivious(defence, suite)  # not stopping early
    full = evaluate(defence, attempts, images, labels, eps=eps, generator=seeded(), exhaustive=True)
    assert torch.equal(quick.clean, full.clean)
    assert torch.equal(quick.robust, full.robust)
    assert 0 < int(full.robust.sum()) < int(full.clean.sum())
    assert all(torch.equal(f.tried, full.clean) for f in full.findings)
    left = quick.clean
    for finding in quick.findings:  # each attack saw exactly what those before it had left
        assert torch.equal(finding.tried, left)
        assert bool((finding.broken <= finding.tried).all())
        left = left & ~finding.broken
    assert torch.equal(left, quick.robust)
    assert sum(f.forwards for f in quick.findings) < sum(f.forwards for f in full.findings)
    # the images handed back are what broke each image, or the image itself
    assert torch.equal(correct(network, quick.adversarial, labels), quick.robust)
    unharmed = quick.robust | ~quick.clean
    assert torch.equal(quick.adversarial[unharmed], images[unharmed])
    assert float((quick.adversarial - images).abs().max()) <= eps + 1e-6


def test_nothing_left_is_no_error() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.6, 0.7)
    outcome = evaluate(Undefended(model), [moving("up", 0.0, model)], images, labels, eps=0.1, generator=seeded())
    assert outcome.findings[0].forwards == 0
    assert outcome.interval.value == 0


def test_known_breaks_stay_broken() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.1, 0.42, 0.46, 0.6)
    defence = Undefended(model)
    first = evaluate(defence, [moving("up", 0.05, model)], images, labels, eps=0.05, generator=seeded())
    assert first.robust.tolist() == [True, True, False, False]
    idle = [moving("idle", 0.0, model)]
    second = evaluate(defence, idle, images, labels, eps=0.1, generator=seeded(), known=first)
    assert torch.equal(second.robust, first.robust)
    assert second.findings[0].tried.tolist() == [True, True, False, False]
    assert torch.equal(second.adversarial, first.adversarial)
    with pytest.raises(ValueError, match=r"eps 0\.1"):
        evaluate(defence, idle, images, labels, eps=0.05, generator=seeded(), known=second)
    with pytest.raises(ValueError, match="4 images"):
        evaluate(defence, idle, images[:3], labels[:3], eps=0.1, generator=seeded(), known=second)


def test_adaptive_contains_direct_and_oblivious() -> None:
    images, labels = greys(0.1, 0.42, 0.44, 0.46)
    model = Threshold(0.5)
    defence = Undefended(model)
    outcomes: list[Outcome] = []
    for by in (0.05, 0.07):
        run = partial(evaluate, defence, [moving(str(by), by, model)], images, labels, eps=0.1)
        outcomes.append(run(generator=seeded()))
    idle = {"idle": partial(move, by=0.0)}
    adapted = adaptive(defence, idle, eps=0.1)
    last = evaluate(defence, adapted, images, labels, eps=0.1, generator=seeded(), known=outcomes)
    assert [int(o.robust.sum()) for o in (*outcomes, last)] == [3, 2, 2]
    assert torch.equal(last.adversarial[3], outcomes[0].adversarial[3])  # what broke each first
    assert torch.equal(last.adversarial[2], outcomes[1].adversarial[2])


def test_an_attack_goes_on_after_success_where_a_stand_in_has_other_values(network: nn.Module, batch: Pair) -> None:
    """One draw of a randomised defence forgives an image that its mean would not, unless the margin is large."""
    images, labels = batch
    defence = RandomInput(network, 0.3, draws=5).eval()
    suite: Suite = {"PGD": partial(pgd, steps=10, loss="margin")}
    (patient,) = adaptive(defence, suite, eps=0.1)
    hasty = replace(patient, attack=partial(patient.attack, stop_early=True))
    assert "stop_early" not in patient.attack.keywords
    run = partial(evaluate, defence, images=images, labels=labels, eps=0.1)
    left = [run(attempts=[attempt], generator=seeded()) for attempt in (patient, hasty)]
    assert torch.equal(left[0].shares, left[1].shares)  # who attacks a random target never stops at its first success
    survive = []
    for attempt in (patient, hasty):
        (found,) = craft(attempt.target, {"it": attempt.attack}, images, labels, eps=0.1, generator=seeded()).values()
        survive.append(torch.stack([correct(defence, found, labels, seed=draw) for draw in range(10)]).float().mean())
    assert survive[0] < survive[1] - 0.05
    assert all("stop_early" in a.attack.keywords for a in adaptive(Detached(network), suite, eps=0.2))


def test_what_is_known_must_belong_here() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.1, 0.3)
    defence = Undefended(model)
    run = partial(evaluate, defence, [moving("up", 0.05, model)], eps=0.1, generator=seeded())
    here = run(images=images, labels=labels)
    for other in ({"images": images + 0.5}, {"labels": labels + 1}, {"images": images.flip(0)}):
        with pytest.raises(ValueError, match="on other images, on other labels or in another order"):
            run(**{"images": images, "labels": labels, **other}, known=here)
    with pytest.raises(ValueError, match="of another defence"):
        evaluate(Undefended(Threshold(0.4)), [], images, labels, eps=0.1, generator=seeded(), known=here)
    with pytest.raises(UnsoundAttack, match="earlier attack, on these images, moved"):
        run(images=images, labels=labels, known=replace(here, adversarial=images + 0.5))
    wide = evaluate(defence, [moving("up", 0.9, model)], images[:1], labels[:1], eps=4.0, generator=seeded(), norm="L0")
    with pytest.raises(ValueError, match="in L0 and 1 images"):
        run(images=images[:1], labels=labels[:1], known=[wide])


def test_what_is_known_ends_with_a_change_of_code(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = greys(0.1, 0.3)
    defence = Undefended(Threshold(0.5))
    run = partial(evaluate, defence, [moving("up", 0.05, defence)], images, labels, eps=0.1, generator=seeded())
    known = run()
    run(known=known)
    monkeypatch.setattr(Threshold, "forward", lambda self, images: images.flatten(1)[:, :2])
    with pytest.raises(ValueError, match="known is the outcome of another defence"):
        run(known=known)


def test_an_attack_in_another_norm_is_refused(network: nn.Module, batch: Pair) -> None:
    """A ball in L2 lies inside the one in Linf: its results would look robust."""
    images, labels = batch[0][:5], batch[1][:5]
    defence = Undefended(network)
    inner = partial(pgd, norm="L2")
    for attack in (inner, partial(each_class, attack=inner), partial(ddn)):
        attempts = direct(defence, {"it": attack})
        with pytest.raises(ValueError, match="it is an attack in L2, and eps is a size in Linf"):
            evaluate(defence, attempts, images, labels, eps=0.1, generator=seeded())


# Soundness


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda x: x + 0.2, r"moved pixels by 0\.2 \(eps 0\.1\)"),
        (lambda x: x - 0.05, r"into \[-0\.0"),
        (lambda x: (x + 0.05) * float("nan"), "not finite"),
        (lambda x: x[:, :, :1], r"\(2, 1, 1, 2\)"),
        (lambda x: x + 0.1 + 1e-5, "moved"),
    ],
)
def test_an_unsound_attack_gives_no_number(found: Any, message: str) -> None:
    def cheating(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, generator: Any) -> Tensor:
        return found(images)

    model, (images, labels) = Threshold(0.5), greys(0.01, 0.2)
    with pytest.raises(UnsoundAttack, match=message):
        evaluate(
            Undefended(model), [Attempt("cheat", partial(cheating), model)], images, labels, eps=0.1, generator=seeded()
        )


def test_rounding_is_not_called_unsound() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.1, 0.3)
    evaluate(Undefended(model), [moving("up", 0.1 + 5e-7, model)], images, labels, eps=0.1, generator=seeded())


def test_bad_images_are_refused() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.1, 0.3)
    for bad in (images * 255, images * float("nan"), images[:0]):
        with pytest.raises(ValueError, match="images must"):
            evaluate(
                Undefended(model), [moving("up", 0.0, model)], bad, labels[: len(bad)], eps=0.1, generator=seeded()
            )


# Other norms and no bound


def test_a_budget_is_a_size_in_its_norm(network: nn.Module, batch: Pair) -> None:
    images, labels = batch[0][:30], batch[1][:30]
    defence = Undefended(network)
    attempts = [Attempt("PGD", partial(pgd, norm="L2", loss="margin"), network)]
    outcome = evaluate(defence, attempts, images, labels, eps=1.5, generator=seeded(), norm="L2")
    assert outcome.norm == "L2"
    assert 0 < int(outcome.robust.sum()) < int(outcome.clean.sum())
    moved = outcome.adversarial - images
    assert float(moved.flatten(1).norm(dim=1).max()) <= 1.5
    assert float(moved.abs().max()) > 0.2  # no Linf ball of a size that would do
    with pytest.raises(UnsoundAttack, match="moved an image in L1 by"):
        evaluate(defence, [moving("up", 0.01, network)], images * 0.9, labels, eps=1.5, generator=seeded(), norm="L1")
    with pytest.raises(ValueError, match="in L2"):
        evaluate(defence, [], images, labels, eps=0.5, generator=seeded(), known=replace(outcome, eps=0.5))


def test_without_a_bound_only_the_range_is_checked() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.1, 0.3)
    up = [moving("up", 0.6, model)]
    outcome = evaluate(Undefended(model), up, images, labels, eps=float("inf"), generator=seeded())
    assert outcome.robust.tolist() == [False, False]
    with pytest.raises(UnsoundAttack, match="moved"):
        evaluate(Undefended(model), [moving("up", 0.8, model)], images, labels, eps=float("inf"), generator=seeded())


# Interruption


class Interrupted(Exception):
    """Somebody pressed a key."""


called: SimpleQueue[str] = SimpleQueue()  # a list would be content, and its growth a change of what names it
failing: SimpleQueue[None] = SimpleQueue()


def calls() -> list[str]:
    return [called.get() for _ in range(called.qsize())]


def counted_pgd(model: nn.Module, *args: Any, name: str, **options: Any) -> Tensor:
    called.put(name)
    if name == "second" and failing.qsize():
        failing.get()
        raise Interrupted
    return pgd(model, *args, steps=3, **options)


def test_an_interrupted_evaluation_goes_on_at_the_next_unfinished_attack(
    network: nn.Module, batch: Pair, tmp_path: Path
) -> None:
    images, labels = batch
    defence = Undefended(network)
    attempts = [Attempt(name, partial(counted_pgd, name=name), network) for name in ("first", "second", "third")]
    run = partial(evaluate, defence, attempts, images, labels, eps=0.06, resume=tmp_path)
    failing.put(None)
    with pytest.raises(Interrupted):
        run(generator=seeded())
    draws = seeded()
    resumed = run(generator=draws)
    assert calls() == ["first", "second", "second", "third"]
    whole_draws = seeded()
    whole = evaluate(defence, attempts, images, labels, eps=0.06, generator=whole_draws)
    calls()
    assert 0 < int(whole.robust.sum()) < int(whole.clean.sum())
    # the same as without the interruption, and the generator stands where it would
    assert torch.equal(resumed.robust, whole.robust)
    assert torch.equal(resumed.adversarial, whole.adversarial)
    assert torch.equal(draws.get_state(), whole_draws.get_state())
    for mine, other in zip(resumed.findings, whole.findings, strict=True):
        told = ("name", "forwards", "backwards", "settings", "gradient")
        assert [getattr(mine, fact) for fact in told] == [getattr(other, fact) for fact in told]
        assert torch.equal(mine.broken, other.broken)
        assert torch.equal(mine.tried, other.tried)
    # once finished, nothing is attacked again, whatever the size of the batches
    assert torch.equal(run(generator=seeded(), batch_size=7).robust, whole.robust)
    assert calls() == []


class Scaled(nn.Module):
    """Its own attribute and its own code, in no module of the package."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * self.network(images)


class Shifted(Scaled):
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) + self.factor


def shifted(model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, by: Tensor, generator: Any) -> Tensor:
    return images


def test_another_evaluation_does_not_go_on_from_this_one(network: nn.Module, batch: Pair, tmp_path: Path) -> None:
    images, labels = batch[0][:10], batch[1][:10]
    other = deepcopy(network)
    with torch.no_grad():
        next(other.parameters()).mul_(1.001)
    fresh = small_network()
    defence = Undefended(network)
    attack = partial(pgd, steps=2)
    usual: dict[str, Any] = {"defence": defence, "targets": [network, other, network], "attack": attack, "eps": 0.05}
    usual |= {"seed": 0, "images": images, "labels": labels, "known": (), "norm": "Linf", "exhaustive": False}

    def run(change: dict[str, Any]) -> int:
        """How many files are new afterwards."""
        how, before = usual | change, len(list(tmp_path.iterdir()))
        attempts = [Attempt(f"it {n}", how["attack"], target) for n, target in enumerate(how["targets"])]
        evaluate(
            how["defence"], attempts, how["images"], how["labels"], eps=how["eps"], norm=how["norm"],
            generator=seeded(how["seed"]), known=how["known"], exhaustive=how["exhaustive"], resume=tmp_path,
        )  # fmt: skip
        return len(list(tmp_path.iterdir())) - before

    assert run({}) >= 1
    assert run({}) == 0
    changes = [
        {"eps": 0.06},
        {"seed": 1},
        {"images": images.flip(0), "labels": labels.flip(0)},
        {"attack": partial(pgd, steps=3)},
        {"attack": partial(each_class, attack=attack)},
        {"attack": partial(each_class, attack=partial(pgd, steps=3))},
        {"attack": partial(shifted, by=torch.zeros(1))},
        {"attack": partial(shifted, by=torch.ones(1))},
        {"targets": [fresh]},
        {"targets": [expectation(network, 2)] * 3},
        {"targets": [expectation(network, 3)] * 3},
        {"defence": Undefended(other)},
        {"defence": ScaledLogits(network, 10.0)},
        {"defence": ScaledLogits(network, 1000.0)},
        {"defence": Undefended(Scaled(network, 1.0))},
        {"defence": Undefended(Scaled(network, 2.0))},
        {"defence": Undefended(Shifted(network, 1.0))},
    ]
    for change in changes:
        assert run(change) >= 1, change
        assert run(change) == 0, change


def test_what_is_read_is_checked_again(network: nn.Module, batch: Pair, tmp_path: Path) -> None:
    """Files whose checksum fits, though what they say cannot be."""
    images, labels = batch[0][:20], batch[1][:20]
    defence = Undefended(network)
    run = partial(evaluate, defence, direct(defence, {"PGD": partial(pgd, steps=2)}), images, labels, eps=0.05)
    first = run(generator=seeded(), resume=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    tensors = store.read(file).tensors
    for name, wrong, reason in (
        ("found", tensors["found"] + 0.5, "moved pixels by"),
        ("right", tensors["right"][1:], "about other images"),
        ("right", tensors["right"] - 1, "its shares are none"),
        ("moved", tensors["moved"][1:], "its shares are none"),
    ):
        file.write_bytes(resigned(file, tensors | {name: wrong}))
        with pytest.warns(StoreWarning, match=reason):
            again = run(generator=seeded(), resume=tmp_path)
        assert torch.equal(again.adversarial, first.adversarial)
        assert file.read_bytes() != whole  # made again
        assert len(list(tmp_path.glob("*.damaged"))) >= 1


def resigned(file: Path, tensors: dict[str, Tensor]) -> bytes:
    """The file with other tensors and a checksum that fits them."""
    told = store.header(file)
    metadata = {name: told[name] for name in store._TOLD}
    return safetensors.torch.save(tensors, metadata | {"checksum": store._checksum(tensors, metadata)})


def test_a_shard_finds_what_a_shard_has_found(network: nn.Module, batch: Pair, tmp_path: Path) -> None:
    """An attempt is about images, wherever they stand in what is evaluated."""
    defence = Undefended(network)
    attempts = [Attempt("first", partial(counted_pgd, name="first"), network)]
    run = partial(evaluate, defence, attempts, eps=0.06, resume=tmp_path)
    images, labels = batch
    alone = run(images=images[20:40], labels=labels[20:40], generator=seeded())
    assert calls() == ["first"]
    wrong = images[:1], (labels[:1] + 1) % 10  # is not attacked, and moves the others by one place
    moved = torch.cat([wrong[0], images[20:40]]), torch.cat([wrong[1], labels[20:40]])
    again = run(images=moved[0], labels=moved[1], generator=seeded())
    assert calls() == []
    assert torch.equal(again.robust[1:], alone.robust)


def test_a_spoiled_file_is_named_and_made_again(network: nn.Module, batch: Pair, tmp_path: Path) -> None:
    images, labels = batch[0][:20], batch[1][:20]
    defence = Undefended(network)
    run = partial(evaluate, defence, direct(defence, {"PGD": partial(pgd, steps=2)}), images, labels, eps=0.05)
    first = run(generator=seeded(), resume=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(StoreWarning, match=file.name):
        assert torch.equal(run(generator=seeded(), resume=tmp_path).adversarial, first.adversarial)


# Reading an outcome


def test_survivors_and_unique_breaks_by_hand() -> None:
    def finding(name: str, tried: list[int], broken: list[int]) -> Finding:
        return Finding(name, torch.tensor(tried).bool(), torch.tensor(broken).bool(), 0.0, 0, 0)

    clean = torch.tensor([1, 1, 1, 1, 0]).bool()
    everything = [1, 1, 1, 1, 0]
    findings = (
        finding("a", everything, [1, 1, 0, 0, 0]),
        finding("b", everything, [0, 1, 1, 0, 0]),
        finding("c", [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]),
    )
    outcome = Outcome(0.1, clean, torch.tensor([0, 0, 0, 1, 0]).bool(), torch.zeros(5, 1, 1, 1), findings)
    assert outcome.survivors("a").tolist() == [False, False, True, True, False]
    assert outcome.survivors("b").tolist() == [True, False, False, True, False]
    assert outcome.unique_breaks() == {"a": 1, "b": 1, "c": 0}
    assert outcome.interval.value == pytest.approx(0.2)
    with pytest.raises(ValueError, match="exhaustive=True"):
        outcome.survivors("c")
    with pytest.raises(ValueError, match="tried: a, b, c"):
        outcome.survivors("d")


def test_forward_and_backward_passes_are_counted() -> None:
    torch.manual_seed(0)  # of random networks some are dead
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    defence = Undefended(network)
    images = torch.rand(5, 1, 2, 2, generator=seeded())
    labels = network(images).argmax(1)
    suite = {"PGD": partial(pgd, steps=3)}
    (finding,) = evaluate(
        defence, oblivious(defence, suite), images, labels, eps=0.1, generator=seeded(), exhaustive=True, batch_size=2
    ).findings
    # once to look at the image, once per step, once at the end; the judge's own passes are not the attack's
    assert finding.forwards == 5 * (1 + 3 + 1)
    assert finding.backwards == 5 * 3
    quantised = Quantized(network, Quantizer(4))
    labels = quantised(images).argmax(1)
    (masked,) = evaluate(quantised, direct(quantised, suite), images, labels, eps=1e-4, generator=seeded()).findings
    # the level map has no graph, so nothing runs backward
    assert (masked.forwards, masked.backwards) == (5 * 5, 0)
    through = Attempt("BPDA", partial(pgd, steps=3), quantised.surrogate("identity"))
    (bpda,) = evaluate(quantised, [through], images, labels, eps=1e-4, generator=seeded()).findings
    assert (bpda.forwards, bpda.backwards) == (5 * 5, 5 * 3)
    # two runs towards other classes, each of 3 steps whose gradient comes from features and does not pass the logits
    deep = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    neurons = partial(
        neuron_targeted, layer="2", head=deep[3].weight.detach(), units=torch.arange(3), classes=2, steps=3
    )
    (pushed,) = evaluate(
        Undefended(deep),
        [Attempt("neurons", neurons, deep)],
        images,
        deep(images).argmax(1),
        eps=1e-4,
        generator=seeded(),
    ).findings
    assert pushed.backwards == 2 * 5 * 3
    averaged = Attempt("EOT", partial(pgd, steps=3), expectation(network, 7))
    (eot,) = evaluate(defence, [averaged], images, network(images).argmax(1), eps=1e-4, generator=seeded()).findings
    assert (eot.forwards, eot.backwards) == (7 * 5 * 5, 7 * 5 * 3)  # every draw is a pass
    assert not network._forward_hooks


# Curves


def test_a_curve_falls_and_is_never_above_single_evaluations(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    defence = Undefended(network)
    suite = stopping({"FGSM": partial(fgsm), "PGD": partial(pgd, steps=5)})
    sizes = (0.02, 0.05, 0.1, 0.2)
    curve = evaluate_curve(
        defence, {e: direct(defence, suite) for e in reversed(sizes)}, images, labels, generator=seeded()
    )
    assert list(curve) == list(sizes)
    left = [o.robust for o in curve.values()]
    assert all(bool((b <= a).all()) for a, b in pairwise(left))
    assert int(left[0].sum()) > int(left[-1].sum())
    for eps, outcome in curve.items():
        alone = evaluate(defence, direct(defence, suite), images, labels, eps=eps, generator=seeded())
        assert outcome.eps == eps
        assert abs(int(outcome.robust.sum()) - int(alone.robust.sum())) <= 2  # other draws, the same attacks
        assert torch.equal(correct(network, outcome.adversarial, labels), outcome.robust)
        assert float((outcome.adversarial - images).abs().max()) <= eps + 1e-6


def test_a_curve_counts_what_weaker_threat_models_broke() -> None:
    model, (images, labels) = Threshold(0.5), greys(0.1, 0.42, 0.46)
    defence = Undefended(model)
    weaker = evaluate_curve(
        defence, {e: [moving("up", e, model)] for e in (0.05, 0.1)}, images, labels, generator=seeded()
    )
    idle = {e: [moving("idle", 0.0, model)] for e in (0.05, 0.1)}
    for known in ([weaker], [{}, weaker], [weaker, weaker]):
        curve = evaluate_curve(defence, idle, images, labels, generator=seeded(), known=known)
        assert [int(o.robust.sum()) for o in curve.values()] == [2, 1]
        assert torch.equal(curve[0.1].adversarial, weaker[0.1].adversarial)
    # what fell to a smaller budget counts at a larger one that the weaker attacker did not try
    (outcome,) = evaluate_curve(
        defence, {0.1: idle[0.1]}, images, labels, generator=seeded(), known=[{0.05: weaker[0.05]}]
    ).values()
    assert torch.equal(outcome.robust, weaker[0.05].robust)
    with pytest.raises(ValueError, match=r"known is for eps 0\.1 in Linf"):
        evaluate_curve(defence, {0.05: []}, images, labels, generator=seeded(), known=[{0.05: weaker[0.1]}])


# The mistakes of DEEPSEC


def test_deepsec_attacks_run_on_the_defence_itself() -> None:
    """Direct and adaptive attempts never craft on the bare classifier."""
    defence = Lying(0.5, 0.5, 0.9)
    suite = cleverhans()
    for attempt in [*direct(defence, suite), *adaptive(defence, suite, eps=0.1)]:
        assert attempt.target is not defence.classifier


def test_deepsec_worst_case_per_image_rather_than_an_average() -> None:
    """Two attacks that break one half each leave nothing, not one half."""

    def half(
        model: nn.Module, images: Tensor, labels: Tensor, *, eps: float, low: bool, generator: torch.Generator
    ) -> Tensor:
        chosen = (images.flatten(1).mean(1) < 0.45) == low
        return torch.where(chosen[:, None, None, None], images + eps, images)

    model, (images, labels) = Threshold(0.5), greys(0.42, 0.44, 0.46, 0.48)
    attempts = [Attempt(str(low), partial(half, low=low), model) for low in (True, False)]
    outcome = evaluate(Undefended(model), attempts, images, labels, eps=0.1, generator=seeded(), exhaustive=True)
    assert [int(outcome.survivors(a.name).sum()) for a in attempts] == [2, 2]
    assert int(outcome.robust.sum()) == 0
    assert outcome.unique_breaks() == {"True": 2, "False": 2}


def test_deepsec_robust_accuracy_falls_with_eps(network: nn.Module, batch: Pair) -> None:
    images, labels = batch
    defence = Undefended(network)
    sizes = (0.0, 0.05, 0.1, 0.2, 0.5)
    left = [
        int(
            evaluate(
                defence, direct(defence, {"PGD": partial(pgd, steps=5)}), images, labels, eps=e, generator=seeded()
            ).robust.sum()
        )
        for e in sizes
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] == int(correct(network, images, labels).sum())
    assert left[-1] == 0


def test_deepsec_only_correctly_classified_images_count(network: nn.Module, batch: Pair) -> None:
    """An image that is wrong without an attack is not robust, and no attack is credited with it."""
    images, labels = batch
    wrong = labels.clone()
    wrong[:10] = (labels[:10] + 1) % 10
    defence = Undefended(network)
    outcome = evaluate(
        defence, direct(defence, cleverhans()), images, wrong, eps=0.0, generator=seeded(), exhaustive=True
    )
    assert torch.equal(outcome.robust, outcome.clean)
    assert not bool(outcome.robust[:10].any())
    assert outcome.unique_breaks() == dict.fromkeys(cleverhans(), 0)


def test_a_classifier_defended_by_its_training_has_a_twin_that_the_oblivious_attacker_uses(
    network: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    twin = small_network()
    defence = Undefended(network, twin=twin)
    (attempt,) = oblivious(defence, {"FGSM": partial(fgsm)})
    assert attempt.target is twin
    assert [a.target for a in direct(defence, {"FGSM": partial(fgsm)})] == [defence]
    assert torch.equal(defence(images), network(images))
    assert defence.network is network  # whose passes are the cost
    outcome = evaluate(defence, [attempt], images, labels, eps=0.1, generator=seeded())
    assert torch.equal(outcome.robust, outcome.clean & correct(network, outcome.adversarial, labels))


@pytest.mark.parametrize("value", [float("nan"), 9.0, -0.1])
def test_accuracy_is_not_measured_on_images_that_are_none(
    network: nn.Module, batch: tuple[Tensor, Tensor], value: float
) -> None:
    images, labels = batch[0].clone(), batch[1]
    images[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="finite and lie in"):
        accuracy(network, images, labels)
    with pytest.raises(ValueError, match="N > 0"):
        accuracy(network, images[:0], labels[:0])


@pytest.mark.parametrize("eps", [8.0, 1.5])
def test_a_budget_in_grey_levels_is_refused(eps: float) -> None:
    images, labels = greys(0.4, 0.6)
    defence, idle = Undefended(Threshold(0.5)), [moving("idle", 0.0, Threshold(0.5))]
    with pytest.raises(ValueError, match=rf"in steps of 1/255 it is {eps:g} / 255"):
        evaluate(defence, idle, images, labels, eps=eps, generator=seeded())
    for allowed in (1.0, float("inf")):
        evaluate(defence, idle, images, labels, eps=allowed, generator=seeded())
