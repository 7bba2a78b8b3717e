"""Desiderata of a SimCLR, a VAE, a RotNet, of raw pixels and of untrained encoders, side by side.

    ssl_jax sweep --config=sweeps/properties:small_shapes --workdir=runs/properties

All are trained on the same 2048 drawn shapes, with the nets of their `small_shapes` variants. The
end of the sweep writes `properties.html` to the workdir: one table, with curves over the strength
of augmentations and over depth.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep

VARIANTS = ("small_shapes",)
_OVERRIDES = {
    "data.options.num_generated": 2048,
    "eval.final_names": ("properties",),
    "eval.every_epochs": 0.0,
}
# Raw pixels are the same in every cell.
METHODS = {
    "simclr": {"epochs": 40.0, "eval.baselines": ("pixels", "untrained")},
    "vae": {"epochs": 20.0, "method.beta": 1.0, "eval.baselines": ("untrained",)},
    # Four views of an image: as many steps as SimCLR makes in 40 epochs of larger batches.
    "rotnet": {
        "epochs": 8.0,
        "batch_size": 64,
        "optimizer.warmup_epochs": 1.0,
        "eval.baselines": ("untrained",),
    },
}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The three cells."""
    common.check_variant("sweeps/properties", variant, VARIANTS)
    cells = [
        Cell({"method": method}, f"{method}:{variant}", {**_OVERRIDES, **overrides})
        for method, overrides in METHODS.items()
    ]
    return Sweep("Desiderata on drawn shapes", tuple(cells))
