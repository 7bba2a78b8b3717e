"""Losses beside stable-pretraining's JAX backend: python -m benchmarks.stable_pretraining_losses

The same embeddings, on 1 device and with their rows split over 8 virtual ones, in one process: the
value, and the gradient with respect to the embeddings of both views. Differences of gradients are
norms, relative to the norm of the gradient.

Needs stable-pretraining (its JAX backend needs neither torch nor lightning).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

Loss = Callable[..., Any]  # of the embeddings of two views, [n d] each
Found = tuple[float, np.ndarray]  # value, and gradients [2 n d]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        f"Largest relative difference over {len(arguments.seeds)} seeds, {arguments.batch} images "
        f"of {arguments.dim} numbers: value, gradient",
        *("loss", "ours / theirs", "on 8 devices", "ours, 8 / 1 devices", "theirs, 8 / 1"),
        packages=("stable-pretraining",),
    )
    for name, sides in losses().items():
        rows = []
        for seed in arguments.seeds:
            views = embeddings(arguments.batch, arguments.dim, seed)
            one, eight = ([found(side, views, count) for side in sides] for count in (1, 8))
            pairs = (one, eight, (eight[0], one[0]), (eight[1], one[1]))
            rows.append([difference(*pair) for pair in pairs])
        values, gradients = np.max(rows, axis=0).T
        table.add_row(name, *(f"{v:.0e}, {g:.0e}" for v, g in zip(values, gradients, strict=True)))
    Console(width=120).print(table)


def losses() -> dict[str, tuple[Loss, Loss]]:
    """By name ours and theirs, with the same temperatures and weights."""
    import jax
    import jax.numpy as jnp
    from stable_pretraining.jax import losses as their

    from ssl_jax import losses as our

    byol, cosine = their.BYOLLoss(), their.NegativeCosineSimilarity()

    def both_orders(loss: Loss, a: jax.Array, b: jax.Array) -> jax.Array:
        """Each view as prediction, with the other as target."""
        stop = jax.lax.stop_gradient
        return loss(a, stop(b)) + loss(b, stop(a))

    def stacked(loss: Loss) -> Loss:
        return lambda a, b: loss(*2 * (jnp.stack([a, b], axis=1),))

    return {
        "NT-Xent": (
            lambda a, b: our.nt_xent(a, b, temperature=0.5)[0],
            their.NTXEntLoss(temperature=0.5),
        ),
        "Barlow Twins": (
            lambda a, b: our.barlow_twins(a, b, off_diagonal_weight=5e-3)[0],
            their.BarlowTwinsLoss(lambd=5e-3),
        ),
        "VICReg": (lambda a, b: our.vicreg(a, b)[0], their.VICRegLoss()),
        "BYOL": (stacked(our.byol), lambda a, b: both_orders(byol, a, b)),
        "SimSiam": (stacked(our.simsiam), lambda a, b: both_orders(cosine, a, b) / 2),
    }


def embeddings(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two correlated views, float32 [n d]; their dimensions are correlated, of several scales."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.linspace(0.3, 2, d) / np.sqrt(d)
    first = rng.normal(size=(n, d)) @ mixing + rng.normal(size=d)
    second = first + 0.5 * rng.normal(size=(n, d))
    return first.astype(np.float32), second.astype(np.float32)


def found(loss: Loss, views: tuple[np.ndarray, np.ndarray], devices: int) -> Found:
    """A loss and its gradient, with the rows of the embeddings split over devices."""
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    from ssl_jax import parallel

    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    rows = NamedSharding(mesh, P(("data", "fsdp")))
    call = jax.value_and_grad(lambda pair: loss(*pair))
    with jax.set_mesh(mesh):
        value, gradients = jax.jit(call)(jax.device_put(views, rows))
    return float(value), np.stack(gradients)


def difference(one: Found, other: Found) -> tuple[float, float]:
    """Relative differences of the values and of the gradients."""
    value = abs(one[0] - other[0]) / abs(other[0])
    return value, float(np.linalg.norm(one[1] - other[1]) / np.linalg.norm(other[1]))


if __name__ == "__main__":
    main()
