"""Every method on the embedded digits, three seeds each: the table of the README.

    ssl_jax sweep --config=sweeps/methods:digits --workdir=runs/methods

`validation` holds back the last fifth of the training split instead of the test split: recipes are
chosen with it.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, product

METHODS = (
    "simclr",
    "instdisc",
    "moco_v1",
    "moco_v2",
    "moco_v3",
    "simclr_v2",
    "byol",
    "simsiam",
    "barlow_twins",
    "vicreg",
    "nnclr",
    "swav",
    "deepcluster_v2",
    "dino",
    "ibot",
    "dinov2",
    "lejepa",
    "mae",
    "ijepa",
    "rotnet",
)
VARIANTS = ("digits", "validation")


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/methods", variant, VARIANTS)
    overrides = {}
    if variant == "validation":
        overrides = {
            "data.split": "train[:80%]",
            "eval.train_split": "train[:80%]",
            "eval.test_split": "train[80%:]",
        }
    cells = [
        Cell(
            labels,
            f"{labels['method']}:digits",
            {"seed": labels["seed"], **overrides},
        )
        for labels in product(method=METHODS, seed=(0, 1, 2))
    ]
    return Sweep("every method on digits", tuple(cells))
