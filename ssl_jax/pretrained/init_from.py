"""Loads the initial weights of a run, as `config.init_from` says.

    runs/simclr                 the latest checkpoint of a run
    runs/simclr@500             its checkpoint of step 500
    resnet50.safetensors        PyTorch names, torchvision's or timm's
    moco_v2_800ep_pretrain.pth  a PyTorch file, read without executing its code
    exported/                   a folder with model.safetensors, written by the export command
    dino_full.pth@student       one of the networks of a PyTorch file
    adapter/                    a folder with an adapter of the peft library for BERT or RoBERTa
    bert-base-uncased/          a folder of BERT, RoBERTa, T5, GPT-1 or GPT-2 of the transformers
                                library
    dinov2-small/               a folder of ViT, ViT-MAE, I-JEPA or DINOv2 (with or without
                                registers) of the transformers library

From a run, all arrays are loaded that the new run has with the same path and shape: the encoder,
and the heads if the method is the same. The weights are those that the run evaluates
(`eval.weights`), for DINO the teacher's. The same holds for a folder of transformers, whose head
for labelled texts must have the same task. The classes of a head are matched by name, see
`matching`. From a file the encoder is loaded, and the decoder, predictor or head of its method if
the run has the same, see `weight_files`.

The adapters of a run or folder (`config.adapt`) are loaded if the new run has the same ones, else
they are merged into the weights.

Scanned and unscanned layers are converted. Settings that change the features but not the arrays,
such as the number of heads or a Vision Transformer's fixed positions, must be equal, see
`unseen_settings`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from etils import epath

from ssl_jax import checkpoint, data, parallel
from ssl_jax.adapt import lora
from ssl_jax.adapt.adapters import is_adapter
from ssl_jax.checkpoint.choice import folder_and_step
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import BASE, Weights
from ssl_jax.core.tree_paths import join
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.text.tokenizer_files import load as load_tokenizer
from ssl_jax.experiment import evaluated
from ssl_jax.experiment.build import Experiment
from ssl_jax.models.encoder_decoder import EncoderDecoder
from ssl_jax.models.layers import unstack
from ssl_jax.models.transformer import TextEncoder
from ssl_jax.pretrained import formats, trained_run, weight_files
from ssl_jax.pretrained.formats import (
    hugging_face,
    hugging_face_config,
    hugging_face_gpt,
    hugging_face_t5,
    hugging_face_vit_config,
    peft,
    task_heads,
)
from ssl_jax.pretrained.matching import (
    Head,
    Loaded,
    abstract_weights,
    check_used,
    encoder_module,
    flat,
    match,
    summary,
)
from ssl_jax.pretrained.unseen_settings import check_settings

# Names of arrays that belong to an encoder.
_HUGGING_FACE_ENCODER = re.compile(r"(bert|roberta)\.(embeddings|encoder)\.")


def check_exists(source: str) -> None:
    """Checks that there is a run, file or folder, before anything is built or written for it.

    Raises:
      UserError: there is nothing at `source`.
    """
    folder, _ = folder_and_step(source)
    path, _ = formats.file_and_network(folder)
    if not epath.Path(path).exists():
        raise UserError(f"init_from={source}: there is no such run, file or folder")


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
      `Experiment.init_state`, and "ema" if a file has a moving average beside the network that was
      selected; and a summary of the matched and unmatched arrays for the user.

    Raises:
      UserError: `source` does not exist, nothing in it fits, or its settings or tokens differ.
    """
    folder, step = folder_and_step(source)
    if tokenizer is not None and not experiment.config.init_partial:
        base = peft.read_config(folder)["base"] if peft.is_adapter_folder(folder) else folder
        _check_tokens(base, Tokenizer.from_json(tokenizer))
    if (epath.Path(folder) / "config.json").exists() and (
        epath.Path(folder) / "checkpoints"
    ).exists():
        loaded, lines = _load_run(folder, step, experiment)
    elif peft.is_adapter_folder(source):
        loaded, lines = _load_peft(source, experiment)
    elif (config := _transformers_config(source)) is not None:
        loaded, lines = _load_transformers(source, config, experiment)
    else:
        loaded, lines = weight_files.load(source, experiment)
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
    arrays = flat(_without_base(w))
    if config.adapt.name is not None:
        arrays = _adapted(arrays, config.adapt, experiment, folder)
    check_settings(folder, config.model, experiment)
    head = Head(config.data.class_names, data.spec_from_config(config.data).task)
    matched = match(arrays, experiment, folder, head)
    average = {"params": "", "ema": "moving average, ", "polyak": "Polyak average, "}[choice]
    return matched.loaded, summary(matched, f"step {saved_step}, {average}")


def _without_base(w: Weights) -> dict[str, Any]:
    """{"params": ..., "buffers": ...} with the frozen weights of adapters among the parameters."""
    buffers = {name: x for name, x in w.buffers.items() if name != BASE}
    base = jax.tree.map(lambda x: np.asarray(x, np.float32), w.buffers.get(BASE, {}))
    return {"params": join(w.params, base), "buffers": buffers}


