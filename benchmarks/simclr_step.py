"""SimCLR ResNet-50 views a second: python -m benchmarks.simclr_step [--batch 256 512 1024]

The real train step of `simclr:imagenet` (device augmentation, loss, LARS) on a batch
that stays on the device, with the MFU against a matrix product timed in the same run. Made for an
accelerator; on a CPU, `--image_size=32 --batch 8 --steps=2` shows that it runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks import machine
from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.experiment.build import Experiment

CONFIG = "simclr:imagenet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    peak = _gemm_flops()
    table = machine.table(
        f"SimCLR ResNet-50, {arguments.image_size} px; GEMM {peak / 1e12:.1f} TFLOP/s",
        *("batch", "views/s", "min", "max", "TFLOP a step", "MFU of the GEMM"),
    )
    for batch in arguments.batch:
        step, flops = _step(batch, arguments.image_size)
        speeds = [
            2 * batch * arguments.steps / _seconds(step, arguments.steps)
            for _ in range(arguments.rounds)
        ]
        views = statistics.median(speeds)
        mfu = views / (2 * batch) * flops / peak
        table.add_row(
            str(batch),
            *(f"{speed:,.0f}" for speed in (views, min(speeds), max(speeds))),
            f"{flops / 1e12:.3f}",
            f"{mfu:.1%}",
        )
    Console().print(table)


def _step(batch_size: int, image_size: int) -> tuple[Callable[[], jax.Array], float]:
    """A function that makes one update and returns its loss, and its FLOPs by XLA's count."""
    config = config_lib.load(CONFIG)
    config.update(batch_size=batch_size)
    config.data.image_size = image_size
    config = config_lib.resolve(config)
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    compiled = experiment.compiled_train_step
    rng = np.random.default_rng(0)
    host = {
        name: rng.integers(0, 255 if name == "image" else 1000, array.shape).astype(array.dtype)
        for name, array in experiment.spec.batch(batch_size).items()
    }
    shardings = {name: array.sharding for name, array in experiment.abstract_batch().items()}
    batch = jax.device_put(host, shardings)
    state = experiment.init_state()

    def update() -> jax.Array:
        nonlocal state
        state, values, _ = compiled(state, batch)
        return values["loss"]

    return update, compiled.cost_analysis()["flops"]


def _gemm_flops(size: int | None = None) -> float:
    """FLOP/s of a large bfloat16 matrix product, float32 accumulation."""
    size = size or (1024 if jax.devices()[0].platform == "cpu" else 8192)
    x = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32).astype(x.dtype))
    return 2 * size**3 * 10 / min(_seconds(lambda: product(x), 10) for _ in range(3))


def _seconds(call: Callable[[], jax.Array], times: int) -> float:
    jax.block_until_ready(call())
    began = time.perf_counter()
    for _ in range(times):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
