"""Loads the initial weights of a run, as `config.init_from` says.

    runs/simclr                 the latest checkpoint of a run
    runs/simclr@500             its checkpoint of step 500
    resnet50.safetensors        PyTorch names, torchvision's or timm's
    moco_v2_800ep_pretrain.pth  a PyTorch file, read without executing its code
    exported/                   a folder with model.safetensors, written by the export command
    bert-base-uncased/          a folder of BERT or RoBERTa of the transformers library

From a run, all arrays are loaded that the new run has with the same path and shape: the encoder,
and the heads if the method is the same. The weights are those that the run evaluates
(`eval.weights`), for DINO the teacher's. The same holds for a folder of transformers, whose head
for labelled texts must have the same task. The classes of a head are matched by name, see
`matching`. From a file only the encoder is loaded.

Scanned and unscanned layers are converted. Settings that change the features but not the arrays,
such as the number of heads or a Vision Transformer's fixed positions, must be equal, see
`unseen_settings`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ssl_jax import checkpoint, data, parallel
from ssl_jax.checkpoint.choice import folder_and_step
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.text.tokenizer import load as load_tokenizer
from ssl_jax.experiment import evaluated
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.models.vit import ViT
from ssl_jax.pretrained import formats, trained_run
from ssl_jax.pretrained.formats import hugging_face, hugging_face_config, task_heads, timm_config
from ssl_jax.pretrained.matching import (
    Head,
    Loaded,
    Match,
    abstract_weights,
    check_complete,
    check_used,
    encoder_module,
    flat,
    match,
)
from ssl_jax.pretrained.unseen_settings import check_heads, check_settings

_SHOWN = 4
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # files described by a config.json
# Names of arrays that belong to an encoder.
_TORCH_ENCODER = re.compile(
    r"(conv1|bn1|layer\d|patch_embed|blocks|norm|norm_pre|cls_token|pos_embed)\b"
)
_HUGGING_FACE_ENCODER = re.compile(r"(bert|roberta)\.(embeddings|encoder)\.")


def load(
    source: str, experiment: Experiment, tokenizer: str | None = None
) -> tuple[Loaded, list[str]]:
    """The weights to start from.

    Args:
      source: a run, file or folder, see the module.
      experiment: the run that starts.
      tokenizer: the content of the run's tokenizer.json; None for images or to skip the comparison.

    Returns:
      (loaded, lines): {"params": {path: array}, "buffers": {path: array}} for
      `Experiment.init_state`; and a summary of the matched and unmatched arrays for the user.

    Raises:
      UserError: `source` does not exist, nothing in it fits, or its settings or tokens differ.
    """
    folder, step = folder_and_step(source)
    if tokenizer is not None and not experiment.config.init_partial:
        _check_tokens(folder, Tokenizer.from_json(tokenizer))
    if (epath.Path(folder) / "config.json").exists() and (
        epath.Path(folder) / "checkpoints"
    ).exists():
        loaded, lines = _load_run(folder, step, experiment)
    elif (config := _transformers_config(source)) is not None:
        loaded, lines = _load_transformers(source, config, experiment)
    else:
        path = os.path.join(source, "model.safetensors") if os.path.isdir(source) else source
        loaded, lines = _load_file(path, experiment)
    if not any(loaded.values()):
        raise UserError(f"init_from={source}: no array in it fits this model; {'; '.join(lines)}")
    return loaded, [f"{source}: {lines[0]}", *lines[1:]]


def _load_run(folder: str, step: int | None, experiment: Experiment) -> tuple[Loaded, list[str]]:
    config = trained_run.read_config(folder)
    choice = config.eval.weights
    with checkpoint.Checkpointer(folder, read_only=True) as saves:
        restored = saves.restore_parameters(
            step,
            prefixes=evaluated.prefixes(choice),
            sharding=parallel.replicated(experiment.mesh),
        )
    if restored is None:
        raise UserError(f"init_from={folder}: the run has no checkpoint yet")
    parts, saved_step = restored
    w = evaluated.from_parts(parts, choice)
    arrays = flat({"params": w.params, "buffers": w.buffers})
    check_settings(folder, config.model, experiment)
    head = Head(config.data.class_names, data.spec_from_config(config.data).task)
    matched = match(arrays, experiment, folder, head)
    average = {"params": "", "ema": "moving average, ", "polyak": "Polyak average, "}[choice]
    return matched.loaded, _lines(matched, f"step {saved_step}, {average}")


def _transformers_config(folder: str) -> dict[str, Any] | None:
    """The config.json of a folder of the transformers library; None if it is not one."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return None
    config = storage.read_json(path)
    return config if "model_type" in config else None


def _load_transformers(
    folder: str, config: Mapping[str, Any], experiment: Experiment
) -> tuple[Loaded, list[str]]:
    module = encoder_module(experiment)
    if not isinstance(module, TextEncoder) and config["model_type"] in hugging_face_config.FAMILIES:
        name = experiment.config.model.name
        raise UserError(f"init_from={folder} is a text encoder; {name} is not")
    if not isinstance(module, TextEncoder):
        raise UserError(
            f"init_from={folder}: config.json has model_type {config['model_type']!r}; supported "
            f"are {' and '.join(hugging_face_config.FAMILIES)} of the transformers library, and "
            "image encoders with timm's or torchvision's names"
        )
    paths = [os.path.join(folder, name) for name in _WEIGHTS]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        raise UserError(f"init_from={folder} has neither {' nor '.join(_WEIGHTS)}")
    state = formats.read(path)
    arrays, unused = hugging_face.from_hugging_face(state, config, module, experiment.spec.task)
    difference = hugging_face.token_head_difference(state, config)
    has_token_head = any(
        path.startswith("params/token_head/") for path in abstract_weights(experiment)
    )
    if difference is not None and has_token_head and not experiment.config.init_partial:
        raise UserError(
            f"init_from={folder}: {difference}; initialise the token head with "
            "--config.init_partial=True"
        )
    arrays = {f"params/{path}": x for path, x in arrays.items()}
    names = task_heads.class_names(config)
    matched = match(arrays, experiment, folder, Head(names, experiment.spec.task))
    check_used([name for name in unused if _HUGGING_FACE_ENCODER.match(name)], experiment, folder)
    matched.unused.extend(unused)
    matched.notes.extend(hugging_face_config.unknown_settings(config))
    return matched.loaded, _lines(matched, f"{config['model_type']}, ")


