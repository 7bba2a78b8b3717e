"""RotNet's own facts: its rotations, labels, loss, recipes and pictures."""

import jax
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from tests.methods import paper_scale
from tests.methods.pretext import first_step
from tests.methods.test_methods import build


@pytest.fixture(scope="module")
def tiny():
    return build("rotnet")


@pytest.fixture(scope="module")
def step(tiny):
    """Weights, views of 8 images, and the loss of a new net with the logits before it."""
    return first_step(*tiny, 8)


def test_rotations_are_exact_and_counter_clockwise(step):
    _, views, *_ = step
    pieces = np.asarray(views["pieces"])  # (8, 4, 16, 16, 1)
    for turns in range(4):
        np.testing.assert_array_equal(pieces[:, turns], np.rot90(pieces[:, 0], turns, axes=(1, 2)))
    again = np.rot90(pieces[:, 3], 1, axes=(1, 2))  # the fourth quarter turn
    np.testing.assert_array_equal(again, pieces[:, 0])


def test_every_rotation_is_equally_frequent(step):
    _, views, *_ = step
    np.testing.assert_array_equal(np.bincount(views["target"].ravel()), [8, 8, 8, 8])


def test_the_loss_is_the_papers_equation(step):
    """In float64; that of a new net is log 4."""
    _, views, loss, aux, logits = step
    logits = np.asarray(logits, np.float64)
    terms = []
    for image, targets in zip(logits, views["target"], strict=True):
        for row, target in zip(image, targets, strict=True):
            terms.append(np.log(np.sum(np.exp(row))) - row[target])
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-5)
    np.testing.assert_allclose(loss, np.log(4), atol=0.05)
    hits = np.argmax(logits, axis=2) == np.asarray(views["target"])
    np.testing.assert_allclose(aux.metrics["accuracy"], hits.mean(), rtol=1e-6)
    assert aux.weight == 32


def test_held_out_scores_are_those_of_the_pictures(tiny, step):
    experiment, source = tiny
    method, w = experiment.method, step[0]
    keys, batch = jax.random.split(jax.random.key(0), 4), source.batch(range(4))
    scores, items = jax.jit(lambda *args: (method.held_out(*args), method.show(*args)))(
        w, keys, batch
    )
    item = items["Rotations"]
    assert item.pixels.shape == (4, 4, 16, 16, 1) and item.columns == ("0°", "90°", "180°", "270°")
    hits = np.sum(np.asarray(item.row_values) == [0, 90, 180, 270], axis=1)
    np.testing.assert_array_equal(scores["hits"], hits)
    np.testing.assert_array_equal(scores["count"], [4, 4, 4, 4])
    np.testing.assert_allclose(scores["loss"], 4 * np.log(4), atol=0.2)
    assert item.rows[0].format(*item.row_values[0].tolist()).startswith("predicted ")


def test_other_rotations_are_other_classes():
    method = build("rotnet", method__rotations=(90, 270))[0].method
    images = np.random.default_rng(0).random((2, 4, 4, 1)).astype(np.float32)
    made = method.pieces(None, images)
    np.testing.assert_array_equal(made["pieces"][:, 1], np.rot90(images, 3, axes=(1, 2)))
    np.testing.assert_array_equal(made["target"], [[0, 1], [0, 1]])
    assert method.head.module.num_outputs == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method__rotations": (0, 45)}, r"method.rotations is \(0, 45\); use .*0, 90, 180, 270"),
        ({"method__rotations": (90,)}, r"method.rotations is \(90,\); .*at least two different"),
        ({"method__rotations": (0, 0)}, r"method.rotations is \(0, 0\); .*at least two different"),
        ({"views__center_crop__size": (16, 12)}, "views have 16x12 pixels; .*make them square"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("rotnet", **overrides)


def test_the_recipes_are_the_released_ones():
    cifar10, imagenet = (
        paper_scale.build(f"rotnet.py:{name}", devices=1) for name in ("cifar10", "imagenet")
    )
    for experiment, rates, epochs in (
        (cifar10, (0.1, 0.02, 0.004, 0.0008), (0, 60, 120, 160)),
        (imagenet, (1e-2, 1e-3, 1e-4, 1e-5), (0, 15, 30, 45)),
    ):
        rate, length = experiment.groups.default.learning_rate, experiment.length
        steps = [epoch * length.steps_per_epoch for epoch in epochs]
        np.testing.assert_allclose([rate(step) for step in steps], rates, rtol=1e-5)
        optimizer = experiment.config.optimizer
        assert optimizer.nesterov and optimizer.weight_decay == 5e-4 and not optimizer.exclude
    assert (cifar10.config.batch_size, imagenet.config.batch_size) == (128, 192)
    assert imagenet.method.branch.module.widths == (4096, 4096)
    kernel = imagenet.abstract_state.params["branch"]["dense1"]["kernel"]
    assert kernel.shape == (6 * 6 * 256, 4096)
