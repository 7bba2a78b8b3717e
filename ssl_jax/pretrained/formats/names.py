"""Converts parameters to and from the names of torchvision and timm.

ResNets have the same names in torchvision and timm (`layer1.0.conv1.weight`). Vision Transformers
have timm's names (`blocks.0.attn.qkv.weight`), which the files of DINO and MoCo v3 use too.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models.positions import FIXED_POSITIONS, sincos_positions

PyTree = Any


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

    The class token and positions of a Vision Transformer are not included; `to_torch` and
    `from_torch` convert them. PyTorch has one array of positions, and we have two.

    Args:
      params, buffers: arrays or shapes of an encoder.

    Raises:
      UserError: PyTorch's libraries have no such encoder.
    """
    leaves = [("params", path, leaf) for path, leaf in by_path(params).items()]
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
        if path in ("cls_token",) or path.startswith("pos_embed/"):
            continue
        entry = _entry(part, path, leaf.ndim, rules)
        (known if entry else unknown).append(entry or path)
    if unknown:
        raise UserError(
            f"this encoder has layers that PyTorch's models do not have, e.g. {unknown[0]}; "
            "--to=safetensors keeps our own names"
        )
    return known


def _entry(part: str, path: str, ndim: int, rules: Any) -> Entry | None:
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
    ours = {"params": by_path(params), "buffers": _statistics(buffers)}
    state = {
        entry.name: _numpy(entry.to_torch(_numpy(ours[entry.part][entry.path])))
        for entry in entries(params, buffers)
    }
    own_params = ours["params"]
    if "patch_embed/proj/kernel" in own_params:
        grid = _numpy(own_params.get("pos_embed/grid", sincos))
        positions = grid.reshape(1, -1, grid.shape[-1])
        if "cls_token" in own_params:
            state["cls_token"] = _numpy(own_params["cls_token"])
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
    shapes = {"params": by_path(params), "buffers": _statistics(buffers)}

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
        _check_tokens(state, "cls_token" in ours)
    if "cls_token" in ours:
        put("params", "cls_token", "cls_token", _optional(state, "cls_token"))
    if "pos_embed/grid" in ours:
        learned = _learned_positions(state, ours["pos_embed/grid"].shape)
        if isinstance(learned, str):
            missing.append(learned)
        else:
            used.add("pos_embed")
            arrays["params"] |= learned
    elif positions is not None and "pos_embed" in state:  # fixed positions
        stored, dim = _numpy(state["pos_embed"]), ours["patch_embed/proj/kernel"].shape[-1]
        if stored.shape[-1] == dim:
            _check_fixed(stored.reshape(-1, dim), positions)
            used.add("pos_embed")
        else:
            missing.append(f"pos_embed has shape {stored.shape}, not {dim} channels")
    ignored = ("num_batches_tracked",)
    unused = [name for name in state if name not in used and not name.endswith(ignored)]
    return arrays, missing, unused


# Tokens beside the class token and the patches: a distillation token and registers.
_OTHER_TOKENS = ("dist_token", "reg_token", "register_tokens")


def _check_tokens(state: Mapping[str, np.ndarray], cls_token: bool) -> None:
    """Raises `UserError` unless an encoder has the same tokens beside the patches as a state.

    Args:
      state: name -> array of a Vision Transformer.
      cls_token: whether the encoder has a class token.
    """
    for name in _OTHER_TOKENS:
        if name in state:
            raise UserError(
                f"its encoder has the tokens {name} of shape {tuple(state[name].shape)}, which "
                "this run's encoder does not have"
            )
    if ("cls_token" in state) != cls_token:
        has = "has a" if "cls_token" in state else "has no"
        pool = "" if "cls_token" in state else " model.pool=mean"
        raise UserError(
            f"its encoder {has} cls_token; set model.cls_token={'cls_token' in state}{pool}"
        )


