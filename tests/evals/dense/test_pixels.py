"""Targets of patches and scores of pixels against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.data.masks import IGNORED
from ssl_jax.evals.dense import pixels


def test_cells_count_the_classes_of_their_pixels():
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 2, IGNORED], (3, 7, 9)).astype(np.uint8)
    got = pixels.cell_counts(masks, (2, 4), 3)
    expected = np.zeros((3, 8, 3), int)
    for n in range(3):
        for y in range(7):
            for x in range(9):
                if masks[n, y, x] != IGNORED:
                    expected[n, (y * 2 // 7) * 4 + x * 4 // 9, masks[n, y, x]] += 1
    np.testing.assert_array_equal(got, expected)
    assert got.sum() == (masks != IGNORED).sum()


def oracle(predicted, masks, classes):
    """mIoU by sets of pixels."""
    found = []
    for label in range(classes):
        pairs = [(p, t) for p, t in zip(predicted.ravel(), masks.ravel(), strict=True)
                 if t != IGNORED]  # fmt: skip
        both = sum(p == label and t == label for p, t in pairs)
        either = sum(p == label or t == label for p, t in pairs)
        if either:
            found.append(both / either)
    return np.mean(found)


def test_miou_ignores_255_and_classes_that_do_not_occur():
    rng = np.random.default_rng(1)
    masks = rng.choice([0, 1, 3, IGNORED], (5, 6, 6), p=(0.4, 0.3, 0.1, 0.2)).astype(np.uint8)
    predicted = rng.choice([0, 1, 3], (5, 6, 6))
    scores = np.eye(5, dtype=np.float32)[predicted].reshape(5, 36, 5)  # one cell a pixel
    counts = pixels.confusion(scores, masks, (6, 6))
    assert counts.sum() == (masks != IGNORED).sum()
    assert pixels.mean_iou(counts) == pytest.approx(oracle(predicted, masks, 5), abs=1e-12)
    assert np.isnan(pixels.ious(counts)[[2, 4]]).all() and pixels.ious(counts).shape == (5,)
    kept = masks != IGNORED
    assert pixels.accuracy(counts) == pytest.approx(np.mean(predicted[kept] == masks[kept]))


def test_perfect_scores_have_miou_1_and_one_class_alone_has_the_share_of_it():
    masks = np.zeros((1, 4, 4), np.uint8)
    masks[:, :2] = 1
    scores = np.eye(2, dtype=np.float32)[masks].reshape(1, 16, 2)
    assert pixels.mean_iou(pixels.confusion(scores, masks, (4, 4))) == 1
    everything = np.tile(np.array([0.9, 0.1], np.float32), (1, 16, 1))
    counts = pixels.confusion(everything, masks, (4, 4))
    np.testing.assert_allclose(pixels.ious(counts), [0.5, 0])  # a missed class counts as 0


def test_scores_are_interpolated_between_the_centres_of_cells():
    # Two cells side by side on 8 pixels, centres at 2 and 6: the border moves with the scores.
    masks = np.zeros((1, 8, 8), np.uint8)
    for high, border in ((1.0, 4), (3.0, 5)):
        scores = np.array([[[high, 0.0], [0.0, 1.0]] * 2], np.float32)
        counts = pixels.confusion(scores, masks, (2, 2))
        # Pixel x has the centre x + 0.5; weight of the right cell (x + 0.5 - 2) / 4.
        right = np.clip((np.arange(8) + 0.5 - 2) / 4, 0, 1)
        first = int((high * (1 - right) >= right).sum())
        assert first == border and counts[0, 0] == 8 * border


def test_blocks_of_images_give_the_same(monkeypatch):
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(7, 4, 3)).astype(np.float32)
    masks = rng.integers(0, 3, (7, 8, 8)).astype(np.uint8)
    whole = pixels.confusion(scores, masks, (2, 2))
    monkeypatch.setattr(pixels, "_VALUES", 3 * 8 * 8 * 3)
    np.testing.assert_array_equal(pixels.confusion(scores, masks, (2, 2)), whole)


def test_pixels_of_a_patch():
    images = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(np.uint8)
    got = pixels.pixel_patches(jnp.asarray(images), (2, 3))
    assert got.shape == (2, 6, 12)
    np.testing.assert_allclose(got[1, 4], images[1, 2:4, 2:4].ravel() / 255, rtol=1e-6)
    assert pixels.pixel_patches(jnp.asarray(images), (3, 4)).shape == (2, 12, 2 * 2 * 3)
