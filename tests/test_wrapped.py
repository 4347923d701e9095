"""Networks from elsewhere, made ones that can be judged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from advdef import wrap
from advdef.attacks import pgd
from advdef.data.torchvision_wheel import torchvision
from advdef.report.bring import load_weights
from advdef.taps import default_taps

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Returning(nn.Module):
    """A linear network that packs its logits."""

    def __init__(self, pack: Any, classes: int = 3) -> None:
        super().__init__()
        self.pack, self.layers = pack, nn.Sequential(nn.Flatten(), nn.Linear(192, classes))

    def forward(self, pixel_values: Tensor) -> Any:
        return self.pack(self.layers(pixel_values))


@pytest.mark.parametrize(
    ("pack", "output"),
    [
        (lambda z: z, None),
        (lambda z: SimpleNamespace(logits=z, loss=None), None),  # as Hugging Face
        (lambda z: {"logits": z, "features": z + 1}, None),
        (lambda z: (z, z + 1), 0),
        (lambda z: {"out": z, "aux": z + 1}, "out"),
        (lambda z: SimpleNamespace(scores=z), "scores"),
        (lambda z: z.softmax(1), torch.log),
    ],
)
def test_the_logits_are_found_and_images_normalised(pack: Any, output: Any) -> None:
    network = Returning(pack).eval()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.5])
    wrapped = wrap(network, mean=mean.tolist(), std=std.tolist(), output=output)
    wanted = network.layers((IMAGES - mean[:, None, None]) / std[:, None, None])
    found = wrapped(IMAGES)
    assert torch.allclose(found.log_softmax(1), wanted.log_softmax(1), atol=1e-5)
    labels = found.argmax(1)
    assert bool((wrapped(pgd(wrapped, IMAGES, labels, eps=0.5)).argmax(1) != labels).all())


@pytest.mark.parametrize("pack", [lambda z: z, lambda z: z[:, 0]])
def test_one_logit_for_two_classes_becomes_two(pack: Any) -> None:
    network = Returning(pack, classes=1).eval()
    single = network.layers(IMAGES)[:, 0]
    assert torch.equal(wrap(network)(IMAGES), torch.stack([torch.zeros(4), single], 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (123.7, 116.3, 103.5)}, "divide mean and std by 255"),
        ({"mean": float("nan")}, "mean must be finite"),
        ({"std": (0.2, float("nan"), 0.2)}, "std must be finite"),
        ({"std": 0}, "std must be above zero"),
        ({"std": ()}, "std must be finite"),
        ({"mean": (0.5, 0.5), "std": (1, 1, 1)}, "mean has 2 channels, std 3"),
        ({"mean": "imagenet"}, "a number, or one for each channel"),
        ({"taps": ["layers.7"]}, r"no layer 'layers.7'; it has layers, layers.0, layers.1"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        wrap(Returning(lambda z: z).eval(), **options)


def test_a_mean_of_other_channels_than_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match="mean and std are those of 2 channels, and the images have 3"):
        wrap(Returning(lambda z: z).eval(), mean=(0.5, 0.5))(IMAGES)


def test_what_is_no_network_or_in_training_mode_is_refused() -> None:
    with pytest.raises(TypeError, match="not a class: call it"):
        wrap(Returning)
    with pytest.raises(TypeError, match="not function"):
        wrap(augment)
    with pytest.raises(ValueError, match=r"call model\.eval"):
        wrap(nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()))
    with pytest.raises(TypeError, match="output='scores' of the SimpleNamespace that the model returns is no tensor"):
        wrap(Returning(lambda z: SimpleNamespace(a=z)), output="scores")(IMAGES)
    with pytest.raises(TypeError, match="output=3 is not in the dict"):
        wrap(Returning(lambda z: {"a": z, "b": z}), output=3)(IMAGES)


def augment(images: Tensor) -> Tensor:
    return images


def test_taps_are_those_that_one_names_and_torchvisions_networks_are_taken() -> None:
    network = torchvision().models.resnet18(num_classes=7).eval()
    wrapped = wrap(network, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), taps=["layer4", "avgpool"])
    assert default_taps(wrapped) == ("model.layer4", "model.avgpool")
    with torch.no_grad():
        assert wrapped(IMAGES.repeat(1, 1, 4, 4)).shape == (4, 7)


@pytest.mark.parametrize("inside", [True, False])
def test_a_wrapped_network_takes_its_weights_or_those_of_the_network_inside(inside: bool, tmp_path: Path) -> None:
    kept, wrapped = (wrap(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), mean=0.5) for _ in range(2))
    safetensors.torch.save_file((kept.model if inside else kept).state_dict(), file := tmp_path / "kept.safetensors")
    load_weights(wrapped, file)
    assert torch.equal(wrapped.model[1].weight, kept.model[1].weight)
