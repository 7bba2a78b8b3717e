"""Converts GPT-1 and GPT-2 to and from the format of the `transformers` library.

Written folders load as OpenAIGPTLMHeadModel (norms behind the branches) or GPT2LMHeadModel (in
front of them); folders of these classes and of the models without a head can be read, including the
published ones. Dense layers are stored there as here, [in, out], and query, key and value in one
matrix. GPT-3's banded layers and RMS norms do not exist there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.layers import restack
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.pretrained.formats.files import write_pretrained

PyTree = Any

GPT1, GPT2 = "openai-gpt", "gpt2"
FAMILIES = (GPT1, GPT2)
_ARCHITECTURES = {GPT1: "OpenAIGPTLMHeadModel", GPT2: "GPT2LMHeadModel"}
_TABLES = {GPT1: ("tokens_embed", "positions_embed"), GPT2: ("wte", "wpe")}
_LAYER = {
    "norm1": "ln_1",
    "attn/qkv": "attn.c_attn",
    "attn/proj": "attn.c_proj",
    "norm2": "ln_2",
    "mlp/fc1": "mlp.c_fc",
    "mlp/fc2": "mlp.c_proj",
}
# Settings that become options of the decoder, with the library's defaults.
_DEFAULTS = {
    "n_positions": {GPT1: 512, GPT2: 1024},
    "n_embd": {GPT1: 768, GPT2: 768},
    "n_layer": {GPT1: 12, GPT2: 12},
    "n_head": {GPT1: 12, GPT2: 12},
    "layer_norm_epsilon": {GPT1: 1e-5, GPT2: 1e-5},
}
# Name in transformers -> our name; "gelu" of GPT-1 is the approximation with tanh there.
_ACTIVATIONS = {
    GPT1: {"gelu": "gelu_tanh"},
    GPT2: {"gelu_new": "gelu_tanh", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh",
           "gelu_fast": "gelu_tanh"},
}  # fmt: skip
_ACTIVATION_KEY = {GPT1: "afn", GPT2: "activation_function"}
# Settings of which only one value is supported.
_ONLY = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "quantization_config": None,
}
_HEAD = "lm_head.weight"
_MASKS = re.compile(r"\.attn\.(bias|masked_bias)$")  # which key a query sees, no parameters
_POSITIONS = "encoder/embed/position/embedding"


def family(module: TextEncoder) -> str:
    """The layout of a decoder, "openai-gpt" or "gpt2"."""
    return GPT2 if module.pre_norm else GPT1


def _entries(kind: str, depth: int, tied: bool) -> Iterator[tuple[str, str]]:
    """Yields (our path, name in transformers)."""
    tokens, positions = _TABLES[kind]
    yield "encoder/embed/token/embedding", f"transformer.{tokens}.weight"
    yield _POSITIONS, f"transformer.{positions}.weight"
    for i in range(depth):
        for ours, theirs in _LAYER.items():
            weight = "scale" if ours.startswith("norm") else "kernel"
            for own, name in ((weight, "weight"), ("bias", "bias")):
                yield f"encoder/layer{i + 1}/{ours}/{own}", f"transformer.h.{i}.{theirs}.{name}"
    if kind == GPT2:
        yield "encoder/norm/scale", "transformer.ln_f.weight"
        yield "encoder/norm/bias", "transformer.ln_f.bias"
    if not tied:
        yield "encoder/output/embedding", _HEAD


def to_hugging_face(params: PyTree, module: TextEncoder) -> dict[str, np.ndarray]:
    """Converts parameters to float32 arrays with the names of `transformers`.

    Args:
      params: parameters of a method, with the decoder under "encoder"; layers may be stacked.
      module: the decoder.

    Raises:
      UserError: `transformers` has no such decoder.
    """
    problem = None
    if module.norm != "layer":
        problem = f"model.norm={module.norm}"
    elif module.window is not None:
        problem = f"model.window={module.window}"
    elif module.activation not in _ACTIVATIONS[family(module)].values():
        problem = f"model.pre_norm=False with model.activation={module.activation}"
    if problem:
        raise UserError(
            f"no GPT of transformers has {problem}; --to=safetensors keeps our own names"
        )
    entries = dict(_entries(family(module), module.depth, module.tied))
    arrays = restack(by_path(params), list(entries))
    return {
        name: np.ascontiguousarray(np.asarray(arrays[path], np.float32))
        for path, name in entries.items()
    }


def from_hugging_face(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any], module: TextEncoder
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts the weights of a folder of `transformers` to parameters.

    Args:
      state: name -> array of a GPT-1 or GPT-2 with or without its head.
      config: the content of its config.json.
      module: the decoder that loads them.

    Returns:
      (arrays, unused): path -> array, unstacked, with positions cut to the length of the decoder;
      and the names of arrays that are not used.

    Raises:
      UserError: the decoder has other settings than config.json.
    """
    theirs = model_options(config, "config.json")
    own = {name: getattr(module, name) for name in ("num_heads", "activation", "norm_eps", "tied",
                                                    "pre_norm", "norm", "window")}  # fmt: skip
    theirs |= {"pre_norm": config["model_type"] == GPT2, "norm": "layer", "window": None}
    differing = {name: theirs[name] for name, value in own.items() if theirs[name] != value}
    if differing:
        options = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"config.json belongs to another decoder; set {options}")
    state = {_current_name(name): x for name, x in state.items() if not _MASKS.search(name)}
    if theirs["tied"]:
        state.pop(_HEAD, None)
    arrays = {}
    for path, name in _entries(config["model_type"], theirs["depth"], theirs["tied"]):
        if name in state:
            arrays[path] = np.asarray(state.pop(name), np.float32)
    if _POSITIONS in arrays:
        arrays[_POSITIONS] = arrays[_POSITIONS][: module.max_length]
    return arrays, list(state)


