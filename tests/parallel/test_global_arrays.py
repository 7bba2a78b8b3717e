import jax
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.parallel.global_arrays import _reader


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 2, "tensor": 2}])
def test_round_trip(sizes):
    mesh = parallel.make_mesh(**sizes)
    rows = parallel.local_rows(mesh, 16)
    batch = {
        "image": np.arange(16 * 4, dtype=np.uint8).reshape(16, 2, 2, 1),
        "label": np.arange(16, dtype=np.int32),
    }
    arrays = parallel.to_global(batch, mesh, rows, 16)
    assert arrays["image"].sharding.is_equivalent_to(parallel.batch_sharding(mesh), 4)
    back = parallel.gather(arrays)
    for name, expected in batch.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(back[name], expected)


def test_rows_missing():
    mesh = parallel.make_mesh()
    with pytest.raises(ValueError, match=r"batch\['label'\] has shape \(8,\).* 16 of 16 rows"):
        parallel.to_global({"label": np.zeros(8)}, mesh, np.arange(16), 16)


def test_blocks_are_found_among_scattered_rows():
    rows = np.array([2, 3, 6, 7])
    read = _reader(rows * 10.0, rows, 8)
    np.testing.assert_array_equal(read((slice(2, 4), slice(None))), [20, 30])
    np.testing.assert_array_equal(read((slice(6, None),)), [60, 70])


def test_gather_passes_host_arrays_on():
    np.testing.assert_array_equal(parallel.gather(np.arange(3)), np.arange(3))
    np.testing.assert_array_equal(parallel.gather(jax.numpy.arange(3)), np.arange(3))
