"""NIP's three variants decide as their rules say, by hand, and know no label; what the released code does knows one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import pytest
import torch
from cases import each
from contract import seeded
from torch import Tensor, nn

from advdef.attacks import Suite, describe, pgd
from advdef.attacks.wrappers import replace_gradient
from advdef.defenses import Defense
from advdef.evaluation import adaptive, direct, evaluate, oblivious
from advdef.norms import rms_normalised
from advdef.papers.nip import defence as inverse_perturbation
from advdef.papers.nip.bank import DirectionBank
from advdef.papers.nip.defence import DecisionRule, NIPDictionary, NIPSearch, NIPSelf
from advdef.papers.nip.influence import front_and_tail, inverse_direction
from advdef.papers.nip.oracle import NIPOracle
from advdef.taps import tapped

RULES = get_args(DecisionRule)
SHAPE, CLASSES, FEATURES, KEPT = (2, 4, 4), 4, 16, 3


def net(activation: type[nn.Module] = nn.ReLU, seed: int = 0) -> nn.Sequential:
    """Images (2, 4, 4), 16 features after layer "2", four classes about equally often."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), activation(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
        model[1].weight *= 3
        model[4].weight *= 3
        model[4].bias -= model(torch.rand(200, *SHAPE)).mean(0)
    return model


def bank(seed: int = 0) -> DirectionBank:
    """Random directions; what is known of the features is random, too."""
    generator = seeded(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return DirectionBank(
        "2", front_and_tail(drawn(CLASSES, FEATURES), front=3, tail=3), rms_normalised(drawn(CLASSES, *SHAPE)),
        rms_normalised(drawn(CLASSES, KEPT, *SHAPE)), drawn(CLASSES), 0.5 + drawn(CLASSES).abs(),
    )  # fmt: skip


def pixels(n: int = 12, low: float = 0.0, seed: int = 0) -> Tensor:
    """Random images; with ``low`` above 0, that far from both ends of [0, 1]."""
    return low + (1 - 2 * low) * torch.rand(n, *SHAPE, generator=seeded(seed))


class ByStep(nn.Module):
    """One pixel: the class is that which a table says of its tenths."""

    def __init__(self, *table: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(table))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(self.table[(10 * images[:, 0, 0, 0]).round().long()], 3).to(images.dtype)


def one_pixel(*, classes: int = 3) -> DirectionBank:
    """Every direction is one step up."""
    up = torch.ones(classes, 1, 1, 1)
    return DirectionBank("x", torch.zeros(classes, 1), up, up[:, None], torch.zeros(classes), torch.ones(classes))


ALL: dict[str, Callable[[nn.Module], Defense]] = {
    "self": partial(NIPSelf, step=0.1, front=3, tail=3, layer="2"),
    "self, weakening": partial(NIPSelf, step=-0.1, front=0.1, tail=0.1, tail_slice="skipping", layer="2"),
    **{rule: lambda model, rule=rule: NIPDictionary(model, bank(), steps=[0.1], rule=rule) for rule in RULES},
    "several steps": lambda model: NIPDictionary(model, bank(), steps=[0.02, 0.05, 0.1, 0.2]),
    "search": lambda model: NIPSearch(model, bank(), steps=[0.05, 0.1]),
    "recovery": lambda model: NIPSearch(model, bank(), steps=[0.05, 0.1], score="recovery", kept=2),
}


@pytest.fixture(params=list(ALL))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# All of them


def test_images_are_all_that_a_defence_is_given(name: str) -> None:
    defence = ALL[name](net())
    given = [p for p in inspect.signature(defence.forward).parameters.values() if p.default is inspect.Parameter.empty]
    assert [parameter.name for parameter in given] == ["images"]
    images, found = pixels(), []
    for labels in (torch.arange(12) % 4, (torch.arange(12) + 1) % 4):
        model = net()
        model.labels = labels  # in reach, of whoever would look
        found.append(ALL[name](model)(images))
    assert torch.equal(*found)
    assert not torch.equal(found[0], net()(images))


def test_no_step_is_the_bare_network() -> None:
    model, images = net(), pixels(40)
    bare = model(images)
    assert torch.equal(NIPSelf(model, step=0.0, front=3, tail=3, layer="2")(images), bare)
    for rule in RULES:
        logits = NIPDictionary(model, bank(), steps=[0.0], rule=rule)(images)
        assert torch.equal(logits.argmax(1), bare.argmax(1)), rule
        if rule == "pred":
            assert torch.equal(logits, bare)
        elif rule in ("mean-logit", "max-confidence"):  # up to the size of the batch, which some kernels depend on
            assert torch.allclose(logits, bare, atol=1e-5)
    for one in (0.0, 0.3):
        oracle = NIPOracle(model, step=0.0)
        wanted = torch.full((40,), int(one > 0))
        assert torch.equal(oracle(images, clean_prediction=wanted, directions=[one + images]), bare)


def test_an_image_is_decided_alone_and_in_chunks_as_in_a_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defence, images = ALL[name](net()), pixels()
    expected = defence(images)
    assert torch.allclose(torch.cat([defence(image[None]) for image in images]), expected, atol=1e-5)
    monkeypatch.setattr(inverse_perturbation, "_IMAGES_IN_A_PASS", 7)
    assert torch.allclose(defence(images), expected, atol=1e-5)


def test_neither_mode_nor_precision_matters_and_nothing_is_left_behind(name: str) -> None:
    model, images = net(), pixels()
    model[4].bias.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0) if parameter.requires_grad else None
    defence, before = ALL[name](model), images.clone()
    state = {key: value.clone() for key, value in defence.state_dict().items()}
    expected = defence(images)
    with torch.no_grad():
        assert torch.equal(defence(images), expected)
    with torch.inference_mode():
        assert torch.equal(defence(images), expected)
        assert torch.equal(defence(images * 1), expected)
    assert torch.equal(images, before)
    assert all(torch.equal(value, state[key]) for key, value in defence.state_dict().items())
    assert [key for key, p in model.named_parameters() if not p.requires_grad] == ["4.bias"]
    assert all(p.grad is None or bool((p.grad == 7.0).all()) for p in model.parameters())
    assert not any(module.training for module in defence.modules())
    assert ALL[name](net().train()).training
    double = ALL[name](net().double())(images.double())
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), expected, atol=1e-5)


