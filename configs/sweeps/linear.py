r"""The learning rate of a linear probe, chosen on a part of the train split held back for it.

    ssl_jax sweep --config=sweeps/linear:digits --workdir=runs/rates \
        --set=init_from=runs/simclr

The variants are those of the config supervised that probe: digits is linear_digits, and linear,
linear_moco, linear_moco_v3, linear_moco_v3_vit, linear_lars, linear_byol, linear_barlow_twins and
linear_vicreg are of ImageNet. A cell learns from 99% of the train split (digits: 80%) at one
learning rate, and its accuracy is that on the rest. The test split is not looked at. With the rate
that is best, the probe is then trained once on all of the train split and scored on the test split:

    ssl_jax train --config=supervised:linear_digits --workdir=runs/linear \
        --config.init_from=runs/simclr --config.optimizer.base_lr=RATE
"""

from ssl_jax import config
from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep

VARIANTS = (
    "digits",
    "linear",
    "linear_moco",
    "linear_moco_v3",
    "linear_moco_v3_vit",
    "linear_lars",
    "linear_byol",
    "linear_barlow_twins",
    "linear_vicreg",
)
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the rate in the recipe


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/linear", variant, VARIANTS)
    recipe = "supervised:" + ("linear_digits" if variant == "digits" else variant)
    share = "80%" if variant == "digits" else "99%"
    held_out = {
        "data.split": f"train[:{share}]",
        "eval.train_split": f"train[:{share}]",
        "eval.test_split": f"train[{share}:]",
    }
    middle = config.load(recipe).optimizer.base_lr
    rates = [float(f"{factor * middle:.6g}") for factor in FACTORS]
    return Sweep(
        f"learning rates of {recipe.partition(':')[2]}",
        tuple(
            Cell({"base_lr": rate}, recipe, {"optimizer.base_lr": rate, **held_out})
            for rate in rates
        ),
        needs={"init_from": "the pretrained run to probe, e.g. --set=init_from=runs/simclr"},
        metric="accuracy/top1",
    )
