"""MoCo v2 at a small batch beside SimCLR at small and large ones (Chen et al. 2020b, Table 2)

    ssl_jax sweep --config=ablations/moco_v2_batch:fashion --workdir=runs/v2_batch

Variants:
  digits    the embedded digits, three seeds: ten minutes on two CPU cores
  fashion   10,000 images of Fashion-MNIST, three seeds of the short runs: one to three minutes a
            cell on one CPU core
  imagenet  the paper's: ResNet-50, 200 epochs, and 1000 (SimCLR) or 800 (MoCo v2)

A queue keeps the number of negatives apart from the batch, which end-to-end training like SimCLR's
has to grow. Learning rates grow with the batch: on ImageNet linearly, in small variants, which
train with AdamW, with its square root.
"""

from collections.abc import Mapping

from ssl_jax import config as config_lib
from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep

VARIANTS = ("digits", "fashion", "imagenet")
NAMES = {"simclr": "SimCLR", "moco_v2": "MoCo v2"}
# Variant -> length -> method -> (batches, epochs).
SETTINGS = {
    "digits": {
        "short": {"simclr": ((64, 512), 40.0), "moco_v2": ((64,), 40.0)},
        "long": {"simclr": ((256,), 120.0), "moco_v2": ((64,), 120.0)},
    },
    "fashion": {
        "short": {"simclr": ((256, 2048), 8.0), "moco_v2": ((256,), 8.0)},
        "long": {"simclr": ((1024,), 20.0), "moco_v2": ((256,), 20.0)},
    },
    "imagenet": {
        "short": {"simclr": ((256, 8192), 200.0), "moco_v2": ((256,), 200.0)},
        "long": {"simclr": ((4096,), 1000.0), "moco_v2": ((256,), 800.0)},
    },
}
STANDS_FOR = {
    "digits": {"batch": {64: 256, 512: 8192, 256: 4096}},
    "fashion": {"batch": {2048: 8192, 1024: 4096}},
    "imagenet": {},
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/moco_v2_batch", variant, VARIANTS)
    cells = []
    for length, methods in SETTINGS[variant].items():
        for method, (batches, epochs) in methods.items():
            for batch in batches:
                for seed in scale.seeds:
                    labels = {"length": length, "method": method, "batch": batch, "seed": seed}
                    overrides = dict(scale.lasting(epochs).overrides)
                    overrides |= {"batch_size": batch, "seed": seed}
                    if variant != "imagenet":
                        overrides |= _rate(scale.config(method), batch)
                    cells.append(Cell(labels, scale.config(method), overrides))
    curves = tuple(
        Curve(
            measure=scale.measure,
            measure_label=scale.measure_label,
            x="batch",
            x_label="batch",
            series="method",
            names=NAMES,
            where={"length": length},
            panel=_epochs(methods),
            published="moco_v2_table_2",
            published_panel=_epochs(SETTINGS["imagenet"][length]),
            stands_for=STANDS_FOR[variant],
        )
        for length, methods in SETTINGS[variant].items()
    )
    title = "MoCo v2 beside SimCLR, by batch"
    cells = scale.by_seed(cells, lambda labels: labels["length"] == "short")
    return Sweep(title, cells, setting=scale.data, curves=curves)


def _epochs(methods: Mapping[str, tuple[tuple[int, ...], float]]) -> str:
    """The epochs of a length: "200 epochs", or "1000 and 800 epochs" of SimCLR and MoCo v2."""
    lengths = dict.fromkeys(f"{epochs:g}" for _, epochs in methods.values())
    return f"{' and '.join(lengths)} epochs"


def _rate(source: str, batch: int) -> dict[str, float]:
    """The rate at another batch than the config's; the config has no rule of its own."""
    config = config_lib.load(source)
    return {"optimizer.base_lr": config.optimizer.base_lr * (batch / config.batch_size) ** 0.5}
