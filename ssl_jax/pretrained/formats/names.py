"""Converts parameters to and from the names of torchvision and timm.

A ResNet's names are the same in torchvision and timm (`layer1.0.conv1.weight`); a Vision
Transformer's are timm's (`blocks.0.attn.qkv.weight`), which DINO's and MoCo v3's files use too.
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
    """One of our arrays and its PyTorch twin.

    Attributes:
      part: "params" or "buffers".
      path: ours, below the encoder, e.g. "stage1/block1/conv1/kernel".
      name: theirs.
      to_torch, to_ours: an array of one side as the other has it.
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
# Our module's path -> theirs. Blocks count from 1 here and from 0 there.
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
    """The encoder's arrays that PyTorch's models have too, by the names of one known family.

    A Vision Transformer's positions are not among them: they are one array there and two here, see
    `to_torch` and `from_torch`.

    Args:
      params, buffers: of an encoder, arrays or shapes.

    Raises:
      UserError: the encoder is of no family that PyTorch models share.
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
            "this encoder has no twin in PyTorch's model libraries: ResNets and Vision "
            "Transformers have; --to=safetensors keeps our own names"
        )
    found, unknown = [], []
    for part, path, leaf in leaves:
        if path in ("cls_token",) or path.startswith("pos_embed/"):
            continue
        entry = _entry(part, path, leaf.ndim, rules)
        (found if entry else unknown).append(entry or path)
    if unknown:
        raise UserError(
            f"this encoder has layers that PyTorch's models do not know, e.g. {unknown[0]}; "
            "--to=safetensors keeps our own names"
        )
    return found


def _entry(part: str, path: str, ndim: int, rules: Any) -> Entry | None:
    scale = re.fullmatch(r"layer(\d+)/ls([12])/scale", path)
    if scale and rules is _VIT:
        name = f"blocks.{int(scale[1]) - 1}.ls{scale[2]}.gamma"
        return Entry(part, path, name, _same, _same)
    module, _, leaf = path.rpartition("/")
    for pattern, rename in rules:
        match = re.fullmatch(pattern, module)
        if match and leaf in _LEAF:
            turns = (_same, _same)
            if leaf == "kernel":
                turns = (_conv_to_torch, _conv_to_ours) if ndim == 4 else (_transposed,) * 2
            return Entry(part, path, f"{rename(match)}.{_LEAF[leaf]}", *turns)
    return None


def to_torch(
    params: PyTree, buffers: PyTree, *, sincos: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """An encoder as a state dict of torchvision or timm, float32.

    Args:
      params, buffers: the encoder's arrays.
      sincos: the fixed positions [rows columns d] of a Vision Transformer that learns none.

    Raises:
      UserError: see `entries`.
    """
    ours = {"params": by_path(params), "buffers": _statistics(buffers)}
    state = {
        entry.name: _numpy(entry.to_torch(_numpy(ours[entry.part][entry.path])))
        for entry in entries(params, buffers)
    }
    given = ours["params"]
    if "patch_embed/proj/kernel" in given:
        grid = _numpy(given.get("pos_embed/grid", sincos))
        positions = grid.reshape(1, -1, grid.shape[-1])
        if "cls_token" in given:
            state["cls_token"] = _numpy(given["cls_token"])
            none = np.zeros(grid.shape[-1:], np.float32)
            of_cls = _numpy(given.get("pos_embed/cls", none)).reshape(1, 1, -1)
            positions = np.concatenate([of_cls, positions], axis=1)
        state["pos_embed"] = positions
    return state


def from_torch(
    state: Mapping[str, np.ndarray],
    params: PyTree,
    buffers: PyTree,
    *,
    positions: str | None = None,
) -> tuple[dict[str, dict[str, np.ndarray]], list[str], list[str]]:
    """An encoder's arrays out of a state dict in the names of torchvision or timm.

    Args:
      state: without a prefix, see `strip_prefix`.
      params, buffers: what the encoder has, arrays or shapes.
      positions: of a Vision Transformer that learns none, which fixed ones it adds. A state's are
        compared with them; with None given they count as unused.

    Returns:
      (found, missing, unused): {"params": {path: array}, "buffers": {path: array}}; the names that
      the state lacks or has in another shape; and its names that the encoder has no use for.
      A Vision Transformer's positions come as they are there, [side side d], also for another side.

    Raises:
      UserError: see `entries`; or the state's positions are others than the encoder adds; or its
        encoder reads other tokens beside the patches than this one.
    """
    found: dict[str, dict[str, np.ndarray]] = {"params": {}, "buffers": {}}
    missing, used = [], set()
    shapes = {"params": by_path(params), "buffers": _statistics(buffers)}

    def put(part: str, path: str, name: str, value: np.ndarray | None) -> None:
        wanted = shapes[part][path].shape
        if value is None or value.shape != wanted:
            has = "is missing" if value is None else f"has shape {value.shape}, not {wanted}"
            missing.append(f"{name} {has}")
            return
        used.add(name)
        found[part][path if part == "params" else f"batch_stats/{path}"] = value

    for entry in entries(params, buffers):
        value = state.get(entry.name)
        if value is not None:
            value = _numpy(value)
            same = value.ndim == len(shapes[entry.part][entry.path].shape)
            value = entry.to_ours(value) if same else value
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
            found["params"] |= learned
    elif positions is not None and "pos_embed" in state:  # fixed here
        stored, dim = _numpy(state["pos_embed"]), ours["patch_embed/proj/kernel"].shape[-1]
        if stored.shape[-1] == dim:
            _check_fixed(stored.reshape(-1, dim), positions)
            used.add("pos_embed")
        else:
            missing.append(f"pos_embed has shape {stored.shape}, not {dim} channels")
    ignored = ("num_batches_tracked",)
    unused = [name for name in state if name not in used and not name.endswith(ignored)]
    return found, missing, unused


# Tokens beside the class token and the patches: of distilled ones, and registers.
_OTHER_TOKENS = ("dist_token", "reg_token", "register_tokens")


def _check_tokens(state: Mapping[str, np.ndarray], cls_token: bool) -> None:
    """Raises `UserError` unless a ViT reads the tokens of a state's, at most one for the class.

    Args:
      state: of a Vision Transformer.
      cls_token: whether the encoder has a class token.
    """
    for name in _OTHER_TOKENS:
        if name in state:
            raise UserError(
                f"its encoder reads {name}, of shape {tuple(state[name].shape)}, beside the "
                "patches, which the encoder here does not have"
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
    """A state's learned positions by our paths, or what is wrong with them.

    The first row is that of the class token if the state has one; the others are a grid: that of
    the encoder, or a square of images of another size.

    Args:
      state: which has the tokens of the encoder.
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
    found = {"pos_embed/grid": patches.reshape(*shape, grid[2])}
    return found | ({"pos_embed/cls": tokens[0]} if num_cls else {})


