"""Converts BERT and RoBERTa to and from the format of the `transformers` library.

What is written loads as BertForPreTraining, BertForMaskedLM or RobertaForMaskedLM, and of a run
fine-tuned on labelled texts as Bert- or RobertaForSequenceClassification and so on (`task_heads`);
what is read may be any of their folders, the published ones included. Beside the names three things
differ there:

- query, key and value are three matrices, here one;
- position 0 stands in row `pad id + 1` of RoBERTa's table (2 in the published models); what stands
  before it is never used;
- the matrix before the vocabulary is stored, or not: it is the token embedding either way.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.layers import restack
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.pretrained.formats import task_heads
from ssl_jax.pretrained.formats.files import write_safetensors
from ssl_jax.pretrained.formats.task_heads import TaskHeads

PyTree = Any

FAMILIES = ("bert", "roberta")
# Theirs -> ours; the first of each of ours is what is written.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_EMBEDDINGS = {
    "token/embedding": "word_embeddings.weight",
    "position/embedding": "position_embeddings.weight",
    "type/embedding": "token_type_embeddings.weight",
    "norm/scale": "LayerNorm.weight",
    "norm/bias": "LayerNorm.bias",
}
_LAYER = {
    "attn/proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "mlp/fc1": "intermediate.dense",
    "mlp/fc2": "output.dense",
    "norm2": "output.LayerNorm",
}
_HEADS = {
    "bert": {
        "token_head/dense": "cls.predictions.transform.dense",
        "token_head/norm": "cls.predictions.transform.LayerNorm",
        "token_head": "cls.predictions",  # the vocabulary's bias
        "pair_head/dense": "cls.seq_relationship",
    },
    "roberta": {
        "token_head/dense": "lm_head.dense",
        "token_head/norm": "lm_head.layer_norm",
        "token_head": "lm_head",
    },
}
_QKV = ("query", "key", "value")
_POSITIONS = "encoder/embed/position/embedding"
# Of no use here: what is the same as another array, and what is counted anew.
_REPEATED = re.compile(
    r"(cls\.predictions|lm_head)\.decoder\.(weight|bias)$|embeddings\.(position|token_type)_ids$"
)


def family(module: TextEncoder) -> str:
    """Whose twin an encoder is: RoBERTa's positions begin behind other rows, BERT's do not."""
    return "roberta" if module.position_offset else "bert"


def _entries(
    family: str, depth: int, heads: Mapping[str, str] | None = None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(our path, their names): one name, or three that stand side by side in ours.

    Args:
      heads: modules of what stands on the encoder, ours -> theirs; default those of pretraining.
    """

    def module(path: str, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        kinds = {"bias": "bias"}
        if "norm" in path:
            kinds["scale"] = "weight"
        elif path != "token_head":
            kinds["kernel"] = "weight"
        for ours, theirs in kinds.items():
            yield f"{path}/{ours}", (f"{name}.{theirs}",)

    for path, name in _EMBEDDINGS.items():
        yield f"encoder/embed/{path}", (f"{family}.embeddings.{name}",)
    for i in range(depth):
        here, there = f"encoder/layer{i + 1}", f"{family}.encoder.layer.{i}"
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            names = tuple(f"{there}.attention.self.{part}.{theirs}" for part in _QKV)
            yield f"{here}/attn/qkv/{ours}", names
        for path, name in _LAYER.items():
            yield from module(f"{here}/{path}", f"{there}.{name}")
    if heads is None:
        heads = {"encoder/pooler": f"{family}.pooler.dense", **_HEADS[family]}
    for path, name in heads.items():
        yield from module(path, name)


def to_hugging_face(
    params: PyTree,
    module: TextEncoder,
    vocabulary: Vocabulary,
    heads: TaskHeads | None = None,
) -> dict[str, np.ndarray]:
    """Parameters under the names of `transformers`, float32.

    Args:
      params: a method's, with an "encoder" and perhaps heads; layers may be stacked.
      module: the encoder.
      vocabulary: of its tokens.
      heads: of a method that learns from labelled texts, what its head is there.

    Raises:
      UserError: `transformers` has no such RoBERTa.
    """
    kind = family(module)
    if kind == "roberta" and module.activation != "gelu" and heads is None:
        raise UserError(
            "RoBERTa in transformers has the exact GELU in its head, whatever the layers have; "
            f"this one has model.activation={module.activation}; --to=safetensors keeps our names"
        )
    entries = list(_entries(kind, module.depth, heads and heads.modules))
    arrays = restack(by_path(params), [path for path, _ in entries])
    state = {}
    for path, names in entries:
        if path not in arrays:
            continue
        x = np.asarray(arrays[path], np.float32)
        if path == _POSITIONS and kind == "roberta":
            rows = np.zeros((vocabulary.pad + 1, x.shape[1]), np.float32)
            x = np.concatenate([rows, x[module.position_offset :]])
        parts = np.split(x, len(names), axis=-1)
        for name, part in zip(names, parts, strict=True):
            state[name] = np.ascontiguousarray(part.T if path.endswith("/kernel") else part)
    return state


def from_hugging_face(
    state: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    module: TextEncoder,
    task: str | None = None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters out of the weights of a folder.

    Args:
      state: name -> array, of BertModel, BertForMaskedLM and so on.
      config: what its config.json says.
      module: the encoder they are for.
      task: what the method does with labelled texts, see `DataSpec`; the head of a folder of the
        same task is taken too.

    Returns:
      (arrays, unused): path -> array, layers apart and as many as there are there; and the names
      for which there is no use. Positions are cut to those the encoder has.

    Raises:
      UserError: the encoder would make something else of them.
    """
    check(config, module)
    kind = config["model_type"]
    state = {_modern(name, kind): x for name, x in state.items()}
    depth = 1 + max(
        (int(m[1]) for m in map(re.compile(r".*\.layer\.(\d+)\.").match, state) if m), default=-1
    )
    heads = task_heads.stored(config, kind, task, module.pooler)
    arrays, used = {}, set()
    for path, names in _entries(kind, depth, heads):
        if not all(name in state for name in names):
            continue
        used |= set(names)
        parts = [np.asarray(state[name], np.float32) for name in names]
        turned = [part.T if path.endswith("/kernel") else part for part in parts]
        arrays[path] = np.concatenate(turned, axis=-1) if len(parts) > 1 else turned[0]
    if _POSITIONS in arrays:
        first = config.get("pad_token_id", 1) + 1 if kind == "roberta" else 0
        rows = arrays[_POSITIONS][first:][: module.max_length]
        before = np.zeros((module.position_offset, rows.shape[1]), np.float32)
        arrays[_POSITIONS] = np.concatenate([before, rows])
    unused = [name for name in state if name not in used and not _REPEATED.search(name)]
    return arrays, unused


def _modern(name: str, kind: str) -> str:
    """A name as the library has it now, whichever class the weights were saved from."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return f"{kind}.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def check(config: Mapping[str, Any], module: TextEncoder) -> None:
    """Raises `UserError` if weights with this config.json mean something else in our encoder.

    Shapes are not compared: arrays that do not fit are reported by name.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(
            f"config.json says model_type {kind!r}; weights of {' and '.join(FAMILIES)} can be read"
        )
    if kind != family(module):
        raise UserError(
            f"these are weights of a {kind}; use a model of that name, e.g. model.name={kind}_base"
        )
    act = config.get("hidden_act", "gelu")
    positions = config.get("position_embedding_type", "absolute")
    if act not in _ACTIVATIONS or positions != "absolute":
        raise UserError(
            f"config.json says hidden_act {act!r} and position_embedding_type {positions!r}, which "
            "the encoder here does not have"
        )
    theirs = {
        "activation": _ACTIVATIONS[act],
        "norm_eps": config.get("layer_norm_eps", 1e-12),
        "num_heads": config.get("num_attention_heads", 12),
    }
    differing = {name: value for name, value in theirs.items() if value != getattr(module, name)}
    if differing:
        settings = " ".join(f"model.{name}={value}" for name, value in differing.items())
        raise UserError(f"config.json belongs to another encoder; set {settings}")


def model_options(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of `make_encoder`, but the vocabulary, of an encoder with this config.json.

    Args:
      config: its contents.
      where: its path, for messages.

    Raises:
      UserError: the encoder is one that is not known here.
    """
    kind, act = config.get("model_type"), config.get("hidden_act", "gelu")
    if kind not in FAMILIES or act not in _ACTIVATIONS:
        raise UserError(
            f"{where} says model_type {kind!r} and hidden_act {act!r}; encoders of "
            f"{' and '.join(FAMILIES)} with {', '.join(_ACTIVATIONS)} can be read"
        )
    dim = config.get("hidden_size", 768)
    rows = config.get("max_position_embeddings", 512)
    return {
        "name": f"{kind}_base",
        "dim": dim,
        "depth": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "mlp_ratio": config.get("intermediate_size", 4 * dim) / dim,
        "max_length": rows - (config.get("pad_token_id", 1) + 1 if kind == "roberta" else 0),
        "num_types": config.get("type_vocab_size", 2),
        "activation": _ACTIVATIONS[act],
        "norm_eps": config.get("layer_norm_eps", 1e-12),
    }


def description(
    module: TextEncoder,
    vocabulary: Vocabulary,
    params: PyTree,
    heads: TaskHeads | None = None,
) -> dict[str, Any]:
    """What config.json says of an encoder and the heads there are."""
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


def write(
    folder: str,
    params: PyTree,
    module: TextEncoder,
    vocabulary: Vocabulary,
    tokenizer: str | None = None,
    heads: TaskHeads | None = None,
) -> int:
    """Writes a folder for `from_pretrained`.

    Args:
      folder: made if missing.
      params, module, vocabulary, heads: as of `to_hugging_face`.
      tokenizer: the contents of a tokenizer.json, or None: the folder is then without one.

    Returns:
      How many arrays it holds.
    """
    state = to_hugging_face(params, module, vocabulary, heads)
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), state)
    files = {"config.json": _json(description(module, vocabulary, params, heads))}
    if tokenizer is not None:
        files |= tokenizer_files(tokenizer, module, vocabulary)
    for name, text in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return len(state)


def tokenizer_files(tokenizer: str, module: TextEncoder, vocabulary: Vocabulary) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json; of WordPiece also vocab.txt. Name -> contents."""
    parts = json.loads(tokenizer)
    added = {token["id"]: token["content"] for token in parts.get("added_tokens", ())}
    known = parts["model"]["vocab"]
    pairs = known.items() if isinstance(known, dict) else ((t, i) for i, (t, _) in enumerate(known))
    tokens = {i: token for token, i in pairs} | added
    special = {"pad": "pad", "unk": "unk", "cls": "cls", "sep": "sep", "mask": "mask"}
    if family(module) == "roberta":
        special |= {"bos": "cls", "eos": "sep"}
    inputs = ["input_ids", "attention_mask"]
    if module.num_types > 1:
        inputs.insert(1, "token_type_ids")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": module.max_length,
        "model_input_names": inputs,
        **{f"{name}_token": tokens[getattr(vocabulary, kind)] for name, kind in special.items()},
    }
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": _json(settings)}
    if parts["model"]["type"] == "WordPiece":
        files["vocab.txt"] = "".join(f"{tokens[i]}\n" for i in sorted(tokens))
    return files


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
