"""The search for holes finds those that are planted, says with what, and nothing where nothing is to be found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdef.attacks import apgd, pgd
from advdef.contract import ask
from advdef.defenses import Defense, Undefended
from advdef.evaluation import Attempt, Outcome, direct, evaluate
from advdef.evaluation.attacked import AttackedImages
from advdef.evaluation.holes import (
    FOUND_LATER,
    Judged,
    add_breaks,
    found_by,
    found_later,
    hunt,
    read_breaks,
    replay_breaks,
    search,
)
from advdef.evaluation.holes.climbs import RULES, Points, climb, places
from advdef.evaluation.holes.gradients import Smoothed, guides
from advdef.evaluation.holes.patches import PATTERNS, patches
from advdef.evaluation.holes.starts import Sources, begin
from advdef.evaluation.holes.summary import Searched, add_search, read_searches
from advdef.evaluation.holes.ways import Way, all_ways

pytestmark = pytest.mark.filterwarnings("ignore::advdef.contract.NoGradientWarning")  # that is how holes are dug

EPS = 0.1
SHORT = dict(rounds=1, passes=60)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int = 5) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).requires_grad_(False)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, 16, generator=draws()))
        net[1].bias.zero_()
    return net


def on(model: nn.Module, count: int = 24) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 4, 4, generator=draws(1)) * 0.6 + 0.2
    return images, model(images).argmax(1)


def breakable(net: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Which images of a linear model an Linf change of eps can break, where no pixel meets 0 or 1: exactly."""
    weight, logits = net[1].weight, net(images)
    rows = torch.arange(len(labels))
    lead = logits[rows, labels][:, None] - logits
    reach = eps * (weight[labels][:, None] - weight[None]).abs().sum(2)
    reach[rows, labels] = -1
    return (reach > lead).any(1)


def left_by(defence: Defense, images: Tensor, labels: Tensor, eps: float = EPS, **steps: int) -> Outcome:
    attempts = direct(defence, {"PGD": partial(pgd, **({"steps": 5} | steps))})
    return evaluate(defence, attempts, images, labels, eps=eps, generator=draws())


class Flat(Defense):
    """A linear model whose logits are rounded off: no gradient anywhere, and nothing says so."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def classifier(self) -> nn.Module:
        return self.net

    def forward(self, images: Tensor) -> Tensor:
        return (20 * self.net(images).detach()).round() / 20 + 0 * images.sum()


class Pit(nn.Module):
    """Right everywhere but near one point in the ball of the first of two images; around that nothing slopes down."""

    def __init__(self, point: Tensor, radius: float) -> None:
        super().__init__()
        self.register_buffer("point", point)
        self.radius = radius

    def forward(self, images: Tensor) -> Tensor:
        far = (images - self.point).abs().flatten(1).amax(1)
        inside = (far <= self.radius).float()
        # away from the pit the margin falls towards it
        slope = (far.clamp(max=0.3) - self.radius) * (1 - inside)
        return torch.stack([1 - 2 * inside - slope, torch.zeros_like(far)], 1)


def test_a_hole_behind_a_missing_gradient_is_found_without_one() -> None:
    net = linear()
    (images, labels), defence = on(net), Flat(net)
    outcome = left_by(defence, images, labels)
    hidden = outcome.robust & breakable(net, images, labels, 0.8 * EPS)
    assert int(hidden.sum()) >= 5  # PGD sees none of them
    found = hunt(Judged("flat", defence, images, labels, {EPS: outcome}), eps=EPS, rounds=1, passes=200)
    assert int((found.broken & hidden).sum()) >= 0.8 * int(hidden.sum())
    without = [way for way in found.by.values() if way.startswith(("squares", "Square", "SPSA"))]
    assert len(without) > 0.5 * len(found.by)  # and some by where a climb began
    assert set(found.by) == set(torch.nonzero(found.broken)[:, 0].tolist())
    with torch.no_grad():
        assert bool((ask(defence, found.attacked).argmax(1) != labels)[found.broken].all())
    assert float((found.attacked - images).abs().max()) <= EPS + 1e-6


def test_a_hole_that_no_gradient_points_to_is_found_from_a_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two near images share a pit, and the second one's attacker happened to meet it.

    The search tries a few ways that begin at the neighbour, and as many that begin at the image and find nothing; the
    order in which it tries all of them is drawn.
    """
    kept = {"the image": 3, "a neighbour": 3}

    def few_ways(*args: Any, **given: Any) -> list[Way]:
        every = [way for way in all_ways(*args, **given) if way.price == 1]
        return [way for start, n in kept.items() for way in [way for way in every if way.start == start][:n]]

    monkeypatch.setattr(search, "all_ways", few_ways)
    first = torch.full((1, 1, 4, 4), 0.5)
    pit = first + 0.08 * torch.where(torch.rand(first.shape, generator=draws(3)) < 0.5, -1, 1)
    images, labels = torch.cat([first, first + 0.03]), torch.tensor([0, 0])
    defence = Undefended(Pit(pit, 0.004))
    blind = left_by(defence, images, labels, steps=20)
    assert bool(blind.robust.all())
    lucky = replace(blind, robust=torch.tensor([True, False]), adversarial=torch.cat([first, pit]))
    found = hunt(Judged("pit", defence, images, labels, {EPS: lucky}), eps=EPS, **SHORT)
    assert found.broken.tolist() == [True, False]
    assert "from a neighbour" in found.by[0]
    kept["a neighbour"] = 0
    assert not bool(hunt(Judged("pit", defence, images, labels, {EPS: lucky}), eps=EPS, **SHORT).broken.any())