# Far above the rounding of positions kept in half precision, far below what tells them apart.
_SAME_POSITIONS = 1e-2


def _check_fixed(tokens: np.ndarray, positions: str) -> None:
    """Raises `UserError` unless a file's positions [t d] are those a ViT adds without learning any.

    The grid is the file's, a square, so this holds for images of any size; the class token's
    position, if there is one, has to be zero.
    """
    side, dim = math.isqrt(len(tokens)), tokens.shape[-1]
    num_cls = len(tokens) - side * side

    def alike(kind: str) -> bool:
        grid = sincos_positions((side, side), dim, kind).reshape(-1, dim)
        fixed = np.concatenate([np.zeros((num_cls, dim)), grid])
        return np.allclose(tokens, fixed, rtol=0, atol=_SAME_POSITIONS)

    found = [kind for kind in FIXED_POSITIONS if num_cls <= 1 and alike(kind)]
    if positions not in found:
        raise UserError(
            f"its pos_embed is not what model.positions={positions} adds to the patches; set "
            f"model.positions={found[0] if found else 'learned'}, as it is there"
        )


# The parts of the files of MoCo, DINO and others to prefer where they hold several encoders.
_PREFERRED = ("teacher", "encoder_q", "base_encoder", "backbone", "encoder")
_ANCHORS = ("conv1.weight", "patch_embed.proj.weight")


def strip_prefix(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The encoder of a state dict whose names may all stand behind a prefix.

    Official files hold `module.encoder_q.conv1.weight` (MoCo), `backbone.conv1.weight` and so on,
    and several encoders beside each other; the teacher or query encoder is taken.

    Returns:
      (state without the prefix, the prefix).

    Raises:
      UserError: no name is that of a ResNet's or Vision Transformer's first layer.
    """
    prefixes = {
        name.removesuffix(anchor)
        for name in state
        for anchor in _ANCHORS
        if name == anchor or name.endswith("." + anchor)
    }
    # A block's conv1 ends alike; the encoder's own stands above all of them.
    prefixes = {p for p in prefixes if not re.search(r"(layer\d|stage\d|blocks)\.\d+\.$", p)}
    if not prefixes:
        examples = ", ".join(list(state)[:3])
        raise UserError(
            f"these weights have no {' or '.join(_ANCHORS)}; their names are like {examples}"
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
