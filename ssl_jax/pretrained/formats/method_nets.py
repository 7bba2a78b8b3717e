"""Converts the nets beside the encoder that released files contain.

    ours                              released
    decoder (MAE)                     decoder_embed, decoder_blocks, decoder_norm, decoder_pred,
                                      mask_token
    predictor (I-JEPA)                predictor_embed, predictor_blocks, predictor_norm,
                                      predictor_proj, mask_token
    projector, prototypes             head.mlp, head.last_layer (DINO, iBOT); dino_head.mlp,
                                      dino_head.last_layer (DINOv2)
    patch_projector, patch_prototypes ibot_head.mlp, ibot_head.last_layer (DINOv2)
    centre                            center of dino_loss (DINO, DINOv2) or ibot_loss (iBOT)
    patch_centre                      center2 of ibot_loss, center of ibot_patch_loss (DINOv2)

A net is loaded whole or not at all, and a centre with its head only. Fixed positions are compared.

iBOT's head has a second last layer, for patches. If both are the same (`shared_head`), it is that
of this library; a second one of its own has no equivalent here and is not loaded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
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
    """Arrays that are loaded together.

    Attributes:
      title: for messages.
      nets: the first parts of their paths in our parameters or buffers.
      rules: names of the modules' arrays.
      positions: name of the fixed positions.
      head: of a head, the prefix of its names.
      beside: title of the group that has to be loaded too.
    """

    title: str
    nets: tuple[str, ...]
    rules: Rules = ()
    positions: str = ""
    head: str = ""
    beside: str = ""


_GROUPS = (
    _Group("decoder", ("decoder",), _grid_net("decoder", "pred"), "decoder_pos_embed"),
    _Group("predictor", ("predictor",), _grid_net("predictor", "proj"), "predictor_pos_embed"),
    _Group("head", ("projector", "prototypes"), head="head"),
    _Group("head of patches", ("patch_projector", "patch_prototypes"), head="patch_head"),
    _Group("centre", ("centre",), beside="head"),
    _Group("centre of patches", ("patch_centre",), beside="head of patches"),
)
_MAGNITUDE, _DIRECTION = "last_layer.weight_g", "last_layer.weight_v"
# Names in DINOv2's files, and of weight normalisation in newer versions of PyTorch.
_RENAMED = (
    (re.compile(r"^dino_head\."), "head."),
    (re.compile(r"^ibot_head\."), "patch_head."),
    (re.compile(r"\.parametrizations\.weight\.original0$"), ".weight_g"),
    (re.compile(r"\.parametrizations\.weight\.original1$"), ".weight_v"),
)
_SECOND = re.compile(r"^head\.last_layer2\.")  # iBOT's, for patches


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
    originals = {_renamed(name): name for name in state}
    state = {_renamed(name): x for name, x in state.items()}
    arrays: dict[str, np.ndarray] = {}
    used, notes, loaded = [], [], set()
    for group in _GROUPS:
        entries = list(_entries(group, own))
        if not entries or not _is_beside(group, own, loaded):
            continue
        group_arrays, problems = _convert_group(group, entries, state, own, originals)
        if not any(entry.name in state for entry in entries):
            notes.append(f"the file has no {group.title}: this run's is initialised")
        elif problems:
            more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
            notes.append(f"the {group.title} is not loaded but initialised: {problems[0]}{more}")
        else:
            arrays |= group_arrays
            loaded.add(group.title)
            names = [*(entry.name for entry in entries), group.positions]
            names += [f"{group.head}.{_MAGNITUDE}"] if group.head else []
            used += [originals[name] for name in names if name in state]
            if group.head == "head":
                second_used, second_notes = _second_layer(state)
                used += [originals[name] for name in second_used]
                notes += second_notes
    return arrays, used, notes


def titles(arrays: Collection[str]) -> list[str]:
    """What arrays with these paths belong to, such as "head" and "centre"."""
    nets = {path.split("/")[1] for path in arrays}
    return [group.title for group in _GROUPS if nets.intersection(group.nets)]


def _renamed(name: str) -> str:
    for pattern, new in _RENAMED:
        name = pattern.sub(new, name)
    return name


def _is_beside(group: _Group, own: Mapping[str, Any], loaded: set[str]) -> bool:
    """Whether the group that this one belongs to is loaded; one head may serve both centres."""
    has_patch_head = any(path.startswith("params/patch_prototypes/") for path in own)
    head = "head" if group.beside == "head of patches" and not has_patch_head else group.beside
    return not head or head in loaded


def _second_layer(state: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """(used names, notes) of iBOT's second last layer."""
    names = [name for name in state if _SECOND.match(name)]
    is_shared = all(
        (first := state.get(name.replace("last_layer2", "last_layer"))) is not None
        and first.shape == state[name].shape
        and np.array_equal(first, state[name])
        for name in names
    )
    if is_shared:
        return names, []
    return [], ["patches have a last layer of their own there, head.last_layer2: it is not loaded"]


