"""Iterates once over a data set in global device batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssl_jax import data, parallel


def device_batches(
    config: ConfigDict,
    source: data.Source,
    mesh: Mesh,
    subset: np.ndarray | None = None,
    batch_size: int | None = None,
) -> Iterator[Any]:
    """Yields batches of about `batch_size` examples in order; the last is padded.

    Padded rows have `mask` False.

    Args:
      config: the config of the run.
      source: the data.
      mesh: the devices that split the batches.
      subset: indices of the examples to visit; default all.
      batch_size: default `eval.batch_size`, or all examples if there are fewer.
    """
    shards = parallel.batch_shards(mesh)
    batch_size = batch_size or min(config.eval.batch_size, len(source))
    size = -(-batch_size // shards) * shards
    rows = parallel.local_rows(mesh, size)
    for batch in data.epoch_batches(
        source, size, rows=rows, subset=subset, workers=config.data.workers
    ):
        yield parallel.to_global(batch, mesh, rows, size)
