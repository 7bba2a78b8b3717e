"""Holes: their areas, and that they are functions of the key."""

import jax
import numpy as np
import pytest

from ssl_jax.views import holes

KEYS = jax.random.split(jax.random.key(0), 200)


def test_the_centre_is_a_square():
    hole = np.asarray(holes.center_hole((16, 12), 6))
    assert hole.sum() == 36 and hole[5:11, 3:9].all()


@pytest.mark.parametrize(
    ("draw", "low", "high"), [("random_region", 0.2, 0.3), ("random_blocks", 1 / 64, 1 / 4)]
)
def test_areas_of_random_holes(draw, low, high):
    many = jax.jit(jax.vmap(lambda key: getattr(holes, draw)(key, (32, 24))))
    drawn = np.asarray(many(KEYS))
    share = drawn.mean(axis=(1, 2))
    assert low - 1e-3 <= share.min() and share.max() <= high + 1e-3
    assert share.std() > 0.01  # areas differ
    assert len(np.unique(drawn, axis=0)) == len(KEYS)
    np.testing.assert_array_equal(many(KEYS), drawn)  # a function of the key
    frequency = drawn.mean(axis=0)  # of each pixel
    assert frequency[2:-2, 2:-2].min() > 0 and frequency.max() < 0.6


def test_regions_are_smooth():
    """Far fewer edges than independent pixels would have (0.375 of all neighbours at a quarter)."""
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: holes.random_region(key, (32, 32))))(KEYS))
    assert (drawn[:, 1:] != drawn[:, :-1]).mean() < 0.1


def test_a_hole_widens_by_the_band_along_both_axes():
    hole = np.zeros((1, 9, 9), bool)
    hole[0, 4, 4] = True
    wide = np.asarray(holes.widen(hole, 2))
    assert wide.sum() == 25 and wide[0, 2:7, 2:7].all()
    np.testing.assert_array_equal(holes.widen(hole, 0), hole)
