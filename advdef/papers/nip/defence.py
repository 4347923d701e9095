"""NIP, neuron-level inverse perturbation: defences that add to an image what strengthens the right neurons.

Source: https://arxiv.org/abs/2112.13060. The classifier stays as it is. How the paper finds the perturbation of an
image whose class it does not know is not known to us, so there are three variants, all ours: ``NIPSelf`` (V1) computes
it for the predicted class, ``NIPDictionary`` (V2) tries one direction per class, ``NIPSearch`` (V3) those of many
training images. The authors' released code needs the answer and is no defence:
:class:`advdef.papers.nip.oracle.NIPOracle` (V0).

All three are deterministic. On a piecewise linear network, what they add is constant almost everywhere, so plain
autograd, which takes it for a constant, has the exact gradient. It stops at the clipping to [0, 1] and at the choices,
where the gradient is zero; the surrogates go on past both.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from advdef.attacks.suites import Suite
from advdef.attacks.wrappers import replace_gradient, straight_through
from advdef.contract import ask
from advdef.defenses.base import Defense
from advdef.defenses.transforms import Preprocessed
from advdef.papers.nip.attacks import candidates
from advdef.papers.nip.bank import DirectionBank
from advdef.papers.nip.influence import Score, Tail, feature_layer, front_and_tail, inverse_direction, trace
from advdef.papers.nip.offset import AddedOffset, by_class
from advdef.taps import renamed, tapped

__all__ = ["NIPDictionary", "NIPSearch", "NIPSelf", "DecisionRule", "SearchScore"]

DecisionRule = Literal["pred", "majority", "mean-logit", "max-confidence", "self-confidence"]
SearchScore = Literal["confidence", "recovery"]

_IMAGES_IN_A_PASS = 250  # more do not fit into the caches of a CPU; a GPU gets 16 times as many


class NIPSelf(AddedOffset):
    """V1: adds each image's own inverse perturbation for its predicted class.

    It strengthens what speaks for the prediction; on an adversarial image, for the wrong class.

    Args:
        classifier: The classifier.
        step: Size of what is added (RMS, in pixel units). A negative one weakens what speaks for the prediction.
        front: How many features, or as a float which share of them, count as the front, which is strengthened.
        tail: The same for the tail, which is weakened.
        tail_slice: Which features the tail is: the "lowest", or "skipping"
            (:func:`advdef.papers.nip.influence.front_and_tail`).
        layer: The layer of the features. Default: the last in the classifier's ``taps``.
        score: Influence is that on the "logit" or on the "probability" of the class.

    Raises ValueError for a layer that the classifier does not have.
    """

    def __init__(
        self,
        classifier: nn.Module,
        *,
        step: float,
        front: int | float = 5,
        tail: int | float = 5,
        tail_slice: Tail = "lowest",
        layer: str | None = None,
        score: Score = "logit",
    ) -> None:
        super().__init__(classifier)
        self.step, self.front, self.tail, self.tail_slice, self.score = step, front, tail, tail_slice, score
        self.layer = feature_layer(classifier, layer)

    def offset(self, images: Tensor, classes: Tensor | None = None) -> Tensor:
        """What is added (N, C, H, W) to images believed to be of ``classes`` (N,), by default those predicted."""
        direction = inverse_direction(
            self.classifier, images.detach(), classes, front=self.front, tail=self.tail, tail_slice=self.tail_slice,
            layer=self.layer, score=self.score,
        )  # fmt: skip
        return self.step * direction

    def over(self, classifier: nn.Module) -> Defense:
        """As for every defence; the layer keeps its place, whatever it is called in the other network."""
        moved = super().over(classifier)
        assert isinstance(moved, NIPSelf)
        moved.layer = renamed(self.layer, self.classifier, classifier)
        return moved

    def surrogates(self) -> dict[str, nn.Module]:
        """One that goes past the clipping; and one with soft weights of the features, which it differentiates, too."""
        return super().surrogates() | {"soft weights": straight_through(self, _SoftWeights(self))}


class _SoftWeights(nn.Module):
    """NIPSelf with a sigmoid on each side in place of the hard front and tail, differentiated in full."""

    def __init__(self, defence: NIPSelf, temperature: float = 0.1) -> None:
        super().__init__()
        self.defence, self.temperature, self.network = defence, temperature, defence.network

    def forward(self, images: Tensor) -> Tensor:
        d = self.defence
        traced = trace(d.classifier, images, layer=d.layer)
        values = traced.influence(traced.logits.argmax(1), score=d.score, create_graph=True)
        known = values.detach()
        hard = front_and_tail(known, front=d.front, tail=d.tail, tail_slice=d.tail_slice)
        lowest_in_front = known.masked_fill(hard <= 0, torch.inf).amin(1, keepdim=True)
        highest_in_tail = known.masked_fill(hard >= 0, -torch.inf).amax(1, keepdim=True)
        width = self.temperature * known.std(1, keepdim=True) + 1e-12
        soft = torch.sigmoid((values - lowest_in_front) / width) - torch.sigmoid((highest_in_tail - values) / width)
        edited = traced.point + d.step * traced.direction(soft, create_graph=True)
        return ask(d.classifier, replace_gradient(edited.clamp(0, 1), edited))


class NIPDictionary(Defense):
    """V2: adds the directions of a bank, one per class, times a step (RMS, in pixel units), and decides by a rule.

    The rule makes one decision of the logits of the K edited images:

    - "pred" takes the image edited for the class that is predicted for the image itself;
    - "majority" the class that most of the K images are classified as, the first of equal ones;
    - "mean-logit" the mean of their logits;
    - "max-confidence" the image with the largest softmax probability;
    - "self-confidence" the class whose probability is largest on the image edited for it.

    With several ``steps``, each image gets the smallest one at which the class by mean logit is the same as at the next
    larger step; where there is none, the smallest of all.

    Raises ValueError for an unknown rule, no step, a negative one, and steps that do not ascend.
    """

    def __init__(
        self, classifier: nn.Module, bank: DirectionBank, *, steps: Sequence[float], rule: DecisionRule = "mean-logit"
    ) -> None:
        super().__init__()
        if rule not in get_args(DecisionRule):
            raise ValueError(f"no rule {rule!r}; there are {', '.join(get_args(DecisionRule))}")
        if not steps or min(steps) < 0 or sorted(steps) != list(steps):
            raise ValueError(f"steps must be one or more numbers, not negative and ascending, not {steps}")
        self._classifier, self.rule, self.steps = classifier, rule, tuple(steps)
        self.training = getattr(classifier, "training", False)
        self.directions: Tensor
        self.register_buffer("directions", bank.directions)

    @property
    def classifier(self) -> nn.Module:
        """The classifier, fed with the images as they come."""
        return self._classifier

    def offset(self, images: Tensor, classes: Tensor) -> Tensor:
        """What the rule "pred" adds (N, C, H, W) to images believed to be of ``classes`` (N,)."""
        return self._step(images) * self.directions[classes]

    def forward(self, images: Tensor, *, past_clip: bool = False) -> Tensor:
        """Logits (N, K), made by the rule of those of the edited images; for "majority", numbers of votes.

        ``past_clip`` hands gradients on where clipping stops them.
        """
        if self.rule == "pred":
            with torch.no_grad():
                classes = ask(self._classifier, images).argmax(1)
            return _logits(self._classifier, images, self.offset(images, classes)[:, None], past_clip)[:, 0]
        logits = _logits(self._classifier, images, self._step(images)[:, None] * self.directions, past_clip)
        if self.rule == "mean-logit":
            return logits.mean(1)
        if self.rule == "majority":
            return nn.functional.one_hot(logits.argmax(2), logits.shape[2]).sum(1).to(logits.dtype)
        if self.rule == "max-confidence":
            return logits[torch.arange(len(images), device=images.device), _surest(logits)]
        return logits.log_softmax(2).diagonal(dim1=1, dim2=2)

    def _step(self, images: Tensor) -> Tensor:
        """(N, 1, 1, 1): the step of each image."""
        steps = torch.tensor(self.steps, dtype=images.dtype, device=images.device)
        if len(steps) == 1:
            return steps.expand(len(images))[:, None, None, None]
        with torch.no_grad():
            labels = [_logits(self._classifier, images, step * self.directions).mean(1).argmax(1) for step in steps]
        same = torch.stack([a == b for a, b in pairwise(labels)], 1)
        return steps[same.int().argmax(1)][:, None, None, None]  # argmax is 0 where nothing is stable

    def surrogates(self) -> dict[str, nn.Module]:
        """One that goes past the clipping, unless the rule counts votes; and the mean probability over all directions
        and steps.
        """
        everything = straight_through(self, _MeanProbability(self))
        return {"all directions": everything} | (
            {} if self.rule == "majority" else {"straight-through": _PastClip(self)}
        )

    def offsets(self) -> Tensor:
        """All that may be added to an image: (J, C, H, W)."""
        return torch.cat([step * self.directions for step in self.steps])

    def adaptive_attacks(self, eps: float) -> Suite:
        """Attacks on all directions at once; and, where the prediction chooses among them, on that choice."""
        through = by_class(self.classifier, self.offset) if self.rule == "pred" else {}
        return {**_against_all(self.classifier, self.offsets()), **through}


class NIPSearch(Preprocessed):
    """V3: tries directions of single training images, at several steps and with both signs; the best-scored edit
    decides.

    Raises ValueError for no step or one that is not positive, and for more directions than the bank has.

    Args:
        classifier: The classifier.
        bank: Where the directions are.
        steps: Sizes of what is added (RMS, in pixel units).
        score: What an edit is judged by. "confidence": the largest softmax probability of the edited image. "recovery":
            by how many standard deviations its features (front minus tail of the class whose direction was added) lie
            above the mean of benign images of that class.
        kept: Directions taken of each class. Default: all. An image costs K * kept * 2 * len(steps) passes.
    """

    def __init__(
        self,
        classifier: nn.Module,
        bank: DirectionBank,
        *,
        steps: Sequence[float],
        score: SearchScore = "confidence",
        kept: int | None = None,
    ) -> None:
        super().__init__(classifier)
        there = bank.samples.shape[1]
        kept = there if kept is None else kept
        if not 1 <= kept <= there:
            raise ValueError(f"the bank has 1 to {there} directions of a class, not {kept}")
        if score not in get_args(SearchScore):
            raise ValueError(f"no score {score!r}; there are {', '.join(get_args(SearchScore))}")
        if not steps or min(steps) <= 0:
            raise ValueError(f"steps must be one or more positive numbers, not {steps}")
        self.score, self.layer = score, feature_layer(classifier, bank.layer)
        samples = bank.samples[:, :kept].flatten(0, 1)
        scales = [sign * step for step in steps for sign in (1, -1)]
        classes = torch.arange(len(bank.samples), device=samples.device).repeat_interleave(kept)
        self._offsets: Tensor
        self.register_buffer("_offsets", torch.cat([scale * samples for scale in scales]))
        # for each offset: what "recovery" knows of its class
        self.weights: Tensor
        self.mean: Tensor
        self.deviation: Tensor
        for name in ("weights", "mean", "deviation"):
            self.register_buffer(name, getattr(bank, name)[classes.repeat(len(scales))])

    def prepare(self, images: Tensor) -> Tensor:
        """The images with their best-scored edit."""
        with torch.no_grad():
            winner = torch.cat([self._winner(part) for part in images.split(max(1, 20_000 // len(self._offsets)))])
        return (images + self._offsets[winner]).clamp(0, 1)

    def _winner(self, images: Tensor) -> Tensor:
        if self.score == "confidence":
            return _surest(_logits(self.classifier, images, self._offsets))
        edited = (images[:, None] + self._offsets).clamp(0, 1).flatten(0, 1)
        weights = self.weights.repeat(len(images), 1)
        sums = []
        with tapped(self.classifier, [self.layer]) as seen:
            for part, wanted in zip(_parts(edited), _parts(weights), strict=True):
                self.classifier(part)
                sums.append((seen[self.layer].flatten(1) * wanted).sum(1))
        reached = torch.cat(sums).unflatten(0, (len(images), -1))
        recovered = (reached - self.mean) / self.deviation
        return recovered.argmax(1)

    def over(self, classifier: nn.Module) -> Defense:
        """As for every defence; the layer keeps its place, whatever it is called in the other network."""
        moved = super().over(classifier)
        assert isinstance(moved, NIPSearch)
        moved.layer = renamed(self.layer, self.classifier, classifier)
        return moved

    def adaptive_attacks(self, eps: float) -> Suite:
        """Attacks on all edits that may be chosen, twenty at a time."""
        return _against_all(self.classifier, self._offsets, sampled=min(20, len(self._offsets)))


class _PastClip(nn.Module):
    """The dictionary's own values, with the identity as the gradient of its clipping."""

    def __init__(self, defence: NIPDictionary) -> None:
        super().__init__()
        self.defence, self.network = defence, defence.network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.defence(images, past_clip=True)
        return logits


