"""Temperature and l2 normalisation of SimCLR's loss (Chen et al. 2020, Table 5).

    python -m ssl_jax.sweep --config=configs/ablations/simclr_temperature.py:digits --workdir=runs/t
"""

from ssl_jax import recipes
from ssl_jax.grid import Cell, Sweep, product

VARIANTS = ("digits", "shapes", "imagenet")
TEMPERATURES = {True: (0.05, 0.1, 0.5, 1.0), False: (10.0, 100.0)}  # with l2 normalisation or not


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    recipes.check_variant("configs/ablations/simclr_temperature.py", variant, VARIANTS)
    shared = recipes.short_digits() if variant == "digits" else {}
    cells = [
        Cell(
            {"l2": l2, **labels},
            f"configs/simclr.py:{variant}",
            {
                "method.l2_normalize": l2,
                "method.temperature": labels["t"],
                "seed": labels["seed"],
                **shared,
            },
        )
        for l2, temperatures in TEMPERATURES.items()
        for labels in product(t=temperatures, seed=range(3))
    ]
    return Sweep("temperature and l2 normalisation of SimCLR", tuple(cells))
