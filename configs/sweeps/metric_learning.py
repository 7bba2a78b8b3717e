"""Every loss of metric learning on classes it has not seen, three seeds each, beside SimCLR.

    ssl_jax sweep --config=sweeps/metric_learning:digits --workdir=runs/metric_losses

Variants:
  digits        trained on the digits 0 to 4, evaluated by retrieval of 5 to 9
  small_shapes  trained on half of the combinations of a shape and a hue, evaluated on the others

The cells of SimCLR, trained on the same images without their labels, also have the scores of raw
pixels and of the untrained encoder.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, by_seed, product

VARIANTS = ("digits", "small_shapes")
LOSSES = (
    "pair", "triplet", "quadruplet", "n_pair", "lifted_structured", "supcon", "center",
    "sphereface", "cosface", "arcface", "subcenter_arcface", "adacos", "adaptive_margin",
)  # fmt: skip
_SPARE = {
    "eval.every_epochs": 0.0,
    "eval.final_names": ("retrieval", "knn"),
    "eval.features": ("h", "z"),
    "eval.online": False,
    "log.tensorboard": False,
    "log.report": False,
}
_CLASSES = {"data.classes": "train half"}
_DATA = {
    "digits": _CLASSES,
    "small_shapes": {**_CLASSES, "data.options.label": "combination"},
}
_SIMCLR = {"epochs": 60.0, "eval.baselines": ("pixels", "untrained")}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/metric_learning", variant, VARIANTS)
    cells = []
    for labels in product(loss=(*LOSSES, "simclr"), seed=(0, 1, 2)):
        overrides = {"seed": labels["seed"], **_SPARE}
        if labels["loss"] == "simclr":
            overrides |= {**_DATA[variant], **_SIMCLR}
            cells.append(Cell(labels, f"simclr:{variant}", overrides))
            continue
        overrides |= {"method.loss": labels["loss"], "eval.baselines": ()}
        cells.append(Cell(labels, f"metric_learning:{variant}", overrides))
    return Sweep("losses of metric learning on unseen classes", by_seed(cells))
