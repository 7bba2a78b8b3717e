"""The arrays of a run by the names of released code, and its checkpoint as that code saves it.

    method   checkpoint.pth
    dino     student (module.backbone, module.head), teacher (backbone, head), dino_loss, epoch
    ibot     student, teacher as dino; the token of masked patches is backbone.masked_embed, and the
             head's last_layer2 equals its last_layer (shared_head); ibot_loss, epoch
    dinov2   teacher (backbone, dino_head, ibot_head), as in teacher_checkpoint.pth; beside it
             student, dino_loss and ibot_patch_loss, which that file lacks
    mae      model, with decoder
    ijepa    encoder, predictor, target_encoder (module.), epoch

Names and layouts are those of facebookresearch/dino (main_dino.py), bytedance/ibot (main_ibot.py,
models/head.py), facebookresearch/dinov2 (train/train.py, layers/dino_head.py), facebookresearch/mae
(models_mae.py, util/misc.py) and facebookresearch/ijepa (src/train.py). A last layer has
`weight_g` and `weight_v` of weight normalisation; where norms are not learned, `weight_g` is 1. A
network that the code wraps for several devices has names that begin with `module.`; so has a
teacher with BatchNorm.

The state of the optimizer is not part of it. `init_from` reads the file back, see
`formats.networks` and `formats.method_nets`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax import checkpoint, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import evaluated
from ssl_jax.models import ViT
from ssl_jax.models.patches import patch_grid
from ssl_jax.models.positions import sincos_positions
from ssl_jax.pretrained import formats
from ssl_jax.pretrained.formats import method_nets
from ssl_jax.pretrained.matching import flat
from ssl_jax.pretrained.trained_run import TrainedRun

PyTree = Any
State = dict[str, np.ndarray]
NAME = "checkpoint.pth"


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where the released code of DINO, iBOT or DINOv2 keeps what a run has.

    Attributes:
      title: of the code, for messages.
      heads: beginning of the names of `method_nets` -> the code's.
      centres: name in `method_nets` -> state dict and name.
      wrapped: the student's names begin with "module.", and those of a teacher with BatchNorm.
      mask_token: its name.
      second_layer: name of the last layer of patches, a copy of the other.
      has_epoch: the number of epochs is part of the file.
    """

    title: str
    heads: Mapping[str, str]
    centres: Mapping[str, tuple[str, str]]
    wrapped: bool = True
    mask_token: str = "mask_token"
    second_layer: str = ""
    has_epoch: bool = True


_LAYOUTS = {
    "dino": _Layout("DINO", {"head": "head"}, {"center": ("dino_loss", "center")}),
    "ibot": _Layout(
        "iBOT",
        {"head": "head"},
        {"center": ("ibot_loss", "center"), "patch_center": ("ibot_loss", "center2")},
        mask_token="masked_embed",
        second_layer="last_layer2",
    ),
    "dinov2": _Layout(
        "DINOv2",
        {"head": "dino_head", "patch_head": "ibot_head"},
        {"center": ("dino_loss", "center"), "patch_center": ("ibot_patch_loss", "center")},
        wrapped=False,
        has_epoch=False,
    ),
}
METHODS = (*_LAYOUTS, "mae", "ijepa")


def check(run: TrainedRun) -> None:
    """Raises `UserError` unless the released code of the run's method has such checkpoints."""
    name = run.config.method.name
    if name not in METHODS:
        raise UserError(
            f"--to=official writes runs of {', '.join(METHODS)}, and {run.workdir} is one of "
            f"{name}; use --to=timm, --to=hf or --to=safetensors"
        )
    if run.config.adapt.name is not None:
        raise UserError(
            "--to=official writes all networks of a run as they are trained, and the released code "
            "has no adapters; use --to=safetensors, into which they are merged"
        )


def all_weights(run: TrainedRun) -> Weights:
    """Parameters, buffers and moving average of the checkpoint of a run, on the devices."""
    prefixes = evaluated.prefixes("params" if run.experiment.method.ema_decay is None else "ema")
    with checkpoint.Checkpointer(run.workdir, read_only=True) as saves:
        restored = saves.restore_parameters(
            run.step, prefixes=prefixes, sharding=parallel.replicated(run.experiment.mesh)
        )
    if restored is None:
        raise UserError(f"{run.workdir} has no checkpoint yet")
    parts, _ = restored
    params, buffers, *average = (parts[prefix] for prefix in prefixes)
    return Weights(params, buffers, *average)


