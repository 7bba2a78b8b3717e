"""The losses of metric learning on classes they have not seen, beside SimCLR.

    ssl_jax sweep --config=sweeps/metric_learning:digits --workdir=runs/metric_losses

Variants:
  digits        trained on the digits 0 to 4, evaluated by retrieval of 5 to 9
  small_shapes  trained on half of the combinations of a shape and a hue, evaluated on the others
  fashion       six losses, trained on the first five classes of Fashion-MNIST and evaluated by
                retrieval of the other five, one seed: a minute a cell on one CPU core

The other variants have all losses and three seeds. The cells of SimCLR, trained on the same images
without their labels, also have the scores of raw pixels and of the untrained encoder.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, by_seed, product

VARIANTS = ("digits", "small_shapes", "fashion")
LOSSES = (
    "pair", "triplet", "quadruplet", "n_pair", "lifted_structured", "supcon", "center",
    "sphereface", "cosface", "arcface", "subcenter_arcface", "adacos", "adaptive_margin",
)  # fmt: skip
_FEWER_LOSSES = ("pair", "triplet", "n_pair", "supcon", "center", "arcface")  # one of each family
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
    "fashion": _CLASSES,
}
# On `fashion` 124 steps of the losses; SimCLR sees each image as often, in two views.
_LENGTH = {"digits": {}, "small_shapes": {}, "fashion": {"epochs": 4.0}}
_SIMCLR_EPOCHS = {"digits": 60.0, "small_shapes": 60.0, "fashion": 4.0}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/metric_learning", variant, VARIANTS)
    losses, seeds = (_FEWER_LOSSES, (0,)) if variant == "fashion" else (LOSSES, (0, 1, 2))
    cells = []
    for labels in product(loss=(*losses, "simclr"), seed=seeds):
        overrides = {"seed": labels["seed"], **_SPARE, **_LENGTH[variant]}
        if labels["loss"] == "simclr":
            overrides |= {
                **_DATA[variant],
                "epochs": _SIMCLR_EPOCHS[variant],
                "eval.baselines": ("pixels", "untrained"),
            }
            cells.append(Cell(labels, f"simclr:{variant}", overrides))
            continue
        overrides |= {"method.loss": labels["loss"], "eval.baselines": ()}
        cells.append(Cell(labels, f"metric_learning:{variant}", overrides))
    return Sweep("losses of metric learning on unseen classes", by_seed(cells))
