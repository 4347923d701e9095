"""The same number whoever asks the judge and however: modes, batches, kinds of model; else one clear line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases import each
from contract import NaNSlope, default_dtype, net, random_batch, seeded, tiny
from torch import Tensor, nn

from advdef.attacks import (
    fgsm,
    pgd,
    suites,
    uniform_noise,
)
from advdef.contract import MemoryWarning, NaNGradientWarning, NoGradientWarning
from advdef.data import Split
from advdef.defenses import BitDepth, Jpeg, Undefended
from advdef.defenses.broken import Detached
from advdef.evaluation import Attempt, Outcome, adaptive, correct, craft, direct, evaluate, oblivious
from advdef.training import fit

# what these do depends on the batch: one perturbation for all, or a start from the other images


def test_evaluate_gives_one_number_in_every_mode(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    defence = Undefended(network)

    def robust(images: Tensor = images, labels: Tensor = labels, **options: Any) -> Tensor:
        attempts = direct(defence, "quick")
        return evaluate(defence, attempts, images, labels, eps=0.06, generator=seeded(), **options).robust

    expected = robust()
    assert 0 < int(expected.sum()) < 90
    with torch.no_grad():
        assert torch.equal(robust(), expected)
    with torch.inference_mode():
        assert torch.equal(robust(images.clone(), labels.clone()), expected)
    with default_dtype():
        assert torch.equal(robust(), expected)
    assert torch.equal(robust(images.to(memory_format=torch.channels_last)), expected)
    for batch_size in (17, 1000):
        assert torch.equal(robust(batch_size=batch_size), expected)
    assert torch.equal(robust(images[:15], labels[:15], batch_size=1), expected[:15])
    shards = [robust(images[rows], labels[rows]) for rows in torch.arange(100).split(30)]
    assert torch.equal(torch.cat(shards), expected)


class Hungry(nn.Module):
    """Fails, as a full device does, for more images than fit."""

    def __init__(self, network: nn.Module, fits: int, failure: Exception) -> None:
        super().__init__()
        self.inner, self.fits, self.failure = network, fits, failure

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.fits:
            raise self.failure
        logits: Tensor = self.inner(images)
        return logits


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("CUDA out of memory"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_what_does_not_fit_into_memory_is_tried_in_halves(
    network: nn.Module, batch: tuple[Tensor, Tensor], failure: Exception
) -> None:
    images, labels = batch[0][:40], batch[1][:40]

    def outcome(model: nn.Module) -> Outcome:
        defence = Undefended(model)
        return evaluate(defence, direct(defence, "quick"), images, labels, eps=0.06, generator=seeded())

    with pytest.warns(MemoryWarning, match="too short for 32 images .* batch_size=16 avoids") as told:
        halved = outcome(Hungry(network, 9, failure))
    assert len(told) == 1
    whole = outcome(network)
    assert torch.allclose(halved.adversarial, whole.adversarial, atol=1e-6)
    assert torch.equal(halved.robust, whole.robust)
    assert 0 < int(whole.robust.sum()) < int(whole.clean.sum())
    assert [f.forwards for f in halved.findings] == [f.forwards for f in whole.findings]
    with pytest.warns(MemoryWarning), pytest.raises(type(failure)):
        outcome(Hungry(network, 0, failure))
    with pytest.warns(MemoryWarning):
        assert torch.equal(correct(Hungry(network, 9, failure), images, labels), whole.clean)
    with pytest.raises(MemoryError, match="too short to train on 40 images in a step: lower batch_size"):
        fit(Hungry(network, 9, failure), Split((255 * images).byte(), labels), epochs=1, generator=seeded())


def test_an_outcome_says_whether_a_gradient_arrived(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch[0][:20], batch[1][:20]
    suite = {"FGSM": partial(fgsm), "noise": partial(uniform_noise, draws=3)}
    for cut in (Undefended(Returning(network, Tensor.detach).eval()), Detached(network).eval()):
        # where the defence names a surrogate, the direct attacker's failure is expected
        expected = nullcontext() if cut.surrogates() else pytest.warns(NoGradientWarning, match="no gradient reached")
        with expected:
            outcome = evaluate(cut, direct(cut, suite), images, labels, eps=0.1, generator=seeded())
        assert [finding.gradient for finding in outcome.findings] == [0.0, None]
    whole = Undefended(network)
    outcome = evaluate(whole, direct(whole, suite), images, labels, eps=0.1, generator=seeded())
    assert [finding.gradient for finding in outcome.findings] == [1.0, None]


def test_a_hard_part_behind_a_surrogate_is_not_passed_over(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """The stand-in of the outer defence leads to a network that has no gradient itself."""
    images, labels = batch[0][:20], batch[1][:20]
    for silent in (Returning(network, Tensor.detach).eval(), BitDepth(Returning(network, Tensor.detach).eval())):
        defence = Jpeg(silent)
        with pytest.warns(NoGradientWarning, match="no gradient reached"):
            evaluate(defence, adaptive(defence, "quick", eps=0.1), images, labels, eps=0.1, generator=seeded())


def test_a_gradient_of_few_images_is_told(network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """A saturated softmax: those that are right have no gradient, those that are wrong do."""
    images, labels = batch
    defence = Undefended(Returning(network, lambda z: 1e4 * z).eval())
    with pytest.warns(NoGradientWarning, match=r"gradient reached the images \(.*a saturated softmax"):
        outcome = evaluate(
            defence, direct(defence, {"PGD": partial(pgd)}), images, labels, eps=0.06, generator=seeded()
        )
    assert outcome.findings[0].gradient < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another loss has one
        evaluate(defence, direct(defence, "quick"), images, labels, eps=0.06, generator=seeded())


def test_a_resumed_run_says_again_what_was_wrong(tmp_path: Path) -> None:
    images, broken = 0.1 + 0.8 * random_batch()[0], NaNSlope(*net()).eval()
    images[2, :, 0, :2] = 0.0
    labels, defence = broken(images).argmax(1), Undefended(broken)
    for _ in range(2):
        with pytest.warns(NaNGradientWarning, match="at up to 1 images in FGSM"):
            evaluate(defence, direct(defence, "quick"), images, labels, eps=0.1, generator=seeded(), resume=tmp_path)
        with pytest.warns(NaNGradientWarning, match="at 1 images"):
            craft(broken, {"FGSM": partial(fgsm)}, images, labels, eps=0.1, generator=seeded(), resume=tmp_path)


def test_weights_that_are_not_finite_are_named(batch: tuple[Tensor, Tensor]) -> None:
    """A spiking network compares, and a comparison with NaN is finite."""

    class Spikes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(784, 10)

        def forward(self, images: Tensor) -> Tensor:
            return (self.layer(images.flatten(1)) > 0).float() + 0 * images.flatten(1)[:, :1]

    model = Spikes()
    with torch.no_grad():
        model.layer.weight[3, 5] = float("nan")
    images, labels = batch
    message = "layer.weight of the model holds NaN or infinity"
    with pytest.raises(ValueError, match=message):
        correct(model, images, labels)
    with pytest.raises(ValueError, match=message):
        pgd(model, images, labels, eps=0.1)
    with pytest.raises(ValueError, match=message):
        craft(model, {"FGSM": partial(fgsm)}, images, labels, eps=0.1, generator=seeded())
    with pytest.raises(ValueError, match=message):
        evaluate(Undefended(model), direct(Undefended(model), "quick"), images, labels, eps=0.1, generator=seeded())
    defence = Undefended(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)))
    with pytest.raises(ValueError, match=message):  # of a model that is only crafted on
        evaluate(defence, [Attempt("it", partial(fgsm), model)], images, labels, eps=0.1, generator=seeded())
    with torch.no_grad():
        model.layer.weight[3, 5] = 0.0
        model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))  # which is no weight
    correct(model, images, labels)


@pytest.mark.parametrize("classes", [2, 3])
def test_suites_fit_two_classes_and_three(classes: int) -> None:
    model = tiny(3, (1, 5, 5), classes)
    images = torch.rand(12, 1, 5, 5, generator=seeded())
    labels = model(images).argmax(1)
    defence = Undefended(model)
    for attacks in (suites.quick(), suites.standard(steps=5, queries=5), suites.strong(steps=5, restarts=1)):
        outcome = evaluate(defence, adaptive(defence, attacks, eps=0.3), images, labels, eps=0.3, generator=seeded())
        assert int(outcome.robust.sum()) < 12


# Kinds of models


class Returning(nn.Module):
    def __init__(self, network: nn.Module, wrapped: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.wrapped = network, wrapped

    def forward(self, images: Tensor) -> Any:
        return self.wrapped(self.inner(images))


@each(
    "wrapped",
    [
        lambda z: (z,),
        lambda z: [z],
        lambda z: {"logits": z, "hidden": z + 1},
        lambda z: {"output": z},
        lambda z: SimpleNamespace(loss=None, logits=z),
    ],
)
def test_logits_are_found_where_it_is_plain_which_they_are(
    network: nn.Module, batch: tuple[Tensor, Tensor], wrapped: Callable[[Tensor], Any]
) -> None:
    images, labels = batch[0][:30], batch[1][:30]

    def outcome(model: nn.Module) -> Tensor:
        defence = Undefended(model)
        return evaluate(defence, direct(defence, "quick"), images, labels, eps=0.06, generator=seeded()).adversarial

    model = Returning(network, wrapped).eval()
    assert torch.equal(outcome(model), outcome(network))
    assert torch.equal(
        pgd(model, images, labels, eps=0.1, generator=seeded()),
        pgd(network, images, labels, eps=0.1, generator=seeded()),
    )


@each("wrapped", [lambda z: (z, z), lambda z: {"a": z, "b": z}, lambda z: None, lambda z: z.tolist()])
def test_where_it_is_not_plain_one_line_says_what_to_do(
    network: nn.Module, batch: tuple[Tensor, Tensor], wrapped: Callable[[Tensor], Any]
) -> None:
    with pytest.raises(TypeError, match=r"the model returns a \w+; wrap it in a module that returns the logits"):
        correct(Returning(network, wrapped).eval(), *batch)


def exported(network: nn.Module) -> nn.Module:
    example = torch.rand(3, 1, 28, 28)
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (example,), dynamic_shapes={"input": {0: batch}}).module()


def scripted(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(network, torch.rand(3, 1, 28, 28))  # type: ignore[no-any-return]


def frozen(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.freeze(torch.jit.trace(network.eval(), torch.rand(3, 1, 28, 28)))  # type: ignore[no-any-return]


def compiled(network: nn.Module) -> nn.Module:
    return torch.compile(network, backend="eager")  # type: ignore[return-value]  # what is wrapped, without a compiler


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks for one on a copy of the images
@each("build", [exported, scripted, frozen, compiled])
def test_programs_are_models_too(network: nn.Module, batch: tuple[Tensor, Tensor], build: Any) -> None:
    images, labels = batch[0][:30], batch[1][:30]

    def outcome(model: nn.Module) -> Tensor:
        defence = Undefended(model)
        return evaluate(defence, direct(defence, "quick"), images, labels, eps=0.06, generator=seeded()).robust

    assert torch.equal(outcome(build(network)), outcome(network))


# One line that says what to pass


@each(
    ("options", "error", "message"),
    [
        ({"generator": None}, TypeError, "such as torch.Generator"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be a whole number"),
        ({"attempts": []}, ValueError, "nothing to try"),
        ({"attempts": suites.quick()}, TypeError, "attempts must be a list of Attempt"),
        ({"attempts": Attempt("it", partial(fgsm), tiny())}, TypeError, "attempts must be a list of Attempt"),
        ({"attempts": 2 * [Attempt("it", partial(fgsm), tiny())]}, ValueError, "two attempts have one name, it"),
        ({"known": {0.1: None}}, TypeError, r"of a curve, curve\[eps\]"),
        ({"eps": torch.full((6,), 0.1)}, TypeError, "eps must be a number, the same for all images"),
        ({"defence": tiny()}, TypeError, r"a Defense is needed, not Sequential: wrap a model in Undefended\(model\)"),
    ],
)
def test_evaluate_says_what_to_pass(options: dict[str, Any], error: type[Exception], message: str) -> None:
    images, labels = random_batch()
    defence = Undefended(tiny())
    given: dict[str, Any] = {
        "defence": defence,
        "attempts": direct(defence, "quick"),
        "eps": 0.1,
        "generator": seeded(),
    }
    with pytest.raises(error, match=message):
        evaluate(images=images, labels=labels, **{**given, **options})


def test_what_is_no_defence_has_no_threats() -> None:
    for threat in (direct, oblivious, partial(adaptive, eps=0.1)):
        with pytest.raises(TypeError, match=r"wrap a model in Undefended\(model\)"):
            threat(tiny(), "quick")


def test_an_attack_need_be_no_partial() -> None:
    images, labels = random_batch()
    defence = Undefended(tiny())
    evaluate(defence, [Attempt("FGSM", fgsm, defence)], images, labels, eps=np.float32(0.1), generator=seeded())  # type: ignore[arg-type]


def test_a_suite_may_be_named_and_must_have_an_attack() -> None:
    defence = Undefended(tiny())
    assert [attempt.name for attempt in direct(defence, "quick")] == list(suites.quick())
    for threat in (direct, partial(adaptive, eps=0.1)):
        with pytest.raises(ValueError, match="the suite has no attack"):
            threat(defence, {})
        with pytest.raises(ValueError, match="no suite 'quik'; there are quick"):
            threat(defence, "quik")


def test_a_folder_to_resume_from_may_be_text(tmp_path: Any) -> None:
    images, labels = random_batch()
    defence = Undefended(tiny())
    evaluate(defence, direct(defence, "quick"), images, labels, eps=0.1, generator=seeded(), resume=str(tmp_path))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir())


def test_one_logit_is_refused_with_a_way_out() -> None:
    images, labels = random_batch()
    for shape in ((-1, 1), (-1,)):
        model = Returning(tiny(classes=1), lambda z, shape=shape: z.view(shape))
        with pytest.raises(
            ValueError, match=r"one logit z for two classes; .*torch\.stack\(\[torch\.zeros_like\(z\), z\], 1\)"
        ):
            correct(model.eval(), images, labels * 0)


def test_weights_made_in_inference_mode_are_named() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(18, 4))
    images, labels = random_batch()
    with pytest.raises(ValueError, match="weights were made in inference mode"):
        pgd(model.eval(), images, labels, eps=0.1)


def test_numbers_of_numpy_are_numbers() -> None:
    images, labels = random_batch()
    found = pgd(tiny(), images, labels, eps=np.float64(0.1), generator=seeded())
    assert torch.equal(found, pgd(tiny(), images, labels, eps=0.1, generator=seeded()))