# V1


def test_it_adds_the_direction_of_the_image_for_its_own_prediction() -> None:
    model, images = net(), pixels(40)
    predicted = model(images).argmax(1)
    assert len(predicted.unique()) == 4
    options = {"front": 2, "tail": 4, "tail_slice": "skipping", "layer": "2", "score": "probability"}
    for step in (0.1, -0.05):
        defence = NIPSelf(model, step=step, **options)  # type: ignore[arg-type]
        offset = step * inverse_direction(model, images, predicted, **options)  # type: ignore[arg-type]
        assert torch.equal(defence.offset(images), offset)
        assert torch.equal(defence.prepare(images), (images + offset).clamp(0, 1))
        assert torch.equal(defence(images), model((images + offset).clamp(0, 1)))
        believed = (predicted + 1) % 4
        other = step * inverse_direction(model, images, believed, **options)  # type: ignore[arg-type]
        assert torch.equal(defence.offset(images, believed), other)
        assert not torch.equal(other, offset)
    with pytest.raises(ValueError, match="no layer 'x'"):
        NIPSelf(model, step=0.1, layer="x")


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    logits = model(images)
    if not logits.requires_grad:
        return torch.zeros_like(images)
    (found,) = torch.autograd.grad((logits * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum(), images, allow_unused=True)
    return torch.zeros_like(images) if found is None else found


def test_plain_autograd_is_exact_on_a_piecewise_linear_network() -> None:
    """So it equals the straight-through gradient, where nothing is clipped, and a finite difference."""
    model, images = net().double(), pixels(20, low=0.4).double()
    defence = NIPSelf(model, step=0.05, front=3, tail=3, layer="2")
    moved = images + defence.offset(images)
    assert 0 < float(moved.min()) < float(moved.max()) < 1
    found = gradient(defence, images)
    assert bool((found != 0).all())
    assert torch.equal(found, gradient(defence.surrogates()["straight-through"], images))
    line, h = torch.randn(images.shape, generator=seeded(), dtype=torch.float64), 1e-7
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    with torch.no_grad():
        rise = ((defence(images + h * line) - defence(images - h * line)) @ weights) / (2 * h)
    assert torch.allclose(rise, (found * line).sum((1, 2, 3)), rtol=1e-5, atol=1e-6)


def test_its_gradient_stops_at_the_clipping_and_that_of_its_surrogates_does_not() -> None:
    model, images = net(), pixels()
    defence = NIPSelf(model, step=0.3, front=3, tail=3, layer="2")
    moved = images + defence.offset(images)
    outside = (moved < 0) | (moved > 1)
    assert 0 < int(outside.sum()) < outside.numel()
    assert torch.equal(gradient(defence, images) == 0, outside)
    through = gradient(defence.surrogates()["straight-through"], images)
    prepared = moved.clamp(0, 1).requires_grad_()
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    assert torch.equal(through, torch.autograd.grad((model(prepared) * weights).sum(), prepared)[0])


def test_soft_weights_add_to_the_gradient_what_the_choice_of_features_hides() -> None:
    """The reference is made of sigmoids and autograd alone, for a network whose first layer is known."""
    model, images = net(nn.GELU).double(), pixels(5).double()
    defence = NIPSelf(model, step=0.1, front=3, tail=2, layer="2")
    point = images.clone().requires_grad_()
    features = model[:3](point)
    logits = model(point)
    values = features * model[4].weight[logits.argmax(1)]  # on a linear head
    ranked = values.detach().sort(1).values
    width = 0.1 * ranked.std(1, keepdim=True)
    soft = torch.sigmoid((values - ranked[:, -3:-2]) / width) - torch.sigmoid((ranked[:, 1:2] - values) / width)
    before = model[1](point.flatten(1))
    slopes = torch.autograd.grad(nn.functional.gelu(before).sum(), before, create_graph=True)[0]
    raised = ((slopes * soft) @ model[1].weight).view_as(point)
    edited = point + 0.1 * raised / (raised.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (wanted,) = torch.autograd.grad((model(replace_gradient(edited.clamp(0, 1), edited)) * weights).sum(), point)
    found = gradient(defence.surrogates()["soft weights"], images)
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found, gradient(defence.surrogates()["straight-through"], images), rtol=1e-2)


# V2


def table(model: nn.Module, images: Tensor, offsets: Tensor) -> Tensor:
    """Logits (N, J, K), one image and one offset at a time."""
    return torch.stack([torch.cat([model((x + o).clamp(0, 1)[None]) for o in offsets]) for x in images]).detach()


def by_rule(rule: str, logits: Tensor, predicted: int) -> Tensor:
    """What a rule makes of the logits (K, K) of one image under each direction."""
    p = logits.softmax(1)
    if rule == "pred":
        return logits[predicted]
    if rule == "majority":
        votes = [int(row.argmax()) for row in logits]
        return torch.tensor([float(votes.count(c)) for c in range(len(logits))])
    if rule == "mean-logit":
        return sum(logits) / len(logits)  # type: ignore[return-value]
    if rule == "max-confidence":
        return logits[max(range(len(logits)), key=lambda j: float(p[j].max()))]
    return torch.tensor([float(p[c, c].log()) for c in range(len(logits))])


def test_each_rule_by_hand() -> None:
    model, images = net(), pixels(40)
    logits, predicted = table(model, images, 0.2 * bank().directions), model(images).argmax(1).tolist()
    decisions = []
    for rule in RULES:
        defence = NIPDictionary(model, bank(), steps=[0.2], rule=rule)
        expected = torch.stack([by_rule(rule, rows, c) for rows, c in zip(logits, predicted, strict=True)])
        found = defence(images)
        assert torch.allclose(found, expected, atol=1e-5), rule
        assert torch.equal(found.argmax(1), expected.argmax(1)), rule
        decisions.append(tuple(found.argmax(1).tolist()))
    assert len(set(decisions)) == len(RULES)  # no rule stands for another here


def test_of_tied_votes_the_first_class_wins() -> None:
    class Tied(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    up = 10.0 * torch.eye(4)[[3, 1, 3, 1]].view(4, 1, 2, 2)
    tied = DirectionBank("x", torch.zeros(4, 1), up, up[:, None], torch.zeros(4), torch.ones(4))
    logits = NIPDictionary(Tied(), tied, steps=[1.0], rule="majority")(torch.zeros(1, 1, 2, 2))
    assert logits.tolist() == [[0, 2, 0, 2]]
    assert logits.argmax(1).tolist() == [1]


def test_the_surest_is_told_from_the_sure_where_probabilities_are_rounded_to_one() -> None:
    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 40 * images.flatten(1)

    directions = torch.tensor([[0.5, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0.7, 0], [0, 0, 0, 0.6]]).view(4, 1, 2, 2)
    several = DirectionBank("x", torch.zeros(4, 1), directions, directions[:, None], torch.zeros(4), torch.ones(4))
    images = torch.zeros(2, 1, 2, 2)
    logits = Sure()(images[:1] + directions)
    assert bool((logits.softmax(1).amax(1) == 1).all())
    assert NIPDictionary(Sure(), several, steps=[1.0], rule="max-confidence")(images).argmax(1).tolist() == [1, 1]
    model = nn.Sequential(Sure())
    search = NIPSearch(model, DirectionBank("0", *list(vars(several).values())[1:]), steps=[1.0])
    assert search(images).argmax(1).tolist() == [1, 1]


@each(
    ("classes", "step"),
    [
        ([0, 0, 0, 0, 0], 0.1),
        ([0, 0, 1, 1, 1], 0.1),
        ([2, 0, 1, 1, 0], 0.3),
        ([2, 0, 1, 2, 2], 0.4),
        ([2, 0, 1, 2, 0], 0.1),  # nothing is stable
    ],
)
def test_the_smallest_stable_step_is_taken(classes: list[int], step: float) -> None:
    """``classes`` at steps 0.1 to 0.5 from a black pixel."""
    model = ByStep(1, *classes, 0, 0, 0, 0, 0)
    defence = NIPDictionary(model, one_pixel(), steps=[0.1, 0.2, 0.3, 0.4, 0.5])
    black = torch.zeros(2, 1, 1, 1)
    assert defence.offset(black, torch.tensor([0, 2])).flatten().tolist() == pytest.approx([step] * 2)
    assert defence(black).argmax(1).tolist() == [classes[round(10 * step) - 1]] * 2


def test_each_image_has_its_own_step() -> None:
    model, images, steps = net(), pixels(60), [0.05, 0.2, 0.4, 0.8]
    labels = [table(model, images, step * bank().directions).mean(1).argmax(1).tolist() for step in steps]
    wanted = []
    for sequence in zip(*labels, strict=True):
        stable = [step for step, (one, next_one) in zip(steps, pairwise(sequence), strict=False) if one == next_one]
        wanted.append(stable[0] if stable else steps[0])
    assert len(set(wanted)) > 1
    for rule in RULES:
        defence = NIPDictionary(model, bank(), steps=steps, rule=rule)
        classes = torch.arange(60) % 4
        offsets = torch.tensor(wanted)[:, None, None, None] * bank().directions[classes]
        assert torch.allclose(defence.offset(images, classes), offsets)
        single = [NIPDictionary(model, bank(), steps=[step], rule=rule)(x[None]) for step, x in zip(wanted, images)]  # noqa: B905
        assert torch.allclose(defence(images), torch.cat(single), atol=1e-5), rule


@each(
    ("options", "message"),
    [
        ({"rule": "vote"}, "no rule 'vote'; there are pred, majority, mean-logit, max-confidence, self-confidence"),
        ({"steps": []}, "steps must be one or more numbers"),
        ({"steps": [-0.1]}, "not negative"),
        ({"steps": [0.2, 0.1]}, "ascending"),
    ],
)
def test_a_dictionary_that_cannot_be_is_refused(options: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NIPDictionary(net(), bank(), **{"steps": [0.1], **options})  # type: ignore[arg-type]


# V3


def winners(model: nn.Module, images: Tensor, score: str, kept: int, steps: list[float]) -> list[Tensor]:
    """The best offset of each image, found in a loop over steps, signs, classes and samples."""
    known, found = bank(), []
    for image in images:
        best, chosen = -torch.inf, image
        for step in steps:
            for sign in (1, -1):
                for c in range(CLASSES):
                    for sample in known.samples[c, :kept]:
                        offset = sign * step * sample
                        with torch.no_grad(), tapped(model, ["2"]) as seen:
                            logits = model((image + offset).clamp(0, 1)[None])
                        reached = float(seen["2"][0] @ known.weights[c])
                        recovered = (reached - float(known.mean[c])) / float(known.deviation[c])
                        value = float(logits.softmax(1).max()) if score == "confidence" else recovered
                        if value > best:
                            best, chosen = value, offset
        found.append(chosen)
    return found


@pytest.mark.parametrize("score", ["confidence", "recovery"])
@pytest.mark.parametrize("kept", [None, 2])
def test_the_winner_of_the_search_is_that_of_a_loop(score: Literal["confidence", "recovery"], kept: int | None) -> None:
    model, images, steps = net(), pixels(), [0.02, 0.05]
    defence = NIPSearch(model, bank(), steps=steps, score=score, kept=kept)
    offsets = torch.stack(winners(model, images, score, kept or KEPT, steps))
    assert torch.allclose(defence.prepare(images), (images + offsets).clamp(0, 1), atol=1e-6)
    assert torch.allclose(defence(images), model((images + offsets).clamp(0, 1)), atol=1e-5)


@each(
    ("options", "message"),
    [
        ({"kept": 0}, "the bank has 1 to 3 directions of a class, not 0"),
        ({"kept": 4}, "the bank has 1 to 3 directions of a class, not 4"),
        ({"score": "margin"}, "no score 'margin'; there are confidence, recovery"),
        ({"steps": []}, "steps must be one or more positive numbers"),
        ({"steps": [0.0]}, "positive"),
    ],
)
def test_a_search_that_cannot_be_is_refused(options: dict[str, list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NIPSearch(net(), bank(), **{"steps": [0.1], **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no layer '2'"):
        NIPSearch(nn.Sequential(nn.Flatten(), nn.Linear(32, 4)), bank(), steps=[0.1])


# What an attacker has


def test_surrogates_have_the_deployed_value_and_a_gradient(name: str) -> None:
    defence, images = ALL[name](net()), pixels()
    surrogates = defence.surrogates()
    assert list(surrogates) == {
        "self": ["straight-through", "soft weights"],
        "self, weakening": ["straight-through", "soft weights"],
        "majority": ["all directions"],
        "search": ["straight-through"],
        "recovery": ["straight-through"],
    }.get(name, ["all directions", "straight-through"])
    assert defence.exact
    for label, surrogate in surrogates.items():
        assert torch.equal(surrogate(images), defence(images)), label
        with torch.no_grad():
            assert torch.equal(surrogate(images), defence(images)), label
        assert surrogate.network is defence.classifier
        found = gradient(surrogate, images)
        assert bool(torch.isfinite(found).all()), label
        assert bool((found != 0).flatten(1).any(1).all()), label


def test_votes_have_no_gradient_of_their_own() -> None:
    images = pixels()
    majority = NIPDictionary(net(), bank(), steps=[0.1], rule="majority")
    assert not bool(gradient(majority, images).any())
    others = [
        gradient(NIPDictionary(net(), bank(), steps=[0.1], rule=rule), images) for rule in set(RULES) - {"majority"}
    ]
    assert all(bool(other.any()) for other in others)


def test_the_surrogate_of_all_directions_is_the_mean_probability() -> None:
    model, images, steps = net().double(), pixels().double(), [0.02, 0.1]
    surrogate = NIPDictionary(model, bank(), steps=steps, rule="majority").surrogates()["all directions"]
    point = images.clone().requires_grad_()
    offsets = torch.cat([step * bank().directions for step in steps])
    probabilities = []
    for offset in offsets:
        edited = point + offset
        probabilities.append(model(replace_gradient(edited.clamp(0, 1), edited)).softmax(1))
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    (expected,) = torch.autograd.grad((torch.stack(probabilities).mean(0).log() * weights).sum(), point)
    assert torch.allclose(gradient(surrogate, images), expected, rtol=1e-5, atol=1e-6)


def test_the_attacks_made_for_a_defence_and_their_names(name: str) -> None:
    model, images = net(), pixels(30, low=0.1)
    defence = ALL[name](model)
    labels = defence(images).argmax(1)
    suite: Suite = {"PGD": partial(pgd, steps=3)}
    attempts = adaptive(defence, suite, eps=0.08, steps=3)
    every = ["all candidates, sum", "all candidates, worst", "all candidates, agree"]
    looked_up = ["two conditions", "pre-compensated"]
    own = every if name not in ("self", "self, weakening", "pred") else looked_up
    assert [attempt.name for attempt in attempts] == [
        *(f"PGD through {label}" for label in defence.surrogates()), *(every + looked_up if name == "pred" else own)
    ]  # fmt: skip
    descriptions = [describe(attempt.attack) for attempt in attempts]
    assert not any(" at 0x" in text or len(text) > 200 for text in descriptions)
    first = evaluate(defence, oblivious(defence, suite), images, labels, eps=0.08, generator=seeded())
    plain = evaluate(defence, direct(defence, suite), images, labels, eps=0.08, generator=seeded(), known=first)
    found = evaluate(defence, attempts, images, labels, eps=0.08, generator=seeded(), known=plain)
    assert bool(found.clean.all())
    assert bool((found.robust <= plain.robust).all())
    assert int((~found.robust).sum()) > 0
    assert float((found.adversarial - images).abs().max()) <= 0.08 + 1e-6
    alone = evaluate(defence, attempts, images, labels, eps=0.08, generator=seeded(), exhaustive=True)
    assert all(bool(finding.broken.any()) for finding in alone.findings)


def test_the_attacks_on_candidates_know_all_that_may_be_added() -> None:
    known, model = bank(), net()
    steps = [0.02, 0.1]
    dictionary = NIPDictionary(model, known, steps=steps)
    assert torch.equal(dictionary.offsets(), torch.cat([step * known.directions for step in steps]))
    for attack in dictionary.adaptive_attacks(0.1).values():
        assert torch.equal(attack.keywords["offsets"], dictionary.offsets())
        assert attack.keywords["sampled"] is None
    search = NIPSearch(model, known, steps=steps, kept=2)
    wanted = {(s * sign, c, m) for s in steps for sign in (1, -1) for c in range(4) for m in range(2)}
    for attack in search.adaptive_attacks(0.1).values():
        offsets = attack.keywords["offsets"]
        assert len(offsets) == len(wanted) == 32
        for scale, c, m in wanted:
            assert bool((offsets - scale * known.samples[c, m]).flatten(1).abs().amax(1).min() < 1e-7)
        assert attack.keywords["sampled"] == 20
    few = NIPSearch(model, known, steps=[0.1], kept=1)
    assert {attack.keywords["sampled"] for attack in few.adaptive_attacks(0.1).values()} == {8}


# V0, which knows the answer


class AtHighest(nn.Module):
    """One pixel: class 1 below 0.8 and above 1.05, else 0."""

    def forward(self, images: Tensor) -> Tensor:
        value = images[:, 0, 0, 0]
        return nn.functional.one_hot(((value < 0.8) | (value > 1.05)).long(), 2).to(images.dtype)


def test_the_released_rule_tests_the_sign_before_it_clips_and_success_after() -> None:
    oracle = NIPOracle(AtHighest(), step=0.2)
    pixel, up = torch.full((1, 1, 1, 1), 0.9), torch.ones(1, 1, 1, 1)
    # 1.1 is of class 1, so plus is kept; clipped, it is 1.0, of class 0. A test of the clipped image would find 0.7.
    assert oracle(pixel, clean_prediction=torch.tensor([1]), directions=[up]).argmax(1).tolist() == [0]
    assert oracle(pixel, clean_prediction=torch.tensor([1]), directions=[-up]).argmax(1).tolist() == [1]
    # at 0.1 less, 1.0 is wrong, and minus gives 0.6
    assert oracle(pixel - 0.1, clean_prediction=torch.tensor([1]), directions=[up]).argmax(1).tolist() == [1]


def test_the_released_rule_by_hand() -> None:
    model, images = net(), pixels(60)
    directions = rms_normalised(torch.randn(60, *SHAPE, generator=seeded(1)))
    clean = model(pixels(60, seed=5)).argmax(1)
    expected = []
    for x, r, c in zip(images, directions, clean, strict=True):
        sign = 1 if int(model((x + 0.3 * r)[None]).argmax()) == c else -1
        expected.append(model((x + sign * 0.3 * r).clamp(0, 1)[None]))
    found = NIPOracle(model, step=0.3)(images, clean_prediction=clean, directions=[directions])
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    plus = model((images + 0.3 * directions).clamp(0, 1))
    assert not torch.allclose(found, plus)
    for predictions in (clean, (clean + 1) % 4):
        oracle = NIPOracle(model, step=0.3, sign="plus")
        assert torch.equal(oracle(images, clean_prediction=predictions, directions=[directions]), plus)
    assert not found.requires_grad


@pytest.mark.parametrize("sign", ["oracle", "plus"])
def test_of_several_directions_the_first_that_succeeds_counts(sign: Literal["oracle", "plus"]) -> None:
    model, images = net(), pixels(60)
    directions = rms_normalised(torch.randn(3, 60, *SHAPE, generator=seeded(1)))
    clean = model(pixels(60, seed=5)).argmax(1)
    oracle = NIPOracle(model, step=0.3, sign=sign)
    single = [oracle(images, clean_prediction=clean, directions=[one]) for one in directions]
    hits = torch.stack([logits.argmax(1) == clean for logits in single])
    assert 0 < int(hits[0].sum()) < int(hits.any(0).sum()) < 60
    first = [next((j for j in range(3) if hits[j, i]), 2) for i in range(60)]
    assert set(first) == {0, 1, 2}
    expected = torch.stack([single[j][i] for i, j in enumerate(first)])
    assert torch.equal(oracle(images, clean_prediction=clean, directions=directions), expected)
    assert torch.equal(oracle(images, clean_prediction=clean, directions=iter(directions)), expected)


def test_the_answer_must_be_handed_to_the_oracle_by_name() -> None:
    images, labels = pixels(3), torch.tensor([0, 1, 2])
    oracle = NIPOracle(net())
    assert oracle.step == 0.001
    assert not isinstance(oracle, Defense)
    with pytest.raises(TypeError, match="clean_prediction"):
        oracle(images, directions=[images])
    with pytest.raises(TypeError, match="positional"):
        oracle(images, labels, directions=[images])
    with pytest.raises(ValueError, match="no direction: give at least one"):
        oracle(images, clean_prediction=labels, directions=[])
    with pytest.raises(ValueError, match=r"a direction must be \(3, 2, 4, 4\), not \(2, 4, 4\)"):
        oracle(images, clean_prediction=labels, directions=images)
    with pytest.raises(ValueError, match="no sign 'minus'; there are oracle, plus"):
        NIPOracle(net(), sign="minus")  # type: ignore[arg-type]
    for step in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="step must be finite and not negative"):
            NIPOracle(net(), step=step)


def test_the_oracle_judges_in_evaluation_mode_and_gives_the_mode_back() -> None:
    model, images = net(), pixels()
    asked = {"clean_prediction": torch.arange(12) % 4, "directions": [rms_normalised(pixels(seed=2) - 0.5)]}
    expected = NIPOracle(model, step=0.1)(images, **asked)
    model.train()
    assert torch.equal(NIPOracle(model, step=0.1)(images, **asked), expected)
    assert model.training
