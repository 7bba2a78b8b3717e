"""Devices, processes, and the placement of arrays on them."""

from ssl_jax.hardware.peaks import peak_flops
from ssl_jax.parallel.distributed import (
    LOST_PROCESS,
    any_process,
    barrier,
    from_all_processes,
    from_first_process,
    initialize,
    is_first_process,
    leave,
    lost_process,
    skip_absent_tpu,
    text_from_first_process,
)
from ssl_jax.parallel.global_arrays import gather, own_rows, to_global
from ssl_jax.parallel.mesh import (
    batch_sharding,
    batch_shards,
    check_batch_size,
    local_rows,
    make_mesh,
    replicated,
)
from ssl_jax.parallel.prefetch import Prefetcher, prefetch_to_device
from ssl_jax.parallel.sharding import (
    MIN_SHARDED_SIZE,
    abstract_with,
    init_sharded,
    state_shardings,
)

__all__ = [
    "LOST_PROCESS",
    "MIN_SHARDED_SIZE",
    "Prefetcher",
    "abstract_with",
    "any_process",
    "barrier",
    "batch_sharding",
    "batch_shards",
    "check_batch_size",
    "from_all_processes",
    "from_first_process",
    "gather",
    "init_sharded",
    "initialize",
    "is_first_process",
    "leave",
    "local_rows",
    "lost_process",
    "make_mesh",
    "own_rows",
    "peak_flops",
    "prefetch_to_device",
    "replicated",
    "skip_absent_tpu",
    "state_shardings",
    "text_from_first_process",
    "to_global",
]
