r"""Transfer to twelve data sets, linear and fine-tuned (SimCLR, Chen et al. 2020, Table 8)

    ssl_jax sweep --config=sweeps/transfer:paper --workdir=runs/transfer \
        --set=pretrained=runs/simclr --set=supervised=runs/supervised
    ssl_jax sweep --config=sweeps/transfer:embedded --workdir=runs/transfer \
        --set=pretrained=runs/simclr --set=supervised=runs/supervised

Variants:
  paper           linear evaluation and fine-tuning on the twelve sets, 2052 cells: job arrays
  linear          linear evaluation alone, a cell for each set and encoder
  embedded        both on digits, generated shapes and discs, and Fashion-MNIST
  embedded_linear linear evaluation alone: minutes

`pretrained` and `supervised` are runs; without `supervised` its rows are left out. The third row,
`random`, has the net of `pretrained` with random weights. Sets that are not on this machine are
named and left out.

Linear evaluation chooses one of 45 penalties on a part of train and is then fitted again on train
and validation. Fine-tuning chooses a learning rate and a weight decay on the validation split
(`eval.validation_split`) and is scored on the test split by the same weights; the paper trains once
more on train and validation. The grids are the paper's: 7 rates from 1e-4 to 0.1 and 7 weight
decays from 1e-6 to 1e-3 and 0, divided by the rate, for 20,000 steps; from random weights 7 rates
from 1e-3 to 1 and 8 weight decays from 1e-5 to 10^-1.5 for 40,000 steps. Those of `embedded` are
smaller.

The end of the sweep draws both tables, writes them beside the published ones (`results.md`), and
compares each row with the first by a permutation test over test examples (`significance.csv`).
"""

import math

from ssl_jax.configs import common
from ssl_jax.configs.transfer import EMBEDDED, PAPER
from ssl_jax.sweeps.grid import Cell, Curve, Sweep, product

VARIANTS = ("paper", "linear", "embedded", "embedded_linear")
# Start -> (the run whose net it has, whether it starts from its weights).
STARTS = {
    "pretrained": ("{pretrained}", True),
    "supervised": ("{supervised}", True),
    "random": ("{pretrained}", False),
}
NAMES = {"pretrained": "self-supervised", "supervised": "supervised", "random": "random"}


def _log_spaced(low: float, high: float, count: int) -> tuple[float, ...]:
    step = (math.log10(high) - math.log10(low)) / (count - 1)
    return tuple(float(f"{10 ** (math.log10(low) + i * step):.3g}") for i in range(count))


# Variant -> whether weights are pretrained -> (rates, weight decays, steps).
GRIDS = {
    "paper": {
        True: (_log_spaced(1e-4, 0.1, 7), (0.0, *_log_spaced(1e-6, 1e-3, 7)), 20_000),
        False: (_log_spaced(1e-3, 1.0, 7), _log_spaced(1e-5, 10**-1.5, 8), 40_000),
    },
    "embedded": {
        True: ((0.003, 0.03), (0.0,), 200),
        False: ((0.03, 0.3), (0.0,), 400),
    },
}
_SPARE = {
    "eval.outcomes": True,
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "embedded") -> Sweep:
    """The cells of one variant."""
    common.check_variant("sweeps/transfer", variant, VARIANTS)
    sets = EMBEDDED if variant.startswith("embedded") else PAPER
    cells = [
        _linear(name, chosen.probe, start) for name, chosen in sets.items() for start in STARTS
    ]
    if variant in GRIDS:
        cells += [
            _finetuned(name, chosen.head, start, rate, decay, steps)
            for name, chosen in sets.items()
            for start in STARTS
            for rates, decays, steps in [GRIDS[variant][STARTS[start][1]]]
            for rate, decay in ((p["rate"], p["decay"]) for p in product(rate=rates, decay=decays))
        ]
    protocols = {"linear": "linear evaluation", "finetuned": "fine-tuned"}
    curves = [
        Curve(
            measure="{metric}",
            measure_label=label,
            x="set",
            x_label="data set",
            series="start",
            names=NAMES,
            where={"protocol": protocol},
            best_over=("rate", "decay"),
            chosen_by="eval/{metric}" if protocol == "finetuned" else None,
            matrix=True,
            published="simclr_table_8",
            published_measure="score",
            published_label=f"{label}, %",
        )
        for protocol, label in protocols.items()
        if protocol == "linear" or variant in GRIDS
    ]
    where = "generated and small sets" if sets is EMBEDDED else "the twelve sets of SimCLR"
    return Sweep(
        "Transfer to other data sets",
        tuple(cells),
        parameters={
            "pretrained": "the self-supervised run, e.g. --set=pretrained=runs/simclr",
            "supervised": None,
        },
        setting=where,
        curves=tuple(curves),
        compares="start",
        skips_absent_data=True,
    )


def _linear(name: str, metric: str, start: str) -> Cell:
    labels = dict(set=name, protocol="linear", start=start, metric=metric, rate=0.0, decay=0.0)
    evaluation = metric.partition("/")[0]
    return Cell(
        labels,
        f"transfer:{name}",
        {
            **_start(start),
            **_SPARE,
            "method.freeze_encoder": True,
            "steps": 1,
            "eval.final_names": (evaluation,),
        },
    )


def _finetuned(name: str, metric: str, start: str, rate: float, decay: float, steps: int) -> Cell:
    labels = dict(
        set=name, protocol="finetuned", start=start, metric=metric, rate=rate, decay=decay
    )
    return Cell(
        labels,
        f"transfer:{name}",
        {
            **_start(start),
            **_SPARE,
            "steps": steps,
            "optimizer.base_lr": rate,
            "optimizer.weight_decay": decay / rate,
            "eval.every_epochs": 1e6,  # on the validation split, at the end only
        },
    )


def _start(start: str) -> dict[str, object]:
    run, weights = STARTS[start]
    return {"init_from": run, "init_weights": weights}
