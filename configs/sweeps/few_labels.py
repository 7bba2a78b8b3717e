"""Accuracy against labelled examples a class, pretrained or not (Gidaris et al. 2018, Figure 5b)

    ssl_jax train --config=rotnet:digits --workdir=runs/rotnet
    ssl_jax sweep --config=sweeps/few_labels:digits --workdir=runs/few \
        --set=init_from=runs/rotnet

Variants:
  digits   the embedded digits: 8 to 144 examples a class, three seeds; minutes on two CPU cores
  fashion  Fashion-MNIST: 8 to 512 examples a class, three seeds of the fewest; for a run of
           rotnet:fashion, a minute a cell on one CPU core
  cifar10  the paper's numbers, 20 to 5000 examples a class, for a run of rotnet:cifar10

Both lines train the net of the pretrained run on the labelled examples alone and for the same
number of steps: one starts from the pretrained weights, the other from random ones. Any pretrained
run will do, of any method that trains an encoder of images.

The paper keeps the first two blocks of its pretrained net as they are and trains a convolutional
classifier on them; here all layers are trained. Its curve lies above that of the supervised net up
to 1000 examples of each class.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("digits", "fashion", "cifar10")
STARTS = {"pretrained": True, "scratch": False}  # -> init_weights
# Variant -> examples of each class, of how many, and steps of each cell.
GRIDS = {
    "digits": ((8, 16, 48, 144), 144, 400),
    "fashion": ((8, 32, 128, 512), 1000, 300),
    "cifar10": ((20, 100, 400, 1000, 5000), 5000, 20_000),
}
DATA = {
    "digits": "8x8 digits",
    "fashion": "10,000 images of Fashion-MNIST",
    "cifar10": "CIFAR-10",
}
# Variant -> what its cells differ in from the config.
OVERRIDES = {
    "digits": {},
    "fashion": {"batch_size": 64, "eval.online": False, "checkpoint.every_steps": 300},
    "cifar10": {"model.name": "nin", "model.num_blocks": 4},
}
NEEDS = {"init_from": "the pretrained run, e.g. --set=init_from=runs/rotnet"}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/few_labels", variant, VARIANTS)
    numbers, all_examples, steps = GRIDS[variant]
    cells = [
        Cell(
            labels,
            f"supervised:{variant}",
            {
                "init_weights": STARTS[labels["start"]],
                "data.labelled_fraction": labels["labels"] / all_examples,
                "data.labels_seed": labels["seed"],
                "seed": labels["seed"],
                "steps": steps,
                "epochs": None,
                "eval.every_epochs": 0.0,
                "eval.final_names": ("accuracy",),
                "eval.baselines": (),
                "log.tensorboard": False,
                "log.report": False,
                **OVERRIDES[variant],
            },
        )
        for labels in product(start=STARTS, labels=numbers, seed=(0, 1, 2))
    ]
    curve = Curve(
        measure="accuracy/top1",
        measure_label="top-1, %",
        x="labels",
        x_label="labelled examples a class",
        series="start",
        names={"pretrained": "pretrained", "scratch": "supervised alone"},
    )
    # Few examples differ most by seed.
    repeated = {"digits": numbers, "fashion": numbers[:1], "cifar10": ()}[variant]
    return Sweep(
        "Few labels: pretrained and from scratch",
        by_seed(cells, lambda labels: labels["labels"] in repeated), needs=NEEDS,
        metric="accuracy/top1", setting=f"{DATA[variant]}, {steps:,} steps", curves=(curve,),
    )  # fmt: skip
