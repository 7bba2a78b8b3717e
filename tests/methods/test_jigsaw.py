"""Jigsaw's own facts: tiles, orders, loss, shared codes, pictures, recipe."""

import jax
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from tests.methods import paper_scale
from tests.methods.pretext import first_step
from tests.methods.test_methods import build

PLAIN = dict(
    method__tile_size=10,
    method__channel_jitter=0,
    method__grayscale=0.0,
    method__projection=0.0,
    method__normalize=False,
)


@pytest.fixture(scope="module")
def tiny():
    return build("jigsaw")


@pytest.fixture(scope="module")
def step(tiny):
    """Weights, views of 8 images, and the loss of a new net with the logits before it."""
    return first_step(*tiny, 8, train=False)


@pytest.fixture(scope="module")
def plain():
    """Puzzles whose tiles are the cells of the grid, in their colours, for 200 images."""
    method = build("jigsaw", **PLAIN)[0].method
    images = np.random.default_rng(0).random((200, 32, 32, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    return method, images, jax.jit(method.pieces)(keys, images)


def test_tiles_in_the_order_of_the_class_are_the_image(plain):
    method, images, made = plain
    orders = method.permutations[np.asarray(made["target"])[:, 0]]
    for image, tiles, order in zip(images, made["pieces"], orders, strict=True):
        for tile, cell in zip(tiles, order, strict=True):
            top, left = 10 * (cell // 3), 10 * (cell % 3)
            np.testing.assert_array_equal(tile, image[top : top + 10, left : left + 10])


def test_orders_are_equally_frequent(plain):
    counts = np.bincount(np.asarray(plain[2]["target"])[:, 0], minlength=10)
    assert len(counts) == 10 and counts.min() > 5 and counts.max() < 40  # 20 each


def test_the_loss_of_a_new_net_is_log_p(step):
    """The head's dropout is small; without it the loss is this one in float64."""
    _, views, loss, aux, logits = step
    np.testing.assert_allclose(loss, np.log(10), atol=0.05)
    logits = np.asarray(logits, np.float64)[:, 0]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean(log_p[np.arange(8), np.asarray(views["target"])[:, 0]])
    np.testing.assert_allclose(loss, expected, atol=0.05)
    assert aux.weight == 8 and 0 <= aux.metrics["accuracy"] <= 1


def test_tiles_are_normalised_by_channel(step):
    pieces = np.asarray(step[1]["pieces"])
    assert pieces.shape == (8, 9, 8, 8, 3)
    np.testing.assert_allclose(pieces.mean(axis=(2, 3)), 0, atol=1e-3)
    deviations = pieces.std(axis=(2, 3))
    assert deviations.max() < 1.001 and np.mean(deviations > 0.99) > 0.2


def test_codes_are_shared_by_all_tiles(tiny, step):
    """Nine equal tiles have nine equal codes: their order changes nothing."""
    method, (w, views, *_) = tiny[0].method, step
    predict = jax.jit(lambda pieces: method.predict(w, pieces, train=False)[:2])
    pieces = np.array(views["pieces"])
    h, logits = predict(pieces)
    turned = pieces[:, ::-1]
    h_turned, logits_turned = predict(turned)
    np.testing.assert_allclose(h_turned[:, ::-1], h, atol=1e-6)
    assert np.abs(logits_turned - logits).max() > 1e-4


def test_half_of_the_images_are_grey_and_half_of_the_others_projected(tiny):
    method = tiny[0].method
    images = np.random.default_rng(0).random((400, 4, 4, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    made = np.asarray(jax.jit(method._change_colors)(keys, images))
    is_grey = np.ptp(made, axis=-1).max(axis=(1, 2)) < 1e-6
    is_projected = np.abs(made @ [-1, 2, -1]).max(axis=(1, 2)) < 1e-5
    is_same = np.all(made == images, axis=(1, 2, 3))
    shares = is_grey.mean(), (is_projected & ~is_grey).mean(), is_same.mean()
    np.testing.assert_allclose(shares, (0.5, 0.25, 0.25), atol=0.07)
    luma = images[is_grey] @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(made[is_grey][..., 0], luma, atol=1e-6)


@pytest.mark.slow
def test_the_page_puts_the_tiles_where_the_net_says(tiny, step):
    experiment, source = tiny
    method, w = experiment.method, step[0]
    keys, batch = jax.random.split(jax.random.key(0), 2), source.batch(range(2))

    @jax.jit
    def show(w):
        puzzle = method.pieces(keys, method.view.evaluate(batch))
        return method.show(w, keys, batch)["Puzzles"], method.held_out(w, keys, batch), puzzle

    item, _, puzzle = show(w)
    assert item.pixels.shape == (2, 2, 24, 24, 3) and item.columns == ("puzzle", "as solved")
    # A bias that makes the true order of the first image the most likely one.
    target = int(puzzle["target"][0, 0])
    head = w.params["head"]
    bias = np.array(head["out"]["bias"])
    bias[target] = 100
    w = w._replace(params={**w.params, "head": {**head, "out": {**head["out"], "bias": bias}}})
    item, scores, puzzle = show(w)
    assert scores["hits"][0] == 1
    for tile, cell in zip(puzzle["raw"][0], method.permutations[target], strict=True):
        top, left = 8 * (cell // 3), 8 * (cell % 3)
        place = item.pixels[0, 1, top : top + 8, left : left + 8]
        np.testing.assert_allclose(place, np.clip(tile, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method__num_permutations": 400_000}, "num_permutations is 400000; .*362880 orders"),
        ({"method__tile_size": 11}, "tile_size=11 does not fit .*32x32 pixels; use at most 10"),
        ({"data__channels": 1}, "change colours, and shapes is grey; set both to 0"),
        ({"views__ops": ("flip", "normalize")}, "normalises each piece .*remove normalize"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("jigsaw", **overrides)


def test_the_imagenet_recipe_is_the_papers():
    experiment = paper_scale.build("jigsaw.py:imagenet", devices=1, method__num_permutations=10)
    assert experiment.method.view.shape == (255, 255, 3)
    params = experiment.abstract_state.params
    assert params["branch"]["dense1"]["kernel"].shape == (3 * 3 * 256, 1024)
    assert params["head"]["dense1"]["kernel"].shape == (9 * 1024, 4096)
    rate = experiment.groups.default.learning_rate
    rates = [rate(step) for step in (0, 99_999, 100_000, 200_000, 300_000)]
    np.testing.assert_allclose(rates, (1e-2, 1e-2, 1e-3, 1e-4, 1e-5), rtol=1e-5)
    assert experiment.length.total_steps == 350_000 and experiment.config.batch_size == 256
