"""Packing: every item once, no row overfull, little room left."""

import time

import numpy as np
import pytest

from ssl_jax.data.text import packing


def check(sizes, capacity):
    """The fill of the rows, after checking that they are right."""
    order, first = packing.pack(sizes, capacity)
    assert first[0] == 0 and first[-1] == len(sizes) and (np.diff(first) > 0).all()
    np.testing.assert_array_equal(np.sort(order), np.arange(len(sizes)))
    rows = np.add.reduceat(sizes[order], first[:-1])
    assert rows.max() <= capacity
    return sizes.sum() / (len(rows) * capacity)


def draw(name, count, capacity, rng):
    if name == "uniform":
        return rng.integers(3, capacity + 1, count)
    if name == "short":
        return rng.integers(3, 60, count)
    lengths = np.exp(rng.normal(5.6, 1.1, count)).astype(np.int64) + 3  # as Wikipedia's articles
    full, rest = np.divmod(lengths, capacity)  # cut at the capacity, as documents are
    return np.concatenate([np.full(full.sum(), capacity), rest[rest > 2]])


@pytest.mark.parametrize("capacity", [128, 512, 2048])
@pytest.mark.parametrize("name", ["uniform", "short", "wikipedia"])
def test_rows_are_full(name, capacity):
    sizes = draw(name, 20_000, capacity, np.random.default_rng(0))
    assert check(sizes, capacity) >= 0.97


def test_against_plain_best_fit():
    rng = np.random.default_rng(1)
    for _ in range(50):
        capacity = int(rng.integers(4, 40))
        sizes = rng.integers(1, capacity + 1, int(rng.integers(1, 60)))
        rooms = []
        for size in sorted(sizes.tolist(), reverse=True):
            enough = [(room, row) for row, room in enumerate(rooms) if room >= size]
            if enough:
                rooms[min(enough)[1]] -= size
            else:
                rooms.append(capacity - size)
        check(sizes, capacity)
        assert len(packing.pack(sizes, capacity)[1]) - 1 == len(rooms)


def test_edges():
    order, first = packing.pack(np.zeros(0, np.int64), 8)
    assert len(order) == 0 and first.tolist() == [0]
    assert check(np.array([8]), 8) == 1
    assert check(np.ones(20, np.int64), 8) == 20 / 24
    for sizes in ([0], [9]):
        with pytest.raises(ValueError, match="capacity 8"):
            packing.pack(np.array(sizes), 8)


def test_the_same_every_time_and_fast():
    sizes = draw("wikipedia", 300_000, 512, np.random.default_rng(2))
    began = time.process_time()
    first = packing.pack(sizes, 512)
    assert time.process_time() - began < 5  # it takes a tenth of a second
    for one, two in zip(first, packing.pack(sizes, 512), strict=True):
        np.testing.assert_array_equal(one, two)
