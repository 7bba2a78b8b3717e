"""Losses of metric learning, value and gradient, compiled for TPUs

    python -m benchmarks.metric_learning_tpu

Nothing runs: the TPU compiler (extra `aot`) says what a chip would hold. Memory is HBM: arguments,
results and temporaries. Losses of a batch stand beside NT-Xent of the same embeddings (d = 128,
float32); the softmax over classes (d = 512) is that of ArcFace, with the gradient of the classes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssl_jax import hlo, parallel
from ssl_jax.hardware import tpu
from ssl_jax.losses import nt_xent
from ssl_jax.losses.metric.class_losses import arcface
from ssl_jax.losses.metric.classes import rows_for
from ssl_jax.losses.metric.lifted_structured import lifted_structured
from ssl_jax.losses.metric.pair import pair
from ssl_jax.losses.metric.sigmoid import sigmoid
from ssl_jax.losses.metric.supcon import supcon
from ssl_jax.losses.metric.triplet import triplet

Array = jax.Array
# Losses of two views, or of the outputs of two nets: two arrays of half the embeddings.
TWO_SIDED: dict[str, Callable[[Array, Array], Array]] = {
    "nt_xent": lambda a, b: nt_xent(a, b, temperature=0.1)[0],
    "dcl": lambda a, b: nt_xent(a, b, temperature=0.1, decoupled=True)[0],
    "sigmoid": lambda a, b: sigmoid(a, b, log_scale=2.3, bias=-10.0)[0],
}
LABELLED: dict[str, Callable[[Array, Array], Array]] = {
    "supcon": lambda z, y: supcon(z, y, temperature=0.1)[0],
    "pair": lambda z, y: pair(z, y)[0],
    "triplet, all": lambda z, y: triplet(z, y, mining="all")[0],
    "triplet, batch hard": lambda z, y: triplet(z, y)[0],
    "lifted": lambda z, y: lifted_structured(z, y)[0],
}
LOSSES = (*TWO_SIDED, *LABELLED)


def batch_loss(name: str, topology: str, embeddings: int) -> hlo.Program:
    """Compiles a loss of a batch."""
    mesh = parallel.make_mesh(devices=tpu.devices(topology))
    rows = parallel.batch_sharding(mesh)
    if name in TWO_SIDED:
        half = jax.ShapeDtypeStruct((embeddings // 2, 128), jnp.float32, sharding=rows)
        inputs, step = (half, half), jax.value_and_grad(TWO_SIDED[name], (0, 1))
        outputs = (None, (rows, rows))
    else:
        z = jax.ShapeDtypeStruct((embeddings, 128), jnp.float32, sharding=rows)
        y = jax.ShapeDtypeStruct((embeddings,), jnp.int32, sharding=rows)
        inputs, step = (z, y), jax.value_and_grad(LABELLED[name])
        outputs = (None, rows)
    with jax.set_mesh(mesh):
        compiled = jax.jit(step, out_shardings=outputs).lower(*inputs).compile()
        return hlo.read(compiled)


def class_loss(topology: str, embeddings: int, num_classes: int) -> hlo.Program:
    """Compiles ArcFace."""
    mesh = parallel.make_mesh(devices=tpu.devices(topology))
    rows = parallel.batch_sharding(mesh)
    z = jax.ShapeDtypeStruct((embeddings, 512), jnp.float32, sharding=rows)
    y = jax.ShapeDtypeStruct((embeddings,), jnp.int32, sharding=rows)
    shape = rows_for(num_classes), 1, 512
    w = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)

    def loss(z: Array, w: Array, y: Array) -> Array:
        return arcface(z, y, w, num_classes=num_classes)[0]

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=(None, (rows, rows)))
        return hlo.read(step.lower(z, w, y).compile())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    parser.add_argument("--embeddings", type=int, default=2**17)
    parser.add_argument("--topology", default="v5e:1x1", help="of the losses of a batch")
    parser.add_argument("--classes", type=int, default=1_000_000, help="on v5e:4x4; 0: not")
    arguments = parser.parse_args()
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        "Value and gradient, compiled for TPU",
        *("loss", "slice", "embeddings", "HBM MiB", "times nt_xent", "FLOPs"),
        packages=("libtpu",),
    )
    first = None
    for name in arguments.losses:
        program = batch_loss(name, arguments.topology, arguments.embeddings)
        bytes_ = program.argument_bytes + program.output_bytes + program.temp_bytes
        first = first or bytes_
        table.add_row(
            name, arguments.topology, f"{arguments.embeddings:,}", f"{bytes_ / 2**20:,.1f}",
            f"{bytes_ / first:.2f}", f"{program.flops:.2e}",
        )  # fmt: skip
    if arguments.classes:
        program = class_loss("v5e:4x4", 8192, arguments.classes)
        bytes_ = program.argument_bytes + program.output_bytes + program.temp_bytes
        table.add_row(
            f"arcface, {arguments.classes:,} classes", "v5e:4x4", "8,192",
            f"{bytes_ / 2**20:,.1f}", "", f"{program.flops:.2e}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
