"""Strength of SimCLR's colour distortion (Chen et al. 2020, Table 1)

    ssl_jax sweep --config=ablations/simclr_color:small_shapes \
        --workdir=runs/color

Variants:
  small_shapes  2048 generated images in colour, three seeds: half an hour on two CPU cores; the
                embedded digits are grey
  shapes        generated images, ResNet-18: about an hour on one accelerator
  imagenet      the paper's: ResNet-50, batch 4096, 100 epochs

The paper's last column, AutoAugment, and its supervised row are published values only.
"""

from ssl_jax import config as config_lib
from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("small_shapes", "shapes", "imagenet")
STRENGTHS = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "1": 1.0, "1 + blur": 1.0}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/simclr_color", variant, VARIANTS)
    blurred = tuple(config_lib.load(scale.config("simclr")).views.ops)
    sharp = tuple(op for op in blurred if op != "gaussian_blur")
    cells = [
        Cell(
            {"training": "SimCLR", **labels},
            scale.config("simclr"),
            {
                "views.color_jitter.strength": STRENGTHS[labels["strength"]],
                "views.ops": blurred if "blur" in labels["strength"] else sharp,
                "seed": labels["seed"],
                **scale.overrides,
            },
        )
        for labels in product(strength=STRENGTHS, seed=scale.seeds)
    ]
    curve = Curve(
        measure=scale.measure,
        measure_label=scale.measure_label,
        x="strength",
        x_label="strength of colour distortion",
        series="training",
        published="simclr_table_1",
    )
    title = "SimCLR: strength of colour distortion"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=(curve,))
