"""Measures NT-Xent, forward and backward, on a CPU: time, memory, and the largest batch.

    python -m benchmarks.contrastive [--views 512 1024 8192 16384] [--largest] [--limit_gib 16]

Sides, each in a process of its own, taking turns:

  blockwise    `nt_xent(implementation="blockwise")`
  dense        `nt_xent(implementation="dense")`, jitted: one matrix for each pair of view kinds
  products     the matrix products that `blockwise` makes, in its order, and nothing else: no
               exponential, no sum. What a perfect loss on this machine would still take
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
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

SIDES = ("blockwise", "products", "dense", "four blocks", "torch dense", "torch metric")
DIMENSIONS = 128
TEMPERATURE = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, nargs="+", default=[512, 1024, 8192, 16384])
    parser.add_argument(
        "--largest", action="store_true", help="also double the views until a side fails"
    )
    parser.add_argument(
        "--limit_gib", type=float, default=16, help="limit of the address space of a side"
    )
    parser.add_argument(
        "--timeout", type=float, default=180, help="time limit of a call in seconds"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.views[0], int(arguments.limit_gib * 2**30))
        return

    from rich.console import Console

    from benchmarks import machine

    sides = SIDES if importlib.util.find_spec("pytorch_metric_learning") else SIDES[:4]
    torch = ("torch", "pytorch-metric-learning") if sides == SIDES else ()
    table = machine.table(
        f"NT-Xent forward and backward, d = {DIMENSIONS}, float32",
        *("views", "side", "seconds", "times blockwise", "MiB", "times blockwise"),
        packages=torch,
    )
    for views in arguments.views:
        for side, (seconds, ratio, mib, growth) in compare(sides, views, arguments).items():
            words = [f"{seconds:.3f}", f"{ratio:.2f}", f"{mib:,.0f}", f"{growth:.1f}"]
            table.add_row(f"{views:,}", side, *(words if seconds else ["fails", "", "", ""]))
    Console(width=100).print(table)
    if arguments.largest:
        print(
            f"largest batch within {arguments.limit_gib:g} GiB and {arguments.timeout:g} s a call:"
        )
        for side in sides:
            views = 256
            while Side(side, 2 * views, arguments).last()[0]:
                views *= 2
            print(f"  {side:<13}{views:>9,} views", flush=True)


def compare(sides: tuple[str, ...], views: int, arguments: argparse.Namespace):
    """Side -> (median seconds, median ratio, MiB, ratio); zeros if it fails.

    All sides take turns within a round, so that a ratio holds when the machine's speed drifts.
    """
    running = {name: Side(name, views, arguments) for name in sides}
    rounds = [
        {name: side.call() for name, side in running.items()} for _ in range(arguments.rounds)
    ]
    memory = {name: side.last()[1] for name, side in running.items()}
    figures = {}
    for name in sides:
        times = [now[name] for now in rounds]
        if not all(times):
            figures[name] = (0.0, 0.0, 0.0, 0.0)
            continue
        ratio = statistics.median(now[name] / now["blockwise"] for now in rounds)
        growth = memory[name] / memory["blockwise"]
        figures[name] = (statistics.median(times), ratio, memory[name], growth)
    return figures


class Side:
    """One side in a separate process, which makes a call for every line that it receives."""

    def __init__(self, name: str, views: int, arguments: argparse.Namespace):
        command = [sys.executable, "-m", "benchmarks.contrastive", "--side", name]
        command += ["--views", str(views), "--limit_gib", str(arguments.limit_gib)]
        self._timeout = arguments.timeout
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.call()  # not counted: it compiles and allocates memory

    def call(self) -> float:
        """Seconds of one call; 0 if it fails."""
        return self._ask(b"call\n")[0]

    def last(self) -> tuple[float, float]:
        """(seconds, MiB by which the process grew) of one more call; ends the process."""
        result = self._ask(b"call\n")
        self._process.kill()
        self._process.wait()
        return result

    def _ask(self, line: bytes) -> tuple[float, float]:
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return 0.0, 0.0
        ready, _, _ = select.select([self._process.stdout], [], [], self._timeout)
        answer = self._process.stdout.readline() if ready else b""
        if not answer:
            self._process.kill()
            return 0.0, 0.0
        return tuple(json.loads(answer))


def serve(side: str, views: int, limit: int) -> None:
    """Answers every line of stdin with [seconds, MiB] of a call."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rng = np.random.default_rng(0)
    za = rng.normal(size=(views // 2, DIMENSIONS)).astype(np.float32)
    zb = za + 0.5 * rng.normal(size=za.shape).astype(np.float32)
    step = torch_side(side, za, zb) if side.startswith("torch") else jax_side(side, za, zb)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        seconds = time.perf_counter() - began
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([seconds, max(grown, 1) / 1024]), flush=True)


def jax_side(side: str, za: np.ndarray, zb: np.ndarray) -> Callable[[], None]:
    import jax

    from ssl_jax.losses import nt_xent

    def loss(za, zb):
        if side == "four blocks":
            return four_blocks(za, zb)
        return nt_xent(za, zb, temperature=TEMPERATURE, implementation=side)[0]

    za, zb = jax.device_put((za, zb))
    step = products if side == "products" else jax.value_and_grad(loss, argnums=(0, 1))
    compiled = jax.jit(step).lower(za, zb).compile()
    return lambda: jax.block_until_ready(compiled(za, zb))


def products(za, zb):
    """4 N^2 d FLOPs: every tile forward, and again backward with a product for either side."""
    import jax
    import jax.numpy as jnp

    from ssl_jax.losses.implementation import BLOCK_SIZE

    size = min(BLOCK_SIZE, 2 * len(za))
    z = jnp.concatenate([za, zb]).reshape(-1, size, DIMENSIONS)
    # Unordered pairs of chunks. A chunk with itself counts half, so it has only one product.
    i, j = jnp.triu_indices(len(z))

    def forward(total, pair):
        x, y = z[pair[0]], z[pair[1]]
        return jnp.maximum(total, jnp.max(x @ y.T)), None  # so that XLA has to compute the product

    def backward(dz, pair):
        x, y = z[pair[0]], z[pair[1]]
        s = x @ y.T
        return dz.at[pair[0]].add(s @ y).at[pair[1]].add(s.T @ x), None

    total, _ = jax.lax.scan(forward, jnp.zeros(()), (i, j))
    return total, jax.lax.scan(backward, jnp.zeros_like(z), (i, j))[0]


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
