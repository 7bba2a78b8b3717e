"""MoCo's dictionaries, by the number of negatives and by momentum (He et al. 2020, Sec. 4.1)

    ssl_jax sweep --config=ablations/moco_negatives:digits --workdir=runs/moco

Variants:
  digits    the embedded digits, three seeds: half an hour on two CPU cores
  fashion   10,000 images of Fashion-MNIST, three seeds: two minutes a cell on one CPU core
  shapes    generated images, ResNet-18: about two hours on one accelerator
  imagenet  the paper's: ResNet-50, batch 256, 200 epochs

A queue, a memory bank, and the batch's own keys end to end, whose number is the batch; and the
queue with other momenta of the key encoder. Of the paper's Fig. 3 only the values in its text and
tables are published here.
"""

from ssl_jax.configs import scales
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed

VARIANTS = ("digits", "fashion", "shapes", "imagenet")
BATCH = {"digits": 64, "fashion": 256, "shapes": 256, "imagenet": 256}
NEGATIVES = {
    "digits": (64, 256, 1024),
    "fashion": (256, 1024, 4096),
    "shapes": (256, 1024, 4096, 16384),
    "imagenet": (256, 512, 1024, 4096, 16384, 65536),
}
LARGEST_BATCH = {"digits": 256, "fashion": 1024, "shapes": 1024, "imagenet": 1024}
MOMENTUM = {"digits": 0.99, "fashion": 0.99, "shapes": 0.999, "imagenet": 0.999}  # while K varies
MOMENTA = (0.0, 0.9, 0.99, 0.999, 0.9999)
MIDDLE = {
    "digits": 256,
    "fashion": 1024,
    "shapes": 4096,
    "imagenet": 4096,
}  # K while the momentum varies
STANDS_FOR = {
    "digits": {"K": {256: 4096, 1024: 65536}, "m": {}},
    "fashion": {"K": {1024: 4096, 4096: 65536}, "m": {}},
    "shapes": {"K": {4096: 4096, 16384: 65536}, "m": {}},
    "imagenet": {},
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    scale = scales.scale("ablations/moco_negatives", variant, VARIANTS)
    momentum, middle = MOMENTUM[variant], MIDDLE[variant]
    settings = [
        (dictionary, negatives, momentum)
        for dictionary in ("queue", "bank", "end_to_end")
        for negatives in NEGATIVES[variant]
        if dictionary != "end_to_end" or negatives <= LARGEST_BATCH[variant]
    ]
    settings += [("queue", middle, m) for m in MOMENTA if m != momentum]
    cells = []
    for dictionary, negatives, m in settings:
        for seed in scale.seeds:
            overrides = {
                "method.dictionary": dictionary,
                "method.momentum": m,
                "batch_size": BATCH[variant],
                "seed": seed,
                **scale.overrides,
            }
            if dictionary == "end_to_end":
                overrides["batch_size"] = negatives
            else:
                overrides["method.num_negatives"] = negatives
            labels = {"dictionary": dictionary, "K": negatives, "m": m, "seed": seed}
            config = scale.config("moco_v1")
            if variant == "imagenet" and dictionary == "bank":
                config = "moco_v1:bank"
            cells.append(Cell(labels, config, overrides))
    shared = dict(measure=scale.measure, measure_label=scale.measure_label)
    curves = (
        Curve(
            x="K",
            x_label="negatives K",
            series="dictionary",
            names={"end_to_end": "end to end"},
            where={"m": momentum},
            published="moco_figure_3",
            stands_for=STANDS_FOR[variant],
            **shared,
        ),
        Curve(
            x="m",
            x_label="momentum m",
            where={"dictionary": "queue", "K": middle},
            published="moco_momentum",
            stands_for=STANDS_FOR[variant],
            **shared,
        ),
    )
    title = "MoCo: dictionaries and momentum"
    return Sweep(title, by_seed(cells), setting=scale.setting, curves=curves)
