"""Writes and reads LoRA adapters of BERT and RoBERTa in the format of the `peft` library.

A folder holds adapter_model.safetensors and adapter_config.json. The adapter of a dense layer is
`base_model.model.MODULE.lora_A.weight` [r d_in] and `lora_B.weight` [d_out r], where MODULE is the
layer's name in transformers. Query, key and value are three layers there and one here, whose maps
have adapters of their own. Weights that are trained in full, such as those of a classifier, are
`base_model.model.MODULE.weight` and are listed in `modules_to_save`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.models.layers import unstack
from ssl_jax.pretrained.formats.files import read, write_safetensors

ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_FILE = "adapter_model.safetensors"
# Settings with which the library computes something else, and the value with which it does not.
_UNSUPPORTED = {
    "use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "bias": "none",
    "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None, "lora_bias": False,
}  # fmt: skip
_WHOLE = "whole"

# Layer -> {map: {"a": [d_in r], "b": [r d_out]}}.
Adapters = dict[str, dict[str, dict[str, np.ndarray]]]


def write(
    folder: str,
    adapters: Mapping[str, Any],
    trained: Mapping[str, np.ndarray],
    names: Mapping[str, tuple[str, ...]],
    *,
    rank: int,
    alpha: float,
    dropout: float,
    base: str,
) -> int:
    """Writes the files of an adapter.

    Args:
      folder: exists.
      adapters: path of an array "LAYER/lora/MAP/a" or ".../b" -> array, layers possibly stacked.
      trained: name in transformers -> array, of the weights that are trained in full.
      names: path of a kernel -> its names in transformers: one, or three that it concatenates.
      rank, alpha, dropout: of the adapters.
      base: folder or name of the base model.

    Returns:
      The number of arrays.

    Raises:
      UserError: transformers has no name for an adapted layer.
    """
    state, modules = {}, set()
    for layer, maps in _by_layer(unstack(adapters)).items():
        if f"{layer}/kernel" not in names:
            raise UserError(f"transformers has no layer {layer}, which has an adapter")
        for module, (a, b) in _split(maps, names[f"{layer}/kernel"]).items():
            modules.add(module)
            state[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(a.T)
            state[f"{_PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(b.T)
    for name, x in trained.items():
        state[f"{_PREFIX}{name}"] = x
    write_safetensors(os.path.join(folder, _FILE), state)
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(modules),
        "modules_to_save": sorted({name.rpartition(".")[0] for name in trained}) or None,
        "init_lora_weights": True,
        "inference_mode": True,
        **_UNSUPPORTED,
    }
    with open(os.path.join(folder, ADAPTER_CONFIG), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")
    return len(state)


def is_adapter_folder(folder: str) -> bool:
    """Whether a folder has the config of an adapter."""
    return os.path.exists(os.path.join(folder, ADAPTER_CONFIG))


def read_config(folder: str) -> dict[str, Any]:
    """The settings of an adapter: `r`, `lora_alpha`, and `base`, the folder of the base model.

    Raises:
      UserError: it is no LoRA that is supported, or its base model is not on this machine.
    """
    path = os.path.join(folder, ADAPTER_CONFIG)
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as the config of LoRA: {error!r}") from error
    if config.get("peft_type") != "LORA":
        raise UserError(f"{path} has peft_type {config.get('peft_type')!r}; only LORA is supported")
    for key, plain in _UNSUPPORTED.items():
        if (config.get(key) or plain) != plain:
            raise UserError(f"{path} has {key} {config[key]!r}; only {plain!r} is supported")
    base = str(config.get("base_model_name_or_path"))
    folders = [base, os.path.join(folder, base), os.path.join(folder, "base")]
    base_folder = next((b for b in folders if os.path.exists(os.path.join(b, "config.json"))), None)
    if base_folder is None:
        raise UserError(
            f"{path} names the base model {base!r}, which is no folder here; put its files into "
            f"{folders[-1]}"
        )
    return {"r": rank, "lora_alpha": alpha, "base": base_folder}


def read_adapter(
    folder: str, names: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], list[str]]:
    """Reads the arrays of an adapter.

    Args:
      folder: with adapter_model.safetensors, or the library's older adapter_model.bin.
      names: path of a kernel -> its names in transformers, as for `write`.

    Returns:
      (adapters, saved, unused): path "LAYER/lora/MAP/a" -> array; name in transformers -> array, of
      weights that are trained in full; and names of adapters of unknown layers.

    Raises:
      UserError: there is no file, or it cannot be read.
    """
    path = os.path.join(folder, _FILE)
    if not os.path.exists(path):
        path = os.path.join(folder, "adapter_model.bin")
    maps = {}  # name of a layer in transformers -> layer and map
    for kernel, modules in names.items():
        layer = kernel.removesuffix("/kernel")
        parts = ("query", "key", "value") if len(modules) == 3 else (_WHOLE,)
        for module, part in zip(modules, parts, strict=True):
            maps[module.removesuffix(".weight")] = f"{layer}/lora/{part}"
    adapters, saved, unused = {}, {}, []
    for name, x in read(path).items():
        name = name.removeprefix(_PREFIX)
        match = re.fullmatch(r"(.*)\.lora_([AB])(\.default)?\.weight", name)
        if match is None:
            saved[name.replace(".modules_to_save.default", "")] = x
        elif match[1] in maps:
            adapters[f"{maps[match[1]]}/{match[2].lower()}"] = np.asarray(x, np.float32).T
        else:
            unused.append(name)
    return adapters, saved, unused


def _by_layer(arrays: Mapping[str, Any]) -> Adapters:
    layers: Adapters = {}
    for path, x in arrays.items():
        layer, _, below = path.partition("/lora/")
        name, _, factor = below.partition("/")
        layers.setdefault(layer, {}).setdefault(name, {})[factor] = np.asarray(x, np.float32)
    return layers


def _split(
    maps: Mapping[str, Mapping[str, np.ndarray]], names: tuple[str, ...]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of a module in transformers -> (a, b), for the maps of one layer."""
    modules = [name.removesuffix(".weight") for name in names]
    if _WHOLE in maps:  # the modules share a
        a, b = maps[_WHOLE]["a"], maps[_WHOLE]["b"]
        parts = np.split(b, len(modules), axis=-1)
        return {module: (a, part) for module, part in zip(modules, parts, strict=True)}
    parts = dict(zip(("query", "key", "value"), modules, strict=True))
    return {parts[name]: (ab["a"], ab["b"]) for name, ab in maps.items()}