class _MeanProbability(nn.Module):
    """The log of the mean probability over all edited images, in which nothing is chosen."""

    def __init__(self, defence: NIPDictionary) -> None:
        super().__init__()
        self.network, self.offsets = defence.network, defence.offsets()

    def forward(self, images: Tensor) -> Tensor:
        logits = _logits(self.network, images, self.offsets, past_clip=True)
        return logits.log_softmax(2).logsumexp(1)


def _logits(network: nn.Module, images: Tensor, offsets: Tensor, past_clip: bool = False) -> Tensor:
    """Logits (N, J, K) of images with each of the offsets, (J, C, H, W) or (N, J, C, H, W), clipped to [0, 1].

    ``past_clip`` hands gradients on where clipping stops them.
    """
    edited = (images[:, None] + offsets).flatten(0, 1)
    clipped = edited.clamp(0, 1)
    seen = replace_gradient(clipped, edited) if past_clip else clipped
    return torch.cat([ask(network, part) for part in _parts(seen)]).unflatten(0, (len(images), -1))


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(_IMAGES_IN_A_PASS * (16 if rows.is_cuda else 1))


def _surest(logits: Tensor) -> Tensor:
    """(N,): which of J rows of logits (N, J, K) has the largest softmax probability; of equal ones, the first.

    Compared by log-odds, as float32 rounds the probabilities of all sure predictions to 1.
    """
    top, predicted = logits.max(2, keepdim=True)
    others = logits.scatter(2, predicted, -torch.inf).logsumexp(2, keepdim=True)
    return (top - others).squeeze(2).argmax(1)


def _against_all(network: nn.Module, offsets: Tensor, sampled: int | None = None) -> Suite:
    ask = partial(candidates, network=network, offsets=offsets, sampled=sampled, stop_early=True)
    return {
        "all candidates, sum": partial(ask, loss="sum"),
        "all candidates, worst": partial(ask, loss="worst"),
        "all candidates, agree": partial(ask, loss="agree"),
    }
