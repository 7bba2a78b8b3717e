"""BERT-base's step compiled for TPUs v5e: python -m benchmarks.bert_tpu [--layers] [--on cpu]

Nothing runs: the TPU compiler (extra `aot`) says what a step computes and holds. The step is the
first phase of `bert:base`: pairs of 128 tokens, 20 of them hidden at most.

Arithmetic. What a step computes stands over the count of `analytic_flops`, the products that its
definition asks for. Goals: at most 1.02 of it, and at least 1.2 times that if the logits of all
tokens are made (`method.gather=False`) and not those of the hidden ones alone. Nothing is computed
twice in this comparison but the logits, once more in the backward pass.

Layers, with --layers. The same step with its layers unrolled, or scanned with and without `remat`:
what the program holds beside its arguments, and what compiling costs. Goals: scanned with
remat=dots holds no more than unrolled, and compiles in a quarter of the time. Time is that of the
processor in all threads, which other work on the machine changes less than that of the clock.

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
    """Of one compilation; all but the number of devices are of one device.

    Attributes:
      devices: of the slice.
      flops: of the program's matrix products.
      temp_bytes, peak_bytes: see `ssl_jax.hlo.Program`.
      seconds: processor time of lowering and compiling.
    """

    devices: int
    flops: int
    temp_bytes: int
    peak_bytes: int
    seconds: float


def analytic_flops(encoder: Any, *, rows: int, length: int, predictions: int) -> int:
    """FLOPs of the matrix products of one training step: 6 for each weight and what it meets.

    Every weight of a layer meets every token, the head's those that are to be predicted, the
    pooler's one a row. The two products of attention, which have no weights, cost
    4 length^2 dim a row and layer forwards. Backwards a product costs twice what it does forwards.

    Args:
      encoder: a `TextEncoder`.
      rows, length: of the batch.
      predictions: tokens of a row whose logits are made.
    """
    dim = encoder.dim
    layer = 4 * dim**2 + 2 * dim * round(encoder.mlp_ratio * dim)
    head = dim**2 + dim * encoder.vocab_size
    pooler = dim**2 + 2 * dim if encoder.pooler else 0
    attention = 12 * length**2 * dim
    a_row = encoder.depth * (6 * layer * length + attention) + 6 * (head * predictions + pooler)
    return rows * a_row


def build(topology: str | None, batch_size: int, changes: dict[str, Any]) -> Experiment:
    """The experiment with some of its keys changed, for a slice or for this machine's device."""
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
    """`analytic_flops` of the step that makes the logits of hidden tokens alone."""
    method = build(None, batch_size, changes).method
    return analytic_flops(
        method.encoder.module,
        rows=batch_size,
        length=method.length,
        predictions=method.max_predictions,
    )


def smallest(batch_size: int, changes: dict[str, Any]) -> tuple[str, Figures]:
    """The first of SLICES that the step fits into, and what it is there."""
    for topology in SLICES:
        try:
            return topology, compile_step(topology, batch_size, changes)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
    raise SystemExit(f"the step fits into none of {', '.join(SLICES)}; lower --batch")


PLAIN = {"model.remat": "none", "model.scan_layers": True}  # nothing is computed twice
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
    parser.add_argument("--layers", action="store_true", help="compare how layers are run instead")
    parser.add_argument("--on", choices=("v5e", "cpu"), default="v5e")
    given = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    from rich.console import Console

    Console(width=100).print((layers if given.layers else arithmetic)(given.batch, given.on))


def arithmetic(batch: int, on: str) -> Any:
    """The first table."""
    if on == "cpu":
        topology, ours = None, compile_step(None, batch, PLAIN)
    else:
        topology, ours = smallest(batch, PLAIN)
    everywhere = compile_step(topology, batch, {**PLAIN, "method.gather": False})
    asked = bound(batch, PLAIN)
    made = table(
        batch, topology, "logits of", "TFLOP a step", "analytic", "ratio", "over the first"
    )
    for name, found in (("hidden tokens", ours), ("all tokens", everywhere)):
        flops = found.devices * found.flops
        made.add_row(
            name, f"{flops / 1e12:.2f}", f"{asked / 1e12:.2f}", f"{flops / asked:.3f}",
            f"{found.flops / ours.flops:.3f}",
        )  # fmt: skip
    return made


def layers(batch: int, on: str) -> Any:
    """The second table."""
    first = LAYERS[0][1]
    if on == "cpu":
        topology, unrolled = None, compile_step(None, batch, first)
    else:
        topology, unrolled = smallest(batch, first)
    made = table(
        batch, topology,
        *("layers", "temporaries GiB", "ratio", "peak GiB", "FLOPs", "compiled in s", "faster by"),
    )  # fmt: skip
    for name, changes in LAYERS:
        found = unrolled if changes is first else compile_step(topology, batch, changes)
        made.add_row(
            name, f"{found.temp_bytes / tpu.GIB:.2f}",
            f"{found.temp_bytes / unrolled.temp_bytes:.2f}",
            f"{found.peak_bytes / tpu.GIB:.2f}", f"{found.flops / unrolled.flops:.3f}",
            f"{found.seconds:.0f}", f"{unrolled.seconds / found.seconds:.1f}",
        )  # fmt: skip
    return made


def table(batch: int, topology: str | None, *columns: str) -> Any:
    from benchmarks import machine

    where = topology or "this processor"
    title = f"BERT-base, {batch} rows of 128 tokens, compiled for {where}"
    return machine.table(title, *columns, packages=("libtpu",))


if __name__ == "__main__":
    main()
