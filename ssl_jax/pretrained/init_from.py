"""Loads the initial weights of a run, as `config.init_from` says.

    runs/simclr                 the latest checkpoint of a run
    runs/simclr@500             its checkpoint of step 500
    resnet50.safetensors        PyTorch names, torchvision's or timm's
    moco_v2_800ep_pretrain.pth  a PyTorch file, read without running what is in it
    exported/                   a folder with model.safetensors, as the export command writes it
    bert-base-uncased/          a folder of BERT's or RoBERTa's of the transformers library

Of a run everything is taken that the new run has too, under the same path and in the same shape:
its encoder, and its heads if the method is the same; of its weights those that it evaluates
(`eval.weights`), so of DINO the teacher's. So it is of a folder of transformers, where a head
fine-tuned on labelled texts has to be of the same task. The classes of a head are matched by name,
see `matching`. Of a file only the encoder is taken. Whether layers are scanned may differ. A Vision
Transformer's fixed positions are no weights, but have to be the same, and so has everything else
that no array shows, such as the number of heads; see `unseen_settings`.
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
    Matched,
    check_complete,
    check_used,
    encoder_module,
    flat,
    match,
    wanted_arrays,
)
from ssl_jax.pretrained.unseen_settings import check_heads, check_settings

_SHOWN = 4
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # files that a config.json describes
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
      source: see the module.
      experiment: the run that starts.
      tokenizer: the tokenizer.json of its text; None of images, or if it need not be compared.

    Returns:
      (loaded, lines): {"params": {path: array}, "buffers": {path: array}}, to be given to
      `Experiment.init_state`; and what was matched and what not, for people.

    Raises:
      UserError: there is nothing at `source`, nothing in it fits, or a Vision Transformer there has
        other positions than this one, whose are fixed, or the text there has other tokens.
    """
    folder, step = folder_and_step(source)
    if tokenizer is not None and not experiment.config.init_partial:
        _check_tokens(folder, Tokenizer.from_json(tokenizer))
    if (epath.Path(folder) / "config.json").exists() and (
        epath.Path(folder) / "checkpoints"
    ).exists():
        loaded, lines = _of_run(folder, step, experiment)
    elif (config := _transformers_config(source)) is not None:
        loaded, lines = _of_transformers(source, config, experiment)
    else:
        inside = os.path.join(source, "model.safetensors")
        loaded, lines = _of_file(inside if os.path.isdir(source) else source, experiment)
    if not any(loaded.values()):
        raise UserError(f"init_from={source}: nothing in it fits this model; {'; '.join(lines)}")
    return loaded, [f"{source}: {lines[0]}", *lines[1:]]


def _of_run(folder: str, step: int | None, experiment: Experiment) -> tuple[Loaded, list[str]]:
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
    parts, at = restored
    w = evaluated.from_parts(parts, choice)
    arrays = flat({"params": w.params, "buffers": w.buffers})
    check_settings(folder, config.model, experiment)
    head = Head(config.data.class_names, data.spec_from_config(config.data).task)
    matched = match(arrays, experiment, folder, head)
    whose = {"params": "", "ema": "moving average, ", "polyak": "Polyak average, "}[choice]
    return matched.loaded, _lines(matched, f"step {at}, {whose}")


