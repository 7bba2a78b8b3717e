"""Train-loop overhead: python -m benchmarks.train_loop

Steps a second of the whole train loop (pipeline, transfers, metric rows, collapse monitor, online
probe) on `digits`, against the bare jitted step on one batch that stays on the device. Both in one
process, in turn; medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import jax
from rich.console import Console

from benchmarks import machine
from ssl_jax import config as config_lib
from ssl_jax.experiment.build import use_compilation_cache
from ssl_jax.run import metrics
from ssl_jax.run.loop import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="simclr:digits")
    parser.add_argument("--steps", type=int, default=150, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    config = config_lib.load(arguments.config)
    config.steps = arguments.steps
    config.eval.every_epochs = 0.0
    config.checkpoint.every_steps = 10 * arguments.steps
    config = config_lib.resolve(config, {"steps": arguments.steps})
    use_compilation_cache(config.compilation_cache)

    bare, loop = [], []
    for _ in range(arguments.rounds):
        bare.append(_bare(config, arguments.steps))
        loop.append(_loop(config))
    ratio = statistics.median(a / b for a, b in zip(loop, bare, strict=True))
    table = machine.table("train loop against the bare step", "", "steps/s", "min", "max")
    for name, values in (("bare step", bare), ("train loop", loop)):
        table.add_row(name, *(f"{f(values):.2f}" for f in (statistics.median, min, max)))
    table.add_row("ratio (goal >= 0.95)", f"{ratio:.3f}", "", "")
    Console().print(table)


def _bare(config, steps: int) -> float:
    """Steps a second of the compiled step on a fixed device batch."""
    with tempfile.TemporaryDirectory() as workdir:
        run = Run(config, workdir)
        step = run.experiment.compiled_train_step
        with run.saves, jax.set_mesh(run.mesh), run.batches(0) as batches:
            state, batch = run.experiment.init_state(), next(batches)
            state, values, _ = step(state, batch)
            jax.block_until_ready(values)
            began = time.perf_counter()
            for _ in range(steps):
                state, values, _ = step(state, batch)
            jax.block_until_ready(values)
            return steps / (time.perf_counter() - began)


def _loop(config) -> float:
    """Steps a second as the loop itself logs them, over the rows after the first."""
    with tempfile.TemporaryDirectory() as workdir:
        run = Run(config, workdir)
        run.execute(final_evaluation=False)
        rows = [row for row in metrics.read_metrics(workdir) if "train/steps_per_s" in row][1:]
        every = config.log.every_steps
        return len(rows) * every / sum(every / row["train/steps_per_s"] for row in rows)


if __name__ == "__main__":
    main()
