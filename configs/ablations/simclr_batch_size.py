"""Batch size, training length and learning-rate scaling of SimCLR (Chen et al. 2020, Table B.1)

    ssl_jax sweep --config=ablations/simclr_batch_size:digits --workdir=runs/b

Variants:
  digits    the embedded digits at two lengths, two seeds: a quarter of an hour on two CPU
            cores
  fashion   10,000 images of Fashion-MNIST at two lengths, three seeds of the short runs: one to six
            minutes a cell on one CPU core
  shapes    generated images, ResNet-18: about two hours on one accelerator
  imagenet  the paper's: ResNet-50, batches of 256 to 8192, 100 to 800 epochs

The learning rate is scaled linearly with the batch or with its square root. Both rules agree at one
batch: 4096 in the paper, the largest batch in a small variant. All cells use LARS.
"""

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, product

VARIANTS = ("digits", "fashion", "shapes", "imagenet")
BATCHES = {
    "digits": (32, 128, 512),
    "fashion": (128, 512, 2048),
    "shapes": (128, 512, 2048),
    "imagenet": (256, 512, 1024, 2048, 4096, 8192),
}
EPOCHS = {
    "digits": (20, 80),
    "fashion": (5, 20),
    "shapes": (10, 40),
    "imagenet": (100, 200, 400, 800),
}
# The batch at which both rules agree, and the learning rate there.
AGREED = {
    "digits": (512, 2.0),
    "fashion": (2048, 2.4),
    "shapes": (2048, 2.4),
    "imagenet": (4096, 4.8),
}
WARMUP = {"imagenet": 10.0}  # epochs, of any length; else a tenth of the run
# Which published batch and length a smaller one stands for.
STANDS_FOR = {
    "digits": {"batch": {32: 256, 128: 1024, 512: 4096}, "epochs": {20: 100, 80: 400}},
    "fashion": {"batch": {128: 256, 512: 1024, 2048: 4096}, "epochs": {5: 100, 20: 400}},
    "shapes": {"batch": {128: 256, 512: 1024, 2048: 4096}, "epochs": {10: 100, 40: 400}},
    "imagenet": {},
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/simclr_batch_size", variant, VARIANTS)
    batch, rate = AGREED[variant]
    base_lr = {"linear": rate * 256 / batch, "sqrt": rate / batch**0.5}
    grid = product(
        scaling=("linear", "sqrt"),
        epochs=EPOCHS[variant],
        batch=BATCHES[variant],
        seed=scale.seeds if variant == "fashion" else scale.seeds[:2],
    )
    cells = [
        Cell(
            labels,
            scale.config("simclr"),
            {
                **scale.lasting(float(labels["epochs"])).overrides,
                "batch_size": labels["batch"],
                "optimizer.name": "lars",
                "optimizer.lr_scaling": labels["scaling"],
                "optimizer.base_lr": float(f"{base_lr[labels['scaling']]:.6g}"),
                "optimizer.weight_decay": 1e-6,
                "optimizer.warmup_epochs": WARMUP.get(variant, labels["epochs"] / 10),
                "seed": labels["seed"],
            },
        )
        for labels in grid
    ]
    lengths = dict.fromkeys((*EPOCHS[variant], *EPOCHS["imagenet"]))
    curves = tuple(
        Curve(
            measure=scale.measure,
            measure_label=scale.measure_label,
            x="batch",
            x_label="batch",
            series="epochs",
            names={epochs: f"{epochs} epochs" for epochs in lengths},
            where={"scaling": scaling},
            published="simclr_table_b1",
            stands_for=STANDS_FOR[variant],
        )
        for scaling in ("linear", "sqrt")
    )
    setting = f"{scale.data}, LARS"
    title = "SimCLR: batch size and learning-rate scaling"
    shortest = min(EPOCHS[variant])
    cells = scale.by_seed(cells, lambda labels: labels["epochs"] == shortest)
    return Sweep(title, cells, setting=setting, curves=curves)
