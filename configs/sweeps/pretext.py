"""The pretext tasks on generated shapes, three seeds each.

    ssl_jax sweep --config=sweeps/pretext:small_shapes --workdir=runs/pretext

Beside each encoder stand raw pixels and the same encoder untrained.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, product

METHODS = ("rotnet", "context_prediction", "jigsaw", "context_encoder", "colorization")
VARIANTS = ("small_shapes", "cifar10", "imagenet")


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/pretext", variant, VARIANTS)
    cells = [
        Cell(labels, f"{labels['method']}:{variant}", {"seed": labels["seed"]})
        for labels in product(method=METHODS, seed=(0, 1, 2))
    ]
    return Sweep("every pretext task", tuple(cells))