def test_on_a_linear_model_it_finds_what_can_be_broken_and_nothing_else() -> None:
    net = linear()
    images, labels = on(net)
    outcome = left_by(Undefended(net), images, labels, steps=1)
    nobody = replace(outcome, robust=outcome.clean, adversarial=images)
    found = hunt(Judged("linear", Undefended(net), images, labels, {EPS: nobody}), eps=EPS, **SHORT)
    assert not bool((found.broken & ~breakable(net, images, labels, 1.0001 * EPS)).any())
    assert bool(found.broken[breakable(net, images, labels, 0.98 * EPS)].all())


def test_the_same_seed_finds_the_same_and_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    net = linear()
    (images, labels), defence = on(net), Flat(net)
    case = Judged("flat", defence, images, labels, {EPS: left_by(defence, images, labels)})
    lines: list[str] = []

    def stops(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hunt(case, eps=EPS, **SHORT, resume=tmp_path, told=stops)
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    again = hunt(case, eps=EPS, **SHORT, resume=tmp_path)
    whole = hunt(case, eps=EPS, **SHORT)
    assert kept
    assert all(file.stat().st_mtime_ns == kept[file.name] for file in tmp_path.glob("*") if file.name in kept)
    assert again.by == whole.by
    assert torch.equal(again.attacked, whole.attacked)
    assert [t.name for t in again.tried] == [t.name for t in whole.tried]
    other = hunt(case, eps=EPS, **SHORT, seed=1)
    assert [t.name for t in other.tried] != [t.name for t in whole.tried]


def test_time_ends_it_and_a_search_without_an_end_is_refused() -> None:
    net = linear()
    images, labels = on(net, 4)
    outcome = left_by(Undefended(net), images, labels, eps=0.001)
    case = Judged("linear", Undefended(net), images, labels, {0.001: outcome})
    assert hunt(case, eps=0.001, minutes=1e-9).ended == "the time was over"
    none = Judged("linear", Undefended(net), images, labels, {0.001: replace(outcome, robust=labels < 0)})
    assert hunt(none, eps=0.001, minutes=1).ended == "nothing was left"
    with pytest.raises(ValueError, match="a search needs an end"):
        hunt(case, eps=0.001)
    with pytest.raises(ValueError, match=r"no budget 0\.2; there are 0\.001"):
        hunt(case, eps=0.2, **SHORT)


def broken_by_hand(net: nn.Module, images: Tensor, labels: Tensor, eps: float = EPS) -> AttackedImages:
    attacked = apgd(net, images, labels, eps=eps, steps=10, loss="margin", generator=draws())
    wrong = net(attacked).argmax(1) != labels
    facts = {
        "dataset": "digits",
        "profile": "smoke",
        "seed": 0,
        "defence": "CQ",
        "found_by": ["APGD"] * int(wrong.sum()),
    }
    places = torch.nonzero(wrong)[:, 0]
    return AttackedImages(attacked[wrong], images[wrong], labels[wrong], places, eps, "Linf", int(wrong.sum()), facts)


def test_what_was_found_later_counts_in_the_adaptive_number_and_in_its_row(tmp_path: Path) -> None:
    net = linear()
    (images, labels), defence = on(net), Flat(net)
    before = {e: left_by(defence, images, labels, eps=e) for e in (EPS / 2, EPS, 2 * EPS)}
    found = broken_by_hand(net, images, labels)
    add_breaks(tmp_path, found)
    breaks = read_breaks(tmp_path, dataset="digits", seed=0, defence="CQ")
    after = found_later(defence, images, labels, before, breaks, generator=draws())
    falls = ask(defence, found.attacked).argmax(1) != found.labels
    fresh = falls & before[EPS].robust[found.indices]
    expected = before[EPS].robust.clone()
    expected[found.indices[falls]] = False
    assert torch.equal(after[EPS].robust, expected)
    assert int(expected.sum()) < int(before[EPS].robust.sum())
    assert after[EPS / 2] is before[EPS / 2]  # they are too large for that
    assert not bool((after[2 * EPS].robust & ~after[EPS].robust).any())
    finding = after[EPS].findings[-1]
    assert finding.name == FOUND_LATER
    assert finding.settings == f"{int(fresh.sum())} by APGD"
    assert after[EPS].findings[:-1] == before[EPS].findings
    assert after[EPS].unique_breaks()[FOUND_LATER] == int(before[EPS].robust.sum() - expected.sum())
    assert torch.equal(after[EPS].adversarial[found.indices[fresh]], found.attacked[fresh])
    # a page whose own attacks break the same images owes nothing to the search
    stronger = replace(before[EPS], robust=expected)
    (again,) = found_later(defence, images, labels, {EPS: stronger}, breaks, generator=draws()).values()
    assert torch.equal(again.robust, expected)
    assert not any(bool(f.broken.any()) for f in again.findings if f.name == FOUND_LATER)


@pytest.mark.parametrize("fault", ["right", "too far", "another image", "out of range"])
def test_no_break_is_believed_that_is_none(fault: str) -> None:
    net = linear()
    (images, labels), defence = on(net), Undefended(linear())
    outcome = {EPS: left_by(defence, images, labels, steps=1)}
    good = broken_by_hand(net, images, labels)
    left = torch.isin(good.indices, torch.nonzero(outcome[EPS].robust)[:, 0])
    assert bool(left.any())
    changed = {
        "right": replace(good, attacked=good.originals),
        "too far": replace(good, attacked=(good.originals + 2 * (good.attacked - good.originals)).clamp(0, 1)),
        "another image": replace(good, originals=(good.originals + 1e-3).clamp(0, 1)),
        "out of range": replace(good, attacked=good.attacked + 5),
    }[fault]
    after = found_later(defence, images, labels, outcome, [changed], generator=draws())
    assert torch.equal(after[EPS].robust, outcome[EPS].robust)
    believed = found_later(defence, images, labels, outcome, [good], generator=draws())
    assert int(believed[EPS].robust.sum()) < int(outcome[EPS].robust.sum())


def test_a_stale_break_hides_no_other_one() -> None:
    """Earlier breaks may be of other weights or of a smaller budget: the point that the defence gets wrong counts."""
    net = linear()
    images, labels = on(net)
    defence = Undefended(net)
    outcome = {EPS: left_by(defence, images, labels, steps=1)}
    good = broken_by_hand(net, images, labels)
    stale = replace(good, attacked=good.originals, facts=dict(good.facts) | {"found_by": ["stale"] * len(good)})
    alone = found_later(defence, images, labels, outcome, [good], generator=draws())
    for together in ([stale, good], [replace(stale, eps=EPS / 2), good], [good, stale]):
        after = found_later(defence, images, labels, outcome, together, generator=draws())
        assert torch.equal(after[EPS].robust, alone[EPS].robust)
        assert "stale" not in after[EPS].findings[-1].settings
    assert int(alone[EPS].robust.sum()) < int(outcome[EPS].robust.sum())


def test_files_of_breaks_grow_and_are_read_by_whose_they_are(tmp_path: Path) -> None:
    net = linear()
    images, labels = on(net)
    found = broken_by_hand(net, images, labels)
    half = replace(
        found, attacked=found.attacked[:3], originals=found.originals[:3], labels=found.labels[:3],
        indices=found.indices[:3], of=3, facts=dict(found.facts) | {"found_by": ["Square"] * 3},
    )  # fmt: skip
    path = add_breaks(tmp_path, half)
    assert path is not None
    assert path.name == "digits-smoke-seed0-CQ-eps0.1.safetensors"
    assert add_breaks(tmp_path, found) == path
    assert add_breaks(tmp_path, found) == path
    (read,) = read_breaks(tmp_path, dataset="digits", seed=0, defence="CQ")
    assert sorted(read.indices.tolist()) == found.indices.tolist()
    assert found_by(read) == ["APGD"] * len(found)
    for other in (dict(dataset="mnist"), dict(seed=1), dict(defence="TQ")):
        assert read_breaks(tmp_path, **(dict(dataset="digits", seed=0, defence="CQ") | other)) == []


def test_a_summary_has_the_last_search_of_each_defence(tmp_path: Path) -> None:
    one = Searched("nip", "digits", "smoke", 0, "V1", 0.1, 30, 9, 8, ["Square", "Square"], 12, 0.5)
    add_search(tmp_path, one)
    add_search(tmp_path, replace(one, eps=0.05))
    add_search(tmp_path, replace(one, after=7))
    assert [(s.eps, s.after) for s in read_searches(tmp_path)] == [(0.05, 8), (0.1, 7)]
    assert one.as_row()["what broke the others"] == "2 by Square"
    assert read_searches(tmp_path / "none") == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
def test_every_climb_reaches_the_optimum_of_a_linear_model(rule: str, loss: str) -> None:
    net = linear()
    images, labels = on(net)
    start = begin("a random point", sources(net, images, labels), 0)
    found = climb(net, images, labels, eps=EPS, steps=60, loss=loss, rule=rule, start=start)  # type: ignore[arg-type]
    assert float((found - images).abs().max()) <= EPS + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    must = breakable(net, images, labels, 0.8 * EPS)
    assert must.any()
    assert bool((net(found).argmax(1) != labels)[must].all())


@pytest.mark.parametrize("rule", RULES)
def test_a_climb_away_from_the_clean_answer_gets_away_from_it(rule: str) -> None:
    net, asked = linear(), list[Tensor]()
    images, labels = on(net)
    start = begin("a random point", sources(net, images, labels), 0)
    handle = net.register_forward_hook(lambda module, given, logits: asked.append(logits.detach()))
    climb(net, images, labels, eps=EPS, steps=30, loss="KL", rule=rule, start=start)  # type: ignore[arg-type]
    handle.remove()
    clean, first, *_, last = (logits.log_softmax(1) for logits in asked)
    before, after = ((clean.exp() * (clean - logits)).sum(1) for logits in (first, last))
    assert bool((after > before).all())


def sources(net: nn.Module, images: Tensor, labels: Tensor) -> Sources:
    donors = (images[:2] + 0.01).clamp(0, 1)
    return Sources(images, labels, images, donors, labels[:2], donors + EPS, net, (net,), EPS, "Linf")


@pytest.mark.parametrize("name", sources(linear(), *on(linear())).possible())
def test_starts_are_in_the_ball_and_follow_from_the_seed(name: str) -> None:
    net = linear()
    images, labels = on(net)
    made = [begin(name, sources(net, images, labels), seed).of(images) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert torch.equal(made[0], made[1])
    assert float((made[0] - images).abs().max()) <= EPS + 1e-6
    assert 0 <= float(made[0].min()) <= float(made[0].max()) <= 1
    if name in ("a random point", "a corner", "half the budget"):
        assert not torch.equal(made[0], made[2])
    if name == "a corner":
        assert torch.allclose((made[0] - images).abs(), torch.tensor(EPS))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_squares_use_no_gradient_and_no_other_image(pattern: str) -> None:
    net = linear()
    images, labels = on(net)
    flat = Flat(net)
    found = patches(flat, images, labels, eps=EPS, queries=400, pattern=pattern, generator=draws())  # type: ignore[arg-type]
    part = patches(flat, images[7:9], labels[7:9], eps=EPS, queries=400, pattern=pattern, generator=draws())  # type: ignore[arg-type]
    assert torch.equal(found[7:9], part)
    must = breakable(net, images, labels, 0.8 * EPS)
    assert bool((ask(flat, found).argmax(1) != labels)[must].float().mean() > 0.9)
    few = [patches(flat, images, labels, eps=EPS, queries=q, generator=draws()) for q in (2, 20, 200)]
    wrong = [int((ask(flat, f).argmax(1) != labels).sum()) for f in few]
    assert all(a <= b for a, b in pairwise(wrong))
    assert wrong[0] < wrong[-1]


def test_a_defence_without_a_gradient_has_no_guide_but_itself() -> None:
    net = linear()
    images, labels = on(net, 3)
    assert list(guides(Flat(net), images, labels, eps=EPS)) == ["the defence itself"]
    found = guides(Undefended(net), images, labels, eps=EPS)
    assert list(found) == [
        "the defence itself",
        "the defence under noise of 0.25 eps",
        "the defence under noise of 1 eps",
    ]


def test_smoothing_keeps_the_logits_and_averages_the_gradient() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3)).requires_grad_(False)
    smooth, x = Smoothed(net, 0.05, copies=4), torch.rand(2, 1, 4, 4, generator=draws()).requires_grad_()
    logits = smooth(x)
    assert torch.equal(logits, net(x))
    (slope,) = torch.autograd.grad(logits.sum(), x)
    (again,) = torch.autograd.grad(smooth(x).sum(), x)
    assert torch.equal(slope, again)
    assert bool(slope.any())


