"""Reads and writes the config.json of a BERT or RoBERTa of the `transformers` library.

Every setting that changes what the model computes is either used or refused:

- width, depth, heads, MLP, positions, types, activation and epsilon are options of `model`.
  `model_options` reads them; `check` compares those that do not change the shape of an array;
- causal or cross attention, other positions, pruned heads, quantised weights and custom modelling
  code are refused;
- `tie_word_embeddings` and the activation decide whether the token head can be loaded, see
  `hugging_face.token_head_difference`; `problem_type` decides for a classifier;
- dropout is an option of the run that starts, and settings of generation do not concern encoders.

The library's BERT and RoBERTa do not read any other settings. `unknown_settings` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.pretrained.formats.task_heads import TaskHeads

FAMILIES = ("bert", "roberta")
# Name in transformers -> our name; of several names for ours, the first is written.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_python": "gelu",
}
# Settings that become options of the encoder, with the library's defaults.
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
# Settings of which only one value is supported.
_ONLY = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": {},
    "directionality": "bidi",
    "pooler_type": "first_token_transform",
    "alibi_starting_size": None,
    "feed_forward_type": "original",
}
# Settings that change no output of an encoder in evaluation, or that other modules read.
_OTHERS = {
    "_name_or_path", "architectures", "attention_probs_dropout_prob", "auto_map", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size",
    "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "gradient_checkpointing",
    "hidden_act", "hidden_dropout_prob", "id2label", "initializer_factor", "initializer_range",
    "is_composition", "label2id", "language", "model_type", "name", "num_labels", "_num_labels",
    "output_attentions", "output_hidden_states", "output_past", "pad_token_id", "pooler_fc_size",
    "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "prefix",
    "problem_type", "return_dict", "sep_token_id", "task_specific_params", "tf_legacy_loss",
    "tie_encoder_decoder", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "torchscript",
    "transformers_version", "use_bfloat16", "use_cache", "vocab_size", "_attn_implementation",
    "_attn_implementation_autoset", "attn_implementation",
    # of generation
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens",
    "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip
_SHOWN = 4


def family(module: TextEncoder) -> str:
    """The layout of an encoder, "bert" or "roberta", whose table of positions has an offset."""
    return "roberta" if module.position_offset else "bert"


def activation(config: Mapping[str, Any]) -> str:
    """`model.activation` of an encoder with this config.json.

    Raises:
      UserError: our encoder does not have the activation.
    """
    act = config.get("hidden_act", "gelu")
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        raise UserError(
            f"config.json has hidden_act {act!r}, which is not supported; supported are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[act]


def first_position(config: Mapping[str, Any]) -> int:
    """The row of position 0 in the table of positions; in RoBERTa it follows the row of padding.

    Raises:
      UserError: pad_token_id of a RoBERTa is not an integer from 0.
    """
    if config["model_type"] != "roberta":
        return 0
    pad = config.get("pad_token_id", 1)
    if isinstance(pad, bool) or not isinstance(pad, int) or pad < 0:
        raise UserError(
            f"config.json has pad_token_id {pad!r}; it must be an integer from 0, because the "
            "positions of RoBERTa start after it"
        )
    return pad + 1


def check(config: Mapping[str, Any], module: TextEncoder) -> None:
    """Raises `UserError` if our encoder has other settings than this config.json.

    Shapes are not compared, because arrays that do not fit are reported by name.
    """
    settings = _settings(config)
    kind = config["model_type"]
    if kind != family(module):
        raise UserError(
            f"config.json has model_type {kind!r}; use such a model, e.g. model.name={kind}_base"
        )
    theirs = {
        "activation": activation(config),
        "norm_eps": settings["layer_norm_eps"],
        "num_heads": settings["num_attention_heads"],
    }
    differing = {name: value for name, value in theirs.items() if value != getattr(module, name)}
    if differing:
        options = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"config.json belongs to another encoder; set {options}")


def model_options(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of `make_encoder`, except the vocabulary, for the encoder of a config.json.

    Args:
      config: the content of config.json.
      where: its path, for messages.

    Raises:
      UserError: the encoder is not supported.
    """
    try:
        settings = _settings(config)
        first = first_position(config)
        act = activation(config)
    except UserError as error:
        raise UserError(str(error).replace("config.json", where, 1)) from error
    dim = settings["hidden_size"]
    return {
        "name": f"{config['model_type']}_base",
        "dim": dim,
        "depth": settings["num_hidden_layers"],
        "num_heads": settings["num_attention_heads"],
        "mlp_ratio": settings["intermediate_size"] / dim,
        "max_length": settings["max_position_embeddings"] - first,
        "num_types": settings["type_vocab_size"],
        "activation": act,
        "norm_eps": settings["layer_norm_eps"],
    }


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `_DEFAULTS` in a config.json.

    Raises:
      UserError: one of them is not a positive number, or another setting is not supported.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(
            f"config.json has model_type {kind!r}; supported are {' and '.join(FAMILIES)}"
        )
    for name, value in _ONLY.items():
        setting = config.get(name)
        if setting is not None and setting != value and (setting or value):
            allowed = f"only {name} {value!r}" if value not in (None, {}) else f"no {name}"
            raise UserError(f"config.json has {name} {setting!r:.80}; the encoder has {allowed}")
    custom_code = config.get("auto_map") or {}
    models = [name for name in custom_code if name.startswith("AutoModel")]
    if models:
        raise UserError(
            f"config.json has auto_map {models[0]}: the folder's own code defines the model, not "
            f"the library's {kind}"
        )
    settings = {}
    for name, default in _DEFAULTS.items():
        value = settings[name] = config.get(name, default)
        is_number = isinstance(value, type(default) | int) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            allowed = "a positive integer" if isinstance(default, int) else "a positive number"
            raise UserError(f"config.json has {name} {value!r:.80}; it has to be {allowed}")
    return settings


