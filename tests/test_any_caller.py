"""The same number whoever asks and however: modes, layouts, defaults, batches, kinds of model; else one clear line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from contract import random_batch, seeded, tiny
from torch import Tensor, nn

from advdef.attacks import (
    apgd,
    bim,
    boundary,
    carlini_wagner,
    ddn,
    deepfool,
    each_class,
    ead,
    fab,
    ffgsm,
    fgsm,
    hop_skip_jump,
    jsma,
    mim,
    minimal,
    pgd,
    pointwise,
    rfgsm,
    single_pixel,
    square,
    suites,
    uniform_noise,
    universal,
)
from advdef.contract import NaNGradientWarning, NoGradientWarning
from advdef.defenses import BitDepth, Jpeg, Undefended
from advdef.defenses.broken import Detached
from advdef.evaluation import Attempt, accuracy, adaptive, correct, craft, direct, evaluate, oblivious

Attack = Callable[..., Tensor]
OWN: Mapping[str, Attack] = {
    "fgsm": partial(fgsm, eps=0.1),
    "fgsm L2": partial(fgsm, eps=0.5, norm="L2"),
    "ffgsm": partial(ffgsm, eps=0.1),
    "rfgsm": partial(rfgsm, eps=0.1),
    "bim L2": partial(bim, eps=0.5, norm="L2"),
    "mim": partial(mim, eps=0.1),
    "pgd": partial(pgd, eps=0.1, steps=5, restarts=2),
    "pgd L2": partial(pgd, eps=0.5, steps=5, norm="L2", loss="margin"),
    "apgd": partial(apgd, eps=0.1, steps=5, restarts=2),
    "apgd L2": partial(apgd, eps=0.5, steps=5, norm="L2", loss="dlr"),
    "each class": partial(each_class, eps=0.1, attack=partial(apgd, steps=3, loss="dlr"), classes=3),
    "minimal": partial(minimal, eps=1.0, attack=partial(pgd, steps=3), trials=4),
    "uniform noise": partial(uniform_noise, eps=0.2, draws=600),
    "uniform noise L2": partial(uniform_noise, eps=0.5, draws=20, norm="L2", stop_early=True),
    "single pixel": partial(single_pixel, eps=1.0, pixels=5),
    "jsma": partial(jsma, eps=4.0),
    "square": partial(square, eps=0.1, queries=20),
    "square L2": partial(square, eps=0.5, queries=20, norm="L2"),
}
# what these do depends on the batch: one perturbation for all, or a start from the other images
OF_A_BATCH: Mapping[str, Attack] = {
    "universal": partial(universal, eps=0.1, steps=5),
    "boundary": partial(boundary, eps=float("inf"), steps=20),
    "hop skip jump": partial(hop_skip_jump, eps=float("inf"), steps=2, first_evaluations=5),
    "pointwise": partial(pointwise, eps=float("inf")),
}
LIBRARY: Mapping[str, Attack] = {
    "carlini wagner": partial(carlini_wagner, eps=float("inf"), steps=5, binary_search_steps=2),
    "ead": partial(ead, eps=float("inf"), steps=5, binary_search_steps=2),
    "deepfool": partial(deepfool, eps=float("inf"), steps=5, candidates=3),
    "ddn": partial(ddn, eps=float("inf"), steps=5),
    "fab": partial(fab, eps=0.1, steps=3),
}
EVERY = {**OWN, **OF_A_BATCH, **LIBRARY}
GRADIENT_FREE = ("uniform noise", "uniform noise L2", "single pixel", "square", "square L2")
BY_DECISIONS = ("boundary", "hop skip jump", "pointwise")


def shaped(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images and labels; Square in L2 needs images that can be tiled."""
    if name != "square L2":
        return (tiny(28), *random_batch())
    model, images = tiny(28, (2, 5, 5)), torch.rand(6, 2, 5, 5, generator=seeded())
    return model, images, model(images).argmax(1)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device() -> Iterator[None]:
    """Tensors made without saying where have no values: whoever reads one fails."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, default_dtype])
@pytest.mark.parametrize("name", list(EVERY))
def test_an_attack_does_the_same_in_every_mode(name: str, around: Any) -> None:
    model, images, labels = shaped(name)
    expected = EVERY[name](model, images, labels, generator=seeded())
    with around():
        # tensors made in inference mode take part in no graph, unless they are copied
        found = EVERY[name](model, images.clone(), labels.clone(), generator=seeded())
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", [n for n in OWN if not n.startswith("square")])
def test_an_attack_says_where_each_tensor_belongs(name: str) -> None:
    model, images, labels = shaped(name)
    expected = EVERY[name](model, images, labels, generator=seeded())
    generator = seeded()
    with default_device():
        found = EVERY[name](model, images, labels, generator=generator)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", list(EVERY))
def test_the_layout_in_memory_changes_nothing(name: str) -> None:
    model, images, labels = shaped(name)
    expected = EVERY[name](model, images, labels, generator=seeded())
    permuted = images.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    strided = images.repeat_interleave(2, 0)[::2]
    for same in (images.to(memory_format=torch.channels_last), permuted, strided):
        assert torch.equal(same, images)
        assert torch.equal(EVERY[name](model, same, labels, generator=seeded()), expected)


class Inplace(nn.Module):
    """Normalises its input in place, as many a training script does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images.sub_(0.5))
        return logits


