"""What h and g(h) know of how an image was changed, for every method of two views

    ssl_jax sweep --config=ablations/two_views_know:digits --workdir=runs/two_views_know

Variants:
  digits  8x8 handwritten digits: half an hour on two CPU cores

SimCLR's question (Chen et al. 2020, Table 3; `ablations/simclr_knows` has the paper's sizes) asked
of the other methods with two views and a projector g. A random rotation by multiples of 90 degrees
is added to the augmentations of all of them; noise is among them. After pretraining a nonlinear
probe tells the change from h, and from g(h), which is as wide as h. Chance is 25% for the rotation
and 50% for noise; the untrained encoder is the row of `results.json` beside.
"""

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.configs import common, scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

NAME = "ablations/two_views_know"
VARIANTS = ("digits",)
METHODS = (
    "simclr", "moco_v2", "moco_v3", "byol", "simsiam", "barlow_twins", "vicreg", "nnclr",
    "simclr_v2",
)  # fmt: skip
CHANGES = ("rotation", "noise")
_WIDTH = 128  # of h


def get_config(variant: str = "digits,simclr") -> ConfigDict:
    """One method with rotated views: "SIZE,METHOD"."""
    size, _, method = variant.partition(",")
    common.check_variant(NAME, size, VARIANTS)
    common.check_variant(f"{NAME}:{size}", method, METHODS)
    config = config_lib.load(f"{method}:{size}")
    config.views.ops = (*config.views.ops, "random_rotate90")
    config.views.random_rotate90 = ConfigDict(dict(p=1.0))
    config.method.output_dim = _WIDTH
    config.eval.features = ("h", "z")
    config.eval.transformations.changes = CHANGES
    return config


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale(NAME, variant, VARIANTS).lasting(20.0)
    cells = [
        Cell(
            labels,
            f"{NAME}:{variant},{labels['method']}",
            {
                **scale.overrides,
                "seed": labels["seed"],
                "eval.final_names": ("knn", "transformations"),
                "eval.baselines": ("untrained",),
            },
        )
        for labels in product(method=METHODS, seed=scale.seeds[:1])
    ]
    curves = tuple(
        Curve(
            measure=f"{prefix}transformations/{change}",
            measure_label=f"{change} told from {name}, %",
            x="method",
            x_label="method",
        )
        for change in CHANGES
        for name, prefix in (("h", ""), ("g(h)", "z/"))
    )
    return Sweep("What h and g(h) know", by_seed(cells), setting=scale.setting, curves=curves)