def _current_name(name: str) -> str:
    """With the prefix that the arrays of models without a head lack."""
    bare = name.startswith(("h.", "wte.", "wpe.", "ln_f.", "tokens_embed.", "positions_embed."))
    return f"transformer.{name}" if bare else name


def model_options(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of `make_encoder`, except the vocabulary, for the decoder of a config.json.

    Args:
      config: the content of config.json.
      where: its path, for messages.

    Raises:
      UserError: the decoder is not supported.
    """
    kind = config["model_type"]
    values = {}
    for name, defaults in _DEFAULTS.items():
        default = defaults[kind]
        value = values[name] = config.get(name, default)
        is_number = isinstance(value, type(default) | int) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            allowed = "a positive integer" if isinstance(default, int) else "a positive number"
            raise UserError(f"{where} has {name} {value!r:.80}; it has to be {allowed}")
    for name, value in _ONLY.items():
        if config.get(name) not in (None, value):
            raise UserError(
                f"{where} has {name} {config[name]!r:.80}; the decoder has only {value!r}"
            )
    key, known = _ACTIVATION_KEY[kind], _ACTIVATIONS[kind]
    activation = config.get(key, next(iter(known)))
    if activation not in known:
        raise UserError(
            f"{where} has {key} {activation!r:.80}, which is not supported; supported are "
            f"{', '.join(known)}"
        )
    hidden = config.get("n_inner") if kind == GPT2 else None
    return {
        "name": "gpt2" if kind == GPT2 else "gpt1",
        "dim": values["n_embd"],
        "depth": values["n_layer"],
        "num_heads": values["n_head"],
        "mlp_ratio": 4.0 if hidden is None else hidden / values["n_embd"],
        "max_length": values["n_positions"],
        "activation": known[activation],
        "norm_eps": values["layer_norm_epsilon"],
        "tied": config.get("tie_word_embeddings") is not False,
    }


def description(module: TextEncoder, vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of config.json."""
    kind = family(module)
    activations = _ACTIVATIONS[kind].items()
    hidden = round(module.mlp_ratio * module.dim)
    if kind == GPT1 and hidden != 4 * module.dim:
        raise UserError(
            f"GPT-1 of transformers has MLPs of four times the width, and model.mlp_ratio is "
            f"{module.mlp_ratio}; --to=safetensors keeps our own names"
        )
    return {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": module.vocab_size,
        "n_positions": module.max_length,
        "n_embd": module.dim,
        "n_layer": module.depth,
        "n_head": module.num_heads,
        **({"n_inner": hidden} if kind == GPT2 else {}),
        _ACTIVATION_KEY[kind]: next(name for name, own in activations if own == module.activation),
        "embd_pdrop": module.dropout,
        "resid_pdrop": module.dropout,
        "attn_pdrop": module.attention_dropout,
        "layer_norm_epsilon": module.norm_eps,
        "tie_word_embeddings": module.tied,
        "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.sep,
        "eos_token_id": vocabulary.sep,
        "torch_dtype": "float32",
    }


def write(
    folder: str,
    params: PyTree,
    module: TextEncoder,
    vocabulary: Vocabulary,
    tokenizer: str | None = None,
) -> int:
    """Writes a folder for `from_pretrained`.

    Args:
      folder: created if missing.
      params, module: as for `to_hugging_face`.
      vocabulary: of the run.
      tokenizer: the content of a tokenizer.json; None writes no tokenizer.

    Returns:
      The number of arrays.

    Raises:
      UserError: `transformers` has no such decoder.
    """
    state = to_hugging_face(params, module)
    files = {"config.json": json.dumps(description(module, vocabulary), indent=2) + "\n"}
    if tokenizer is not None:
        files |= tokenizer_files(tokenizer, vocabulary, module.max_length)
    return write_pretrained(folder, state, files)


def tokenizer_files(tokenizer: str, vocabulary: Vocabulary, max_length: int) -> dict[str, str]:
    """Name -> content of tokenizer.json, which does not frame texts, and tokenizer_config.json.

    Of byte-level BPE also vocab.json and merges.txt.
    """
    parts = json.loads(tokenizer)
    parts["post_processor"] = None
    names = {token["id"]: token["content"] for token in parts.get("added_tokens", ())}
    end = names[vocabulary.sep]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": end,
        "eos_token": end,
        "pad_token": names[vocabulary.pad],
        "unk_token": names[vocabulary.unk],
    }
    words = parts.get("pre_tokenizer") or {}
    if "add_prefix_space" in words:
        settings["add_prefix_space"] = words["add_prefix_space"]
    files = {
        "tokenizer.json": json.dumps(parts, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }
    if parts["model"]["type"] == "BPE":
        vocab = parts["model"]["vocab"] | {name: number for number, name in names.items()}
        ordered = dict(sorted(vocab.items(), key=lambda item: item[1]))
        merges = (pair if isinstance(pair, str) else " ".join(pair)
                  for pair in parts["model"]["merges"])  # fmt: skip
        files["vocab.json"] = json.dumps(ordered, ensure_ascii=False) + "\n"
        files["merges.txt"] = "".join(f"{line}\n" for line in ("#version: 0.2", *merges))
    return files