def _adapted(
    arrays: Mapping[str, Any], section: Mapping[str, Any], experiment: Experiment, source: str
) -> dict[str, Any]:
    """Arrays with adapters as they are if this run has the same adapters, else merged.

    Args:
      arrays: path -> array, "params/LAYER/kernel" and "params/LAYER/lora/MAP/a" and so on.
      section: `config.adapt` of the adapters.
      experiment: the run that starts.
      source: the run or folder, for messages.

    Raises:
      UserError: the adapters can neither be loaded nor merged.
    """
    own_section = experiment.config.adapt
    own = {path: x for path, x in abstract_weights(experiment).items() if is_adapter(path)}
    stored = {path: x for path, x in arrays.items() if is_adapter(path)}
    shapes = [{path: x.shape for path, x in unstack(tree).items()} for tree in (own, stored)]
    settings = [
        (config["name"], config["name"] == "lora" and config["alpha"] / config["rank"])
        for config in (own_section, section)
    ]
    if shapes[0] == shapes[1] and settings[0] == settings[1]:
        return dict(arrays)
    if section["name"] != "lora":
        raise UserError(
            f"init_from={source} has adapt.name={section['name']}, which cannot be merged into "
            f"weights; set the same adapt section as there"
        )
    params = flax.traverse_util.unflatten_dict(arrays, sep="/")
    scale = section["alpha"] / section["rank"]
    return flat({part: lora.merge(tree, scale) for part, tree in params.items()})


def _transformers_config(folder: str) -> dict[str, Any] | None:
    """The config.json of a folder of the transformers library; None if it is not one."""
    path = os.path.join(folder, "config.json")
    if not os.path.exists(path):
        return None
    config = storage.read_json(path)
    return config if "model_type" in config else None


def _load_peft(folder: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    settings = peft.read_config(folder)
    config = _transformers_config(settings["base"])
    module = encoder_module(experiment)
    if not isinstance(module, TextEncoder) or config is None:
        raise UserError(
            f"init_from={folder}: adapters are read for BERT and RoBERTa, and "
            f"{experiment.config.model.name} is neither"
        )
    return _load_transformers(settings["base"], config, experiment, adapter=folder)


def _load_transformers(
    folder: str, config: Mapping[str, Any], experiment: Experiment, adapter: str | None = None
) -> tuple[Loaded, list[str]]:
    module, kind = encoder_module(experiment), config["model_type"]
    is_text = isinstance(module, TextEncoder)
    if isinstance(module, EncoderDecoder) and kind == hugging_face_t5.FAMILY:
        state = formats.read(weight_files.weights_path(folder))
        arrays, unused = hugging_face_t5.from_hugging_face(state, config, module)
        arrays = {f"params/{path}": x for path, x in arrays.items()}
        matched = match(arrays, experiment, folder)
        check_used(unused, experiment, folder)
        return matched.loaded, summary(matched, "t5, ")
    if is_text and (module.causal or kind in hugging_face_gpt.FAMILIES):
        return _load_gpt(folder, config, experiment, module, adapter)
    if not is_text and kind in hugging_face_vit_config.FAMILIES:
        return weight_files.load_transformers(folder, config, experiment)
    if not is_text and kind in hugging_face_config.FAMILIES:
        name = experiment.config.model.name
        raise UserError(f"init_from={folder} is a text encoder; {name} is not")
    if not is_text:
        raise UserError(
            f"init_from={folder}: config.json has model_type {kind!r}; supported are "
            f"{', '.join(hugging_face_config.FAMILIES + hugging_face_vit_config.FAMILIES)} (and t5 "
            "for an encoder-decoder) of the "
            "transformers library, and image encoders with timm's or torchvision's names"
        )
    state = formats.read(weight_files.weights_path(folder))
    adapters: dict[str, Any] = {}
    if adapter is not None:
        heads = task_heads.stored(config, kind, experiment.spec.task, module.pooler)
        names = hugging_face.names_of_arrays(module, heads)
        adapters, saved, unknown = peft.read_adapter(adapter, names)
        if unknown:
            raise UserError(f"init_from={adapter}: {unknown[0]} belongs to no dense layer here")
        state |= saved
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
    arrays = {f"params/{path}": x for path, x in (arrays | adapters).items()}
    if adapter is not None:
        settings = peft.read_config(adapter)
        section = {"name": "lora", "alpha": settings["lora_alpha"], "rank": settings["r"]}
        arrays = _adapted(arrays, section, experiment, adapter)
    names = task_heads.class_names(config)
    matched = match(arrays, experiment, folder, Head(names, experiment.spec.task))
    check_used([name for name in unused if _HUGGING_FACE_ENCODER.match(name)], experiment, folder)
    matched.unused.extend(unused)
    matched.notes.extend(hugging_face_config.unknown_settings(config))
    return matched.loaded, summary(matched, f"{config['model_type']}, ")


def _load_gpt(
    folder: str,
    config: Mapping[str, Any],
    experiment: Experiment,
    module: TextEncoder,
    adapter: str | None,
) -> tuple[Loaded, list[str]]:
    kind, name = config["model_type"], experiment.config.model.name
    if not module.causal:
        raise UserError(f"init_from={folder} is a decoder, {kind}; {name} is an encoder")
    if kind not in hugging_face_gpt.FAMILIES:
        raise UserError(
            f"init_from={folder} has model_type {kind!r}; {name} is a decoder, which starts from "
            f"{' and '.join(hugging_face_gpt.FAMILIES)}"
        )
    if adapter is not None:
        raise UserError(f"init_from={adapter}: adapters of peft are read for encoders only")
    state = formats.read(weight_files.weights_path(folder))
    try:
        arrays, unused = hugging_face_gpt.from_hugging_face(state, config, module)
    except UserError as error:
        raise UserError(f"init_from={folder}: {error}") from error
    matched = match({f"params/{path}": x for path, x in arrays.items()}, experiment, folder)
    check_used([n for n in unused if n.startswith("transformer.")], experiment, folder)
    matched.unused.extend(unused)
    return matched.loaded, summary(matched, f"{kind}, ")


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
    elif any(os.path.exists(os.path.join(folder, name)) for name in ("vocab.txt", "vocab.json")):
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
