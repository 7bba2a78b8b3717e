"""Converts Vision Transformers to and from the format of the `transformers` library.

    model_type               class                         written for
    vit                      ViTModel                      other Vision Transformers
    vit_mae                  ViTMAEForPreTraining          a run of MAE, with its decoder
    ijepa                    IJepaModel                    no class token
    dinov2                   Dinov2Model                   LayerScale or SwiGLU
    dinov2_with_registers    Dinov2WithRegistersModel      register tokens

Arrays are renamed to the released names (`blocks.0.attn.qkv.weight`), which `names`, `vit_tokens`
and `method_nets` convert. In transformers query, key and value are three matrices; in the released
files they are one. `hugging_face_vit_config` reads and writes config.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.pretrained.formats.files import write_pretrained
from ssl_jax.pretrained.formats.hugging_face_vit_config import PREFIXES

State = Mapping[str, np.ndarray]

_TOKENS = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_DECODER = {
    "decoder_embed": "decoder.decoder_embed",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "mask_token": "decoder.mask_token",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
_QKV = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))
_LAYER = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.qkv": _QKV,
    "attn.proj": ("attention.output.dense",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
_DINOV2_LAYER = {
    "norm1": ("norm1",),
    "norm2": ("norm2",),
    "attn.qkv": _QKV,
    "attn.proj": ("attention.output.dense",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
    "mlp.w12": ("mlp.weights_in",),
    "mlp.w3": ("mlp.weights_out",),
    "ls1.gamma": ("layer_scale1.lambda1",),
    "ls2.gamma": ("layer_scale2.lambda1",),
}
# Names in memory of version 5 of the library -> names in files; and the layers of MAE's decoder as
# version 5.24 writes them.
_IN_FILES = (
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"^layers\.", "encoder.layer."),
    (r"attention\.q_proj\.", "attention.attention.query."),
    (r"attention\.k_proj\.", "attention.attention.key."),
    (r"attention\.v_proj\.", "attention.attention.value."),
    (r"attention\.o_proj\.", "attention.output.dense."),
)
_MLP_IN_FILES = ((r"mlp\.fc1\.", "intermediate.dense."), (r"mlp\.fc2\.", "output.dense."))


def renamed(kind: str, name: str) -> tuple[str, ...]:
    """The names in transformers of an array with a released name; several if it is split.

    Args:
      kind: the model_type.
      name: e.g. "blocks.0.attn.qkv.weight".

    Returns:
      The names below the encoder's prefix; none if the library has no such array.
    """
    block = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
    if block:
        layer = _DINOV2_LAYER if kind.startswith("dinov2") else _LAYER
        parent = "decoder.decoder_layers" if block[1] else "encoder.layer"
        return tuple(
            f"{parent}.{block[2]}.{part}{block[4] or ''}" for part in layer.get(block[3], ())
        )
    tokens = {**_TOKENS, **(_DECODER if kind == "vit_mae" else {})}
    module, dot, leaf = name.rpartition(".")
    if name in tokens:
        return (tokens[name],)
    return (f"{tokens[module]}{dot}{leaf}",) if module in tokens else ()


def from_hugging_face(state: State, kind: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Renames the arrays of a folder to the released names.

    Args:
      state: name -> array of any class of the library with this encoder.
      kind: the model_type of config.json.

    Returns:
      (renamed, unused): released name -> array, and the names that were not renamed.
    """
    state = {_name_in_files(name, kind): (name, x) for name, x in state.items()}
    result, used = {}, set()
    for name in _released_names(state):
        names = renamed(kind, name)
        if names and all(part in state for part in names):
            parts = [np.asarray(state[part][1]) for part in names]
            result[name] = np.concatenate(parts) if len(parts) > 1 else parts[0]
            used |= set(names)
    return result, [original for name, (original, _) in state.items() if name not in used]


def to_hugging_face(state: State, kind: str) -> dict[str, np.ndarray]:
    """Renames arrays with released names to those of the library.

    Args:
      state: released name -> array.
      kind: the model_type.
    """
    prefix = "vit." if kind == "vit_mae" else ""
    result = {}
    for name, x in state.items():
        names = renamed(kind, name)
        for new, part in zip(names, np.split(x, len(names)), strict=True):
            new = new if new.startswith("decoder.") else f"{prefix}{new}"
            result[new] = np.ascontiguousarray(part, np.float32)
    return result


def write(folder: str, state: State, config: Mapping[str, Any]) -> int:
    """Writes a folder for `from_pretrained`; returns the number of arrays.

    Args:
      folder: created if missing.
      state: released name -> array.
      config: the content of config.json, see `hugging_face_vit_config.description`.
    """
    arrays = to_hugging_face(state, config["model_type"])
    return write_pretrained(folder, arrays, {"config.json": json.dumps(config, indent=2) + "\n"})


def _name_in_files(name: str, kind: str) -> str:
    """The name of an array in files of the encoder alone."""
    name = name.removeprefix(f"{PREFIXES[kind]}.")
    rules = _IN_FILES if kind.startswith("dinov2") else (*_IN_FILES, *_MLP_IN_FILES)
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _released_names(names: Sequence[str] | Mapping[str, Any]) -> Iterator[str]:
    """All released names of encoders with as many layers as `names` have."""
    layers = {*_LAYER, *_DINOV2_LAYER}
    modules = [*_TOKENS, *_DECODER]
    for blocks, parent in (
        ("blocks", "encoder.layer"),
        ("decoder_blocks", "decoder.decoder_layers"),
    ):
        pattern = re.compile(rf"{re.escape(parent)}\.(\d+)\.")
        numbers = sorted({int(match[1]) for match in map(pattern.match, names) if match})
        modules += [f"{blocks}.{i}.{module}" for i in numbers for module in layers]
    for module in dict.fromkeys(modules):
        yield from (module, f"{module}.weight", f"{module}.bias")
