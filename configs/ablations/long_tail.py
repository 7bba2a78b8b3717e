"""Margins of ArcFace on classes of very different sizes: fixed, or larger for rarer classes

    ssl_jax sweep --config=ablations/long_tail:small_shapes --workdir=runs/long_tail

Variants:
  small_shapes  2048 generated 32x32 images, three seeds: half a minute a cell on one core

Classes are hues; shapes are hardly told apart at this size. The horizontal axis is the number of
training images of the rarest hue for each image of the most frequent one; the test images have as
many of all. Both losses have the same sub-centres (one). Ha et al. 2020 (Google Landmark
Recognition 2020 Competition Third Place Solution) publish no such curve.
"""

from ssl_jax.configs.common import check_variant
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("small_shapes",)
RAREST = (0.01, 0.03, 0.1, 1.0)
MARGINS = {
    "fixed_0.5": {"method.loss": "arcface", "method.margin": 0.5},
    "fixed_0.275": {"method.loss": "arcface", "method.margin": 0.275},
    "adaptive": {"method.loss": "adaptive_margin"},
}
_SMALL = {
    "data.classes": None,
    "data.options.label": "hue",
    "views.ops": ("random_resized_crop", "flip"),  # the others change the hue
    "data.sampler.name": "shuffle",
    "batch_size": 128,
    "epochs": 30.0,
    "method.subcenters": 1,
    "method.scale": 16.0,
    "method.head": "norm",
    "eval.every_epochs": 0.0,
    "eval.names": (),
    "eval.final_names": ("retrieval",),
    "eval.features": ("h", "z"),
    "eval.online": False,
    "eval.collapse_every_steps": 0,
    "eval.baselines": (),
    "checkpoint.every_epochs": 30.0,
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "small_shapes") -> Sweep:
    """The grid of one variant."""
    check_variant("ablations/long_tail", variant, VARIANTS)
    cells = [
        Cell(
            labels,
            "metric_learning:small_shapes",
            {
                **_SMALL,
                **MARGINS[labels["margin"]],
                "data.options.rarest": labels["rarest"],
                "seed": labels["seed"],
            },
        )
        for labels in product(margin=tuple(MARGINS), rarest=RAREST, seed=range(3))
    ]
    shared = dict(x="rarest", x_label="rarest / most frequent", series="margin")
    names = {"fixed_0.5": "0.5", "fixed_0.275": "0.275", "adaptive": "adaptive"}
    curves = (
        Curve(measure="z/retrieval/map_r", measure_label="MAP@R, %", names=names, **shared),
        Curve(measure="z/retrieval/recall_1", measure_label="R@1, %", names=names, **shared),
    )
    setting = "2048 generated shapes of 32x32, classes are hues, conv net, 30 epochs"
    return Sweep("Margins on long-tailed classes", by_seed(cells), setting=setting, curves=curves)
