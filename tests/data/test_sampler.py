"""Samplers: the examples of a step are a pure function of (seed, step)."""

import collections

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.data import counter
from ssl_jax.data.samplers import registry
from ssl_jax.data.samplers.pk import PK
from ssl_jax.data.samplers.shuffle import Shuffle, epoch_order
from ssl_jax.data.samplers.stream import Stream

# Sizes of classes, of which one has fewer than 4 examples; 5 examples have no label.
SIZES = {0: 3, 1: 10, 2: 7, 3: 20, 5: 8, -1: 5}
LABELS = np.random.default_rng(0).permutation(np.repeat([*SIZES], [*SIZES.values()])).astype("i4")


def test_an_epoch_is_a_permutation_and_every_epoch_another_one():
    first, second = (epoch_order(0, epoch, 1000) for epoch in (0, 1))
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(np.sort(second), np.arange(1000))
    # Two random permutations agree in one place on average; 10 or more in one case of 10^7.
    assert (first == second).sum() < 10
    assert (first == epoch_order(1, 0, 1000)).sum() < 10


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
    assert epoch_order(7, 3, 50).tolist() == expected
    assert Shuffle().order(50, 12, 7).indices(3 * 4 + 2).tolist() == expected[24:36]


def test_all_positions_are_equally_likely():
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), epoch_order(seed, 0, 5)] += 1
    chi_squared = ((counts - 400) ** 2 / 400).sum()
    assert chi_squared < 39.3  # 99.9% quantile at 16 degrees of freedom


@pytest.mark.parametrize(("num_examples", "batch_size"), [(10, 3), (12, 4), (7, 7), (100, 9)])
def test_no_example_comes_twice_in_an_epoch(num_examples, batch_size):
    order, per_epoch = Shuffle().order(num_examples, batch_size, 5), num_examples // batch_size
    assert Shuffle().steps_per_epoch(num_examples, batch_size) == per_epoch
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = np.concatenate([order.indices(step) for step in steps])
        assert len(seen) == per_epoch * batch_size == len(np.unique(seen))
        assert seen.min() >= 0 and seen.max() < num_examples


def test_a_batch_larger_than_the_data_is_refused():
    for sampler in (Shuffle(), Stream(), PK(examples_per_class=1)):
        with pytest.raises(UserError, match="batch_size 11 is larger than the data set of 10 exam"):
            sampler.steps_per_epoch(10, 11)
        with pytest.raises(UserError, match="at least 1"):
            sampler.steps_per_epoch(10, 0)


@pytest.mark.parametrize("short_classes", ["repeat", "leave_out"])
@pytest.mark.parametrize("per_batch", [1, 2, 3])
def test_pk_batches_have_p_classes_and_k_examples(per_batch, short_classes):
    sampler = PK(examples_per_class=4, short_classes=short_classes)
    order = sampler.order(len(LABELS), 4 * per_batch, 9, LABELS)
    steps = sampler.steps_per_epoch(len(LABELS), 4 * per_batch)
    assert steps == len(LABELS) // (4 * per_batch)
    assert sampler.unique == (short_classes == "leave_out")
    for epoch in range(4):
        slots, dealt = [], collections.defaultdict(list)
        for step in range(epoch * steps, (epoch + 1) * steps):
            indices = order.indices(step).reshape(per_batch, 4)
            labels = LABELS[indices]
            assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == per_batch
            slots += labels[:, 0].tolist()
            for label, examples in zip(labels[:, 0].tolist(), indices, strict=True):
                dealt[label].append(examples)
                # A class that is too small repeats its examples as evenly as it can.
                times = np.unique(examples, return_counts=True)[1]
                assert len(times) == min(4, SIZES[label]) and np.ptp(times) <= 1
        expected = {1, 2, 3, 5} | ({0} if short_classes == "repeat" else set())
        times = collections.Counter(slots)
        assert set(times) == expected and max(times.values()) - min(times.values()) <= 1
        for label, examples in dealt.items():  # nothing comes again before a deck is dealt
            deals = SIZES[label] // 4
            for first in range(0, len(examples) if deals else 0, deals or 1):
                deck = np.concatenate(examples[first : first + deals])
                assert len(np.unique(deck)) == len(deck)