def _load_file(path: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    weights = formats.read(path)
    config_path = epath.Path(path).parent / "config.json"
    has_config = os.path.basename(path) in _WEIGHTS and config_path.exists()
    config = storage.read_json(config_path) if has_config else {}
    architecture = config.get("architecture")
    if weights and all(name.startswith(("params/", "buffers/")) for name in weights):
        if has_config and not isinstance(architecture, dict):
            raise UserError(f"{config_path} does not describe an encoder: it has no architecture")
        return _load_own_file(path, weights, architecture, experiment)
    weights, prefix = formats.strip_prefix(weights)
    # The encoder's arrays by their paths in a pretrained run, wherever this method keeps them.
    encoder: dict[str, dict[str, Any]] = {"params": {}, "buffers": {}}
    for path_here, leaf in abstract_weights(experiment).items():
        part, _, encoder_path = (experiment.method.origin(path_here) or "").partition("/encoder/")
        if part in encoder and encoder_path:
            encoder[part][encoder_path] = leaf
    if not encoder["params"]:
        raise UserError("init_from with a file of weights needs a method that has an encoder")
    module = encoder_module(experiment)
    notes = []
    if isinstance(architecture, dict):  # our export with the names of another library
        check_settings(path, architecture, experiment)
    else:
        notes = check_heads(path, prefix, experiment)
    try:
        if isinstance(architecture, str):
            timm_config.check(config, module)
        encoder_arrays, problems, unused = formats.from_torch(
            weights,
            _nested(encoder["params"]),
            _nested(encoder["buffers"]),
            positions=module.positions if isinstance(module, ViT) else None,
        )
    except UserError as error:
        raise UserError(f"init_from={path}: {error}") from error
    arrays = {
        f"{part}/encoder/{encoder_path}": value
        for part, members in encoder_arrays.items()
        for encoder_path, value in members.items()
    }
    check_complete(problems, experiment, path)
    matched = match(arrays, experiment, path)
    check_used([name for name in unused if _TORCH_ENCODER.match(name)], experiment, path)
    matched = dataclasses.replace(
        matched, missing=problems, unused=unused, notes=[*matched.notes, *notes]
    )
    return matched.loaded, _lines(matched, f"names below {prefix!r}, " if prefix else "")


def _load_own_file(
    path: str,
    weights: Mapping[str, Any],
    architecture: Mapping[str, Any] | None,
    experiment: Experiment,
) -> tuple[Loaded, list[str]]:
    """An encoder with our own names, written by `export --to=safetensors`."""
    if architecture is not None:
        check_settings(path, architecture, experiment)
    parts = (name.split("/", 1) for name in weights)
    names = {f"{part}/encoder/{below}": f"{part}/{below}" for part, below in parts}
    arrays = {path: weights[name] for path, name in names.items()}
    matched = match(arrays, experiment, path)
    origin = experiment.method.origin
    matched = dataclasses.replace(
        matched,
        missing=[
            path for path in matched.missing if (origin(path) or "").split("/")[1:2] == ["encoder"]
        ],
        unused=[names[path] for path in matched.unused],
    )
    return matched.loaded, _lines(matched, "")


def _check_tokens(folder: str, own: Tokenizer) -> None:
    """Raises `UserError` if token ids stand for other tokens than in the pretrained embeddings.

    Args:
      folder: a run, or a model of the transformers library. Without a tokenizer in it, nothing is
        compared.
      own: the tokenizer of the run that starts.
    """
    path = epath.Path(folder) / "tokenizer.json"
    if path.exists():
        try:
            pretrained = Tokenizer.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"init_from: {path} cannot be read: {error}") from error
    elif os.path.exists(os.path.join(folder, "vocab.txt")):
        pretrained = load_tokenizer(folder)
    else:
        return
    for number in range(min(pretrained.vocabulary.size, own.vocabulary.size)):
        pretrained_token = pretrained.backend.id_to_token(number)
        own_token = own.backend.id_to_token(number)
        if None not in (pretrained_token, own_token) and pretrained_token != own_token:
            raise UserError(
                f"init_from={folder} has another tokenizer: its token {number} is "
                f"{pretrained_token!r:.40}, and this run's is {own_token!r:.40}; set "
                f"data.options.tokenizer={folder}"
            )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Path -> leaf as nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree


def _lines(matched: Match, source_note: str) -> list[str]:
    """The summary of a match for the user.

    Args:
      matched: the match.
      source_note: text before the number of arrays, e.g. "step 10, ".
    """
    arrays = [x for part in matched.loaded.values() for x in part.values()]
    numbers = sum(int(np.prod(x.shape)) for x in arrays)
    lines = [f"{source_note}{len(arrays)} arrays, {numbers:,} numbers", *matched.notes]
    for label, names in (("not found", matched.missing), ("not used", matched.unused)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{label}: {', '.join(names[:_SHOWN])}{more}")
    return lines
