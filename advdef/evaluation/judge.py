"""Runs one attempt on the images of an evaluation, and judges what comes back by asking the defence."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advdef.attacks.attack import Attack, describe
from advdef.attacks.losses import margin
from advdef.contract import ask, check_logits, watched
from advdef.defenses.base import Defense, is_random, reseed
from advdef.devices import exact
from advdef.draws import seeded
from advdef.evaluation.batches import Batches
from advdef.evaluation.outcomes import Finding
from advdef.evaluation.threats import Attempt
from advdef.norms import Norm, size
from advdef.store import Entry, kept, key

__all__ = ["Judge", "UnsoundAttack", "check_sound", "counted", "derived"]

Purpose = Literal["craft", "choose", "report"]


class UnsoundAttack(RuntimeError):
    """An attack returned images outside its budget or [0, 1], or not finite: no number may come from it."""


class Judge:
    """What all attempts of one evaluation share.

    Args:
        defence: The deployed defence.
        images: (N, C, H, W), in [0, 1].
        labels: (N,), int64.
        eps: The budget, a size in ``norm``.
        norm: The norm of eps.
        seed: From which the seed of each attempt and each purpose follows.
        draws: Passes by which a random defence is judged; 0 for one that draws nothing.
        batch_size: Most images in a batch.
        folder: Where finished attempts are kept; None to keep none.
    """

    def __init__(
        self,
        defence: Defense,
        images: Tensor,
        labels: Tensor,
        *,
        eps: float,
        norm: Norm,
        seed: int,
        draws: int,
        batch_size: int,
        folder: Path | None,
    ) -> None:
        self.defence, self.images, self.labels, self.eps, self.norm = defence, images, labels, eps, norm
        self.seed, self.draws, self.batches, self.folder = seed, draws, Batches(batch_size), folder

    def shares(self, candidates: Tensor, purpose: Purpose, rows: Tensor | None = None) -> Tensor:
        """For each candidate, the share (N,) of passes that get it right; arguments as of :meth:`answers`."""
        return self.answers(candidates, purpose, rows)[0].mean(1)

    def answers(self, candidates: Tensor, purpose: Purpose, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """For each candidate and pass (N, passes), 1 where the pass gets it right, else 0; and the mean margin (N,).

        ``rows`` are the images that the candidates belong to (default: all, in order), ``purpose`` selects the draws. A
        defence that draws nothing has one pass.
        """
        if len(candidates) == 0:
            return torch.zeros(0, 1, device=candidates.device), torch.zeros(0, device=candidates.device)
        labels = self.labels if rows is None else self.labels[rows]
        seed = derived(self.seed, purpose)

        def judged(part: Tensor) -> Tensor:
            reseed(self.defence, seed)
            with torch.no_grad(), seeded(seed, candidates.device):
                right, margins = [], []
                for _ in range(max(1, self.draws)):
                    logits = ask(self.defence, candidates[part])
                    check_logits(logits, labels[part])
                    right.append((logits.argmax(1) == labels[part]).float())
                    margins.append(margin(logits, labels[part]).float())
            return torch.stack([*right, torch.stack(margins).mean(0)], 1)

        found = self.batches(judged, torch.arange(len(candidates), device=candidates.device))
        return found[:, :-1], found[:, -1]

    def run(self, attempt: Attempt, tried: Tensor) -> tuple[Tensor, Tensor, Tensor, Finding]:
        """Run one attempt on the images ``tried`` (N,), or take it from the folder.

        Returns the M places of these images (M,), what was found (M, C, H, W), the share of right passes (M,), and the
        finding.
        """
        rows = torch.nonzero(tried)[:, 0]
        make = partial(self._made, attempt, rows)
        if self.folder is None or len(rows) == 0:
            started = time.perf_counter()
            tensors, facts = make()
            entry = Entry(tensors, facts, time.perf_counter() - started, from_store=False)
        else:
            for model in (attempt.target, self.defence):  # where their draws stand is no part of what they are
                reseed(model, 0)
            name = key(
                "attempt", by=Judge, defence=self.defence, target=attempt.target, attack=attempt.attack,
                images=self.images[rows], labels=self.labels[rows], eps=self.eps, norm=self.norm, draws=self.draws,
                seed=derived(self.seed, attempt.name), judged=derived(self.seed, "choose"),
            )  # fmt: skip
            entry = kept(self.folder, name, make, label=attempt.name, check=partial(self._doubt, rows))
        right = entry.tensors["right"].to(rows.device)
        found = self.images[rows].clone()
        found[entry.tensors["moved"].to(rows.device)] = entry.tensors["found"].to(self.images)
        broken = torch.zeros_like(tried)
        broken[rows] = right <= 0.5
        near = torch.full(tried.shape, -torch.inf, device=rows.device)
        near[rows] = entry.tensors["margin"].to(near)
        told: dict[str, Any] = {"settings": describe(attempt.attack), "margin": near, **entry.facts}
        return rows, found, right, Finding(attempt.name, tried, broken, entry.seconds, **told)

    def _made(self, attempt: Attempt, rows: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Run an attempt on the images ``rows``: tensors to be kept, and facts about what that took.

        Only images that it changed for the worse are among the tensors.
        """
        passes, seed = {"forward": 0, "backward": 0}, derived(self.seed, attempt.name)
        attack = _going_on(attempt.attack) if is_random(attempt.target) else attempt.attack

        def crafted(part: Tensor) -> Tensor:
            x, y, asked = self.images[part], self.labels[part], dict.fromkeys(passes, 0)
            for model in (attempt.target, self.defence):
                reseed(model, derived(self.seed, "craft"))
            with counted(attempt.target, asked), seeded(seed, x.device):
                drawn = torch.Generator().manual_seed(seed)
                found = attack(attempt.target, x, y, eps=self.eps, generator=drawn)
            check_sound(attempt.name, x, found, eps=self.eps, norm=self.norm)
            for name, count in asked.items():  # a batch that found no memory does not count
                passes[name] += count
            return found.detach()

        with watched() as watch:
            found = self.batches(crafted, rows) if len(rows) else self.images[rows]
        hits, near = self.answers(found, "choose", rows)
        right = hits.mean(1)
        # what all passes get right is no worse than the image itself, unless other passes might tell
        moved = torch.arange(len(rows), device=rows.device) if self.draws else torch.nonzero(right < 1)[:, 0]
        facts: dict[str, Any] = {"forwards": passes["forward"], "backwards": passes["backward"]}
        facts |= {"gradient": watch.reached, "not_finite": watch.not_finite}
        return {"right": right, "moved": moved, "found": found[moved], "margin": near}, facts

    def _doubt(self, rows: Tensor, entry: Entry) -> str | None:
        """Why an entry that was read from the folder cannot be right; None where nothing speaks against it."""
        t = entry.tensors
        if set(t) != {"right", "moved", "found", "margin"} or not t["right"].shape == t["margin"].shape == rows.shape:
            return "it is about other images"
        moved = torch.arange(len(rows)) if self.draws else torch.nonzero(t["right"] < 1)[:, 0]
        if not torch.equal(moved, t["moved"]) or not bool(((t["right"] >= 0) & (t["right"] <= 1)).all()):
            return "its shares are none"
        try:
            images = self.images[rows].cpu()[t["moved"]]
            check_sound("what it holds", images, t["found"], eps=self.eps, norm=self.norm)
        except UnsoundAttack as failure:
            return str(failure)
        return None


