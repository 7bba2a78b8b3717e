"""The search of `retrieval` and of `knn` over many rows, compiled for TPUs

    python -m benchmarks.retrieval_tpu

Nothing runs: the TPU compiler (extra `aot`) says what a chip would hold of one block of queries
against the whole gallery: arguments, results and temporaries.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax import hlo
from ssl_jax.evals import nearest, ranking
from ssl_jax.hardware import tpu


def lowered(
    mesh: Mesh, *, rows: int, width: int, references: int
) -> tuple[int, jax.stages.Lowered]:
    """The ranking of `rows` examples against themselves: the queries of a block, and the program.

    Args:
      mesh: of the axis "rows"; `rows` divides over it.
      rows, width: shape of the gallery.
      references: of the largest class, including the query.
    """
    block = ranking.block_size(rows, rows, references, mesh.size)

    def split(*shape: int, dtype: jnp.dtype = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P(nearest.ROWS)))

    program = ranking._search.lower(
        split(block, width, dtype=jnp.float32), *(split(block),) * 5,
        split(rows, width, dtype=jnp.float32), split(rows),
        *(jax.ShapeDtypeStruct((rows,), jnp.int32),) * 2,
        ks=(1, 2, 4, 8), largest=references, compare=True, similarity="cosine", grouped=False,
        exclude_self=True, mesh=mesh,
    )  # fmt: skip
    return block, program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2**20)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--references", type=int, default=128, help="of the largest class")
    parser.add_argument("--topologies", nargs="+", default=("v5e:1x1", "v5e:2x4", "v5e:4x4"))
    arguments = parser.parse_args()
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        f"{arguments.rows:,} x {arguments.width} against themselves, compiled for TPU",
        *("slice", "queries in a block", "HBM MiB a chip", "of it gallery", "FLOPs a chip, all"),
        packages=("libtpu",),
    )
    for topology in arguments.topologies:
        mesh = Mesh(tpu.devices(topology), (nearest.ROWS,), axis_types=(AxisType.Auto,))
        block, program = lowered(
            mesh, rows=arguments.rows, width=arguments.width, references=arguments.references
        )
        found = hlo.read(program.compile())
        used = found.argument_bytes + found.output_bytes + found.temp_bytes
        gallery = arguments.rows // mesh.size * arguments.width * 4
        table.add_row(
            topology, f"{block:,}", f"{used / 2**20:,.0f}", f"{gallery / 2**20:,.0f}",
            f"{found.flops * -(-arguments.rows // block):.2e}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
