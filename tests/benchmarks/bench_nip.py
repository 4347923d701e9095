"""Inverse perturbations: a batch at once against the released code's way, and all classes from one pass.

The released code of NIP builds its gradients anew for every image. Here one forward and two backward passes serve a
batch, and the directions for K classes take one forward pass and one batched backward pass. Results are equal to
rounding; with ADVDEF_BENCH_DEVICE=cuda all of it runs on a GPU.
"""

from __future__ import annotations

from functools import partial

import torch
from stopwatch import DEVICE, seconds
from torch import Tensor

from advdef.models import SmallVGG
from advdef.papers.nip.influence import class_directions, inverse_direction, trace

IMAGES, CLASSES, ROUNDS = 64, 10, 5


def setting() -> tuple[SmallVGG, Tensor]:
    torch.manual_seed(0)
    return SmallVGG((3, 32, 32), CLASSES).to(DEVICE).eval(), torch.rand(IMAGES, 3, 32, 32).to(DEVICE)


def test_a_batch_is_faster_than_its_images_one_by_one() -> None:
    model, images = setting()

    def one_by_one() -> Tensor:
        return torch.cat([inverse_direction(model, image) for image in images.split(1)])

    torch.testing.assert_close(inverse_direction(model, images), one_by_one(), atol=1e-3, rtol=1e-3)
    took = seconds({"batch": partial(inverse_direction, model, images), "one by one": one_by_one}, ROUNDS)
    print(f"\n{IMAGES} directions, {DEVICE}: one by one takes {took['one by one'] / took['batch']:.1f} x a batch")
    assert took["batch"] <= took["one by one"]


def test_all_classes_at_once_cost_less_than_a_pass_for_each() -> None:
    model, images = setting()
    weights = torch.randn(CLASSES, trace(model, images[:1]).features.shape[1], device=DEVICE)

    def class_by_class() -> Tensor:
        return torch.stack([trace(model, images).direction(w).detach() for w in weights])

    at_once = partial(class_directions, model, images, weights)
    torch.testing.assert_close(at_once(), class_by_class(), atol=1e-3, rtol=1e-3)
    took = seconds({"at once": at_once, "class by class": class_by_class}, ROUNDS)
    ratio = took["class by class"] / took["at once"]
    print(f"\n{CLASSES} classes, {IMAGES} images, {DEVICE}: a pass for each takes {ratio:.2f} x one pass for all")
    assert ratio > 0.9  # on a CPU there is little to gain
