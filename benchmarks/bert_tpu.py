"""BERT-base's step compiled for TPUs v5e: python -m benchmarks.bert_tpu [--layers] [--on cpu]

Nothing runs: the TPU compiler (extra `aot`) gives the FLOPs and the memory of a step. The step is
the first phase of `bert:base`: pairs of 128 tokens, at most 20 of them hidden.

Arithmetic: the FLOPs of the compiled step, divided by `analytic_flops`, the FLOPs of its
definition. Goals: a ratio of at most 1.02, and at least 1.2 times more FLOPs if the logits of all
tokens are computed (`method.gather=False`) instead of only those of hidden tokens. Only the logits
are recomputed in the backward pass.

Layers, with --layers: the temporaries and the compile time of the same step with its layers
unrolled, or scanned with and without `remat`. Goals: scanned with remat=dots needs no more memory
than unrolled, and compiles in a quarter of the time. Times are processor times of all threads,
which depend less on other work on the machine than wall-clock times.

With --on cpu the step is compiled for this machine's processor, in a fraction of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from typing import Any

import jax

from ssl_jax import config as config_lib
from ssl_jax import data, hlo, parallel
from ssl_jax.experiment.build import Experiment
from ssl_jax.hardware import tpu

CONFIG = "bert:base"
SLICES = ("v5e:1x1", "v5e:2x2", "v5e:2x4")


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures of one compilation, per device except `devices`.

    Attributes:
      devices: number of devices of the slice.
      flops: FLOPs of the program's matrix products.
      temp_bytes, peak_bytes: see `ssl_jax.hlo.Program`.
      seconds: processor time of lowering and compiling.
    """

    devices: int
    flops: int
    temp_bytes: int
    peak_bytes: int
    seconds: float


def analytic_flops(encoder: Any, *, rows: int, length: int, predictions: int) -> int:
    """FLOPs of the matrix products of one training step: 6 per weight and token.

    The weights of a layer are applied to every token, those of the head to the predicted tokens,
    and those of the pooler to one token per row. The two products of attention have no weights and
    need 4 length^2 dim FLOPs per row and layer in the forward pass. The backward pass of a product
    needs twice the FLOPs of the forward pass.

    Args:
      encoder: a `TextEncoder`.
      rows, length: shape of the batch.
      predictions: number of tokens per row whose logits are computed.
    """
    dim = encoder.dim
    layer = 4 * dim**2 + 2 * dim * round(encoder.mlp_ratio * dim)
    head = dim**2 + dim * encoder.vocab_size
    pooler = dim**2 + 2 * dim if encoder.pooler else 0
    attention = 12 * length**2 * dim
    row = encoder.depth * (6 * layer * length + attention) + 6 * (head * predictions + pooler)
    return rows * row


def build(topology: str | None, batch_size: int, changes: dict[str, Any]) -> Experiment:
    """The experiment with changed config keys, for a slice or for one device of this machine."""
    config = config_lib.load(CONFIG)
    config.batch_size = batch_size
    config = config_lib.resolve(config_lib.apply(config, changes), changes)
    devices = tpu.devices(topology) if topology else jax.devices()[:1]
    mesh = parallel.make_mesh(devices=devices)
    return Experiment.build(config, data.spec_from_config(config.data), mesh)


def compile_step(topology: str | None, batch_size: int, changes: dict[str, Any]) -> Figures:
    """Compiles the train step.

    Raises:
      jax.errors.JaxRuntimeError: it does not fit.
    """
    experiment = build(topology, batch_size, changes)
    with tpu.quiet() if topology else contextlib.nullcontext():
        began = time.process_time()
        step = experiment.compiled_train_step
        seconds = time.process_time() - began
    program = hlo.read(step)
    return Figures(
        devices=experiment.mesh.size,
        flops=program.flops,
        temp_bytes=program.temp_bytes,
        peak_bytes=program.peak_bytes,
        seconds=seconds,
    )


def bound(batch_size: int, changes: dict[str, Any]) -> int:
    """`analytic_flops` of the step that computes only the logits of hidden tokens."""
    method = build(None, batch_size, changes).method
    return analytic_flops(
        method.encoder.module,
        rows=batch_size,
        length=method.length,
        predictions=method.max_predictions,
    )


def smallest(batch_size: int, changes: dict[str, Any]) -> tuple[str, Figures]:
    """The first of SLICES that the step fits, and its figures there."""
    for topology in SLICES:
        try:
            return topology, compile_step(topology, batch_size, changes)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
    raise SystemExit(f"the step fits none of {', '.join(SLICES)}; lower --batch")


PLAIN = {"model.remat": "none", "model.scan_layers": True}  # no recomputation
UNROLLED = {"model.remat": "none", "model.scan_layers": False}
LAYERS = (
    ("unrolled", UNROLLED),
    ("unrolled, remat=dots", {"model.remat": "dots", "model.scan_layers": False}),
    ("scanned", {"model.remat": "none", "model.scan_layers": True}),
    ("scanned, remat=dots", {"model.remat": "dots", "model.scan_layers": True}),
    ("scanned, remat=full", {"model.remat": "full", "model.scan_layers": True}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256, help="rows over the whole slice")
    parser.add_argument(
        "--layers", action="store_true", help="compare ways to run the layers instead"
    )
    parser.add_argument("--on", choices=("v5e", "cpu"), default="v5e")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    from rich.console import Console

    Console(width=100).print(
        (layers if arguments.layers else arithmetic)(arguments.batch, arguments.on)
    )


def arithmetic(batch: int, on: str) -> Any:
    """The table of FLOPs."""
    if on == "cpu":
        topology, ours = None, compile_step(None, batch, PLAIN)
    else:
        topology, ours = smallest(batch, PLAIN)
    everywhere = compile_step(topology, batch, {**PLAIN, "method.gather": False})
    analytic = bound(batch, PLAIN)
    flops_table = table(
        batch, topology, "logits of", "TFLOP a step", "analytic", "ratio", "over the first"
    )
    for name, figures in (("hidden tokens", ours), ("all tokens", everywhere)):
        flops = figures.devices * figures.flops
        flops_table.add_row(
            name, f"{flops / 1e12:.2f}", f"{analytic / 1e12:.2f}", f"{flops / analytic:.3f}",
            f"{figures.flops / ours.flops:.3f}",
        )  # fmt: skip
    return flops_table


def layers(batch: int, on: str) -> Any:
    """The table of ways to run the layers."""
    first = LAYERS[0][1]
    if on == "cpu":
        topology, unrolled = None, compile_step(None, batch, first)
    else:
        topology, unrolled = smallest(batch, first)
    layer_table = table(
        batch, topology,
        *("layers", "temporaries GiB", "ratio", "peak GiB", "FLOPs", "compiled in s", "faster by"),
    )  # fmt: skip
    for name, changes in LAYERS:
        figures = unrolled if changes is first else compile_step(topology, batch, changes)
        layer_table.add_row(
            name, f"{figures.temp_bytes / tpu.GIB:.2f}",
            f"{figures.temp_bytes / unrolled.temp_bytes:.2f}",
            f"{figures.peak_bytes / tpu.GIB:.2f}", f"{figures.flops / unrolled.flops:.3f}",
            f"{figures.seconds:.0f}", f"{unrolled.seconds / figures.seconds:.1f}",
        )  # fmt: skip
    return layer_table


def table(batch: int, topology: str | None, *columns: str) -> Any:
    from benchmarks import machine

    where = topology or "this processor"
    title = f"BERT-base, {batch} rows of 128 tokens, compiled for {where}"
    return machine.table(title, *columns, packages=("libtpu",))


if __name__ == "__main__":
    main()
