"""SimCLR's projection head, by kind and output dimension (Chen et al. 2020, Fig. 8)

    ssl_jax sweep --config=ablations/simclr_head:digits --workdir=runs/head

Variants:
  digits    the embedded digits, two seeds: ten minutes on two CPU cores
  fashion   10,000 images of Fashion-MNIST, two seeds: two minutes a cell on one CPU core
  shapes    generated images, ResNet-18: about an hour on one accelerator
  imagenet  the paper's: ResNet-50, batch 4096, 100 epochs

Both h, the encoder's output, and z = g(h), the head's, are probed. The paper draws its accuracies
as bars without numbers, so ours are ranked beside the order that its text states.
"""

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("digits", "fashion", "shapes", "imagenet")
DIMENSIONS = {
    "digits": (8, 128),  # h has 128; in the paper it has 2048
    "fashion": (8, 128),  # h has 128
    "shapes": (32, 128, 512),  # h has 512
    "imagenet": (32, 64, 128, 256, 512, 1024, 2048),
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/simclr_head", variant, VARIANTS)
    if variant == "digits":
        scale = scale.lasting(20.0)
    dimensions, seeds = DIMENSIONS[variant], scale.seeds[:2]
    grid = product(head=("none",), dim=dimensions[-1:], seed=seeds)  # z = h
    grid += product(head=("linear", "nonlinear"), dim=dimensions, seed=seeds)
    cells = [
        Cell(
            labels,
            scale.config("simclr"),
            {
                "method.projector": labels["head"],
                "method.output_dim": labels["dim"],
                "seed": labels["seed"],
                "eval.features": ("h", "z"),
                **scale.overrides,
            },
        )
        for labels in grid
    ]
    shared = dict(
        x="dim",
        x_label="output dimension of g",
        series="head",
        published="simclr_figure_8",
        published_measure="order",
    )
    curves = (
        Curve(measure=scale.measure, measure_label=f"h: {scale.measure_label}", **shared),
        Curve(measure=f"z/{scale.measure}", measure_label=f"g(h): {scale.measure_label}",
              **{**shared, "published": None}),
    )  # fmt: skip
    return Sweep("SimCLR: the projection head g", by_seed(cells), setting=scale.setting,
                 curves=curves)  # fmt: skip
