"""Temperature and l2 normalisation in SimCLR's loss (Chen et al. 2020, Table 5)

    ssl_jax sweep --config=ablations/simclr_temperature:digits --workdir=runs/t

Variants:
  digits    the embedded digits, three seeds: ten minutes on two CPU cores
  fashion   10,000 images of Fashion-MNIST, three seeds: two minutes a cell on one CPU core
  shapes    generated images, ResNet-18: some hours on one accelerator
  imagenet  the paper's: ResNet-50, batch 4096, 100 epochs

Contrastive accuracy and entropy are those of the training batches at the end of the run.
"""

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

VARIANTS = ("digits", "fashion", "shapes", "imagenet")
TEMPERATURES = {True: (0.05, 0.1, 0.5, 1.0), False: (10.0, 100.0)}  # with l2 normalisation or not


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/simclr_temperature", variant, VARIANTS)
    cells = [
        Cell(
            {"l2": l2, **labels},
            scale.config("simclr"),
            {
                "method.l2_normalize": l2,
                "method.temperature": labels["t"],
                "seed": labels["seed"],
                **scale.overrides,
            },
        )
        for l2, temperatures in TEMPERATURES.items()
        for labels in product(t=temperatures, seed=scale.seeds)
    ]
    shared = dict(
        x="t",
        x_label="temperature",
        series="l2",
        names={True: "cosine", False: "dot product"},
        published="simclr_table_5",
    )
    accuracy = "contrastive accuracy, %"
    curves = (
        Curve(measure=scale.measure, measure_label=scale.measure_label, **shared),
        Curve(
            measure="train/contrastive_accuracy",
            measure_label=accuracy,
            published_measure="contrastive_accuracy",
            published_label=accuracy,
            **shared,
        ),
        Curve(
            measure="train/entropy",
            measure_label="entropy, nats",
            percent=False,
            published_measure="entropy",
            published_label="entropy, nats",
            **shared,
        ),
    )
    title = "SimCLR: temperature, with and without l2 normalisation"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=curves)
