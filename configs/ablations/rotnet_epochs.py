"""RotNet's own task beside recognition, over training (Gidaris et al. 2018, Figure 5a)

    ssl_jax sweep --config=ablations/rotnet_epochs:digits --workdir=runs/epochs

Variants:
  digits        the embedded digits, three seeds: ten minutes on two CPU cores
  small_shapes  2048 generated images in colour, three seeds: some minutes more
  fashion       10,000 images of Fashion-MNIST, three seeds of the shortest and the longest runs:
                one to five minutes a cell on one CPU core
  cifar10       the paper's: network in network, up to 200 epochs
  imagenet      the paper's recipe for ImageNet, AlexNet, up to 50 epochs

Every cell is a run of its own length, whose learning rate falls to its end; the paper takes
snapshots of one run. It finds that recognition improves with the accuracy of the rotations.
"""

import dataclasses

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, product

VARIANTS = ("digits", "small_shapes", "fashion", "cifar10", "imagenet")
EPOCHS = {
    "digits": (5.0, 10.0, 20.0, 40.0),
    "small_shapes": (5.0, 10.0, 20.0, 40.0),
    "fashion": (1.0, 2.0, 4.0, 8.0),
    "cifar10": (20.0, 60.0, 120.0, 200.0),
    "imagenet": (10.0, 20.0, 30.0, 50.0),
}
# A warm-up of an epoch would be all of the shortest run.
OVERRIDES = {"fashion": {"optimizer.warmup_epochs": 0.5}}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/rotnet_epochs", variant, VARIANTS)
    data = "ImageNet, AlexNet" if variant == "imagenet" else scale.data
    cells = [
        Cell(
            labels,
            scale.config("rotnet"),
            {
                **scale.lasting(labels["epochs"]).overrides,
                "seed": labels["seed"],
                **OVERRIDES.get(variant, {}),
            },
        )
        for labels in product(epochs=EPOCHS[variant], seed=scale.seeds)
    ]
    shared = dict(x="epochs", x_label="epochs")
    curves = (
        Curve(measure="held_out/accuracy", measure_label="rotations, %", **shared),
        Curve(measure=scale.measure_of("rotnet"), measure_label=scale.measure_label, **shared),
    )
    title = "RotNet: rotations and recognition over training"
    setting = dataclasses.replace(scale, data=data, epochs=None).setting
    extremes = (EPOCHS[variant][0], EPOCHS[variant][-1])
    cells = scale.by_seed(cells, lambda labels: labels["epochs"] in extremes)
    return Sweep(title, cells, setting=setting, curves=curves)
