"""SimCLR's projection head, by kind and output dimension (Chen et al. 2020, Fig. 8)

    python -m ssl_jax.sweep --config=configs/ablations/simclr_head.py:VARIANT --workdir=runs/head
"""

from ssl_jax import recipes
from ssl_jax.grid import Cell, Sweep, product

VARIANTS = ("digits", "shapes", "imagenet")
DIMENSIONS = {
    "digits": (8, 32, 128),  # h has 128; in the paper it has 2048
    "shapes": (32, 128, 512),  # h has 512
    "imagenet": (32, 64, 128, 256, 512, 1024, 2048),
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    recipes.check_variant("configs/ablations/simclr_head.py", variant, VARIANTS)
    shared = {"eval.features": ("h", "z")}
    if variant == "digits":
        shared |= recipes.short_digits()
    dimensions = DIMENSIONS[variant]
    seeds = range(3 if variant == "digits" else 1)
    grid = product(head=("none",), dim=dimensions[-1:], seed=seeds)  # z = h
    grid += product(head=("linear", "nonlinear"), dim=dimensions, seed=seeds)
    cells = [
        Cell(
            labels,
            f"configs/simclr.py:{variant}",
            {
                "method.projector": labels["head"],
                "method.output_dim": labels["dim"],
                "seed": labels["seed"],
                **shared,
            },
        )
        for labels in grid
    ]
    return Sweep("SimCLR's projection head", tuple(cells))
