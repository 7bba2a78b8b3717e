"""Converts parameters to and from the names of torchvision and timm.

ResNets have the same names in torchvision and timm (`layer1.0.conv1.weight`). Vision Transformers
have timm's names (`blocks.0.attn.qkv.weight`), which the files of DINO and MoCo v3 use too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.layers import unstack
from ssl_jax.pretrained.formats import vit_tokens

PyTree = Any
# Pattern of our module's path, and the PyTorch name of a match.
Rules = Sequence[tuple[str, Callable[[re.Match[str]], str]]]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One of our arrays and the corresponding PyTorch array.

    Attributes:
      part: "params" or "buffers".
      path: our path below the encoder, e.g. "stage1/block1/conv1/kernel".
      name: the PyTorch name.
      to_torch: converts our array to PyTorch's layout.
      to_ours: converts PyTorch's array to our layout.
    """

    part: str
    path: str
    name: str
    to_torch: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _conv_to_torch(x: np.ndarray) -> np.ndarray:
    return x.transpose(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)


def _conv_to_ours(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0)


def _transposed(x: np.ndarray) -> np.ndarray:
    return x.T


_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# Our module's path -> PyTorch's name. Our blocks are numbered from 1, PyTorch's from 0.
_RESNET = (
    (r"stem/conv", lambda m: "conv1"),
    (r"stem/norm", lambda m: "bn1"),
    (
        r"stage(\d)/block(\d+)/(conv|norm)(\d)",
        lambda m: f"layer{m[1]}.{int(m[2]) - 1}.{'bn' if m[3] == 'norm' else 'conv'}{m[4]}",
    ),
    (r"stage(\d)/block(\d+)/shortcut_conv", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.0"),
    (r"stage(\d)/block(\d+)/shortcut_norm", lambda m: f"layer{m[1]}.{int(m[2]) - 1}.downsample.1"),
)
_VIT = (
    (r"patch_embed/proj", lambda m: "patch_embed.proj"),
    (
        r"layer(\d+)/(attn|mlp)/(\w+)",
        lambda m: f"blocks.{int(m[1]) - 1}.{m[2]}.{m[3]}",
    ),
    (r"layer(\d+)/(norm[12])", lambda m: f"blocks.{int(m[1]) - 1}.{m[2]}"),
    (r"norm", lambda m: "norm"),
)


def entries(params: PyTree, buffers: PyTree) -> list[Entry]:
    """The arrays of a ResNet or Vision Transformer with their PyTorch names.

    The tokens and positions of a Vision Transformer are not included; `to_torch` and `from_torch`
    convert them. PyTorch has one array of positions, and we have two.

    Args:
      params, buffers: arrays or shapes of an encoder.

    Raises:
      UserError: PyTorch's libraries have no such encoder.
    """
    leaves = [("params", path, leaf) for path, leaf in _flat(params).items()]
    leaves += [
        ("buffers", path.removeprefix("batch_stats/"), leaf)
        for path, leaf in by_path(buffers).items()
    ]
    paths = {path for _, path, _ in leaves}
    if "patch_embed/proj/kernel" in paths:
        rules = _VIT
    elif "stem/conv/kernel" in paths:
        rules = _RESNET
    else:
        raise UserError(
            "this encoder has no equivalent in PyTorch's model libraries; ResNets and Vision "
            "Transformers have one; --to=safetensors keeps our own names"
        )
    known, unknown = [], []
    for part, path, leaf in leaves:
        if path in vit_tokens.TOKENS or path.startswith("pos_embed/"):
            continue
        entry = make_entry(part, path, leaf.ndim, rules)
        (known if entry else unknown).append(entry or path)
    if unknown:
        raise UserError(
            f"this encoder has layers that PyTorch's models do not have, e.g. {unknown[0]}; "
            "--to=safetensors keeps our own names"
        )
    return known


def make_entry(part: str, path: str, ndim: int, rules: Rules) -> Entry | None:
    """The entry of an array with `ndim` axes by the first rule of its module; None without one."""
    scale = re.fullmatch(r"layer(\d+)/ls([12])/scale", path)
    if scale and rules is _VIT:
        name = f"blocks.{int(scale[1]) - 1}.ls{scale[2]}.gamma"
        return Entry(part, path, name, _same, _same)
    module, _, leaf = path.rpartition("/")
    for pattern, rename in rules:
        match = re.fullmatch(pattern, module)
        if match and leaf in _LEAF:
            conversions = (_same, _same)
            if leaf == "kernel":
                conversions = (_conv_to_torch, _conv_to_ours) if ndim == 4 else (_transposed,) * 2
            return Entry(part, path, f"{rename(match)}.{_LEAF[leaf]}", *conversions)
    return None


def to_torch(
    params: PyTree, buffers: PyTree, *, sincos: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Converts an encoder to a float32 state dict of torchvision or timm.

    Args:
      params, buffers: the arrays of the encoder.
      sincos: [rows columns d], the positions of a Vision Transformer with fixed positions.

    Raises:
      UserError: see `entries`.
    """
    ours = {"params": _flat(params), "buffers": _statistics(buffers)}
    state = {
        entry.name: _numpy(entry.to_torch(_numpy(ours[entry.part][entry.path])))
        for entry in entries(params, buffers)
    }
    own_params = ours["params"]
    if "patch_embed/proj/kernel" in own_params:
        grid = _numpy(own_params.get("pos_embed/grid", sincos))
        positions = grid.reshape(1, -1, grid.shape[-1])
        tokens = [name for name in vit_tokens.TOKENS if name in own_params]
        state |= {name: _numpy(own_params[name]) for name in tokens}
        if "cls_token" in own_params:
            zeros = np.zeros(grid.shape[-1:], np.float32)
            cls_position = _numpy(own_params.get("pos_embed/cls", zeros)).reshape(1, 1, -1)
            positions = np.concatenate([cls_position, positions], axis=1)
        state["pos_embed"] = positions
    return state


def from_torch(
    state: Mapping[str, np.ndarray],
    params: PyTree,
    buffers: PyTree,
    *,
    positions: str | None = None,
) -> tuple[dict[str, dict[str, np.ndarray]], list[str], list[str]]:
    """Converts a state dict of torchvision or timm to an encoder's arrays.

    Args:
      state: name -> array, without a prefix, see `strip_prefix`.
      params, buffers: arrays or shapes of the encoder.
      positions: the kind of fixed positions of a Vision Transformer. The positions in the state are
        compared with them; with None they are unused.

    Returns:
      (arrays, missing, unused): {"params": {path: array}, "buffers": {path: array}}; descriptions
      of arrays that the state lacks or that have another shape; and names that the encoder does not
      use. Positions of a Vision Transformer have the size of the state, [side side d].

    Raises:
      UserError: see `entries`; or the state has other fixed positions, or other tokens beside the
        patches, than the encoder.
    """
    arrays: dict[str, dict[str, np.ndarray]] = {"params": {}, "buffers": {}}
    missing, used = [], set()
    shapes = {"params": _flat(params), "buffers": _statistics(buffers)}

    def put(part: str, path: str, name: str, value: np.ndarray | None) -> None:
        shape = shapes[part][path].shape
        if value is None or value.shape != shape:
            problem = "is missing" if value is None else f"has shape {value.shape}, not {shape}"
            missing.append(f"{name} {problem}")
            return
        used.add(name)
        arrays[part][path if part == "params" else f"batch_stats/{path}"] = value

    for entry in entries(params, buffers):
        value = state.get(entry.name)
        if value is not None:
            value = _numpy(value)
            same_rank = value.ndim == len(shapes[entry.part][entry.path].shape)
            value = entry.to_ours(value) if same_rank else value
        put(entry.part, entry.path, entry.name, value)
    ours = shapes["params"]
    if "patch_embed/proj/kernel" in ours:
        vit_tokens.check_tokens(state, ours)
    for name in vit_tokens.TOKENS:
        if name in ours and not (name == "mask_token" and name not in state):
            put("params", name, name, _optional(state, name))
    if "pos_embed/grid" in ours:
        learned = vit_tokens.learned_positions(state, ours["pos_embed/grid"].shape)
        if isinstance(learned, str):
            missing.append(learned)
        else:
            used.add("pos_embed")
            arrays["params"] |= learned
    elif positions is not None and "pos_embed" in state:  # fixed positions
        stored, dim = _numpy(state["pos_embed"]), ours["patch_embed/proj/kernel"].shape[-1]
        if stored.shape[-1] == dim:
            vit_tokens.check_fixed(stored.reshape(-1, dim), positions)
            used.add("pos_embed")
        else:
            missing.append(f"pos_embed has shape {stored.shape}, not {dim} channels")
    ignored = ("num_batches_tracked",)
    unused = [name for name in state if name not in used and not name.endswith(ignored)]
    return arrays, missing, unused


def _flat(params: PyTree) -> dict[str, Any]:
    """Path -> parameter, with unstacked layers."""
    return unstack(by_path(params))


def _statistics(buffers: PyTree) -> dict[str, Any]:
    return {path.removeprefix("batch_stats/"): x for path, x in by_path(buffers).items()}


def _optional(state: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    return _numpy(state[name]) if name in state else None


def _numpy(x: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(x, np.float32))
