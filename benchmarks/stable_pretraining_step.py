"""A step beside stable-pretraining's JAX backend: python -m benchmarks.stable_pretraining_step

Forward, loss, backward, AdamW and BYOL's moving average on batches that stay on the devices,
without augmentation: the conv net of the `fashion` variants, and a projector and predictor with the
same widths (here with BatchNorm, as in the papers; theirs have none). On 1 and 8 virtual devices of
this CPU, in turns, each side in a process of its own. MiB is what a process grew by since its
step was made.

Needs stable-pretraining (its JAX backend needs neither torch nor lightning).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
from collections.abc import Callable
from typing import Any

SIDES = ("ours", "theirs")
METHODS = {  # widths of the projector
    "simclr": (256, 64),
    "barlow_twins": (256, 256, 256),
    "vicreg": (256, 256, 256),
    "byol": (256, 64),
    "simsiam": (256, 256, 256),
}
SIMSIAM_PREDICTOR = 64  # its hidden width; BYOL's is that of the projector
WIDTHS = (32, 64, 128, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--batch", type=int, nargs="+", default=[256])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.methods[0], arguments.devices[0], arguments.batch[0])
        return
    from rich.console import Console

    from benchmarks import machine, turns

    table = machine.table(
        f"A train step, median of {arguments.rounds} rounds",
        *("method", "devices", "batch", "ms", "theirs, ms", "times as fast", "MiB", "theirs, MiB"),
        packages=("flax", "stable-pretraining"),
    )
    for method in arguments.methods:
        for devices in arguments.devices:
            for batch in arguments.batch:
                command = ["-m", "benchmarks.stable_pretraining_step", "--methods", method]
                command += [f"--devices={devices}", f"--batch={batch}"]
                sides = {side: turns.Side([*command, f"--side={side}"]) for side in SIDES}
                seconds = turns.rounds(sides, arguments.rounds)
                mib = [sides[side].value for side in SIDES]
                for process in sides.values():
                    process.end()
                ms = [1e3 * statistics.median(call[side] for call in seconds) for side in SIDES]
                ratio = statistics.median(call["theirs"] / call["ours"] for call in seconds)
                table.add_row(
                    method, str(devices), f"{batch:,}", *(f"{value:,.0f}" for value in ms),
                    f"{ratio:.2f}", *(f"{value:,.0f}" for value in mib),
                )  # fmt: skip
    Console(width=120).print(table)
    print("load of the machine:", *(f"{load:.1f}" for load in os.getloadavg()))


def serve(side: str, method: str, devices: int, batch_size: int) -> None:
    """Answers every line of stdin with the seconds of a step and the MiB so far."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    from benchmarks import turns

    step = (our_step if side == "ours" else their_step)(method, batch_size)
    before = _peak()

    def call() -> float:
        jax.block_until_ready(step())
        return _peak() - before

    turns.serve(call)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def our_step(method: str, batch_size: int) -> Callable[[], Any]:
    """The step of `METHOD:fashion` without views and online probe."""
    import jax

    from benchmarks import updates
    from ssl_jax import config as config_lib
    from ssl_jax import data
    from ssl_jax.experiment.build import Experiment

    hidden, *_, out = METHODS[method]
    config = config_lib.load(f"{method}:fashion")
    config.update(batch_size=batch_size)
    config.method.update(hidden_dim=hidden, output_dim=out)
    if method == "simsiam":
        config.method.predictor_dim = SIMSIAM_PREDICTOR
    config.views = {"ops": ()}
    config.eval.online = False
    config = config_lib.resolve(config)
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    host = updates.random_images(experiment, batch_size)
    shardings = {name: array.sharding for name, array in experiment.abstract_batch().items()}
    batch = jax.device_put(host, shardings)
    state = experiment.init_state()

    def update() -> Any:
        nonlocal state
        state, values, _ = experiment.compiled_train_step(state, batch)
        return values["loss"]

    return update


def their_step(method: str, batch_size: int) -> Callable[[], Any]:
    """The step of their Trainer, with its data parallelism on several devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import stable_pretraining.jax as spj
    from flax import nnx
    from loguru import logger
    from stable_pretraining.jax import trainer as trainer_lib

    logger.remove()  # it writes where the answers go

    class ConvNet(nnx.Module):
        """The net of `ssl_jax.models.convnet`."""

        def __init__(self, rngs: nnx.Rngs):
            pairs = list(zip((1, *WIDTHS[:-1]), WIDTHS, strict=True))
            self.convs = nnx.List(
                nnx.Conv(a, b, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
                for a, b in pairs
            )
            self.norms = nnx.List(nnx.BatchNorm(b, momentum=0.9, rngs=rngs) for _, b in pairs)

        def __call__(self, x: jax.Array) -> jax.Array:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = jax.nn.relu(norm(conv(x)))
            return jnp.mean(x, axis=(1, 2))

    rngs = nnx.Rngs(0)
    kinds = {
        "simclr": spj.SimCLR, "barlow_twins": spj.BarlowTwins, "vicreg": spj.VICReg,
        "byol": spj.BYOL, "simsiam": spj.SimSiam,
    }  # fmt: skip
    predictor = {
        "byol": {"predictor_hidden": METHODS["byol"][0]},
        "simsiam": {"predictor_dim": SIMSIAM_PREDICTOR},
    }.get(method, {})
    optim = {"type": "adamw", "learning_rate": 2e-3, "weight_decay": 1e-4}
    module = kinds[method](
        backbone=ConvNet(rngs), embed_dim=WIDTHS[-1], rngs=rngs, projector_dims=METHODS[method],
        optim=optim, **predictor,
    )  # fmt: skip
    averages = [spj.TeacherStudentCallback(update_schedule=False)] if method == "byol" else []
    trainer = spj.Trainer(data_parallel=True, callbacks=averages)
    trainer.optimizer = nnx.Optimizer(module, spj.create_optimizer(optim), wrt=nnx.Param)
    trainer._setup_data_parallel(module)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, batch_size, 28, 28, 1)) / np.float32(255)
    batch = trainer._shard(
        {"views": [{"image": jnp.asarray(view, jnp.float32)} for view in images]}
    )

    def update() -> Any:
        state, _ = trainer_lib._train_step(module, trainer.optimizer, batch)
        trainer._run("on_train_batch_end", module, state, batch, 0)
        return state["loss"]

    return update


if __name__ == "__main__":
    main()
