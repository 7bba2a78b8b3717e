import itertools
import threading
import time

import jax
import numpy as np
import pytest

from ssl_jax import parallel


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_order_and_end():
    mesh = parallel.make_mesh()
    batches = [np.full((8, 2), value, np.float32) for value in range(5)]
    put = lambda batch: parallel.to_global(batch, mesh, np.arange(8), 8)  # noqa: E731
    arrays = list(parallel.prefetch_to_device(iter(batches), put))
    assert all(isinstance(array, jax.Array) for array in arrays)
    np.testing.assert_array_equal([array[0, 0] for array in arrays], range(5))
    assert not prefetch_threads()


def test_reads_only_so_far_ahead():
    read = []

    def numbers():
        for number in itertools.count():
            read.append(number)
            yield number

    with parallel.prefetch_to_device(numbers(), lambda x: x, size=2) as items:
        assert next(items) == 0
        time.sleep(0.3)
        # One handed out, two waiting, one in the thread's hands.
        assert len(read) == 4
    assert not prefetch_threads()
    with pytest.raises(StopIteration):
        next(items)


@pytest.mark.parametrize("where", ["iterator", "put"])
def test_exceptions_arrive_after_the_good_batches(where):
    def numbers():
        yield from (0, 1)
        if where == "iterator":
            raise OSError("unreadable image")
        yield 2

    def put(number):
        if number == 2:
            raise OSError("unreadable image")
        return number

    items = parallel.prefetch_to_device(numbers(), put)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="unreadable image"):
        next(items)
    with pytest.raises(StopIteration):
        next(items)
    assert not prefetch_threads()


def test_time_waited_is_that_of_slow_data():
    def slow():
        for number in range(4):
            time.sleep(0.1)
            yield number

    items = parallel.prefetch_to_device(slow(), lambda x: x)
    list(items)
    assert 0.3 < items.wait_seconds < 1.5

    items = parallel.prefetch_to_device(slow(), lambda x: x)
    for _ in items:
        time.sleep(0.2)  # a consumer slower than the data waits for the first item only
    assert items.wait_seconds < 0.25


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="size 0"):
        parallel.prefetch_to_device(iter([]), lambda x: x, size=0)
