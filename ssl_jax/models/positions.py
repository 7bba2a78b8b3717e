"""Position embeddings of patches: learned, resized to the grid of an image, or fixed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Array = jax.Array

# Fixed positions: the first half of the channels encodes the column (MAE) or the row (MoCo v3). The
# order of timm's `build_sincos2d_pos_embed` is not supported: sines of row and column in the first
# half, their cosines in the second.
FIXED_POSITIONS = ("sincos", "sincos_row_first")
STD = 0.02  # of the initialiser of learned positions


class LearnedPositions(nn.Module):
    """A learned vector for each position of the grid, and one for the class token."""

    dim: int
    cls_token: bool
    resize: str = "antialiased"

    @nn.compact
    def __call__(self, grid: tuple[int, int]) -> tuple[Array, Array | None]:
        """Vectors of a grid (rows, columns), `[rows columns d]`, and of the class token, `[d]`."""
        init = nn.initializers.normal(STD)
        if self.has_variable("params", "grid"):  # with the grid of the images used in `init`
            positions = self.get_variable("params", "grid")
        else:
            positions = self.param("grid", init, (*grid, self.dim), jnp.float32)
        cls_position = self.param("cls", init, (self.dim,), jnp.float32) if self.cls_token else None
        return resize_positions(positions, grid, self.resize), cls_position


def sincos_positions(grid: tuple[int, int], dim: int, positions: str = "sincos") -> np.ndarray:
    """Fixed positions of a grid: float32 `[rows columns dim]`.

    The first half of the channels encodes the column, the second half the row. Each half has the
    sines, then the cosines, of dim/4 frequencies from 1 down to almost 1/10000 (MAE, He et al.
    2022). In MoCo v3's released code the row is first, because its meshgrid of columns and rows is
    indexed "ij".

    Args:
      grid: (rows, columns).
      dim: channels, divisible by 4.
      positions: one of `FIXED_POSITIONS`.
    """
    frequency = 1.0 / 10000 ** (np.arange(dim // 4) / (dim / 4))

    def encode(count: int) -> np.ndarray:  # (count, dim / 2)
        angle = np.arange(count)[:, None] * frequency
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows, columns = encode(grid[0])[:, None], encode(grid[1])[None, :]
    rows, columns = np.broadcast_arrays(rows, columns)
    halves = (rows, columns) if positions == "sincos_row_first" else (columns, rows)
    return np.concatenate(halves, axis=-1).astype(np.float32)


def resize_positions(positions: Array, grid: tuple[int, int], how: str = "antialiased") -> Array:
    """Resizes learned positions to another grid by bicubic interpolation.

    Args:
      positions: `[rows columns d]`.
      grid: (rows, columns) of the result; positions of this size are returned unchanged.
      how: "antialiased", as in timm: Keys' kernel with a = -1/2, widened for smaller grids.
        "dino", as in DINO's and DINOv2's released code: PyTorch's kernel with a = -3/4, not
        widened, with taps clamped to the grid, and a scale of (rows + 0.1) / rows of the source.

    Returns:
      `[rows columns d]` with the rows and columns of `grid`.
    """
    if positions.shape[:2] == tuple(grid):
        return positions
    if how == "antialiased":
        return jax.image.resize(positions, (*grid, positions.shape[-1]), "cubic", antialias=True)
    rows, columns = (
        jnp.asarray(_dino_weights(size, out_size), positions.dtype)
        for size, out_size in zip(positions.shape[:2], grid, strict=True)
    )
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("ir,jc,rcd->ijd", rows, columns, positions, precision=precision)


def _dino_weights(size: int, out_size: int) -> np.ndarray:
    """`[out_size size]`: row i holds the weights of the source positions for output i."""
    a = -0.75
    centre = (np.arange(out_size) + 0.5) * size / (out_size + 0.1) - 0.5
    weights = np.zeros((out_size, size))
    for tap in range(-1, 3):
        source = np.floor(centre) + tap
        x = np.abs(centre - source)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        column = np.clip(source, 0, size - 1).astype(int)
        np.add.at(weights, (np.arange(out_size), column), np.where(x <= 1, near, far))
    return weights