def to_torch(own: Mapping[str, Any], net: str) -> dict[str, np.ndarray]:
    """The arrays of a net by their released names, without positions.

    Args:
      own: path -> array of the method; paths begin with "params/" or "buffers/".
      net: "decoder" or "predictor"; "projector" or "patch_projector", with their prototypes: names
        begin with "head." or "patch_head."; "centre" or "patch_centre": "center", "patch_center".

    Returns:
      name -> float32 array; empty if the method has no such net. Norms of prototypes that are not
      learned are 1.
    """
    group = next(group for group in _GROUPS if net in group.nets)
    state = {}
    for entry in _entries(group, own):
        value = np.asarray(own[f"{entry.part}/{entry.path}"], np.float32)
        state[entry.name] = np.ascontiguousarray(entry.to_torch(value))
    if group.head and state:
        count = len(state[f"{group.head}.{_DIRECTION}"])
        state.setdefault(f"{group.head}.{_MAGNITUDE}", np.ones((count, 1), np.float32))
    return state


def _convert_group(
    group: _Group,
    entries: list[Entry],
    state: Mapping[str, np.ndarray],
    own: Mapping[str, Any],
    originals: Mapping[str, str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(path -> array, problems) of a group's nets; problems have the file's own names."""
    arrays, problems = {}, []
    for entry in entries:
        path = f"{entry.part}/{entry.path}"
        if entry.name not in state:
            problems.append(f"{entry.name} is missing")
            continue
        stored = np.asarray(state[entry.name], np.float32)
        expected = entry.to_torch(np.zeros(own[path].shape, np.int8)).shape
        if stored.shape != expected:
            name = originals[entry.name]
            problems.append(f"{name} has shape {stored.shape}, not {expected}")
            continue
        arrays[path] = np.ascontiguousarray(entry.to_ours(stored))
    if group.positions in state:
        positions = np.asarray(state[group.positions], np.float32)
        if "sincos" not in vit_tokens.fixed_kinds(positions.reshape(-1, positions.shape[-1])):
            problems.append(f"{group.positions} has other positions than this run's")
    has_norms = any(path == f"params/{group.nets[-1]}/magnitude" for path in own)
    norms = state.get(f"{group.head}.{_MAGNITUDE}", 1)
    if group.head and not has_norms and not np.allclose(norms, 1, atol=1e-3):
        problems.append("its prototypes have learned norms; set method.unit_prototypes=False")
    return arrays, problems


def _entries(group: _Group, own: Mapping[str, Any]) -> Iterator[Entry]:
    """The arrays of a run's nets of a group; none unless the run has the nets."""
    if group.head and f"params/{group.nets[1]}/direction" not in own:
        return
    rules = _head_rules(group, own) if group.head else group.rules
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
    name = path.partition("/")[2]
    if name == "direction":
        return Entry("", path, f"{group.head}.{_DIRECTION}", np.transpose, np.transpose)
    if name == "magnitude":
        magnitude = f"{group.head}.{_MAGNITUDE}"
        return Entry("", path, magnitude, lambda x: x[:, None], lambda x: x[:, 0])
    if path == "centre":
        return Entry("", path, "center", lambda x: x[None], lambda x: x[0])
    if path == "patch_centre":
        return Entry("", path, "patch_center", lambda x: x[None, None], lambda x: x[0, 0])
    return None


def _head_rules(group: _Group, own: Mapping[str, Any]) -> Rules:
    """The names of DINO's MLP, a sequence of layers in which activations are counted too."""
    net = group.nets[0]
    if f"params/{net}/dense2/kernel" not in own:
        return ((rf"{net}/dense1", lambda m: f"{group.head}.mlp"),)
    step = 3 if f"params/{net}/norm1/scale" in own else 2

    def index(match: re.Match[str]) -> str:
        return f"{group.head}.mlp.{step * (int(match[2]) - 1) + (match[1] == 'norm')}"

    return ((rf"{net}/(dense|norm)(\d+)", index),)
