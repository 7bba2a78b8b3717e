"""CPC on audio beside random weights, MFCC and supervised nets (van den Oord et al. 2018, Table 1)

    ssl_jax sweep --config=sweeps/cpc_audio:speech --workdir=runs/cpc_table

Variants:
  speech  synthetic speech, three seeds: some minutes a cell on two CPU cores

The cells of CPC also have the scores of MFCC and of the untrained encoder. The supervised nets have
CPC's architecture and length, and learn the phone or the speaker of every frame. All are scored by
the same classifiers of frames.
"""

from ssl_jax.configs import common
from ssl_jax.sweeps.grid import Cell, Sweep, by_seed, product

VARIANTS = ("speech",)
# Net -> config, the probes, and the rows beside it.
NETS = {
    "cpc": ("cpc_audio:speech", ("phone", "phone_mlp", "speaker"), ("mfcc", "untrained")),
    "supervised_phone": ("supervised:speech", ("phone",), ()),
    "supervised_speaker": ("supervised:speech_speakers", ("speaker",), ()),
}
_SPARE = {
    "eval.every_epochs": 0.0,
    "eval.collapse_every_steps": 0,
    "eval.online": False,
    "log.tensorboard": False,
    "log.report": False,
}


def get_sweep(variant: str = "speech") -> Sweep:
    """The grid of one variant."""
    common.check_variant("sweeps/cpc_audio", variant, VARIANTS)
    cells = []
    for labels in product(net=tuple(NETS), seed=(0, 1, 2)):
        config, probes, baselines = NETS[labels["net"]]
        overrides = {"eval.final_names": probes, "eval.baselines": baselines}
        cells.append(Cell(labels, config, {**_SPARE, **overrides, "seed": labels["seed"]}))
    return Sweep("CPC on audio beside random weights, MFCC and supervised nets", by_seed(cells))
