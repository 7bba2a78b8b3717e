"""NT-Xent, forward and backward, on a CPU: time, memory, and the largest batch that survives.

    python -m benchmarks.contrastive [--views 1024 8192 16384] [--limit_gib 16]

Sides, each in a process of its own, one after the other:

  blockwise    `nt_xent(implementation="blockwise")`
  dense        `nt_xent(implementation="dense")`, jitted: one matrix for each pair of view kinds
  four blocks  the layout of the released SimCLR code in JAX: four similarity blocks, two
               concatenated logit matrices, one-hot labels
  torch dense  the N x N matrix in PyTorch, masked, with `cross_entropy`
  torch metric `pytorch_metric_learning.losses.NTXentLoss`

Embeddings have 128 float32 dimensions, the temperature is 0.1. Memory is the growth of the
process's resident peak over what it held before the first call. The torch sides need the `peers`
extra and are left out without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

SIDES = ("blockwise", "dense", "four blocks", "torch dense", "torch metric")
DIMENSIONS = 128
TEMPERATURE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, nargs="+", default=[1024, 8192, 16384])
    parser.add_argument("--largest", action="store_true", help="also double until it fails")
    parser.add_argument("--limit_gib", type=float, default=16, help="address space of a side")
    parser.add_argument("--timeout", type=float, default=180, help="seconds a side may take")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        limit = int(given.limit_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        measure(given.side, given.views[0], given.rounds)
        return

    from rich.console import Console

    from benchmarks import machine

    sides = SIDES if importlib.util.find_spec("pytorch_metric_learning") else SIDES[:3]
    torch = ("torch", "pytorch-metric-learning") if len(sides) == 5 else ()
    table = machine.table(
        f"NT-Xent forward and backward, d = {DIMENSIONS}, float32",
        *("views", "side", "seconds", "times blockwise", "MiB", "times blockwise"),
        packages=torch,
    )
    for views in given.views:
        found = {side: run(side, views, given) for side in sides}
        ours = found["blockwise"]
        for side, result in found.items():
            if result is None:
                table.add_row(f"{views:,}", side, "fails", "", "", "")
                continue
            ratio = result["seconds"] / ours["seconds"]
            memory = result["mib"] / ours["mib"]
            table.add_row(
                *(f"{views:,}", side, f"{result['seconds']:.3f}", f"{ratio:.2f}"),
                *(f"{result['mib']:,.0f}", f"{memory:.1f}"),
            )
    Console().print(table)
    if given.largest:
        print(f"largest batch within {given.limit_gib:g} GiB and {given.timeout:g} s a side:")
        for side in sides:
            views = 256
            while run(side, 2 * views, given, rounds=1):
                views *= 2
            print(f"  {side:<13}{views:>9,} views", flush=True)


def run(side: str, views: int, given: argparse.Namespace, rounds: int | None = None):
    """{"seconds", "mib"} of a side, None if it does not survive."""
    command = [sys.executable, "-m", "benchmarks.contrastive", "--side", side]
    command += ["--views", str(views), "--rounds", str(rounds or given.rounds)]
    command += ["--limit_gib", str(given.limit_gib)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=given.timeout)
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.returncode == 0 else None


def measure(side: str, views: int, rounds: int) -> None:
    """Prints the median seconds of a call, and by how much the resident peak grew."""
    rng = np.random.default_rng(0)
    za = rng.normal(size=(views // 2, DIMENSIONS)).astype(np.float32)
    zb = za + 0.5 * rng.normal(size=za.shape).astype(np.float32)
    step = torch_side(side, za, zb) if side.startswith("torch") else jax_side(side, za, zb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": statistics.median(times), "mib": max(grown, 1) / 1024}))


def jax_side(side: str, za: np.ndarray, zb: np.ndarray) -> Callable[[], None]:
    import jax

    from ssl_jax.losses import nt_xent

    def loss(za, zb):
        if side == "four blocks":
            return four_blocks(za, zb)
        return nt_xent(za, zb, temperature=TEMPERATURE, implementation=side)[0]

    za, zb = jax.device_put((za, zb))
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(za, zb).compile()
    return lambda: jax.block_until_ready(compiled(za, zb))


def four_blocks(za, zb):
    """The mean over anchors, by two cross-entropies over n x 2n logits each."""
    import jax
    import jax.numpy as jnp

    n = len(za)
    za, zb = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (za, zb))
    masks, labels = jax.nn.one_hot(jnp.arange(n), n), jax.nn.one_hot(jnp.arange(n), 2 * n)
    aa = za @ za.T / TEMPERATURE - 1e9 * masks
    bb = zb @ zb.T / TEMPERATURE - 1e9 * masks
    ab = za @ zb.T / TEMPERATURE
    ba = zb @ za.T / TEMPERATURE
    rows = [jnp.concatenate([ab, aa], axis=1), jnp.concatenate([ba, bb], axis=1)]
    return sum(-jnp.mean(jnp.sum(labels * jax.nn.log_softmax(row), axis=1)) for row in rows) / 2


def torch_side(side: str, za: np.ndarray, zb: np.ndarray) -> Callable[[], None]:
    import torch

    n = len(za)
    z = torch.from_numpy(np.concatenate([za, zb])).requires_grad_()
    if side == "torch metric":
        from pytorch_metric_learning.losses import NTXentLoss

        labels, metric = torch.arange(n).repeat(2), NTXentLoss(temperature=TEMPERATURE)

        def loss():
            return metric(z, labels)
    else:
        positive = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])

        def loss():
            unit = torch.nn.functional.normalize(z)
            logits = unit @ unit.T / TEMPERATURE
            logits.fill_diagonal_(float("-inf"))
            return torch.nn.functional.cross_entropy(logits, positive)

    def step():
        z.grad = None
        loss().backward()

    return step


if __name__ == "__main__":
    main()
