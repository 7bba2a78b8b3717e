"""digits and shapes: the data sets that need no download."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.data.kinds import shapes


def test_digits_are_scikit_learns_over_the_whole_range():
    source = data.load("digits", "all")
    batch = source.batch(np.arange(len(source)))
    assert batch["image"].dtype == np.uint8 and batch["image"].shape == (1797, 8, 8, 1)
    assert batch["image"].min() == 0 and batch["image"].max() == 255
    # The same images with the same labels, in another order.
    bunch = load_digits()
    there = {(im.tobytes(), int(y)) for im, y in zip(
        np.round(bunch.images / 16 * 255).astype(np.uint8), bunch.target, strict=True
    )}  # fmt: skip
    here = {(im.tobytes(), int(y)) for im, y in zip(batch["image"], batch["label"], strict=True)}
    assert here == there


def test_digits_split_is_stratified_disjoint_and_fixed():
    train, test = data.load("digits"), data.load("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    per_class = np.bincount(train.labels) + np.bincount(test.labels)
    np.testing.assert_array_equal(per_class, np.bincount(load_digits().target))
    np.testing.assert_allclose(np.bincount(test.labels) / per_class, 0.2, atol=0.003)
    # A slice of the train split is a random sample: all classes, about equally.
    assert np.bincount(data.load("digits", "train[:300]").labels, minlength=10).min() > 15
    np.testing.assert_array_equal(train.labels, data.load("digits").labels)
    assert train.in_memory and train.class_names == tuple("0123456789")


def test_digits_on_another_canvas():
    batch = data.load("digits", image_size=16, channels=3).batch(np.arange(5))
    assert batch["image"].shape == (5, 16, 16, 3)
    assert (batch["image"] == batch["image"][..., :1]).all()
    small = data.load("digits").batch(np.arange(5))["image"]
    assert abs(batch["image"].astype(float).mean() - small.mean()) < 8


def test_shapes_are_a_function_of_seed_and_index():
    few, many = (data.load("shapes", num_generated=n) for n in (20, 50))
    np.testing.assert_array_equal(few.images, many.images[:20])
    np.testing.assert_array_equal(few.factors, many.factors[:20])
    other = data.load("shapes", num_generated=20, seed=1)
    assert (few.factors != other.factors).mean() > 0.8
    test = data.load("shapes", "test", num_generated=20)
    assert len(test) == 4 and (test.factors[:4] != few.factors[:4]).mean() > 0.8


def test_shapes_render_from_their_factors():
    source = data.load("shapes", num_generated=64, image_size=24)
    assert source.factor_names == tuple(shapes.FACTORS)
    drawn = shapes.render(source.factors, 24)
    np.testing.assert_array_equal(source.batch(np.arange(64))["image"], drawn)
    # One at a time, too: rendering does not depend on the company.
    np.testing.assert_array_equal(shapes.render(source.factors[7:8], 24)[0], drawn[7])
    for column, (low, high) in enumerate(shapes.FACTORS.values()):
        values = source.factors[:, column]
        assert low <= values.min() and values.max() <= high
        assert values.std() > 0.2 * (high - low)


def test_shapes_render_from_other_factors():
    for source in (
        data.load("shapes", "train[2:9]+test", num_generated=20, label="hue"),
        data.load("shapes", num_generated=20, label="hue").take(np.array([3, 5])),
    ):
        factors = source.renderer.draw(np.random.default_rng(1), 500)
        assert factors.dtype == np.float32 and factors.shape == (500, 7)
        for column, (low, high) in enumerate(shapes.FACTORS.values()):
            values = factors[:, column]
            assert low <= values.min() and values.max() <= high
            assert values.std() > 0.2 * (high - low)
        rendered = source.renderer.source(factors)
        batch = rendered.batch(np.array([7, 400]))
        np.testing.assert_array_equal(batch["image"], shapes.render(factors[[7, 400]], 32))
        np.testing.assert_array_equal(batch["label"], np.floor(8 * factors[[7, 400], 1]))


@pytest.mark.parametrize("shape", range(len(shapes.SHAPES)))
def test_a_shape_is_where_and_as_large_as_its_factors_say(shape):
    size = 128
    factors = np.array([[shape, 0.0, 0.2, 0.7, 0.4, 0.6, 0.5]], np.float32)
    image = shapes.render(factors, size)[0].astype(float)
    ink, ground = (np.array(c) for c in ([229.5, 45.9, 45.9], [61.2, 153.0, 153.0]))
    np.testing.assert_allclose(image[0, 0], ground, atol=0.51)
    cover = ((image - ground) @ (ink - ground)) / ((ink - ground) @ (ink - ground))  # [h w]
    assert cover.sum() / size**2 == pytest.approx(np.pi * 0.2**2, rel=0.01)  # equal areas
    y, x = np.mgrid[:size, :size]
    assert (cover * x).sum() / cover.sum() == pytest.approx(0.4 * size - 0.5, abs=0.6)
    assert (cover * y).sum() / cover.sum() == pytest.approx(0.6 * size - 0.5, abs=0.6)
    if shapes.SHAPES[shape] != "ring":
        assert image[int(0.6 * size), int(0.4 * size)] == pytest.approx(ink, abs=0.51)


def test_turning_a_shape_turns_the_picture():
    for shape in range(len(shapes.SHAPES)):
        angles = (0.3, 0.3 + np.pi / 2)
        factors = np.array([[shape, 0.1, 0.2, angle, 0.5, 0.5, 0.6] for angle in angles])
        first, second = shapes.render(factors, 32).astype(int)
        # y points down, so a growing angle turns clockwise: rows become columns from the right.
        assert np.abs(np.rot90(first, -1) - second).max() <= 1


def test_no_outline_touches_the_border():
    low, high = np.array(list(shapes.FACTORS.values())).T
    extremes = []
    for shape in range(len(shapes.SHAPES)):
        for x in (low[4], high[4]):
            for angle in np.linspace(0, 2 * np.pi / 3, 8):
                extremes.append([shape, 0.0, high[2], angle, x, x, 0.5])
    images = shapes.render(np.array(extremes), 256).astype(int)
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    assert np.abs(border - border[:, :1]).max() == 0


def test_pixels_say_little_about_the_shape():
    """A linear classifier on raw pixels stays near chance, one in six, with few labels or many."""
    train, test = (
        data.load("shapes", split, num_generated=5000, image_size=12) for split in ("train", "test")
    )
    pixels = [source.images.reshape(len(source), -1) / 255.0 - 0.5 for source in (train, test)]

    def accuracy(rows):
        features, targets = pixels[0][rows], np.eye(6)[train.labels[rows]] - 1 / 6
        gram = features.T @ features + 0.02 * len(rows) * np.eye(features.shape[1])  # ridge
        weights = np.linalg.solve(gram, features.T @ targets)
        return ((pixels[1] @ weights).argmax(1) == test.labels).mean()

    by_class = [np.flatnonzero(train.labels == label) for label in range(6)]
    few = [np.concatenate([rows[8 * k : 8 * k + 8] for rows in by_class]) for k in range(10)]
    assert np.mean([accuracy(rows) for rows in few]) < 1 / 6 + 0.04  # standard error 0.005
    assert accuracy(np.arange(5000)) < 1 / 6 + 0.1


def test_every_factor_can_be_the_label():
    for name in shapes.FACTORS:
        source = data.load("shapes", num_generated=400, label=name)
        column = source.factors[:, source.factor_names.index(name)]
        assert source.num_classes == (6 if name == "shape" else 8)
        assert set(source.labels) == set(range(source.num_classes))
        order = np.argsort(column, kind="stable")
        assert (np.diff(source.labels[order]) >= 0).all()  # the label grows with the factor


def test_shapes_too_many_for_memory_are_drawn_when_read(monkeypatch):
    kept = data.load("shapes", num_generated=50, channels=1)
    monkeypatch.setattr(shapes, "_IN_MEMORY_BYTES", 1000)
    drawn = data.load("shapes", num_generated=50, channels=1)
    assert kept.in_memory and not drawn.in_memory
    indices = np.array([3, 1, 49])
    for key, value in kept.batch(indices).items():
        np.testing.assert_array_equal(drawn.batch(indices)[key], value)
    part = data.load("shapes", "train[40:]", num_generated=50, channels=1)
    np.testing.assert_array_equal(part.batch([9])["image"], drawn.batch([49])["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generated": 0}, "data.options.num_generated is 0; use a whole number above 0"),
        ({"label": "colour"}, "data.options.label is 'colour'; use one of shape, hue"),
        (
            {"host_crops": {"global": {}}},
            "asks for .*global.*, but shapes is cropped on the device",
        ),
        ({"num_gen": 5}, "unknown config key data.options.num_gen;.*Did you mean 'num_generated'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        data.load("shapes", **options)


def test_shapes_with_a_long_tail():
    """Classes of the train split form a geometric series; nothing else changes, nor the test."""
    even = data.load("shapes", num_generated=6000)
    tailed = data.load("shapes", num_generated=6000, rarest=0.1)
    counts = np.bincount(tailed.labels, minlength=6)
    share = 0.1 ** (np.arange(6) / 5)
    np.testing.assert_allclose(counts / counts.sum(), share / share.sum(), atol=0.02)
    np.testing.assert_array_equal(tailed.factors[:, 1:], even.factors[:, 1:])
    tests = [
        data.load("shapes", "test", num_generated=500, rarest=rarest).labels
        for rarest in (1.0, 0.1)
    ]
    np.testing.assert_array_equal(*tests)
    hues = data.load("shapes", num_generated=6000, label="hue", rarest=0.01).labels
    counts = np.bincount(hues, minlength=8)
    np.testing.assert_allclose(counts[-1] / counts[0], 0.01, rtol=0.5)


def test_a_long_tail_of_combinations_is_refused():
    with pytest.raises(UserError, match="classes of one factor"):
        data.load("shapes", num_generated=100, label="combination", rarest=0.1)
