"""Converts BERT and RoBERTa to and from the format of the `transformers` library.

Written folders load as BertForPreTraining, BertForMaskedLM or RobertaForMaskedLM. Runs fine-tuned
on labelled texts load as BertForSequenceClassification and the like (`task_heads`). Folders of all
these classes can be read, including the published ones. Besides the names, three things differ in
transformers:

- query, key and value are three matrices; here they are one;
- in RoBERTa's table, position 0 is row `pad id + 1` (2 in the published models), and the rows
  before it are unused;
- the decoder of the token head is the token embedding, stored or not, unless config.json has
  `tie_word_embeddings` false. The head here always uses the token embedding.

`hugging_face_config` reads and writes config.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.layers import restack
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.pretrained.formats import hugging_face_config, task_heads
from ssl_jax.pretrained.formats.files import write_pretrained
from ssl_jax.pretrained.formats.hugging_face_config import family
from ssl_jax.pretrained.formats.task_heads import TaskHeads

PyTree = Any

_WORDS = "embeddings.word_embeddings.weight"
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
_VOCABULARY_HEAD = {"bert": "cls.predictions", "roberta": "lm_head"}
_QKV = ("query", "key", "value")
_POSITIONS = "encoder/embed/position/embedding"
# Arrays that repeat another array or that the encoder computes.
_REPEATED = re.compile(
    r"(cls\.predictions|lm_head)\.decoder\.bias$|embeddings\.(position|token_type)_ids$"
)
_DECODER = re.compile(r"(cls\.predictions|lm_head)\.decoder\.weight$")


def _entries(
    family: str, depth: int, heads: Mapping[str, str] | None = None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (our path, names in transformers): one name, or three that our array concatenates.

    Args:
      family: "bert" or "roberta".
      depth: number of layers.
      heads: our path -> name in transformers of the heads' modules; default: the pretraining heads.
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
        own_layer, layer = f"encoder/layer{i + 1}", f"{family}.encoder.layer.{i}"
        for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
            names = tuple(f"{layer}.attention.self.{part}.{theirs}" for part in _QKV)
            yield f"{own_layer}/attn/qkv/{ours}", names
        for path, name in _LAYER.items():
            yield from module(f"{own_layer}/{path}", f"{layer}.{name}")
    if heads is None:
        heads = {"encoder/pooler": f"{family}.pooler.dense", **_HEADS[family]}
    for path, name in heads.items():
        yield from module(path, name)


def names_of_arrays(
    module: TextEncoder, heads: Mapping[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Our path -> names in transformers of the arrays of an encoder and its heads.

    Args:
      module: the encoder.
      heads: our path -> name in transformers of the modules of the head for labelled texts; None
        for the heads of pretraining.
    """
    return dict(_entries(family(module), module.depth, heads))


