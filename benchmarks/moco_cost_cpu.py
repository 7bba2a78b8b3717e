"""Time and memory of MoCo's step by its dictionary: python -m benchmarks.moco_cost_cpu

    python -m benchmarks.moco_cost_cpu --batch 256 1024 --rounds 5

The whole train step of `moco_v2:fashion` on batches that stay on the device, without augmentation:
with a queue, a memory bank, and end to end, where the gradient also goes through the keys. Sides
have a process each and take turns; ratios are medians over rounds, relative to the queue. Two
measures of memory: what XLA plans for the step (its arguments, results and temporary values), and
what a process grew by since its experiment was built, compilation included.

The MoCo v2 paper (Chen et al. 2020b, Table 3) gives 5.0 GB a GPU and 53 hours for MoCo at batch
256, 7.4 GB and 65 hours end to end. `benchmarks.moco_cost_tpu` compiles its ResNet-50 for a TPU.
"""

from __future__ import annotations

import argparse
import os
import statistics

import numpy as np

from benchmarks import turns, updates
from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.experiment.build import Experiment

CONFIG = "moco_v2:fashion"
DICTIONARIES = ("queue", "bank", "end_to_end")
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[256], help="images")
    parser.add_argument("--steps", type=int, default=5, help="of a call")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", choices=DICTIONARIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.batch[0], arguments.steps)
        return
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        f"{CONFIG}, a train step, median of {arguments.rounds} rounds",
        *("batch", "dictionary", "ms", "over the queue", "planned, MiB", "over the queue"),
        "process, MiB",
    )
    for batch in arguments.batch:
        command = ["-m", "benchmarks.moco_cost_cpu", "--batch", str(batch)]
        command += ["--steps", str(arguments.steps), "--serve"]
        sides = {name: turns.Side([*command, name]) for name in DICTIONARIES}
        grown = {name: side.value for name, side in sides.items()}
        seconds = turns.rounds(sides, arguments.rounds)
        for side in sides.values():
            side.end()
        planned = {name: planned_bytes(experiment(name, batch)) / MIB for name in DICTIONARIES}
        for name in DICTIONARIES:
            ms = 1e3 * statistics.median(call[name] for call in seconds) / arguments.steps
            ratio = statistics.median(call[name] / call["queue"] for call in seconds)
            table.add_row(
                f"{batch:,}", name.replace("_", " "), f"{ms:,.0f}", f"{ratio:.2f}",
                f"{planned[name]:,.0f}", f"{planned[name] / planned['queue']:.2f}",
                f"{grown[name]:,.0f}",
            )  # fmt: skip
    Console(width=120).print(table)
    print("load of the machine:", *(f"{load:.1f}" for load in os.getloadavg()))


def experiment(dictionary: str, batch: int) -> Experiment:
    """The config with a dictionary; end to end, the negatives are those of the batch."""
    config = config_lib.load(CONFIG)
    config.batch_size = batch
    config.views = {"ops": ()}
    config.eval.online = False
    config.method.dictionary = dictionary
    config = config_lib.resolve(config)
    return Experiment.build(config, data.spec_from_config(config.data))


def planned_bytes(ours: Experiment) -> int:
    """Bytes that the compiled step has in memory at once; the new state replaces the old."""
    needs = ours.compiled_train_step.memory_analysis()
    sizes = needs.argument_size_in_bytes + needs.output_size_in_bytes + needs.temp_size_in_bytes
    return sizes - needs.alias_size_in_bytes


def serve(dictionary: str, batch: int, steps: int) -> None:
    """Answers every line of stdin with the seconds of a call and the MiB so far."""
    ours = experiment(dictionary, batch)
    before = updates.peak_mib()
    host = updates.random_images(ours, batch)
    host["index"] = np.arange(batch, dtype=np.int32)
    update = updates.repeated(ours, host, steps)

    def call() -> float:
        update()
        return updates.peak_mib() - before

    turns.serve(call)


if __name__ == "__main__":
    main()