def derived(seed: int, name: str) -> int:
    """A seed below 2**62 that follows from a seed and a name, another one for each name."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 2


def _going_on(attack: Attack) -> Attack:
    """An attack that does not stop at its first success, which on a random target is luck."""
    return partial(attack, stop_early=False) if attack.keywords.get("stop_early") else attack


def check_sound(name: str, images: Tensor, found: Tensor, *, eps: float, norm: Norm = "Linf") -> None:
    """Raise UnsoundAttack unless what an attack found has the images' shape and type, and lies in its budget and in [0,
    1].
    """
    if not isinstance(found, Tensor) or found.shape != images.shape or not bool(torch.isfinite(found).all()):
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UnsoundAttack(f"{name} returned images of shape {shape}, or not finite")
    if found.dtype != images.dtype:
        raise UnsoundAttack(f"{name} returned {found.dtype} for images of {images.dtype}")
    if found.numel() == 0:
        return
    # sums over pixels round by more than the slack in float32
    moved = float(size(exact(found) - exact(images), norm).max())
    low, high = float(found.min()), float(found.max())
    if moved > eps * (1 + 1e-6) + 1e-6 or low < 0 or high > 1:
        unit = "moved pixels by" if norm == "Linf" else f"moved an image in {norm} by"
        raise UnsoundAttack(f"{name} {unit} {moved:g} (eps {eps:g}) into [{low:g}, {high:g}]")


@contextmanager
def counted(target: nn.Module, passes: dict[str, int]) -> Iterator[None]:
    """Add to ``passes`` how many images go through ``target.network``, "forward" and "backward", inside the block.

    Where ``target`` names no network it counts for itself. An exported program takes no hook, and then nothing is
    counted.
    """
    network = getattr(target, "network", target)

    def forward(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        passes["forward"] += len(inputs[0])
        counted = False

        def from_logits(gradient: Tensor) -> None:
            nonlocal counted
            counted = True
            passes["backward"] += len(gradient)

        def at_images(gradient: Tensor) -> None:
            if not counted:  # an attack on features, whose gradient does not pass the logits
                passes["backward"] += len(gradient)

        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(from_logits)
        if inputs[0].requires_grad:
            inputs[0].register_hook(at_images)

    try:
        handle = network.register_forward_hook(forward)
    except RuntimeError:
        handle = None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
