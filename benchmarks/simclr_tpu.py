"""SimCLR's ResNet-50 step compiled for one TPU v5e: python -m benchmarks.simclr_tpu [--batch 64]

Nothing runs: the TPU compiler (extra `aot`) says how many bytes of HBM a step moves. A ResNet-50
step is bound by them. Compared are the step as it is, both views of every image in one forward
pass, and the same step with a forward pass for each view. Goals: at most 385 MB a view, and at
least 1.25 times that with two passes. Bytes are counted twice: by `ssl_jax.hlo`, which leaves
out what stays in on-chip memory, and by XLA's cost analysis, which does not (and counts a loop's
body once; this step has no loop).
"""

from __future__ import annotations

import argparse
import dataclasses

import jax
import jax.numpy as jnp

from ssl_jax import config as config_lib
from ssl_jax import data, hlo, parallel
from ssl_jax.experiment.build import Experiment
from ssl_jax.hardware import tpu
from ssl_jax.methods.simclr import SimCLR

CONFIG = "simclr:imagenet"


class TwoPasses(SimCLR):
    """SimCLR with a forward pass for the first views and another for the second."""

    def encode(self, params, buffers, views, *, ema_params, key):
        outputs = []
        for view in (views[0::2], views[1::2]):
            (h, _), encoder = self.encoder.apply(
                params["encoder"], buffers["encoder"], view, train=True, key=key
            )
            z, projector = self.projector.apply(
                params["projector"], buffers["projector"], h, train=True
            )
            outputs.append((h, z))
        z = jnp.stack([z for _, z in outputs], axis=1)
        return {"h": outputs[0][0], "z": z}, {"encoder": encoder, "projector": projector}


def compile_step(batch_size: int, method: type[SimCLR]) -> tuple[hlo.Program, float]:
    """One train step of the paper's recipe at this batch, and the bytes XLA's analysis counts."""
    config = config_lib.load(CONFIG)
    config.batch_size = batch_size
    config = config_lib.resolve(config)
    mesh = parallel.make_mesh(devices=tpu.devices("v5e:1x1"))
    experiment = Experiment.build(config, data.spec_from_config(config.data), mesh)
    fields = {field.name: getattr(experiment.method, field.name) for field in
              dataclasses.fields(experiment.method)}  # fmt: skip
    experiment = dataclasses.replace(experiment, method=method(**fields))
    executable = experiment.compiled_train_step
    return hlo.read(executable), executable.cost_analysis()["bytes accessed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images; twice as many views")
    batch = parser.parse_args().batch
    jax.config.update("jax_platforms", "cpu")
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        f"SimCLR ResNet-50, 224 px, {2 * batch} views, compiled for v5e:1x1",
        *("forward passes", "MB of HBM a view", "ratio", "MB by XLA", "ratio", "GFLOP a view"),
        packages=("libtpu",),
    )
    first = None
    for name, method in (("one", SimCLR), ("two", TwoPasses)):
        program, analysed = compile_step(batch, method)
        moved = [count / (2 * batch) for count in (program.bytes_accessed, analysed)]
        first = first or moved
        words = []
        for now, then in zip(moved, first, strict=True):
            words += [f"{now / 1e6:.1f}", f"{now / then:.3f}"]
        table.add_row(name, *words, f"{program.flops / (2 * batch) / 1e9:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