def unknown_settings(config: Mapping[str, Any]) -> list[str]:
    """A line that lists the unknown settings of a config.json; no line if there are none.

    Settings that are null, false or empty are not listed.
    """
    known = _OTHERS | _DEFAULTS.keys() | _ONLY.keys()
    names = [name for name, value in config.items() if name not in known and value]
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(f"{name} {config[name]!r:.40}" for name in names[:_SHOWN])
    return [f"unknown settings of config.json, not used: {shown}{more}"]


def description(
    module: TextEncoder,
    vocabulary: Vocabulary,
    params: Any,
    heads: TaskHeads | None = None,
) -> dict[str, Any]:
    """The content of config.json for an encoder and its heads."""
    kind = family(module)
    if heads is not None:
        architecture = heads.architecture
    elif "token_head" not in params:
        architecture = {"bert": "BertModel", "roberta": "RobertaModel"}[kind]
    elif kind == "roberta":
        architecture = "RobertaForMaskedLM"
    else:
        architecture = "BertForPreTraining" if "pair_head" in params else "BertForMaskedLM"
    act = next(name for name, ours in _ACTIVATIONS.items() if ours == module.activation)
    rows = module.max_length + (vocabulary.pad + 1 if kind == "roberta" else 0)
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": module.vocab_size,
        "hidden_size": module.dim,
        "num_hidden_layers": module.depth,
        "num_attention_heads": module.num_heads,
        "intermediate_size": round(module.mlp_ratio * module.dim),
        "hidden_act": act,
        "hidden_dropout_prob": module.dropout,
        "attention_probs_dropout_prob": module.attention_dropout,
        "max_position_embeddings": rows,
        "type_vocab_size": module.num_types,
        "layer_norm_eps": module.norm_eps,
        "initializer_range": 0.02,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "pad_token_id": vocabulary.pad,
        "bos_token_id": vocabulary.cls,
        "eos_token_id": vocabulary.sep,
        "torch_dtype": "float32",
        **(heads.settings if heads else {}),
    }