def test_pk_is_a_function_of_the_seed_and_the_step():
    first, again, other = (
        PK().order(len(LABELS), 12, seed, LABELS) for seed in (1, 1, 2)
    )  # fmt: skip
    batches = [first.indices(step) for step in range(12)]
    for step in reversed(range(12)):
        np.testing.assert_array_equal(again.indices(step), batches[step])
    assert all((other.indices(step) != batches[step]).any() for step in range(12))
    epochs = [np.concatenate(batches[i : i + 4]).tolist() for i in (0, 4, 8)]
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_all_examples_of_a_class_are_equally_likely():
    counts = np.zeros(7)
    labels = np.repeat([0, 1], 7)
    for seed in range(1000):
        indices = PK(examples_per_class=3).order(14, 6, seed, labels).indices(1)
        counts += np.bincount(indices[indices < 7], minlength=7)
    assert counts.sum() == 3000
    # Three of seven without replacement: variance of a count is 1000 * 3/7 * 4/7.
    assert np.abs(counts - 3000 / 7).max() < 4.5 * np.sqrt(1000 * 12 / 49)


@pytest.mark.parametrize(
    ("sampler", "batch_size", "num_classes", "message"),
    [
        (PK(), 8, None, "the data have no class labels; use 'shuffle'"),
        (PK(), 44, 10, "needs 11 classes of 4 examples .* there are 10; use batch_size 40 or less"),
    ],
)
def test_pk_refuses_data_that_do_not_suit_it(sampler, batch_size, num_classes, message):
    with pytest.raises(UserError, match=message):
        sampler.check(num_classes, batch_size)


def test_pk_refuses_batches_that_hold_no_whole_classes():
    with pytest.raises(UserError, match=r"batch_size 10 is not a multiple .* 4; use 8 or 12"):
        PK().steps_per_epoch(100, 10)
    with pytest.raises(UserError, match="there are 4; use batch_size 16 or less"):
        PK(short_classes="leave_out").order(len(LABELS), 20, 0, LABELS)
    with pytest.raises(UserError, match="no class labels"):
        PK().order(10, 4, 0, None)


def test_streams_follow_the_order_of_the_data():
    order = Stream().order(11, 3, 0)
    assert [order.indices(step).tolist() for step in range(4)] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 1, 2],
    ]  # fmt: skip
    order = Stream("parallel").order(11, 3, 0)
    assert [order.indices(step).tolist() for step in range(4)] == [
        [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 3, 6],
    ]  # fmt: skip


def test_samplers_are_read_from_the_config():
    assert registry.from_config({"name": "shuffle"}) == Shuffle()
    assert registry.from_config({"name": "pk", "examples_per_class": 2}) == PK(2)
    assert registry.from_config({"name": "stream", "rows": "parallel"}) == Stream("parallel")
    for section, message in (
        ({"name": "shufle"}, "data.sampler.name is 'shufle'.*Did you mean 'shuffle'"),
        ({"name": "shuffle", "rows": 2}, "unknown config key data.sampler.rows; known keys: name"),
        ({"name": "pk", "examples_per_class": 0}, "examples_per_class is 0; use a whole number ab"),
        ({"name": "stream", "rows": "paralel"}, "data.sampler.rows is 'paralel'.*'parallel'"),
    ):
        with pytest.raises(UserError, match=message):
            registry.from_config(section)


def test_notes_say_what_an_epoch_is():
    assert Shuffle().notes(100, 25) == []
    assert Shuffle().notes(103, 25) == ["3 other examples left out of each epoch"]
    assert PK(4).notes(103, 24) == ["6 classes x 4 examples in each batch"]
    assert Stream().notes(100, 25) == ["in the order of the data"]


def test_keys_are_key_of_each_word():
    words = np.array([0, 5, -1, 2**62])
    expected = [counter.key(3, word, 7) for word in words.tolist()]
    assert counter.keys(3, words, 7).tolist() == expected


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
