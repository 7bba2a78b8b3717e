"""Losses of metric learning beside pytorch-metric-learning: python -m benchmarks.metric_learning

Value and gradient of 4096 embeddings of 128 numbers: 1024 classes of 4 examples, as the PK sampler
draws them; losses of classes have 10,000 classes. Both sides call the same mining and margins, on
the same numbers, in turns and each in a process of its own. Memory is the largest resident size of
a process above that before its first call. The figures are those of the machine's load; the ratios
are of two calls one after the other. "none": the other side cannot allocate what it needs.

Needs torch and pytorch-metric-learning.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
from collections.abc import Callable

import numpy as np

CASES = ("pair", "triplet, batch hard", "triplet, semi-hard", "triplet, all", "lifted", "n-pair",
         "supcon", "cosface", "arcface", "sub-centers")  # fmt: skip
PER_CLASS, DIMENSIONS, CLASSES, SUBCENTERS = 4, 128, 10_000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--embeddings", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.cases[0], arguments.embeddings)
        return
    from rich.console import Console

    from benchmarks import machine, turns

    table = machine.table(
        f"Value and gradient of {arguments.embeddings:,} embeddings, median of {arguments.rounds}",
        *("loss", "ms", "theirs, ms", "times as fast", "MiB", "theirs, MiB", "same to"),
        packages=("torch", "pytorch-metric-learning"),
    )
    for case in arguments.cases:
        command = ["-m", "benchmarks.metric_learning", "--embeddings", str(arguments.embeddings)]
        command += ["--cases", case, "--side"]
        ours, theirs = turns.Side([*command, "ours"]), None
        try:
            theirs = turns.Side([*command, "theirs"])
        except SystemExit:  # its own words are above: a matrix of 200 GB, for one
            table.add_row(case, f"{ours.call() * 1e3:,.0f}", "none", "", f"{ours.value[1]:,.0f}")
            ours.end()
            continue
        sides = {"ours": ours, "theirs": theirs}
        seconds = turns.rounds(sides, arguments.rounds)
        values = {side: process.value for side, process in sides.items()}
        for process in sides.values():
            process.end()
        medians = {side: statistics.median(call[side] for call in seconds) for side in sides}
        ratio = statistics.median(call["theirs"] / call["ours"] for call in seconds)
        difference = abs(values["ours"][0] / values["theirs"][0] - 1)
        table.add_row(
            case, f"{medians['ours'] * 1e3:,.0f}", f"{medians['theirs'] * 1e3:,.0f}",
            f"{ratio:.2f}", f"{values['ours'][1]:,.0f}", f"{values['theirs'][1]:,.0f}",
            f"{difference:.0e}",
        )  # fmt: skip
    Console(width=120).print(table)
    print("load of the machine:", *(f"{load:.1f}" for load in os.getloadavg()))


def serve(side: str, case: str, count: int) -> None:
    """Answers every line of stdin with the seconds, the loss and the memory of a call."""
    from benchmarks import turns

    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(count // PER_CLASS), PER_CLASS))
    z = rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
    subcenters = SUBCENTERS if case == "sub-centers" else 1
    weights = rng.normal(size=(CLASSES, subcenters, DIMENSIONS)).astype(np.float32)
    call = (jax_side if side == "ours" else torch_side)(case, z, labels, weights)
    before = _peak()
    turns.serve(lambda: (call(), _peak() - before))


def _peak() -> float:
    """The largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def jax_side(case: str, z: np.ndarray, labels: np.ndarray, weights: np.ndarray):
    """A call that returns the loss, after the gradient is there."""
    import jax
    import jax.numpy as jnp

    from ssl_jax.losses.metric.class_losses import arcface, cosface
    from ssl_jax.losses.metric.lifted_structured import lifted_structured
    from ssl_jax.losses.metric.n_pair import n_pair
    from ssl_jax.losses.metric.pair import pair
    from ssl_jax.losses.metric.supcon import supcon
    from ssl_jax.losses.metric.triplet import triplet

    of_batch: dict[str, Callable] = {
        "pair": functools.partial(pair, power=1),
        "triplet, batch hard": functools.partial(triplet, mining="batch_hard"),
        "triplet, semi-hard": functools.partial(triplet, mining="semi_hard"),
        "triplet, all": functools.partial(triplet, mining="all"),
        "lifted": lifted_structured,
        "n-pair": functools.partial(n_pair, l2_normalize=True),
        "supcon": functools.partial(supcon, temperature=0.1, reduction="mean_nonzero"),
    }
    of_classes = {"cosface": cosface, "arcface": arcface, "sub-centers": arcface}
    labels = jnp.asarray(labels, jnp.int32)
    if case in of_batch:
        step = jax.jit(jax.value_and_grad(lambda z: of_batch[case](z, labels)[0]))
        inputs = (jnp.asarray(z),)
    else:
        step = jax.jit(
            jax.value_and_grad(lambda z, w: of_classes[case](z, labels, w)[0], argnums=(0, 1))
        )
        inputs = jnp.asarray(z), jnp.asarray(weights)
    return lambda: float(jax.block_until_ready(step(*inputs))[0])


def torch_side(case: str, z: np.ndarray, labels: np.ndarray, weights: np.ndarray):
    """The same of pytorch-metric-learning, with `collect_stats` off."""
    import torch
    from pytorch_metric_learning import losses, miners

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = dict(num_classes=CLASSES, embedding_size=DIMENSIONS)
    loss = {
        "pair": losses.ContrastiveLoss,
        "lifted": losses.LiftedStructureLoss,
        "n-pair": losses.NPairsLoss,
        "supcon": losses.SupConLoss,
        "cosface": functools.partial(losses.CosFaceLoss, **sizes),
        "arcface": functools.partial(losses.ArcFaceLoss, **sizes, margin=np.degrees(0.5)),
        "sub-centers": functools.partial(
            losses.SubCenterArcFaceLoss, **sizes, margin=np.degrees(0.5), sub_centers=SUBCENTERS
        ),
    }.get(case, functools.partial(losses.TripletMarginLoss, margin=0.2))()
    miner = {
        "triplet, batch hard": miners.BatchHardMiner,
        "triplet, semi-hard": functools.partial(
            miners.TripletMarginMiner, margin=0.2, type_of_triplets="semihard"
        ),
    }.get(case, lambda: None)()
    x, y = torch.tensor(z, requires_grad=True), torch.tensor(labels)
    if hasattr(loss, "W"):
        loss.W.data = torch.tensor(weights.reshape(-1, DIMENSIONS).T.copy())

    def call() -> float:
        x.grad = None
        value = loss(x, y, miner(x, y) if miner else None)
        value.backward()
        return value.item()

    return call


if __name__ == "__main__":
    main()
