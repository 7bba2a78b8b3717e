"""Which rotations RotNet tells apart (Gidaris et al. 2018, Table 2)

    ssl_jax sweep --config=ablations/rotnet_rotations:small_shapes --workdir=runs/rotations

Variants:
  digits        the embedded digits, three seeds: ten minutes on two CPU cores
  small_shapes  2048 generated images in colour, three seeds: some minutes more
  cifar10       the paper's: network in network, 200 epochs
  imagenet      the paper's recipe for ImageNet, AlexNet

The paper measures classifiers of three fully connected layers on the second block. Here it is a
linear probe (few labels on the digits) of the last output that the config evaluates: on CIFAR-10
the mean over the positions of the second block. The paper also has eight rotations, by 45 degrees,
which need interpolation and are not implemented.
"""

import dataclasses

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("digits", "small_shapes", "cifar10", "imagenet")
ROTATIONS = {
    "0 90 180 270": (0, 90, 180, 270),
    "0 180": (0, 180),
    "90 270": (90, 270),
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/rotnet_rotations", variant, VARIANTS)
    if variant == "imagenet":
        scale = dataclasses.replace(scale, data="ImageNet, AlexNet")
    cells = [
        Cell(
            labels,
            scale.config("rotnet"),
            {
                "method.rotations": ROTATIONS[labels["rotations"]],
                "seed": labels["seed"],
                **scale.overrides,
            },
        )
        for labels in product(rotations=ROTATIONS, seed=scale.seeds)
    ]
    curve = Curve(
        measure=scale.measure_of("rotnet"),
        measure_label=scale.measure_label,
        x="rotations",
        x_label="rotations, degrees",
        published="rotnet_table_2",
    )
    title = "RotNet: which rotations are told apart"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=(curve,))