def _learned_positions(
    state: Mapping[str, np.ndarray], grid: tuple[int, ...]
) -> dict[str, np.ndarray] | str:
    """The learned positions of a state by our paths, or a description of the problem.

    The first row is the class token's, if the state has one. The others are the encoder's grid, or
    a square grid for images of another size.

    Args:
      state: name -> array, with the same tokens as the encoder.
      grid: (rows, columns, d) of the encoder.
    """
    stored = _optional(state, "pos_embed")
    if stored is None:
        return "pos_embed is missing"
    if stored.shape[-1] != grid[2]:
        return f"pos_embed has shape {stored.shape}, not {grid[2]} channels"
    tokens = stored.reshape(-1, grid[2])
    num_cls = int("cls_token" in state)
    patches = tokens[num_cls:]
    side = math.isqrt(len(patches))
    square, fits = side * side == len(patches), len(patches) == grid[0] * grid[1]
    if not len(patches) or not (square or fits) or (square and fits and grid[0] != grid[1]):
        rows = "1 for cls_token and " * num_cls + f"{len(patches)} for patches"
        hint = " (where none is stored for cls_token, put a row of zeros first)" * num_cls
        return (
            f"pos_embed has shape {stored.shape}: {rows}, which are neither a square nor this "
            f"encoder's grid of {grid[0]}x{grid[1]}{hint}"
        )
    shape = (side, side) if square else grid[:2]
    positions = {"pos_embed/grid": patches.reshape(*shape, grid[2])}
    return positions | ({"pos_embed/cls": tokens[0]} if num_cls else {})


# Far above the rounding error of half precision, and far below the differences between kinds.
_POSITION_TOLERANCE = 1e-2


def _check_fixed(tokens: np.ndarray, positions: str) -> None:
    """Raises `UserError` unless the positions [t d] of a file are the fixed positions of a kind.

    They are compared on the square grid of the file, for images of any size. The position of the
    class token, if there is one, must be zero.
    """
    side, dim = math.isqrt(len(tokens)), tokens.shape[-1]
    num_cls = len(tokens) - side * side

    def is_kind(kind: str) -> bool:
        grid = sincos_positions((side, side), dim, kind).reshape(-1, dim)
        fixed = np.concatenate([np.zeros((num_cls, dim)), grid])
        return np.allclose(tokens, fixed, rtol=0, atol=_POSITION_TOLERANCE)

    kinds = [kind for kind in FIXED_POSITIONS if num_cls <= 1 and is_kind(kind)]
    if positions not in kinds:
        raise UserError(
            f"its pos_embed does not have the fixed positions of model.positions={positions}; set "
            f"model.positions={kinds[0] if kinds else 'learned'}"
        )


# The encoder to choose if a file has several, as those of MoCo and DINO; the first is preferred.
_PREFERRED = ("teacher", "encoder_q", "base_encoder", "backbone", "encoder")
_ANCHORS = ("conv1.weight", "patch_embed.proj.weight")


def strip_prefix(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Selects the encoder of a state dict and removes the prefix of its names.

    Official files have names such as `module.encoder_q.conv1.weight` (MoCo) or
    `backbone.conv1.weight`, and may contain several encoders; the teacher or query encoder is used.

    Returns:
      (state without the prefix, the prefix).

    Raises:
      UserError: the state has no first layer of a ResNet or Vision Transformer.
    """
    prefixes = {
        name.removesuffix(anchor)
        for name in state
        for anchor in _ANCHORS
        if name == anchor or name.endswith("." + anchor)
    }
    # Blocks also have a conv1; only the encoder's own counts.
    prefixes = {p for p in prefixes if not re.search(r"(layer\d|stage\d|blocks)\.\d+\.$", p)}
    if not prefixes:
        examples = ", ".join(list(state)[:3])
        raise UserError(
            f"these weights have no {' or '.join(_ANCHORS)}; they have names such as {examples}"
        )

    def rank(prefix: str) -> tuple[int, int, str]:
        parts = prefix.split(".")
        known = [i for i, name in enumerate(_PREFERRED) if name in parts]
        return (0 if not prefix else 1 + min(known, default=len(_PREFERRED)), len(prefix), prefix)

    best = min(prefixes, key=rank)
    return {n.removeprefix(best): x for n, x in state.items() if n.startswith(best)}, best


def _statistics(buffers: PyTree) -> dict[str, Any]:
    return {path.removeprefix("batch_stats/"): x for path, x in by_path(buffers).items()}


def _optional(state: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    return _numpy(state[name]) if name in state else None


def _numpy(x: Any) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(x, np.float32))
