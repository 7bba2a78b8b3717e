"""The device mesh with three named axes; an unused axis has size 1.

`data` splits the batch, `fsdp` splits the batch and the parameters (ZeRO, Rajbhandari et al. 2020),
`tensor` splits single layers (Megatron-LM, Shoeybi et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.batch_axes import BATCH_AXES
from ssl_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over all devices with axes `("data", "fsdp", "tensor")`.

    Args:
        data, fsdp, tensor: positive sizes of the axes; one of them may be -1, which takes the
            remaining devices.
        devices: the devices to use, all of them by default. They may be descriptions of a topology
            that is not present, as ahead-of-time compilation uses.

    Returns:
        The mesh. Neighbours along `tensor` are the closest together. If devices come in slices with
        a slower network between them, `data` spans the slices.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = _axis_sizes((data, fsdp, tensor), len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    if shape[0] % slices:
        raise UserError(
            f"mesh.data={shape[0]} does not divide over {slices} slices of devices; only the data "
            f"axis may span slices: make it a multiple of {slices}"
        )
    grid = mesh_utils.create_hybrid_device_mesh(
        (shape[0] // slices, *shape[1:]), (slices, 1, 1), devices
    )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _axis_sizes(sizes: tuple[int, int, int], devices: int) -> tuple[int, int, int]:
    """The sizes of the three axes with -1 filled in, checked against the number of devices."""
    section = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1:
        raise UserError(f"{section}: only one size may be -1 (the remaining devices)")
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if devices % fixed:
            raise UserError(
                f"{section}: {devices} devices do not divide by {fixed}; use sizes whose product "
                f"divides {devices}"
            )
        sizes = tuple(devices // fixed if size == -1 else size for size in sizes)
    elif fixed != devices:
        raise UserError(
            f"{section} makes {fixed} devices but there are {devices}; set mesh.data=-1 to take "
            "the remaining devices"
        )
    return sizes


def batch_shards(mesh: Mesh) -> int:
    """The number of parts into which the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the leading dimension over `data` and `fsdp`; `tensor` neighbours share examples."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keeps the whole array on every device."""
    return NamedSharding(mesh, P())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises `UserError` unless the global batch divides over the devices that split it."""
    shards = batch_shards(mesh)
    if batch_size > 0 and batch_size % shards == 0:
        return
    over = f"{shards} devices"
    if shards != mesh.size:
        over = f"{shards} groups of {mesh.size // shards} devices (mesh.tensor)"
    below = batch_size // shards * shards
    choices = [str(size) for size in (below, max(below, 0) + shards) if size > 0]
    raise UserError(
        f"batch_size {batch_size} does not divide over {over}; use {' or '.join(choices)}"
    )


def local_rows(mesh: Mesh, global_batch: int) -> np.ndarray:
    """The rows of a global batch that this process has to supply.

    Args:
        mesh: any mesh. If its `tensor` axis spans processes, they supply equal rows.
        global_batch: rows in the batch over all processes.

    Returns:
        int64 `[rows]`, increasing.
    """
    held = np.zeros(global_batch, bool)
    indices = batch_sharding(mesh).addressable_devices_indices_map((global_batch,))
    for (rows,) in indices.values():
        held[rows] = True
    return np.flatnonzero(held)
