"""Converts T5 to and from the format of the `transformers` library, versions 1.0 and 1.1.

Written folders load as T5ForConditionalGeneration; folders of that class and of T5Model can be
read, including the published ones. Matrices are transposed. The table of positions is stored with
the first layer of each stack there, and beside the layers here. The rows of the table of tokens are
a multiple of 128, as in the published models.
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
from ssl_jax.models.encoder_decoder import EncoderDecoder
from ssl_jax.models.layers import restack
from ssl_jax.pretrained.formats.files import write_pretrained

PyTree = Any

FAMILY = "t5"
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "proj": "o"}
# Settings that become options of the net, with the library's defaults.
_DEFAULTS = {
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
_ACTIVATIONS = {"relu": "relu", "gated-gelu": "gated_gelu"}
# Arrays that repeat the table of tokens.
_REPEATED = re.compile(r"(encoder|decoder)\.embed_tokens\.weight$")
_HEAD = "lm_head.weight"


def _entries(depth: int, gated: bool, tied: bool) -> Iterator[tuple[str, str]]:
    """Yields (our path, name in transformers)."""
    yield "encoder/embed/token/embedding", "shared.weight"
    if not tied:
        yield "encoder/output/embedding", _HEAD
    mlp = {"gate": "wi_0", "fc1": "wi_1", "fc2": "wo"} if gated else {"fc1": "wi", "fc2": "wo"}
    for stack in ("encoder", "decoder"):
        own = f"encoder/{stack}"
        yield (
            f"{own}/positions/embedding",
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        )
        yield f"{own}/norm/scale", f"{stack}.final_layer_norm.weight"
        branches = [("attn", "norm1", "SelfAttention", _PROJECTIONS)]
        if stack == "decoder":
            branches.append(("cross_attn", "cross_norm", "EncDecAttention", _PROJECTIONS))
        branches.append(("mlp", "norm2", "DenseReluDense", mlp))
        for i in range(depth):
            for j, (branch, norm, theirs, parts) in enumerate(branches):
                layer, name = f"{own}/layer{i + 1}", f"{stack}.block.{i}.layer.{j}"
                yield f"{layer}/{norm}/scale", f"{name}.layer_norm.weight"
                for part, their_part in parts.items():
                    path = f"{layer}/{branch}/{part}/kernel"
                    yield path, f"{name}.{theirs}.{their_part}.weight"


def to_hugging_face(params: PyTree, module: EncoderDecoder) -> dict[str, np.ndarray]:
    """Converts parameters to float32 arrays with the names of `transformers`.

    Args:
      params: parameters of a method, with the net under "encoder"; layers may be stacked.
      module: the net.
    """
    entries = dict(_entries(module.depth, module.activation == "gated_gelu", module.tied))
    arrays = restack(by_path(params), list(entries))
    return {
        name: np.ascontiguousarray(_turned(path, np.asarray(arrays[path], np.float32)))
        for path, name in entries.items()
    }


def from_hugging_face(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any], module: EncoderDecoder
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts the weights of a folder of `transformers` to parameters.

    Args:
      state: name -> array of T5ForConditionalGeneration or T5Model.
      config: the content of its config.json.
      module: the net that loads them.

    Returns:
      (arrays, unused): path -> array, unstacked, and the names of arrays that are not used.

    Raises:
      UserError: the net has other settings than config.json.
    """
    theirs = model_options(config, "config.json")
    named = ("num_heads", "head_dim", "activation", "tied", "num_buckets", "max_distance",
             "norm_eps")  # fmt: skip
    differing = {name: theirs[name] for name in named if theirs[name] != getattr(module, name)}
    if differing:
        options = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"config.json belongs to another encoder-decoder; set {options}")
    state = dict(state)
    for name in [name for name in state if _REPEATED.search(name)]:
        x = state.pop(name)
        state.setdefault("shared.weight", x)
    if theirs["tied"]:
        state.pop(_HEAD, None)
    elif "shared.weight" in state:  # where both tables are equal, one is stored
        state.setdefault(_HEAD, state["shared.weight"])
    arrays = {}
    for path, name in _entries(theirs["depth"], theirs["activation"] != "relu", theirs["tied"]):
        if name in state:
            arrays[path] = _turned(path, np.asarray(state.pop(name), np.float32))
    return arrays, list(state)


