"""Reads the tokens and positions of a Vision Transformer in a state dict of PyTorch.

PyTorch has one array of positions, [1 t d]. Its first row is that of the class token, if there is
one. The other rows are those of the patches in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.models.positions import FIXED_POSITIONS, sincos_positions

# Tokens of our encoders with the same names and shapes as in released files.
TOKENS = ("cls_token", "register_tokens", "mask_token")
# Tokens of released encoders that ours do not have: of distillation, and timm's registers.
_OTHER_TOKENS = ("dist_token", "reg_token")


def check_tokens(state: Mapping[str, np.ndarray], own: Mapping[str, Any]) -> None:
    """Raises `UserError` unless an encoder has the same tokens beside the patches as a state.

    The mask token is not compared, because it changes no features.

    Args:
      state: name -> array of a Vision Transformer.
      own: path -> shape of the encoder's parameters.
    """
    for name in _OTHER_TOKENS:
        if name in state:
            raise UserError(
                f"its encoder has the tokens {name} of shape {tuple(state[name].shape)}, which "
                "this run's encoder does not have"
            )
    own_count, count = (
        tree["register_tokens"].shape[1] if "register_tokens" in tree else 0
        for tree in (own, state)
    )
    if own_count != count:
        raise UserError(
            f"its encoder has {count} register tokens, and this run's has {own_count}; set "
            f"model.num_registers={count}"
        )
    if ("cls_token" in state) != ("cls_token" in own):
        has = "has a" if "cls_token" in state else "has no"
        pool = "" if "cls_token" in state else " model.pool=mean"
        raise UserError(
            f"its encoder {has} cls_token; set model.cls_token={'cls_token' in state}{pool}"
        )


def size_options(state: Mapping[str, np.ndarray], own: Mapping[str, Any]) -> dict[str, float]:
    """The options of `model` for the sizes of a state that differ from those of an encoder.

    Args:
      state: name -> array of a Vision Transformer.
      own: path -> shape of the encoder's parameters.
    """
    sizes = {}
    for tree, patches, hidden in (
        (own, "patch_embed/proj/kernel", "layer1/mlp/fc1/bias"),
        (state, "patch_embed.proj.weight", "blocks.0.mlp.fc1.bias"),
    ):
        if patches not in tree or hidden not in tree or tree[patches].ndim != 4:
            return {}
        shape, axes = tree[patches].shape, (3, 0) if tree is own else (0, 2)
        dim, patch_size = (shape[axis] for axis in axes)
        ratio = tree[hidden].shape[0] / dim
        sizes[patches] = {"dim": dim, "patch_size": patch_size, "mlp_ratio": ratio}
    ours, theirs = sizes.values()
    return {name: value for name, value in theirs.items() if value != ours[name]}


def learned_positions(
    state: Mapping[str, np.ndarray], grid: tuple[int, ...]
) -> dict[str, np.ndarray] | str:
    """The learned positions of a state by our paths, or a description of the problem.

    The first row is the class token's, if the state has one. The others are the encoder's grid, or
    a square grid for images of another size.

    Args:
      state: name -> array, with the same tokens as the encoder.
      grid: (rows, columns, d) of the encoder.
    """
    if "pos_embed" not in state:
        return "pos_embed is missing"
    stored = np.asarray(state["pos_embed"], np.float32)
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


def check_fixed(tokens: np.ndarray, positions: str) -> None:
    """Raises `UserError` unless the positions [t d] of a file are the fixed positions of a kind."""
    kinds = fixed_kinds(tokens)
    if positions not in kinds:
        raise UserError(
            f"its pos_embed does not have the fixed positions of model.positions={positions}; set "
            f"model.positions={kinds[0] if kinds else 'learned'}"
        )


def fixed_kinds(tokens: np.ndarray) -> list[str]:
    """The kinds of fixed positions that the positions [t d] of a file have.

    They are compared on the square grid of the file, for images of any size. The position of the
    class token, if there is one, must be zero.
    """
    side, dim = math.isqrt(len(tokens)), tokens.shape[-1]
    num_cls = len(tokens) - side * side

    def is_kind(kind: str) -> bool:
        grid = sincos_positions((side, side), dim, kind).reshape(-1, dim)
        fixed = np.concatenate([np.zeros((num_cls, dim)), grid])
        return np.allclose(tokens, fixed, rtol=0, atol=_POSITION_TOLERANCE)

    return [kind for kind in FIXED_POSITIONS if num_cls <= 1 and is_kind(kind)]
