"""Rows of features of which each process has only its own, and their places on the devices.

`SplitRows` is what `ssl_jax.evals.features.extract` keeps of an output that it does not gather.
`Layout` puts rows on the devices of a mesh in blocks, from arrays that every process has whole or
from `SplitRows`.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.evals.scores import ROWS


@dataclasses.dataclass(frozen=True)
class SplitRows:
    """An array [n ...] of which this process has some rows; each row belongs to one process.

    Attributes:
      values: [m ...], the rows of this process.
      numbers: int64 [m], increasing: their numbers in the whole array.
      count: n.
    """

    values: np.ndarray
    numbers: np.ndarray
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...) of the whole array."""
        return (self.count, *self.values.shape[1:])

    @property
    def ndim(self) -> int:
        return self.values.ndim

    def __len__(self) -> int:
        return self.count

    def flattened(self) -> SplitRows:
        """Frames [n t d] as rows [n t, d]; rows [n d] stay."""
        if self.ndim == 2:
            return self
        frames = self.values.shape[1]
        numbers = (self.numbers[:, None] * frames + np.arange(frames)).ravel()
        values = self.values.reshape(-1, self.values.shape[-1])
        return SplitRows(values, numbers, self.count * frames)

    def kept(self, mask: np.ndarray) -> SplitRows:
        """The rows that `mask`, bool [n], marks."""
        own = mask[self.numbers]
        numbers = (np.cumsum(mask) - 1)[self.numbers[own]]
        return SplitRows(self.values[own], numbers, int(mask.sum()))


def total(value: int) -> int:
    """The sum of a number over all processes, each of which must call it."""
    return int(parallel.from_all_processes([value]).sum())


@dataclasses.dataclass(frozen=True)
class Layout:
    """Places of n examples on the devices of a mesh: blocks of rows, split over the devices.

    Attributes:
      mesh: with the axis "rows".
      count: n.
      blocks: number of blocks, a multiple of the number of devices.
      size: rows of a block; the last ones of a device may be padding.
      numbers: examples of this process, int64 [m], which are on its devices in this order; None:
        all examples are on the devices in order.
    """

    mesh: Mesh
    count: int
    blocks: int
    size: int
    numbers: np.ndarray | None = None

    @classmethod
    def of(cls, h: np.ndarray | SplitRows, mesh: Mesh, max_rows: int) -> Layout:
        """The layout of features [n d].

        Args:
          h: every process must pass its part of `SplitRows`, whose mesh has devices of all of them.
          mesh: with the axis "rows".
          max_rows: largest number of rows of a block.
        """
        if not isinstance(h, SplitRows):
            n = len(h)
            blocks = mesh.size * -(-n // (mesh.size * max_rows))
            return cls(mesh, n, blocks, -(-n // blocks))
        devices = len(_own_places(mesh))
        rows = int(parallel.from_all_processes([-(-len(h.numbers) // devices)]).max())
        blocks = -(-rows // max_rows)  # of a device
        return cls(mesh, h.count, blocks * mesh.size, -(-rows // blocks), h.numbers)

    def put(self, array: np.ndarray | SplitRows, dtype: type, fill: float = 0) -> jax.Array:
        """Rows [n ...] on the devices, [blocks size ...] of `dtype`; padding is `fill`."""
        if isinstance(array, SplitRows):
            own = array.values
        else:
            own = array if self.numbers is None else array[self.numbers]
        of_device = self.blocks // self.mesh.size
        places = {place: i for i, place in enumerate(_own_places(self.mesh))}

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first, last, _ = index[0].indices(self.blocks)
            block = first if self.numbers is None else places[first // of_device] * of_device
            wanted = (last - first) * self.size
            rows = np.asarray(own[block * self.size :][:wanted], dtype)
            missing = [(0, wanted - len(rows))] + [(0, 0)] * (rows.ndim - 1)
            rows = np.pad(rows, missing, constant_values=fill) if len(rows) < wanted else rows
            return rows.reshape(last - first, self.size, *rows.shape[1:])

        shape = (self.blocks, self.size, *own.shape[1:])
        return jax.make_array_from_callback(shape, NamedSharding(self.mesh, P(ROWS)), part)

    def restored(self, values: jax.Array) -> np.ndarray:
        """One value a row, [blocks size] on the devices, in the order of the examples, [n]."""
        on_host = parallel.gather(values).ravel()
        if self.numbers is None:
            return on_host[: self.count]
        number = parallel.gather(self.put(np.arange(self.count), np.int32, fill=-1)).ravel()
        out = np.empty(self.count, on_host.dtype)
        out[number[number >= 0]] = on_host[number >= 0]
        return out


def _own_places(mesh: Mesh) -> list[int]:
    """The places of this process's devices in the mesh."""
    own = jax.process_index()
    return [i for i, device in enumerate(mesh.devices.flat) if device.process_index == own]