def _turned(path: str, x: np.ndarray) -> np.ndarray:
    return x.T if path.endswith("/kernel") else x


def model_options(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of `make_encoder`, except the vocabulary, for the net of a config.json.

    Args:
      config: the content of config.json.
      where: its path, for messages.

    Raises:
      UserError: the net is not supported.
    """
    values = {}
    for name, default in _DEFAULTS.items():
        value = values[name] = config.get(name, default)
        is_number = isinstance(value, type(default) | int) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            allowed = "a positive integer" if isinstance(default, int) else "a positive number"
            raise UserError(f"{where} has {name} {value!r:.80}; it has to be {allowed}")
    layers = config.get("num_decoder_layers")
    if layers not in (None, values["num_layers"]):
        raise UserError(
            f"{where} has num_layers {values['num_layers']} and num_decoder_layers {layers!r:.80}; "
            "encoder and decoder have the same number of layers here"
        )
    kind = config.get("feed_forward_proj", "relu")
    if kind not in _ACTIVATIONS:
        raise UserError(
            f"{where} has feed_forward_proj {kind!r:.80}; supported are {', '.join(_ACTIVATIONS)}"
        )
    # Version 5 of the library always says that the tables are tied, and in another setting that the
    # logits are those of T5 1.1.
    said = (config.get("tie_word_embeddings"), config.get("scale_decoder_outputs"))
    tied = False not in said
    return {
        "name": "t5_base" if tied else "t5_1_1_base",
        "dim": values["d_model"],
        "depth": values["num_layers"],
        "num_heads": values["num_heads"],
        "head_dim": values["d_kv"],
        "hidden_dim": values["d_ff"],
        "activation": _ACTIVATIONS[kind],
        "tied": tied,
        "num_buckets": values["relative_attention_num_buckets"],
        "max_distance": values["relative_attention_max_distance"],
        "norm_eps": values["layer_norm_epsilon"],
    }


def description(module: EncoderDecoder, vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of config.json."""
    kind = next(name for name, ours in _ACTIVATIONS.items() if ours == module.activation)
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": FAMILY,
        "is_encoder_decoder": True,
        "vocab_size": module.rows,
        "d_model": module.dim,
        "d_kv": module.head_dim,
        "d_ff": module.hidden_dim,
        "num_layers": module.depth,
        "num_decoder_layers": module.depth,
        "num_heads": module.num_heads,
        "relative_attention_num_buckets": module.num_buckets,
        "relative_attention_max_distance": module.max_distance,
        "dropout_rate": module.dropout,
        "layer_norm_epsilon": module.norm_eps,
        "feed_forward_proj": kind,
        "tie_word_embeddings": module.tied,
        "pad_token_id": vocabulary.pad,
        "eos_token_id": vocabulary.sep,
        "decoder_start_token_id": vocabulary.pad,
        "torch_dtype": "float32",
    }


def write(
    folder: str,
    params: PyTree,
    module: EncoderDecoder,
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
    """
    state = to_hugging_face(params, module)
    files = {"config.json": json.dumps(description(module, vocabulary), indent=2) + "\n"}
    if tokenizer is not None:
        files |= _tokenizer_files(tokenizer, vocabulary)
    return write_pretrained(folder, state, files)


def _tokenizer_files(tokenizer: str, vocabulary: Vocabulary) -> dict[str, str]:
    """tokenizer.json, framing texts as T5 does (A, end token), and tokenizer_config.json."""
    parts = json.loads(tokenizer)
    names = {token["id"]: token["content"] for token in parts.get("added_tokens", ())}
    end = names[vocabulary.sep]
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]
    second = [{"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": end, "type_id": 0}}]
    parts["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *second],
        "special_tokens": {end: {"id": end, "ids": [vocabulary.sep], "tokens": [end]}},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": names[vocabulary.pad],
        "unk_token": names[vocabulary.unk],
        "eos_token": end,
        "additional_special_tokens": [names[token] for token in vocabulary.sentinels],
    }
    return {
        "tokenizer.json": json.dumps(parts, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }
