"""Tiny Vision Transformers of transformers and of our runs, for tests of their folders."""

import functools
import json

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.experiment.build import Experiment
from tests.methods.table import ROWS

SIDE = 16  # of the digits' views, which have one channel
_SHARED = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=4,
    num_channels=1,
)  # fmt: skip
_VIT = dict(_SHARED, intermediate_size=32)
_DECODER = dict(
    decoder_hidden_size=24, decoder_num_hidden_layers=2, decoder_num_attention_heads=3,
    decoder_intermediate_size=96, mask_ratio=0.75, norm_pix_loss=True,
)  # fmt: skip
# model_type -> settings of config.json.
SETTINGS = {
    "vit": _VIT,
    "vit_mae": dict(_VIT, **_DECODER, layer_norm_eps=1e-6),
    "ijepa": _VIT,
    "dinov2": dict(_SHARED, mlp_ratio=2),
    "swiglu": dict(_SHARED, mlp_ratio=2, use_swiglu_ffn=True),
    "dinov2_with_registers": dict(_SHARED, mlp_ratio=2, num_register_tokens=3),
}
_OURS = dict(name="vit_ti16", patch_size=4, dim=16, depth=2, num_heads=4, mlp_ratio=2.0)
_DINOV2 = dict(_OURS, layer_scale=1e-5)
# The same nets here.
MODELS = {
    "vit": _OURS,
    "vit_mae": dict(_OURS, positions="sincos"),
    "ijepa": dict(_OURS, cls_token=False, pool="mean"),
    "dinov2": _DINOV2,
    "swiglu": dict(_DINOV2, feed_forward="swiglu"),
    "dinov2_with_registers": dict(_DINOV2, num_registers=3),
}


def model_type(case):
    return "dinov2" if case == "swiglu" else case


def experiment_of(model, row="supervised", **overrides):
    """A run on digits with the encoder `model`; tests share it."""
    return _experiment(tuple(sorted(model.items())), row, tuple(sorted(overrides.items())))


@functools.cache
def _experiment(model, row, overrides):
    model, overrides = dict(model), dict(overrides)
    config = ROWS[row].load(**overrides)
    model = {f"model.{option}": value for option, value in model.items()}
    config = config_lib.resolve(config_lib.apply(config, model))
    return Experiment.build(config, data.spec_from_config(config.data))


def mae(model=MODELS["vit_mae"], **overrides):
    """A run of MAE with the decoder of `SETTINGS["vit_mae"]`."""
    decoder = dict(dim=24, depth=2, num_heads=3)
    decoder = {f"nets__decoder__{name}": value for name, value in decoder.items()}
    return experiment_of(model, "mae", **{**decoder, **overrides})


def write_config(folder, case, **changes):
    settings = {"model_type": model_type(case), **SETTINGS[case], **changes}
    (folder / "config.json").write_text(json.dumps(settings))
