"""CPC on audio by the steps it predicts and by its negatives (van den Oord et al. 2018, Table 2)

    ssl_jax sweep --config=ablations/cpc_audio:speech --workdir=runs/cpc_audio

Variants:
  speech       synthetic speech, three seeds: some minutes a cell on two CPU cores
  librispeech  the paper's, --set=data.name=librispeech:DIR

The measure is the accuracy of a linear classifier of the phone of every frame. The paper varies the
negatives with 12 steps, and the steps with negatives of all speakers.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, by_seed

VARIANTS = ("speech", "librispeech")
STEPS = (2, 4, 8, 12, 16)
NEGATIVES = ("mixed", "same", "mixed_excluding", "same_excluding", "current")
SETTINGS = {
    "speech": "synthetic speech of 16 voices, small net",
    "librispeech": "LibriSpeech, train-clean-100",
}
# Neither page nor curves: a cell is one of many.
SPARE = {
    "eval.every_epochs": 0.0,
    "eval.collapse_every_steps": 0,
    "eval.baselines": (),
    "eval.final_names": ("phone",),
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "speech") -> Sweep:
    """The grid of one variant."""
    common.check_variant("ablations/cpc_audio", variant, VARIANTS)
    seeds = (0, 1, 2) if variant == "speech" else (0,)
    settings = [("mixed", steps) for steps in STEPS]
    settings += [(negatives, 12) for negatives in NEGATIVES if negatives != "mixed"]
    cells = [
        Cell(
            {"negatives": negatives, "steps": steps, "seed": seed},
            f"cpc_audio:{variant}",
            {**SPARE, "method.negatives": negatives, "method.num_steps": steps, "seed": seed},
        )
        for negatives, steps in settings
        for seed in seeds
    ]
    shared = dict(measure="phone/top1", measure_label="phone of a frame, linear, %")
    curves = (
        Curve(
            x="steps",
            x_label="steps predicted",
            where={"negatives": "mixed"},
            published="cpc_table_2_steps",
            **shared,
        ),
        Curve(
            x="negatives",
            x_label="negatives",
            where={"steps": 12},
            published="cpc_table_2_negatives",
            **shared,
        ),
    )
    return Sweep(
        "CPC on audio: steps and negatives", by_seed(cells), setting=SETTINGS[variant],
        curves=curves,
    )  # fmt: skip
