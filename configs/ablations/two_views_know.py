"""What h and g(h) know of how an image was changed, for every method of two views

    ssl_jax sweep --config=ablations/two_views_know:digits --workdir=runs/two_views_know

Variants:
  digits  8x8 handwritten digits: half an hour on two CPU cores

SimCLR's question (Chen et al. 2020, Table 3; `ablations/simclr_knows` has the paper's sizes) asked
of the other methods with two views and a projector g. A random rotation by multiples of 90 degrees
is added to the augmentations of all of them; noise is among them. After pretraining a nonlinear
probe tells the change from h, and from g(h), which is as wide as h. Chance is 25% for the rotation
and 50% for noise; the figure has the untrained net beside.
"""

from ml_collections import ConfigDict

from ssl_jax import config as config_lib
from ssl_jax.configs import common, scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

NAME = "ablations/two_views_know"
VARIANTS = ("digits",)
METHODS = {
    "simclr": "SimCLR", "moco_v2": "MoCo v2", "moco_v3": "MoCo v3", "byol": "BYOL",
    "simsiam": "SimSiam", "barlow_twins": "Barlow Twins", "vicreg": "VICReg", "nnclr": "NNCLR",
    "simclr_v2": "SimCLR v2",
}  # fmt: skip
CHANGES = ("rotation", "noise")
_WIDTH = 128  # of h
# What a probe reads -> the row of the results.
_OUTPUTS = {
    "untrained h": "untrained encoder/",
    "h": "",
    "untrained g(h)": "untrained encoder, z/",
    "g(h)": "z/",
}


def get_config(variant: str = "digits,simclr") -> ConfigDict:
    """One method with rotated views: "SIZE,METHOD"."""
    size, _, method = variant.partition(",")
    common.check_variant(NAME, size, VARIANTS)
    common.check_variant(f"{NAME}:{size}", method, tuple(METHODS))
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
            measure="knn/top1",
            measure_label=f"{change} told, %",
            x="output",
            x_label="told from",
            columns={name: f"{row}transformations/{change}" for name, row in _OUTPUTS.items()},
            series="method",
            names=METHODS,
            matrix=True,
        )
        for change in CHANGES
    )
    return Sweep("What h and g(h) know", by_seed(cells), setting=scale.setting, curves=curves)