def _transformers_config(folder: str) -> dict[str, Any] | None:
    """What a folder of the transformers library says of itself; None if it is none."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return None
    config = storage.read_json(path)
    return config if "model_type" in config else None


def _of_transformers(
    folder: str, config: Mapping[str, Any], experiment: Experiment
) -> tuple[Loaded, list[str]]:
    module = encoder_module(experiment)
    if not isinstance(module, TextEncoder) and config["model_type"] in hugging_face_config.FAMILIES:
        name = experiment.config.model.name
        raise UserError(f"init_from={folder} holds an encoder of text; {name} is none")
    if not isinstance(module, TextEncoder):
        raise UserError(
            f"init_from={folder}: config.json says model_type {config['model_type']!r}; of the "
            f"transformers library {' and '.join(hugging_face_config.FAMILIES)} can be read, and "
            "encoders of images under timm's and torchvision's names"
        )
    paths = [os.path.join(folder, name) for name in _WEIGHTS]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        raise UserError(f"init_from={folder} has neither {' nor '.join(_WEIGHTS)}")
    state = formats.read(path)
    arrays, others = hugging_face.from_hugging_face(state, config, module, experiment.spec.task)
    other_head = hugging_face.other_token_head(state, config)
    wanted = any(name.startswith("params/token_head/") for name in wanted_arrays(experiment))
    if other_head is not None and wanted and not experiment.config.init_partial:
        raise UserError(
            f"init_from={folder}: {other_head}; initialise the head of the vocabulary with "
            "--config.init_partial=True"
        )
    arrays = {f"params/{path}": x for path, x in arrays.items()}
    names = task_heads.class_names(config)
    matched = match(arrays, experiment, folder, Head(names, experiment.spec.task))
    check_used([name for name in others if _HUGGING_FACE_ENCODER.match(name)], experiment, folder)
    matched.unused.extend(others)
    matched.notes.extend(hugging_face_config.unknown_settings(config))
    return matched.loaded, _lines(matched, f"{config['model_type']}, ")


def _of_file(path: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    weights = formats.read(path)
    beside = epath.Path(path).parent / "config.json"
    described = os.path.basename(path) in _WEIGHTS and beside.exists()
    config = storage.read_json(beside) if described else {}
    architecture = config.get("architecture")
    if weights and all(name.startswith(("params/", "buffers/")) for name in weights):
        if described and not isinstance(architecture, dict):
            raise UserError(f"{beside} does not describe an encoder: it has no architecture")
        return _of_own_file(path, weights, architecture, experiment)
    weights, prefix = formats.strip_prefix(weights)
    # The encoder as another run would have it, wherever this method keeps it.
    encoder: dict[str, dict[str, Any]] = {"params": {}, "buffers": {}}
    for own, leaf in wanted_arrays(experiment).items():
        part, _, below = (experiment.method.origin(own) or "").partition("/encoder/")
        if part in encoder and below:
            encoder[part][below] = leaf
    if not encoder["params"]:
        raise UserError("init_from with a file of weights needs a method that has an encoder")
    module = encoder_module(experiment)
    notes = []
    if isinstance(architecture, dict):  # an export under the names of another library
        check_settings(path, architecture, experiment)
    else:
        notes = check_heads(path, prefix, experiment)
    try:
        if isinstance(architecture, str):
            timm_config.check(config, module)
        found, lacking, unused = formats.from_torch(
            weights,
            _nested(encoder["params"]),
            _nested(encoder["buffers"]),
            positions=module.positions if isinstance(module, ViT) else None,
        )
    except UserError as error:
        raise UserError(f"init_from={path}: {error}") from error
    arrays = {
        f"{part}/encoder/{below}": value
        for part, members in found.items()
        for below, value in members.items()
    }
    check_complete(lacking, experiment, path)
    matched = match(arrays, experiment, path)
    check_used([name for name in unused if _TORCH_ENCODER.match(name)], experiment, path)
    matched = dataclasses.replace(
        matched, missing=lacking, unused=unused, notes=[*matched.notes, *notes]
    )
    return matched.loaded, _lines(matched, f"names below {prefix!r}, " if prefix else "")


def _of_own_file(
    path: str,
    weights: Mapping[str, Any],
    architecture: Mapping[str, Any] | None,
    experiment: Experiment,
) -> tuple[Loaded, list[str]]:
    """An encoder under our own names, as `export --to=safetensors` writes it."""
    if architecture is not None:
        check_settings(path, architecture, experiment)
    parts = (name.split("/", 1) for name in weights)
    renamed = {f"{part}/encoder/{below}": f"{part}/{below}" for part, below in parts}
    arrays = {name: weights[own] for name, own in renamed.items()}
    matched = match(arrays, experiment, path)
    origin = experiment.method.origin
    matched = dataclasses.replace(
        matched,
        missing=[
            name for name in matched.missing if (origin(name) or "").split("/")[1:2] == ["encoder"]
        ],
        unused=[renamed[name] for name in matched.unused],
    )
    return matched.loaded, _lines(matched, "")


def _check_tokens(folder: str, here: Tokenizer) -> None:
    """Raises `UserError` where token ids mean other tokens than those of the embeddings there.

    Args:
      folder: of a run, or of a model of the transformers library. If there is no tokenizer in it,
        nothing is compared.
      here: the tokenizer of the run that starts.
    """
    path = epath.Path(folder) / "tokenizer.json"
    if path.exists():
        try:
            there = Tokenizer.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"init_from: {path} cannot be read: {error}") from error
    elif os.path.exists(os.path.join(folder, "vocab.txt")):
        there = load_tokenizer(folder)
    else:
        return
    for number in range(min(there.vocabulary.size, here.vocabulary.size)):
        theirs, ours = (each.backend.id_to_token(number) for each in (there, here))
        if None not in (theirs, ours) and theirs != ours:
            raise UserError(
                f"init_from={folder} has another tokenizer: token {number} is {theirs!r:.40} there "
                f"and {ours!r:.40} here; set data.options.tokenizer={folder}"
            )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *above, name = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[name] = leaf
    return tree


def _lines(matched: Matched, where: str) -> list[str]:
    arrays = [x for part in matched.loaded.values() for x in part.values()]
    numbers = sum(int(np.prod(x.shape)) for x in arrays)
    lines = [f"{where}{len(arrays)} arrays, {numbers:,} numbers", *matched.notes]
    for label, names in (("not found", matched.missing), ("not used", matched.unused)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{label}: {', '.join(names[:_SHOWN])}{more}")
    return lines
