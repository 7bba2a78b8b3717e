"""The permutations of jigsaw puzzles: distances, the greedy rule, determinism."""

import numpy as np
import pytest

from ssl_jax.views.permutations import TOTAL, distant_permutations, hamming_distances


def test_a_hundred_are_as_far_apart_as_the_released_ones():
    """Their mean distance is 8.08 and the smallest 2; all are permutations and different."""
    chosen = distant_permutations(100)
    np.testing.assert_array_equal(np.sort(chosen, axis=1), np.tile(np.arange(9), (100, 1)))
    assert len(np.unique(chosen, axis=0)) == 100
    distances = hamming_distances(chosen)
    assert len(distances) == 100 * 99 / 2
    assert distances.mean() == pytest.approx(8.08, abs=0.005) and distances.min() == 2


@pytest.mark.slow
def test_a_thousand_are_too():
    """Noroozi & Favaro 2016, Table 4: 8.00 and 2."""
    distances = hamming_distances(distant_permutations(1000))
    assert distances.mean() == pytest.approx(8.00, abs=0.01) and distances.min() == 2


def test_each_has_the_largest_sum_of_distances_to_those_before():
    """Of 20,000 others, none is farther from the ones chosen so far."""
    chosen = distant_permutations(12)
    rng = np.random.default_rng(0)
    others = np.argsort(rng.random((20_000, 9)), axis=1)
    for count in range(1, 12):
        before = chosen[:count]
        total = np.sum(chosen[count] != before)
        others_total = np.sum(others[:, None] != before[None], axis=(1, 2))
        assert others_total.max() <= total


def test_the_seed_chooses_the_first():
    first, again, other = (distant_permutations(5, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.any(first[0] != other[0])
    np.testing.assert_array_equal(distant_permutations(8, 3)[:5], first)


@pytest.mark.parametrize("count", [0, TOTAL + 1])
def test_no_more_than_there_are(count):
    with pytest.raises(ValueError, match=f"cannot choose {count} of 362880"):
        distant_permutations(count)