class Outside(Inplace):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images - 0.5)
        return logits


@pytest.mark.parametrize("name", list(EVERY))
def test_nobody_hands_out_the_callers_images(name: str) -> None:
    network, images, _ = shaped(name)
    labels = Outside(network)(images).argmax(1)
    kept = images.clone()
    found = EVERY[name](Inplace(network).eval(), images, labels, generator=seeded())
    assert torch.equal(images, kept)
    assert torch.equal(found, EVERY[name](Outside(network).eval(), images, labels, generator=seeded()))
    assert bool(correct(Inplace(network).eval(), images, labels).all())
    assert accuracy(Inplace(network).eval(), images, labels) == accuracy(Outside(network).eval(), images, labels)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("name", list(OWN))
def test_an_image_meets_the_same_attack_alone_as_in_any_batch(name: str) -> None:
    model, images, labels = shaped(name)
    whole = EVERY[name](model, images, labels, generator=seeded(5))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for rows in (order, order[:2], order[3:4]):
        part = EVERY[name](model, images[rows], labels[rows], generator=seeded(5))
        assert float((part - whole[rows]).abs().max()) < 1e-4, name
    if name in ("ffgsm", "pgd", "uniform noise", "square"):  # and a seed matters
        assert not torch.equal(EVERY[name](model, images, labels, generator=seeded(6)), whole)


