"""Compares the settings of encoders that change the features but not the shapes of arrays.

For example, Vision Transformers with 6 and with 12 heads have arrays of the same shapes. Runs and
exports record these settings in config.json; they must equal those of the run that starts. A
PyTorch file does not contain them, but the published numbers of heads of Vision Transformers are
known.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.positions import FIXED_POSITIONS
from ssl_jax.models.registry import ENCODERS
from ssl_jax.models.vit import SIZES, ViT
from ssl_jax.pretrained.matching import encoder_module

# Options of encoders. `positions` is compared as well if the positions are fixed.
_UNSEEN = ("num_heads", "activation", "norm_eps", "shortcut", "strides")
# Width -> heads of timm's, DINO's and MAE's Vision Transformers (Dosovitskiy et al. 2021, table 1;
# Touvron et al. 2021, table 1), and of MoCo v3's, whose ViT-S has 12 (Chen et al. 2021, table 1).
_HEADS = {size["dim"]: size["num_heads"] for size in SIZES.values()}
_MOCO_V3_HEADS = {384: 12, 768: 12}
# Width -> heads of MAE's decoder (He et al. 2022, released code).
_DECODER_HEADS = {512: 16}
_MOCO_V3_PREFIXES = ("base_encoder", "momentum_encoder")


def check_settings(source: str, section: Mapping[str, Any], experiment: Experiment) -> None:
    """Raises `UserError` if a pretrained encoder has other settings than this run's.

    Args:
      source: the run or export, for messages.
      section: its config section `model`.
      experiment: the run that starts.
    """
    module = encoder_module(experiment)
    settings = {name: _option(section, name) for name in _UNSEEN if hasattr(module, name)}
    differing = {
        name: value
        for name, value in settings.items()
        if value is not None and value != getattr(module, name)
    }
    if isinstance(module, ViT) and module.positions in FIXED_POSITIONS:
        positions = section.get("positions") or "learned"
        if positions != module.positions:
            differing["positions"] = positions
    if differing:
        differences = " and ".join(
            f"model.{name}={value} and this run {getattr(module, name)}"
            for name, value in differing.items()
        )
        options = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"init_from={source} has {differences}; set {options}")


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
    """Compares the number of heads of this run's Vision Transformer with published models.

    Args:
      source: a file with PyTorch names, for messages.
      prefix: the prefix of the names of its encoder.
      experiment: the run that starts.

    Returns:
      A line if a published model has this width but another number of heads; otherwise no line.

    Raises:
      UserError: the file has MoCo v3's names, and MoCo v3's ViT has another number of heads.
    """
    module = encoder_module(experiment)
    if not isinstance(module, ViT):
        return []
    if any(part in _MOCO_V3_PREFIXES for part in prefix.split(".")):
        heads = _MOCO_V3_HEADS.get(module.dim, module.num_heads)
        if heads != module.num_heads:
            raise UserError(
                f"init_from={source}: MoCo v3's ViT of {module.dim} channels has {heads} heads, "
                f"and this run's has {module.num_heads}; set model.num_heads={heads}"
            )
        return []
    heads = _HEADS.get(module.dim, module.num_heads)
    if heads == module.num_heads:
        return []
    return [
        f"the file does not give the number of heads of its layers: published ViTs of {module.dim} "
        f"channels have {heads}, and this run's has {module.num_heads} (model.num_heads)"
    ]


def check_decoder_heads(used: Collection[str], experiment: Experiment) -> list[str]:
    """A line if MAE's released decoder has this width but another number of heads.

    Args:
      used: the loaded arrays, by their names in the file.
      experiment: the run that starts.
    """
    if "decoder_embed.weight" not in used:
        return []
    decoder = experiment.method.nets()["decoder"].module
    heads = _DECODER_HEADS.get(decoder.dim, decoder.num_heads)
    if heads == decoder.num_heads:
        return []
    return [
        f"the file does not give the number of heads of its decoder: MAE's has {heads}, and this "
        f"run's has {decoder.num_heads} (nets.decoder.num_heads)"
    ]
