"""Converts the nets beside the encoder that released files contain.

    ours                              released
    decoder (MAE)                     decoder_embed, decoder_blocks, decoder_norm, decoder_pred,
                                      mask_token
    predictor (I-JEPA)                predictor_embed, predictor_blocks, predictor_norm,
                                      predictor_proj, mask_token
    projector, prototypes, centre     head.mlp, head.last_layer, center of dino_loss
    (DINO)

A net is loaded whole or not at all. Fixed positions are compared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssl_jax.pretrained.formats import vit_tokens
from ssl_jax.pretrained.formats.names import Entry, Rules, make_entry


def _grid_net(role: str, output: str) -> Rules:
    """The names of MAE's decoder or I-JEPA's predictor."""
    return (
        (rf"{role}/embed", lambda m: f"{role}_embed"),
        (
            rf"{role}/layer(\d+)/((?:attn|mlp)/\w+|norm[12])",
            lambda m: f"{role}_blocks.{int(m[1]) - 1}.{m[2].replace('/', '.')}",
        ),
        (rf"{role}/norm", lambda m: f"{role}_norm"),
        (rf"{role}/pred", lambda m: f"{role}_{output}"),
    )


@dataclasses.dataclass(frozen=True)
class _Group:
    """Nets that are loaded together.

    Attributes:
      title: for messages.
      nets: their names in our parameters.
      rules: names of the modules' arrays.
      positions: name of the fixed positions.
    """

    title: str
    nets: tuple[str, ...]
    rules: Rules
    positions: str = ""


_GROUPS = (
    _Group("decoder", ("decoder",), _grid_net("decoder", "pred"), "decoder_pos_embed"),
    _Group("predictor", ("predictor",), _grid_net("predictor", "proj"), "predictor_pos_embed"),
    _Group("head", ("projector", "prototypes", "centre"), ()),
)
_MAGNITUDE, _DIRECTION = "head.last_layer.weight_g", "head.last_layer.weight_v"
# Names of weight normalisation in newer versions of PyTorch.
_OLD_NAMES = {
    "head.last_layer.parametrizations.weight.original0": _MAGNITUDE,
    "head.last_layer.parametrizations.weight.original1": _DIRECTION,
}


def convert(
    state: Mapping[str, np.ndarray], own: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str], list[str]]:
    """Converts the nets that a file and a run have.

    Args:
      state: name -> array, see `networks.Selected.beside`.
      own: path -> shape of the run's arrays; paths begin with "params/" or "buffers/".

    Returns:
      (arrays, used, notes): path -> array; the names that are used; and a line about each net of
      the run that is not loaded.
    """
    originals = {new: old for old, new in _OLD_NAMES.items() if old in state}
    state = {_OLD_NAMES.get(name, name): x for name, x in state.items()}
    arrays: dict[str, np.ndarray] = {}
    used, notes = [], []
    for group in _GROUPS:
        entries = list(_entries(group, own))
        if not entries:
            continue
        group_arrays, problems = _convert_group(group, entries, state, own)
        if not any(entry.name in state for entry in entries):
            notes.append(f"the file has no {group.title}: this run's is initialised")
        elif problems:
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            notes.append(f"the {group.title} is not loaded but initialised: {problems[0]}{more}")
        else:
            arrays |= group_arrays
            names = [
                *(entry.name for entry in entries),
                group.positions,
                "head.last_layer.weight_g",
            ]
            used += [originals.get(name, name) for name in names if name in state]
    return arrays, used, notes


def to_torch(params: Mapping[str, Any], net: str) -> dict[str, np.ndarray]:
    """The arrays of the net "decoder" or "predictor" by their released names, without positions.

    Args:
      params: path -> array of the method's parameters.
      net: name of the net.
    """
    group = next(group for group in _GROUPS if net in group.nets)
    arrays = {f"params/{path}": np.asarray(x, np.float32) for path, x in params.items()}
    return {
        entry.name: np.ascontiguousarray(entry.to_torch(arrays[f"{entry.part}/{entry.path}"]))
        for entry in _entries(group, arrays)
    }


def _convert_group(
    group: _Group, entries: list[Entry], state: Mapping[str, np.ndarray], own: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(path -> array, problems) of a group's nets."""
    arrays, problems = {}, []
    for entry in entries:
        path = f"{entry.part}/{entry.path}"
        if entry.name not in state:
            problems.append(f"{entry.name} is missing")
            continue
        stored = np.asarray(state[entry.name], np.float32)
        expected = entry.to_torch(np.zeros(own[path].shape, np.int8)).shape
        if stored.shape != expected:
            problems.append(f"{entry.name} has shape {stored.shape}, not {expected}")
            continue
        arrays[path] = np.ascontiguousarray(entry.to_ours(stored))
    if group.positions in state:
        positions = np.asarray(state[group.positions], np.float32)
        if "sincos" not in vit_tokens.fixed_kinds(positions.reshape(-1, positions.shape[-1])):
            problems.append(f"{group.positions} has other positions than this run's")
    has_unit_prototypes = group.title == "head" and "params/prototypes/magnitude" not in own
    if has_unit_prototypes and not np.allclose(state.get(_MAGNITUDE, 1), 1, atol=1e-3):
        problems.append("its prototypes have learned norms; set method.unit_prototypes=False")
    return arrays, problems


def _entries(group: _Group, own: Mapping[str, Any]) -> Iterator[Entry]:
    """The arrays of a run's nets of a group; none unless the run has the nets."""
    if group.title == "head" and "params/prototypes/direction" not in own:
        return
    rules = group.rules or _head_rules(own)
    for origin, leaf in own.items():
        part, _, path = origin.partition("/")
        if path.split("/", 1)[0] not in group.nets:
            continue
        single = _single(group, path)
        module_path = path.replace("/batch_stats/", "/")
        entry = single or make_entry(part, module_path, len(leaf.shape), rules)
        if entry is not None:
            yield dataclasses.replace(entry, part=part, path=path)


def _single(group: _Group, path: str) -> Entry | None:
    """The entry of an array that belongs to no layer."""
    if path == f"{group.title}/mask_token":
        return Entry("", path, "mask_token", lambda x: x[None, None], lambda x: x[0, 0])
    if path == "prototypes/direction":
        return Entry("", path, _DIRECTION, np.transpose, np.transpose)
    if path == "prototypes/magnitude":
        return Entry("", path, _MAGNITUDE, lambda x: x[:, None], lambda x: x[:, 0])
    if path == "centre":
        return Entry("", path, "center", lambda x: x[None], lambda x: x[0])
    return None


def _head_rules(own: Mapping[str, Any]) -> Rules:
    """The names of DINO's MLP, a sequence of layers in which activations are counted too."""
    if "params/projector/dense2/kernel" not in own:
        return ((r"projector/dense1", lambda m: "head.mlp"),)
    step = 3 if "params/projector/norm1/scale" in own else 2

    def index(match: re.Match[str]) -> str:
        return f"head.mlp.{step * (int(match[2]) - 1) + (match[1] == 'norm')}"

    return ((r"projector/(dense|norm)(\d+)", index),)