def to_hugging_face(
    params: PyTree,
    module: TextEncoder,
    vocabulary: Vocabulary,
    heads: TaskHeads | None = None,
) -> dict[str, np.ndarray]:
    """Converts parameters to float32 arrays with the names of `transformers`.

    Args:
      params: parameters of a method, with an "encoder" and optionally heads; layers may be stacked.
      module: the encoder.
      vocabulary: the vocabulary of its tokens.
      heads: describes the head in transformers, for a method that learns from labelled texts.

    Raises:
      UserError: `transformers` has no RoBERTa with these options.
    """
    kind = family(module)
    if kind == "roberta" and module.activation != "gelu" and heads is None:
        raise UserError(
            "RoBERTa in transformers always has the exact GELU in its head; this encoder has "
            f"model.activation={module.activation}; --to=safetensors keeps our names"
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
    """Converts the weights of a folder of `transformers` to parameters.

    Args:
      state: name -> array of BertModel, BertForMaskedLM and so on.
      config: the content of its config.json.
      module: the encoder that loads them.
      task: the task of the method's labelled texts, see `DataSpec`; the folder's head is converted
        if it has the same task.

    Returns:
      (arrays, unused): path -> array, with all layers of the folder, unstacked; and the names of
      arrays that are not used. Positions are cut to the length of the encoder. The token head is
      unused if `token_head_difference` gives a reason.

    Raises:
      UserError: the encoder has other settings than config.json.
    """
    hugging_face_config.check(config, module)
    kind = config["model_type"]
    difference = token_head_difference(state, config)
    state = _renamed(state, config)
    depth = 1 + max(
        (int(m[1]) for m in map(re.compile(r".*\.layer\.(\d+)\.").match, state) if m), default=-1
    )
    heads = task_heads.stored(config, kind, task, module.pooler)
    arrays, used = {}, set()
    for path, names in _entries(kind, depth, heads):
        if not all(name in state for name in names):
            continue
        if difference is not None and path.startswith("token_head/"):
            continue
        used |= set(names)
        parts = [np.asarray(state[name], np.float32) for name in names]
        parts = [part.T if path.endswith("/kernel") else part for part in parts]
        arrays[path] = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    if _POSITIONS in arrays:
        first = hugging_face_config.first_position(config)
        rows = arrays[_POSITIONS][first:][: module.max_length]
        unused_rows = np.zeros((module.position_offset, rows.shape[1]), np.float32)
        arrays[_POSITIONS] = np.concatenate([unused_rows, rows])
    unused = [name for name in state if name not in used and not _REPEATED.search(name)]
    if difference is None:
        unused = [name for name in unused if not _DECODER.search(name)]
    return arrays, unused


def token_head_difference(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> str | None:
    """Why the token head of a folder computes something else than ours.

    Args:
      state: name -> array.
      config: the content of config.json.

    Returns:
      The reason; None if the heads are equivalent or the folder has no token head.
    """
    kind = config["model_type"]
    head = _VOCABULARY_HEAD[kind]
    state = _renamed(state, config)
    if f"{head}.bias" not in state:
        return None
    if kind == "roberta" and hugging_face_config.activation(config) != "gelu":
        return (
            "RoBERTa's head always has the exact GELU, and this run's head has the activation of "
            f"hidden_act {config['hidden_act']!r}"
        )
    decoder = state.get(f"{head}.decoder.weight")
    words = state.get(f"{kind}.{_WORDS}")
    if _tied(config) or decoder is None or (words is not None and np.array_equal(decoder, words)):
        return None
    return (
        f"config.json has tie_word_embeddings false, and {head}.decoder.weight is another matrix "
        "than the token embedding, which this run's head uses"
    )


def _tied(config: Mapping[str, Any]) -> bool:
    """Whether the token head uses the token embedding and `bias`."""
    return config.get("tie_word_embeddings") is not False


def _renamed(state: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state with the library's current names, and the bias of the token head as `bias`."""
    kind = config["model_type"]
    state = {_current_name(name, kind): x for name, x in state.items()}
    bias = f"{_VOCABULARY_HEAD[kind]}.bias"
    decoder_bias = f"{_VOCABULARY_HEAD[kind]}.decoder.bias"
    if decoder_bias in state and (bias not in state or not _tied(config)):
        state[bias] = state[decoder_bias]
    return state


def _current_name(name: str, kind: str) -> str:
    """The library's current name of an array, for weights of any class and version."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return f"{kind}.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


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
      folder: created if missing.
      params, module, vocabulary, heads: as for `to_hugging_face`.
      tokenizer: the content of a tokenizer.json; None writes no tokenizer.

    Returns:
      The number of arrays.
    """
    state = to_hugging_face(params, module, vocabulary, heads)
    files = {
        "config.json": _json(hugging_face_config.description(module, vocabulary, params, heads))
    }
    if tokenizer is not None:
        files |= tokenizer_files(tokenizer, module, vocabulary)
    return write_pretrained(folder, state, files)


def tokenizer_files(tokenizer: str, module: TextEncoder, vocabulary: Vocabulary) -> dict[str, str]:
    """Name -> content of tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt."""
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
        **_normalization_settings(parts),
    }
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": _json(settings)}
    if parts["model"]["type"] == "WordPiece":
        files["vocab.txt"] = "".join(f"{tokens[i]}\n" for i in sorted(tokens))
    return files


def _normalization_settings(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of tokenizer_config.json for the normalisation of texts.

    The library's `BertTokenizer` and `RobertaTokenizer` use these settings instead of
    tokenizer.json. Without them, texts would be lower-cased for a cased vocabulary.

    Args:
      tokenizer: the content of tokenizer.json.
    """
    normalizer, words = (tokenizer.get(part) or {} for part in ("normalizer", "pre_tokenizer"))
    settings = {}
    if normalizer.get("type") == "BertNormalizer":
        settings["do_lower_case"] = normalizer["lowercase"]
        settings["strip_accents"] = normalizer["strip_accents"]
        settings["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"]
    elif tokenizer["model"]["type"] == "WordPiece":  # another normaliser
        lower = any(member.get("type") == "Lowercase" for member in _members(normalizer))
        settings["do_lower_case"] = lower
    if words.get("type") == "ByteLevel":
        settings["add_prefix_space"] = words["add_prefix_space"]
    return settings


def _members(normalizer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The members of a sequence of normalisers, or the normaliser itself."""
    return normalizer.get("normalizers", []) if "normalizers" in normalizer else [normalizer]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
