"""Every method on one data set, three seeds each

    ssl_jax sweep --config=sweeps/methods:digits --workdir=runs/methods

Variants:
  digits              the embedded digits: the table of the README
  validation          the same, scored on the last fifth of the training split instead of the test
                      split: recipes are chosen with it
  fashion             10,000 images of Fashion-MNIST, about two minutes of one core each
  fashion_validation  the same, scored on the last 10,000 training images, which no run trains on

The first cell of `fashion` also scores raw pixels and principal components.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, by_seed, product

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
FASHION_METHODS = (
    "simclr",
    "moco_v2",
    "byol",
    "simsiam",
    "barlow_twins",
    "vicreg",
    "swav",
    "dino",
    "nnclr",
    "mae",
    "rotnet",
    "supervised",
    "deepcluster_v2",
    "lejepa",
    "ibot",
    "dinov2",
    "ijepa",
    "vae",
    "autoencoder",
    "jigsaw",
    "simclr_v2",
    "instdisc",
    "moco_v1",
    "moco_v3",
    "denoising_autoencoder",
    "context_prediction",
    "context_encoder",
    "cpc_images",
)
VARIANTS = ("digits", "validation", "fashion", "fashion_validation")


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/methods", variant, VARIANTS)
    if variant.startswith("fashion"):
        return _fashion(validation=variant.endswith("validation"))
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


def _fashion(*, validation: bool) -> Sweep:
    """One seed of every method first, then the other seeds."""
    scored = {"eval.test_split": "train[50000:]"} if validation else {}
    cells = []
    for labels in product(method=FASHION_METHODS, seed=(0, 1, 2)):
        overrides = {"seed": labels["seed"], "log.report": False, "log.tensorboard": False}
        if labels["method"] == FASHION_METHODS[0]:
            overrides["eval.baselines"] = ("pixels", "pca", "untrained")
        cells.append(Cell(labels, f"{labels['method']}:fashion", overrides | scored))
    return Sweep("every method on Fashion-MNIST", by_seed(cells))
