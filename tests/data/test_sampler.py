"""The order of examples: a pure function of (seed, step)."""

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter, sampler


def test_an_epoch_is_a_permutation_and_every_epoch_another_one():
    first, second = (sampler.epoch_order(0, epoch, 1000) for epoch in (0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(np.sort(second), np.arange(1000))
    # Two random permutations agree in one place on average; 10 or more in one case of 10^7.
    assert (first == second).sum() < 10
    assert (first == sampler.epoch_order(1, 0, 1000)).sum() < 10


def test_the_order_is_what_integer_arithmetic_says():
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        return x ^ (x >> 31)

    stream = 0
    for word in (7, 1, 3):  # seed, the shuffle's own number, epoch
        stream = mix((stream + golden + word) & mask)
    draws = [mix((stream + (i + 1) * golden) & mask) for i in range(50)]
    expected = sorted(range(50), key=draws.__getitem__)
    assert sampler.epoch_order(7, 3, 50).tolist() == expected
    assert sampler.batch_indices(7, 3 * 4 + 2, 12, 50).tolist() == expected[24:36]


def test_all_positions_are_equally_likely():
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), sampler.epoch_order(seed, 0, 5)] += 1
    chi_squared = ((counts - 400) ** 2 / 400).sum()
    assert chi_squared < 39.3  # 99.9% quantile at 16 degrees of freedom


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (12, 4), (7, 7), (100, 9)])
def test_no_example_comes_twice_in_an_epoch(num_examples, batch_size):
    per_epoch = num_examples // batch_size
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = np.concatenate(
            [sampler.batch_indices(5, step, batch_size, num_examples) for step in steps]
        )
        assert len(seen) == per_epoch * batch_size == len(np.unique(seen))
        assert seen.min() >= 0 and seen.max() < num_examples


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match="batch_size 11 is larger than the data set of 10 examples"):
        sampler.batch_indices(0, 0, 11, 10)
    with pytest.raises(UserError, match="at least 1"):
        sampler.batch_indices(0, 0, 0, 10)


def test_counter_matches_the_published_splitmix64():
    # The first outputs of the reference implementation (Vigna, prng.di.unimi.it) from state 0.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert counter.bits(0, np.arange(4)).tolist() == expected


def test_counter_is_uniform_and_keys_tell_streams_apart():
    draws = counter.uniform(counter.key(1, 2), np.arange(100_000))
    assert draws.min() >= 0 and draws.max() < 1
    histogram = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((histogram - 5000) ** 2 / 5000).sum() < 43.8  # 99.9% quantile, 19 degrees
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.02
    keys = {counter.key(a, b) for a in range(30) for b in range(30)}
    assert len(keys) == 900
    assert counter.key(-1) == counter.key(2**64 - 1) != counter.key(1)
