import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from tests.methods.table import ROWS


@pytest.mark.parametrize(
    "asked, shape",
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"data": 2, "fsdp": 2, "tensor": -1}, (2, 2, 2)),
        ({"data": 1, "fsdp": 8}, (1, 8, 1)),
    ],
)
def test_mesh_sizes(asked, shape):
    mesh = parallel.make_mesh(**asked)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == shape
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert set(mesh.devices.flat) == set(jax.devices())


def test_mesh_of_some_devices():
    mesh = parallel.make_mesh(fsdp=2, devices=jax.devices()[:4])
    assert mesh.devices.shape == (2, 2, 1)
    assert set(mesh.devices.flat) == set(jax.devices()[:4])


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"fsdp": 3}, "8 devices do not divide by 3"),
        ({"data": 3, "fsdp": 2}, "makes 6 devices but there are 8; set mesh.data=-1"),
        ({"data": 4}, "makes 4 devices but there are 8"),
        ({"fsdp": -1}, "only one size may be -1"),
    ],
)
def test_mesh_of_impossible_sizes(asked, message):
    with pytest.raises(UserError, match=message):
        parallel.make_mesh(**asked)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"mesh__fsdp": 0}, "mesh.fsdp is 0; use .*a whole number above 0"),
        ({"mesh__data": -2}, "mesh.data is -2; use .*a whole number above 0"),
    ],
)
def test_mesh_sizes_are_checked_with_the_config(sizes, message):
    with pytest.raises(UserError, match=message):
        ROWS["simclr"].load(**sizes)


class SliceDevice:
    """What arranging needs of a device; stands for TPU slices, of which a CPU has none."""

    platform = device_kind = "fake"

    def __init__(self, number, slice_index):
        self.id, self.slice_index, self.process_index = number, slice_index, slice_index


def test_only_the_data_axis_spans_slices():
    devices = [SliceDevice(number, number % 2) for number in range(8)]
    mesh = parallel.make_mesh(fsdp=2, tensor=2, devices=devices)
    assert mesh.devices.shape == (2, 2, 2)
    for index in range(2):
        assert {device.slice_index for device in mesh.devices[index].flat} == {index}
    with pytest.raises(UserError, match="mesh.data=1 does not divide over 2 slices"):
        parallel.make_mesh(fsdp=8, devices=devices)


def test_batch_sharding_splits_over_data_and_fsdp():
    mesh = parallel.make_mesh(data=2, fsdp=2, tensor=2)
    array = jax.device_put(np.arange(12.0).reshape(12, 1), parallel.batch_sharding(mesh))
    assert {shard.data.shape for shard in array.addressable_shards} == {(3, 1)}
    assert parallel.batch_shards(mesh) == 4
    assert parallel.replicated(mesh).spec == P()


@pytest.mark.parametrize(
    "batch_size, sizes, message",
    [
        (100, {}, "batch_size 100 does not divide over 8 devices; use 96 or 104"),
        (5, {}, "batch_size 5 does not divide over 8 devices; use 8"),
        (0, {}, "batch_size 0 does not divide over 8 devices; use 8"),
        (-8, {}, "use 8"),
        (10, {"tensor": 2}, r"over 4 groups of 2 devices \(mesh.tensor\); use 8 or 12"),
    ],
)
def test_batch_size_that_does_not_divide(batch_size, sizes, message):
    with pytest.raises(UserError, match=message):
        parallel.check_batch_size(batch_size, parallel.make_mesh(**sizes))


def test_batch_size_that_divides():
    parallel.check_batch_size(104, parallel.make_mesh())
    parallel.check_batch_size(100, parallel.make_mesh(tensor=2))


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 4}, {"data": 1, "fsdp": 2, "tensor": 4}])
def test_one_process_supplies_every_row(sizes):
    rows = parallel.local_rows(parallel.make_mesh(**sizes), 16)
    np.testing.assert_array_equal(rows, np.arange(16))