def tree(run: TrainedRun, w: Weights) -> dict[str, Any]:
    """The checkpoint as the released code saves it.

    Args:
      run: one that `check` accepts.
      w: all its weights.

    Returns:
      key -> state dict {name: float32 array}; and "epoch", int.

    Raises:
      UserError: the encoder has no equivalent there.
    """
    name = run.config.method.name
    w = jax.tree.map(np.asarray, w)
    if name == "mae":
        return {"model": encoder(run, w.params) | decoder(run, w.params)}
    epochs = run.step // run.experiment.length.steps_per_epoch
    if name == "ijepa":
        predictor = _predictor(run, w.params)
        networks = {
            "encoder": encoder(run, w.params), "predictor": predictor,
            "target_encoder": encoder(run, w.ema),
        }  # fmt: skip
        return {key: _below("module.", state) for key, state in networks.items()} | {
            "epoch": epochs
        }
    layout = _LAYOUTS[name]
    out: dict[str, Any] = {
        "student": _network(run, w, layout), "teacher": _network(run, w.averaged(), layout),
    }  # fmt: skip
    has_statistics = any(path.endswith("/mean") for path in by_path(w.buffers))
    for key, is_wrapped in (("student", True), ("teacher", has_statistics)):
        if layout.wrapped and is_wrapped:
            out[key] = _below("module.", out[key])
    own = flat({"params": w.params, "buffers": w.buffers})
    for net in ("centre", "patch_centre"):
        for short, value in method_nets.to_torch(own, net).items():
            key, centre = layout.centres[short]
            out.setdefault(key, {})[centre] = value
    return out | ({"epoch": epochs} if layout.has_epoch else {})


def summary(content: Mapping[str, Any]) -> str:
    """The networks of a checkpoint and their arrays, such as "teacher (12 arrays)"."""
    states = {key: state for key, state in content.items() if isinstance(state, Mapping)}
    return ", ".join(f"{key} ({len(x)} array{'s' * (len(x) > 1)})" for key, x in states.items())


def _network(run: TrainedRun, w: Weights, layout: _Layout) -> State:
    """A student or teacher: the encoder below "backbone.", and its heads."""
    state = encoder(run, w.params, w.buffers)
    if "mask_token" in state:
        state[layout.mask_token] = state.pop("mask_token")
    state = _below("backbone.", state)
    own = flat({"params": w.params, "buffers": w.buffers})
    for net in ("projector", "patch_projector"):
        for name, value in method_nets.to_torch(own, net).items():
            head, _, rest = name.partition(".")
            state[f"{layout.heads[head]}.{rest}"] = value
            layer, _, part = rest.partition(".")
            if layout.second_layer and layer == "last_layer":
                state[f"{layout.heads[head]}.{layout.second_layer}.{part}"] = value
    return state


def encoder(run: TrainedRun, params: PyTree, buffers: PyTree | None = None) -> State:
    """The encoder's arrays by their released names, without a prefix.

    Args:
      run: the run.
      params, buffers: of all nets, or those of the moving average.

    Raises:
      UserError: the encoder has no equivalent in PyTorch's libraries.
    """
    module = run.experiment.method.nets()["encoder"].module
    if isinstance(module, ViT):
        return vit(run, params["encoder"])
    return formats.to_torch(params["encoder"], (buffers or {}).get("encoder", {}))


def vit(run: TrainedRun, params: PyTree) -> State:
    """The arrays of a Vision Transformer by their released names.

    Args:
      run: the run.
      params: of its encoder.
    """
    module, positions = run.experiment.method.nets()["encoder"].module, None
    if "pos_embed" not in params:  # fixed positions are no parameters, but others store them
        grid = patch_grid(run.view_shape, module.patch_size)
        positions = sincos_positions(grid, module.dim, module.positions)
    return formats.to_torch(params, {}, sincos=positions)


def decoder(run: TrainedRun, params: PyTree) -> State:
    """The arrays of MAE's decoder by their released names, with its positions.

    Args:
      run: the run.
      params: of all nets.
    """
    state = method_nets.to_torch(flat({"params": params}), "decoder")
    positions = _positions(run, "decoder")
    state["decoder_pos_embed"] = np.pad(positions, ((0, 0), (1, 0), (0, 0)))  # the class token's
    return state


def _predictor(run: TrainedRun, params: PyTree) -> State:
    """The arrays of I-JEPA's predictor by their released names, with its positions."""
    state = method_nets.to_torch(flat({"params": params}), "predictor")
    return state | {"predictor_pos_embed": _positions(run, "predictor")}


def _positions(run: TrainedRun, net: str) -> np.ndarray:
    """The fixed positions of the patches in a decoder or predictor, float32 [1 l d]."""
    nets = run.experiment.method.nets()
    grid = patch_grid(run.view_shape, nets["encoder"].module.patch_size)
    dim = nets[net].module.dim
    return np.asarray(sincos_positions(grid, dim), np.float32).reshape(1, -1, dim)


def _below(prefix: str, state: Mapping[str, np.ndarray]) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}
