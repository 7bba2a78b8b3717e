"""Context encoders with the squared error alone and with the joint loss (Pathak et al. 2016).

    ssl_jax sweep --config=sweeps/context_encoder:small_shapes --workdir=runs/context_encoders

The report pages of the runs show the filled holes of the same images.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep

VARIANTS = ("small_shapes", "cifar10", "imagenet")
WEIGHTS = {"L2": 0.0, "L2 + adversarial": 0.001}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/context_encoder", variant, VARIANTS)
    cells = [
        Cell({"loss": loss}, f"context_encoder:{variant}", {"method.adversarial_weight": weight})
        for loss, weight in WEIGHTS.items()
    ]
    return Sweep("losses of context encoders", tuple(cells), metric="held_out/psnr")
