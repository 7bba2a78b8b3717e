"""Buckets of relative positions against those of T5's released code."""

import jax.numpy as jnp
import numpy as np

from ssl_jax.models.relative_positions import relative_bucket


def test_published_buckets():
    both = {-7: 7, -8: 8, -12: 9, -16: 10, -32: 12, -64: 14, -128: 15, 1: 17, 128: 31, 0: 0}
    before = {-16: 16, -20: 17, -32: 21, -64: 26, -127: 31, 0: 0, 5: 0, -15: 15}
    for expected, bidirectional in ((both, True), (before, False)):
        found = relative_bucket(jnp.array([*expected]), bidirectional=bidirectional)
        assert found.tolist() == [*expected.values()]


def test_buckets_grow_with_the_distance_and_end():
    for bidirectional, last in ((True, 15), (False, 31)):
        found = np.asarray(relative_bucket(-jnp.arange(1000), bidirectional=bidirectional))
        assert (np.diff(found) >= 0).all() and (found[128:] == last).all()
        assert set(found.tolist()) == set(range(last + 1))
    few = relative_bucket(-jnp.arange(40), bidirectional=False, num_buckets=8, max_distance=16)
    assert few[:5].tolist() == [0, 1, 2, 3, 4] and few[16:].tolist() == [7] * 24
