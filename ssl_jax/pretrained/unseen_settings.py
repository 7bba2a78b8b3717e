"""Settings of an encoder that change its features and that no array shows.

Two Vision Transformers of 6 and of 12 heads have arrays of the same shapes. A run and an export say
what they are in config.json, and have to be equal to the run that starts from them. A file of
PyTorch says nothing; of Vision Transformers the published numbers of heads are known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.positions import FIXED_POSITIONS
from ssl_jax.models.registry import ENCODERS
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.pretrained.matching import encoder_module

# Options of encoders; `positions` too, where they are fixed.
_UNSEEN = ("num_heads", "activation", "norm_eps", "shortcut", "strides")
# Width -> heads of timm's, DINO's and MAE's Vision Transformers (Dosovitskiy et al. 2021, table 1;
# Touvron et al. 2021, table 1), and of MoCo v3's, whose ViT-S has 12 (Chen et al. 2021, table 1).
_HEADS = {size["dim"]: size["num_heads"] for size in SIZES.values()}
_MOCO_V3_HEADS = {384: 12, 768: 12}
_MOCO_V3_PREFIXES = ("base_encoder", "momentum_encoder")


def check_settings(source: str, there: Mapping[str, Any], experiment: Experiment) -> None:
    """Raises `UserError` where the encoder of a run computes something else than this run's.

    Args:
      source: the run or export, for messages.
      there: its config section `model`.
      experiment: the run that starts.
    """
    here = encoder_module(experiment)
    theirs = {name: _option(there, name) for name in _UNSEEN if hasattr(here, name)}
    differing = {
        name: value
        for name, value in theirs.items()
        if value is not None and value != getattr(here, name)
    }
    if isinstance(here, ViT) and here.positions in FIXED_POSITIONS:
        positions = there.get("positions") or "learned"
        if positions != here.positions:
            differing["positions"] = positions
    if differing:
        told = " and ".join(
            f"model.{name}={value} and this run {getattr(here, name)}"
            for name, value in differing.items()
        )
        options = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"init_from={source} has {told}; set {options}")


def _option(section: Mapping[str, Any], name: str) -> Any:
    """An option of a section `model`, or its default; None if the encoder has no such option."""
    encoder: Callable[..., Any] | None = ENCODERS.get(section.get("name") or "")
    parameter = inspect.signature(encoder).parameters.get(name) if encoder else None
    if parameter is None:
        return None
    value = section.get(name)
    value = parameter.default if value is None else value
    return tuple(value) if isinstance(value, list) else value


def check_heads(source: str, prefix: str, experiment: Experiment) -> list[str]:
    """Compares the heads of this run's Vision Transformer with those of published files.

    Args:
      source: a file with the names of PyTorch, for messages.
      prefix: behind which the names of its encoder stand.
      experiment: the run that starts.

    Returns:
      A line where the width is a published one and the number of heads is not; else none.

    Raises:
      UserError: the file has the names of MoCo v3's, whose ViTs have another number of heads.
    """
    module = encoder_module(experiment)
    if not isinstance(module, ViT):
        return []
    if any(part in _MOCO_V3_PREFIXES for part in prefix.split(".")):
        heads = _MOCO_V3_HEADS.get(module.dim, module.num_heads)
        if heads != module.num_heads:
            raise UserError(
                f"init_from={source}: MoCo v3's ViT of {module.dim} channels has {heads} heads and "
                f"this run's {module.num_heads}; set model.num_heads={heads}"
            )
        return []
    heads = _HEADS.get(module.dim, module.num_heads)
    if heads == module.num_heads:
        return []
    return [
        f"no file says how many heads its layers have: published ViTs of {module.dim} channels "
        f"have {heads}, and this run's {module.num_heads} (model.num_heads)"
    ]