class Broken(nn.Module):
    """The gradient is NaN where a patch is black (a vector over its length), and NaN pixels give finite logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.inner = network

    def forward(self, images: Tensor) -> Tensor:
        corner = (images * (images > 0.25))[:, :, 0, :2].flatten(1)
        along = corner / corner.norm(dim=1, keepdim=True)
        logits: Tensor = self.inner(images.nan_to_num()) + 1e-3 * along.nan_to_num().sum(1, keepdim=True)
        return logits


@pytest.mark.parametrize("name", [n for n in EVERY if n not in (*GRADIENT_FREE, *BY_DECISIONS)])
def test_a_gradient_that_is_nan_counts_as_zero_and_is_told(name: str) -> None:
    model, images, _ = shaped(name)
    images = 0.1 + 0.8 * images
    images[2, :, 0, :2] = 0.0
    broken = Broken(model).eval()
    labels = broken(images).argmax(1)
    with pytest.warns(NaNGradientWarning, match=r"NaN or infinite at \d images; such values count as zero") as told:
        found = EVERY[name](broken, images, labels, generator=seeded())
    assert sum(issubclass(one.category, NaNGradientWarning) for one in told) == 1
    assert bool(found.isfinite().all())
    moved = (found != images).flatten(1).any(1)
    plain = EVERY[name](model, images, labels, generator=seeded())
    assert torch.equal(moved, (plain != images).flatten(1).any(1))  # nobody is left alone for it


@pytest.mark.parametrize("name", [n for n in EVERY if n not in (*GRADIENT_FREE, *BY_DECISIONS)])
def test_a_model_without_a_gradient_is_named(name: str, network: nn.Module) -> None:
    model, images, labels = shaped(name)
    with pytest.warns(NoGradientWarning, match="that this attack fails says nothing"):
        EVERY[name](Detached(model).eval(), images, labels, generator=seeded())


# The judge


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
    for batch_size in (1, 17, 1000):
        assert torch.equal(robust(batch_size=batch_size), expected)
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

    def outcome(model: nn.Module) -> Tensor:
        defence = Undefended(model)
        return evaluate(defence, direct(defence, "quick"), images, labels, eps=0.06, generator=seeded()).adversarial

    assert torch.allclose(outcome(Hungry(network, 9, failure)), outcome(network), atol=1e-6)
    with pytest.raises(type(failure)):
        outcome(Hungry(network, 0, failure))


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
    model, images, _ = shaped("pgd")
    images = 0.1 + 0.8 * images
    images[2, :, 0, :2] = 0.0
    broken = Broken(model).eval()
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


@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
    "wrapped", [lambda z: (z, z), lambda z: {"a": z, "b": z}, lambda z: None, lambda z: z.tolist()]
)
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
@pytest.mark.parametrize("build", [exported, scripted, frozen, compiled])
def test_programs_are_models_too(network: nn.Module, batch: tuple[Tensor, Tensor], build: Any) -> None:
    images, labels = batch[0][:30], batch[1][:30]

    def outcome(model: nn.Module) -> Tensor:
        defence = Undefended(model)
        return evaluate(defence, direct(defence, "quick"), images, labels, eps=0.06, generator=seeded()).robust

    assert torch.equal(outcome(build(network)), outcome(network))


# One line that says what to pass


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"images": lambda x: x.numpy()},
            TypeError,
            r"images must be a torch\.Tensor, not numpy\.ndarray: torch\.as_tensor",
        ),
        ({"labels": lambda y: y.numpy()}, TypeError, r"labels must be a torch\.Tensor, not numpy\.ndarray"),
        ({"labels": lambda y: y.tolist()}, TypeError, r"labels must be a torch\.Tensor, not builtins\.list"),
        ({"images": lambda x: torch.utils.data.DataLoader(x)}, TypeError, r"map\(torch\.cat, zip\(\*loader\)\)"),
        (
            {"images": lambda x: x.half()},
            TypeError,
            r"float32 or float64 in \[0, 1\], not torch\.float16; .*images\.float",
        ),
        ({"images": lambda x: x.bfloat16()}, TypeError, r"not torch\.bfloat16"),
        ({"images": lambda x: (255 * x).byte()}, TypeError, "divide bytes by 255"),
        ({"images": lambda x: x.clamp(max=0) + 1.0000001}, ValueError, r"seen: 1\.0000001\d* to 1\.0000001"),
        ({"labels": lambda y: y.int()}, TypeError, r"int64, not torch\.int32: labels\.long"),
        ({"eps": lambda e: "0.1"}, TypeError, "eps must be a number.* not '0.1'"),
        ({"eps": lambda e: True}, TypeError, "eps must be a number.* not True"),
        ({"eps": lambda e: 8}, ValueError, r"in steps of 1/255 it is 8 / 255"),
        ({"eps": lambda e: torch.full((6,), 2.0)}, ValueError, r"in steps of 1/255 it is 2 / 255"),
        ({"generator": lambda g: 0}, TypeError, r"generator must be a torch\.Generator, such as .*, not 0"),
    ],
)
def test_an_attack_says_what_to_pass(change: dict[str, Any], error: type[Exception], message: str) -> None:
    images, labels = random_batch()
    given: dict[str, Any] = {"images": images, "labels": labels, "eps": 0.1, "generator": seeded()}
    given |= {name: make(given[name]) for name, make in change.items()}
    for attack in (pgd, partial(apgd, steps=3), partial(uniform_noise, draws=2)):
        with pytest.raises(error, match=message):
            attack(tiny(), given["images"], given["labels"], eps=given["eps"], generator=given["generator"])
    defence = Undefended(tiny())
    if not isinstance(given["eps"], Tensor):  # which evaluate does not take
        with pytest.raises(error, match=message):
            evaluate(defence, direct(defence, "quick"), **given)


@pytest.mark.parametrize(
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
