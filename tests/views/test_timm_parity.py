"""RandAugment, random erasing, mixup and cutmix against timm's, with the same random numbers."""

import random

import jax
import numpy as np
import pytest
from PIL import Image

from ssl_jax.views import erasing, mixing
from ssl_jax.views.rand_augment import OPERATIONS, apply_operations
from tests.pretrained.formats.peers import timm, torch
from tests.views.test_rand_augment import photographs

auto_augment = timm.data.auto_augment
NAMES = dict(
    zip(
        OPERATIONS,
        (
            "AutoContrast", "Equalize", "Invert", "PosterizeIncreasing", "SolarizeIncreasing",
            "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing",
            "SharpnessIncreasing", "Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
        ),
        strict=True,
    )
)  # fmt: skip
FILL = (124, 116, 104)


def test_the_operations_are_timms_increasing_ones():
    """And the defaults those of rand-m9-mstd0.5-inc1."""
    theirs = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert {op.name for op in theirs.ops} == set(NAMES.values())
    op = theirs.ops[0]
    assert (theirs.num_layers, op.prob, op.magnitude, op.magnitude_std) == (2, 0.5, 9, 0.5)


@pytest.mark.parametrize("magnitude", [0.0, 4.7, 9.0, 9.9])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_operation_is_timms(magnitude, sign, monkeypatch):
    monkeypatch.setattr(random, "random", lambda: 0.75 if sign < 0 else 0.25)
    pixels = photographs(len(OPERATIONS), height=48, width=40)
    n = len(pixels)
    ours = jax.jit(apply_operations, static_argnames="fill")(
        (pixels / np.float32(255)).swapaxes(2, 3),
        np.arange(n),
        np.full(n, magnitude, np.float32),
        np.full(n, sign, np.float32),
        fill=tuple(x / 255 for x in FILL),
    )
    ours = 255 * np.asarray(ours).swapaxes(2, 3)
    options = dict(img_mean=FILL, interpolation=Image.Resampling.BICUBIC)
    for name, before, after in zip(OPERATIONS, pixels, ours, strict=True):
        op = auto_augment.AugmentOp(NAMES[name], 1.0, magnitude, options)
        expected = np.asarray(op(Image.fromarray(before)), np.float64)
        difference = np.abs(after - expected)
        assert difference.max() <= 2.01 and difference.mean() <= 1.0, (name, difference.max())


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_rectangles_have_the_law_of_timms(mode):
    n, height, width = 3000, 24, 40
    random.seed(0)
    torch.manual_seed(0)
    eraser = timm.data.random_erasing.RandomErasing(0.25, mode=mode, device="cpu")
    theirs = eraser(torch.full((n, 3, height, width), 7.0)).numpy()[:, 0] != 7
    keys = jax.random.split(jax.random.key(0), n)
    options = dict(area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3), p=0.25)
    ours = jax.jit(lambda k: erasing.sample_rectangles(k, (height, width), **options))(keys)
    measured = []
    for mask in (np.asarray(ours), theirs):
        erased = mask.any((1, 2))
        sides = [mask[erased].any(axis).sum(1) for axis in (2, 1)]
        quantiles = [np.quantile(side, [0.1, 0.5, 0.9]) for side in sides]
        measured.append((erased.mean(), mask.mean(0), quantiles))
    np.testing.assert_allclose(measured[0][0], measured[1][0], atol=0.03)
    np.testing.assert_allclose(measured[0][1], measured[1][1], atol=0.03)  # where
    np.testing.assert_allclose(measured[0][2], measured[1][2], atol=2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("is_cut", [False, True])
def test_mixed_images_and_targets_are_timms(seed, is_cut, monkeypatch):
    """timm's batch with its share and box, and with its pairs: i and n - 1 - i."""
    n, height, width, classes = 6, 20, 28, 5
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(n, height, width, 3)).astype(np.float32)
    labels = rng.integers(0, classes, n)
    share, y, x = rng.uniform(size=3)
    monkeypatch.setattr(np.random, "rand", lambda *shape: 0.0 if is_cut else 0.9)
    monkeypatch.setattr(np.random, "beta", lambda a, b: share)
    centres = iter((int(y * height), int(x * width)))
    monkeypatch.setattr(np.random, "randint", lambda low, high, size=None: next(centres))
    mixer = timm.data.mixup.Mixup(0.8, 1.0, prob=0.95, num_classes=classes, label_smoothing=0.1)
    mixed, target = mixer(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    )

    box = np.zeros((height, width), bool)
    if is_cut:
        box = np.asarray(mixing.cutmix_box(np.float32(share), y, x, height, width))
    lam = np.full(n, 1.0 if is_cut else share, np.float32)
    boxes = np.broadcast_to(box, (n, height, width))
    ours = mixing.combine(images, images[::-1], lam, boxes)
    np.testing.assert_allclose(ours, mixed.numpy().transpose(0, 2, 3, 1), atol=1e-6)
    own = lam * (1 - box.mean())
    one_hot = np.eye(classes)
    soft = 0.9 * (own[:, None] * one_hot[labels] + (1 - own)[:, None] * one_hot[labels[::-1]])
    np.testing.assert_allclose(soft + 0.1 / classes, target.numpy(), atol=1e-6)
