"""NT-Xent, value and gradient, compiled for TPUs: python -m benchmarks.contrastive_tpu

Nothing runs: the TPU compiler (extra `aot`) says what a chip would hold, compute and send. Memory
is HBM: arguments, results and temporaries. The compiler also keeps tiles in on-chip memory,
which its own peak counts in; that peak is shown beside it.

FLOPs are divided by 6 N^2 d / D (N views, d = 128 dimensions, D chips), on one chip by 4 N^2 d. The
bytes sent are divided by (D-1)/D N (2 d + 4): embeddings in bfloat16 and one float32 per row.
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax import hlo, parallel
from ssl_jax.hardware import tpu
from ssl_jax.losses import nt_xent

DIMENSIONS = 128


@dataclasses.dataclass(frozen=True)
class Case:
    """One compilation; `views` over the whole slice, `goal_mib` of HBM a chip."""

    topology: str
    views: int
    dtype: str
    implementation: str
    goal_mib: float | None = None


CASES = (
    Case("v5e:1x1", 2**14, "float32", "dense"),
    Case("v5e:1x1", 2**14, "float32", "blockwise", 32),
    Case("v5e:1x1", 2**14, "bfloat16", "blockwise", 32),
    Case("v5e:1x1", 2**17, "float32", "blockwise", 224),
    Case("v5e:1x1", 2**17, "bfloat16", "blockwise", 224),
    Case("v5e:4x4", 2**17, "bfloat16", "dense"),
    Case("v5e:4x4", 2**17, "bfloat16", "blockwise", 56),
    Case("v5e:4x4", 2**17, "bfloat16", "ring"),
    Case("v5e:4x4", 2**20, "bfloat16", "blockwise", 320),
    Case("v5e:4x4", 2**20, "bfloat16", "ring"),
)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The need of one chip: bytes, and ratios to the bounds in the module's docstring."""

    hbm_bytes: int
    peak_bytes: int
    flops_ratio: float
    wire_ratio: float | None


def compile_case(case: Case) -> Figures:
    """Compiles value and gradient of one case.

    Raises:
      jax.errors.JaxRuntimeError: it does not fit.
    """
    mesh = parallel.make_mesh(devices=tpu.devices(case.topology))
    rows = parallel.batch_sharding(mesh)
    shape = (case.views // 2, DIMENSIONS)
    z = jax.ShapeDtypeStruct(shape, jnp.dtype(case.dtype), sharding=rows)

    def loss(za: jax.Array, zb: jax.Array) -> jax.Array:
        return nt_xent(za, zb, temperature=0.1, implementation=case.implementation)[0]

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=(None, (rows, rows)))
        program = hlo.read(step.lower(z, z).compile())
    n, d, chips = case.views, DIMENSIONS, mesh.size
    bound = (4 if chips == 1 else 6) * n * n * d / chips
    wire = (chips - 1) / chips * n * (2 * d + 4)
    sent = sum(c.wire_bytes for c in program.collectives)
    return Figures(
        hbm_bytes=program.argument_bytes + program.output_bytes + program.temp_bytes,
        peak_bytes=program.peak_bytes,
        flops_ratio=program.flops / bound,
        wire_ratio=sent / wire if wire else None,
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        "NT-Xent, value and gradient, d = 128, compiled for TPU",
        *("slice", "views", "dtype", "how", "HBM MiB", "goal", "with on-chip", "FLOPs", "wire"),
        packages=("libtpu",),
    )
    for case in CASES:
        words = [case.topology, f"{case.views:,}", case.dtype, case.implementation]
        goal = f"{case.goal_mib:g}" if case.goal_mib else ""
        try:
            figures = compile_case(case)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            table.add_row(*words, "does not fit", goal, "", "", "")
            continue
        table.add_row(
            *words,
            f"{figures.hbm_bytes / 2**20:,.1f}",
            goal,
            f"{figures.peak_bytes / 2**20:,.1f}",
            f"{figures.flops_ratio:.3f}",
            f"{figures.wire_ratio:.3f}" if figures.wire_ratio else "",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
