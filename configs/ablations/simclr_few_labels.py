"""1% and 10% of the labels: fine-tuned and from scratch (SimCLR, Chen et al. 2020, Table 7)

    ssl_jax train --config=simclr:digits --workdir=runs/simclr
    ssl_jax sweep --config=ablations/simclr_few_labels:digits --workdir=runs/one_percent \
        --set=init_from=runs/simclr

Variants:
  digits    the embedded digits, 14 and 144 labels, three draws of them: a few minutes on two cores
  imagenet  the paper's: imagenet2012_subset of tfds, 60 and 30 epochs, for a run of simclr:imagenet

The rows of the paper's table about other methods are in `published.json` as
simclr_table_7_comparators. On ImageNet the measure is top-5 as in the paper, on digits top-1.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed, product

SETTINGS = {"digits": "8x8 digits, small conv net, 400 steps", "imagenet": "ImageNet, ResNet-50"}
VARIANTS = tuple(SETTINGS)
STARTS = {"SimCLR": True, "supervised": False}  # -> init_weights
NEEDS = {"init_from": "the pretrained run, e.g. --set=init_from=runs/simclr"}
_SPARE = {
    "eval.every_epochs": 0.0,
    "eval.final_names": ("accuracy",),
    "eval.baselines": (),
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "digits") -> Sweep:
    """The grid of one variant."""
    common.check_variant("ablations/simclr_few_labels", variant, VARIANTS)
    seeds = (0, 1, 2) if variant == "digits" else (0,)
    cells = [
        Cell(
            labels,
            "supervised:digits" if variant == "digits" else "supervised:finetune",
            {"init_weights": STARTS[labels["method"]], "seed": labels["seed"], **_SPARE}
            | (_digits if variant == "digits" else _imagenet)(labels["fraction"], labels["seed"]),
        )
        for labels in product(method=STARTS, fraction=(0.01, 0.1), seed=seeds)
    ]
    measure = "accuracy/top1" if variant == "digits" else "accuracy/top5"
    curve = Curve(
        measure=measure,
        measure_label="top-1, %" if variant == "digits" else "top-5, %",
        x="fraction",
        x_label="share of the labels",
        series="method",
        published="simclr_table_7",
        published_measure="top5",
        published_label="top-5, %",
    )
    return Sweep(
        "SimCLR: 1% and 10% of the labels", by_seed(cells), needs=NEEDS, metric=measure,
        setting=SETTINGS[variant], curves=(curve,),
    )  # fmt: skip


def _digits(fraction: float, seed: int) -> dict[str, object]:
    """A fraction of the embedded digits; 400 steps for both."""
    return {
        "data.labelled_fraction": fraction,
        "data.labels_seed": seed,
        "batch_size": min(128, round(1438 * fraction)),
        "steps": 400,
        "epochs": None,
    }


def _imagenet(fraction: float, seed: int) -> dict[str, object]:
    """App. B.5: 60 epochs on 1% of the labels, 30 on 10%."""
    del seed
    name = {0.01: "1pct", 0.1: "10pct"}[fraction]
    return {
        "data.name": f"tfds:imagenet2012_subset/{name}",
        "epochs": {0.01: 60.0, 0.1: 30.0}[fraction],
    }
