"""Loads initial weights from files of PyTorch and from image folders of transformers.

The encoder must fit. A decoder, predictor or head that the run and the file have is loaded as well
if it fits, see `formats.method_nets`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from flax import traverse_util

from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import TEACHER
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import ViT
from ssl_jax.models.layers import unstack
from ssl_jax.pretrained import formats
from ssl_jax.pretrained.formats import (
    hugging_face_vit,
    hugging_face_vit_config,
    method_nets,
    networks,
    timm_config,
    vit_tokens,
)
from ssl_jax.pretrained.matching import (
    MASK_TOKEN,
    Loaded,
    abstract_weights,
    check_complete,
    check_used,
    encoder_module,
    match,
    summary,
)
from ssl_jax.pretrained.unseen_settings import check_decoder_heads, check_heads, check_settings

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # files described by a config.json
# Names of arrays that belong to an encoder.
_ENCODER = re.compile(r"(conv1|bn1|layer\d|patch_embed|blocks|norm|norm_pre|cls_token|pos_embed)\b")
_HUGGING_FACE_ENCODER = re.compile(r"(embeddings|encoder|layernorm)\b(?!\.mask_token)")


def load(source: str, experiment: Experiment) -> tuple[Loaded, list[str]]:
    """The weights of a file, of one of its networks (FILE@NETWORK), or of an exported folder.

    Raises:
      UserError: see `init_from.load`.
    """
    path, network = formats.file_and_network(source)
    path = os.path.join(path, WEIGHTS[0]) if os.path.isdir(path) else path
    stored = formats.read_networks(path)
    weights = next(iter(stored.values()))
    config_path = epath.Path(path).parent / "config.json"
    has_config = os.path.basename(path) in WEIGHTS and config_path.exists()
    config = storage.read_json(config_path) if has_config else {}
    # An export for timm names the net as timm does, and has our description beside.
    architecture = config.get(timm_config.OWN, config).get("architecture")
    if weights and all(name.startswith(("params/", "buffers/")) for name in weights):
        if has_config and not isinstance(architecture, dict):
            raise UserError(f"{config_path} does not describe an encoder: it has no architecture")
        return _load_own_file(path, weights, architecture, experiment)
    try:
        selected = formats.select(stored, network)
        if isinstance(architecture, str):
            timm_config.check(config, encoder_module(experiment))
    except UserError as error:
        raise UserError(f"init_from={source}: {error}") from error
    notes = []
    if isinstance(architecture, dict):  # our export with the names of another library
        check_settings(path, architecture, experiment)
    else:
        notes = check_heads(path, selected.prefix, experiment)
    source_note = f"names below {selected.prefix!r}, " if selected.prefix else ""
    if selected.others:
        source_note = f"{selected.name}, {source_note}"
        example = f"{os.path.basename(path)}@{selected.others[0]}"
        notes.append(f"the file also has {', '.join(selected.others)}: set init_from=.../{example}")
    loaded, lines, used = _match_released(path, selected, experiment, notes, source_note)
    average = networks.average_of(selected) if experiment.method.ema_decay is not None else None
    if average is not None:
        _load_average(path, formats.select(stored, average), experiment, loaded)
        lines.append(f"the moving average starts from {average} of the file")
    if groups := networks.groups(selected.remaining, used, average):
        lines.append(f"also in the file and not used: {', '.join(groups)}")
    return loaded, lines


def _load_average(
    path: str, selected: formats.Selected, experiment: Experiment, loaded: Loaded
) -> None:
    """Adds a network of a file to `loaded` as the moving average of the parameters."""
    averaged, _, _ = _match_released(path, selected, experiment, (), "")
    own = by_path(experiment.abstract_state.weights.ema)
    loaded["ema"] = {path: x for path, x in averaged["params"].items() if path in own}
    statistics = {
        path: x for path, x in averaged["buffers"].items() if path.startswith(f"{TEACHER}/")
    }
    loaded["buffers"].update(statistics)


def load_transformers(
    folder: str, config: Mapping[str, Any], experiment: Experiment
) -> tuple[Loaded, list[str]]:
    """The weights of a Vision Transformer's folder of the transformers library.

    Args:
      folder: with config.json and the weights.
      config: the content of config.json.
      experiment: the run that starts.

    Raises:
      UserError: see `init_from.load`.
    """
    module, nets = encoder_module(experiment), experiment.method.nets()
    if not isinstance(module, ViT):
        name = experiment.config.model.name
        raise UserError(f"init_from={folder} is a Vision Transformer; {name} is not")
    kind, notes = config["model_type"], []
    try:
        hugging_face_vit_config.check(config, module)
        if kind == "vit_mae" and "decoder" in nets:
            hugging_face_vit_config.check_decoder(config, nets["decoder"].module.num_heads)
            notes += hugging_face_vit_config.decoder_notes(config, experiment.method.hyper)
    except UserError as error:
        raise UserError(f"init_from={folder}: {error}") from error
    stored, unused = hugging_face_vit.from_hugging_face(formats.read(weights_path(folder)), kind)
    check_used([n for n in unused if _HUGGING_FACE_ENCODER.match(n)], experiment, folder)
    selected = formats.Selected(
        state=stored, prefix="", name="", others=(), beside=stored, remaining={}
    )
    notes += hugging_face_vit_config.unknown_settings(config)
    loaded, lines, _ = _match_released(folder, selected, experiment, notes, f"{kind}, ", kind)
    if unused:
        lines.append(f"also in the folder and not used: {', '.join(unused)}")
    return loaded, lines


def weights_path(folder: str) -> str:
    """The file of weights in a folder of transformers.

    Raises:
      UserError: there is none.
    """
    paths = [os.path.join(folder, name) for name in WEIGHTS]
    path = next((path for path in paths if os.path.exists(path)), None)
    if path is None:
        raise UserError(f"init_from={folder} has neither {' nor '.join(WEIGHTS)}")
    return path


def _match_released(
    source: str,
    selected: formats.Selected,
    experiment: Experiment,
    notes: Sequence[str],
    source_note: str,
    kind: str | None = None,
) -> tuple[Loaded, list[str], list[str]]:
    """Matches the arrays of a file with released names.

    Args:
      source: the file or folder, for messages.
      selected: its arrays.
      experiment: the run that starts.
      notes: lines for the user.
      source_note: text before the number of arrays.
      kind: the model_type of a folder of transformers, whose names messages have.

    Returns:
      (loaded, lines for the user, used names of `selected.beside`).
    """
    own = {
        origin: leaf
        for path, leaf in abstract_weights(experiment).items()
        if (origin := experiment.method.origin(path)) is not None
    }
    # The encoder's arrays by their paths in a pretrained run, wherever this method keeps them.
    encoder: dict[str, dict[str, Any]] = {"params": {}, "buffers": {}}
    for origin, leaf in own.items():
        part, _, encoder_path = origin.partition("/encoder/")
        if part in encoder and encoder_path:
            encoder[part][encoder_path] = leaf
    if not encoder["params"]:
        raise UserError("init_from with a file of weights needs a method that has an encoder")
    module = encoder_module(experiment)
    state = dict(selected.state)
    if "decoder_embed.weight" in state:  # the mask token is the decoder's
        state.pop("mask_token", None)
    try:
        encoder_arrays, problems, unused = formats.from_torch(
            state,
            traverse_util.unflatten_dict(encoder["params"], sep="/"),
            traverse_util.unflatten_dict(encoder["buffers"], sep="/"),
            positions=module.positions if isinstance(module, ViT) else None,
        )
    except UserError as error:
        raise UserError(f"init_from={source}: {error}") from error
    sizes = vit_tokens.size_options(state, unstack(encoder["params"]))
    if sizes and not experiment.config.init_partial:
        options = " ".join(f"model.{name}={value:g}" for name, value in sizes.items())
        raise UserError(
            f"init_from={source} belongs to an encoder of another size; set {options}, or "
            "initialise the arrays that do not fit with --config.init_partial=True"
        )
    if kind is not None:
        problems = [_in_transformers(kind, problem) for problem in problems]
    check_complete(problems, experiment, source)
    arrays = {
        f"{part}/encoder/{encoder_path}": value
        for part, members in encoder_arrays.items()
        for encoder_path, value in members.items()
    }
    net_arrays, used, net_notes = method_nets.convert(selected.beside, own)
    matched = match({**arrays, **net_arrays}, experiment, source)
    unused = [name for name in unused if name not in used]
    check_used([name for name in unused if _ENCODER.match(name)], experiment, source)
    notes = [*notes, *net_notes, *check_decoder_heads(used, experiment)]
    if MASK_TOKEN in own and MASK_TOKEN not in arrays:
        notes.append("the file has no mask token: this run's is initialised")
    matched = dataclasses.replace(
        matched, missing=problems, unused=unused, notes=[*matched.notes, *notes]
    )
    if taken := method_nets.titles(net_arrays):
        *first, last = taken
        source_note += f"with its {', '.join(first)}{' and ' * bool(first)}{last}, "
    return matched.loaded, summary(matched, source_note), used


def _in_transformers(kind: str, problem: str) -> str:
    """A problem that begins with a released name, with the library's name."""
    name, space, text = problem.partition(" ")
    names = hugging_face_vit.renamed(kind, name)
    return f"{names[0] if names else name}{space}{text}"


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
    return matched.loaded, summary(matched, "")