def test_points_belong_to_images_by_their_pixels() -> None:
    images = torch.rand(4, 1, 2, 2, generator=draws())
    points = Points(images[[2, 0]], images[[2, 0]] + 0.1)
    assert torch.equal(points.of(images), images + torch.tensor([0.1, 0, 0.1, 0])[:, None, None, None])
    assert places(images, images[[3, 1]]).tolist() == [-1, 1, -1, 0]
    far = replay_breaks(nn.Flatten(), images, torch.zeros(4).long(), eps=0.05, found=points)
    assert torch.equal(far, images)


def test_a_random_defence_is_searched_through_the_mean_of_its_draws() -> None:
    class Noisy(Undefended):
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            return logits + 0.05 * torch.randn(logits.shape)

    net = linear()
    images, labels = on(net, 8)
    defence = Noisy(net, random=True)
    outcome = evaluate(defence, [Attempt("none", partial(pgd, steps=1, step_size=0.01), net)], images, labels, eps=EPS,
                       generator=draws())  # fmt: skip
    found = hunt(Judged("noisy", defence, images, labels, {EPS: outcome}), eps=EPS, **SHORT)
    assert int(found.broken.sum()) >= int((outcome.robust & breakable(net, images, labels, 0.7 * EPS)).sum()) > 0
