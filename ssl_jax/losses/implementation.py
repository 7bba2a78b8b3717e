"""How a contrastive loss is computed: dense, in blocks, or in a ring; and the choice by size."""

from __future__ import annotations

from ssl_jax.core import batch_axes

IMPLEMENTATIONS = ("auto", "dense", "blockwise", "ring")
# Implementations of the losses whose anchors all come from one view.
ONE_SIDED = ("auto", "dense", "blockwise")
# Default number of views on a side of a tile: 4 MiB of float32.
BLOCK_SIZE = 1024
# "auto" stores the whole similarity matrix if it takes at most this many bytes on a device.
DENSE_BYTES = 16 * 2**20
# "auto" gathers all embeddings on each device if they take at most this many bytes.
KEYS_BYTES = 2**30


def choose_implementation(
    n: int, d: int, *, itemsize: int = 4, shards: int | None = None
) -> tuple[str, str]:
    """The choice of `implementation="auto"` of `nt_xent`.

    Args:
      n: images of the global batch.
      d: dimensions of an embedding.
      itemsize: bytes of one number of an embedding.
      shards: number of devices that split the batch; default: those of the ambient mesh.

    Returns:
      (name of the implementation, reason in words).
    """
    shards = batch_axes.shards() if shards is None else shards
    matrix, keys = (2 * n) ** 2 * 4 // shards, 2 * n * d * itemsize
    if matrix <= DENSE_BYTES:
        return "dense", f"the similarities take {_mebibytes(matrix)} per device"
    if shards > 1 and keys > KEYS_BYTES:
        return "ring", f"all embeddings would take {_mebibytes(keys)} on every device"
    return "blockwise", (
        f"the similarities would take {_mebibytes(matrix)} per device, the embeddings take "
        f"{_mebibytes(keys)}"
    )


def choose_one_sided(n: int, columns: int, *, shards: int | None = None) -> tuple[str, str]:
    """The choice of `implementation="auto"` of losses whose anchors come from one view.

    Args:
      n: anchors of the global batch.
      columns: embeddings that each anchor is compared with.
      shards: number of devices that split the anchors; default: those of the ambient mesh.

    Returns:
      (name of the implementation, reason in words).
    """
    shards = batch_axes.shards() if shards is None else shards
    matrix = n * columns * 4 // shards
    if matrix <= DENSE_BYTES:
        return "dense", f"the similarities take {_mebibytes(matrix)} per device"
    return "blockwise", f"the similarities would take {_mebibytes(matrix)} per device"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.{1 if count < 10 * 2**20 else 0}f} MiB"


def check_implementation(
    implementation: str, known: tuple[str, ...], block_size: int | None
) -> None:
    """Raises ValueError for an unknown implementation or a block size that is not positive."""
    if implementation not in known:
        raise ValueError(f"unknown implementation {implementation!r}; one of {', '.join(known)}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be positive, got {block_size}")


def tile_size(implementation: str, n: int, columns: int, block_size: int | None) -> int | None:
    """`pair_plan.Plan.block_size` for n anchors and `columns` columns."""
    if implementation == "auto":
        implementation, _ = choose_one_sided(n, columns)
    return None if implementation == "dense" else block_size or BLOCK_SIZE
