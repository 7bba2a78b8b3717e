"""sRGB to CIE L*a*b* and back.

sRGB is that of IEC 61966-2-1. The white point is D65 for the 2 degree observer, (0.95047, 1,
1.08883), so equal red, green and blue have a = b = 0 up to rounding. L is 0 for black and 100 for
white; the colours of sRGB have a from -86.2 to 98.3 and b from -107.9 to 94.5.

Matrix products are written as sums, because those of TPUs round float32 to bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import jax.numpy as jnp
from jaxtyping import Float

from ssl_jax.core.arrays import Array

WHITE = (0.95047, 1.0, 1.08883)  # X, Y, Z of D65
# Linear red, green and blue to X, Y, Z (IEC 61966-2-1 with more digits), and the inverse.
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_FROM_XYZ = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
_KNEE = 6 / 29  # CIE 15: below its cube the cube root is replaced by a line


def rgb_to_lab(rgb: Float[Array, "... 3"], *, xp: ModuleType = jnp) -> Float[Array, "... 3"]:
    """sRGB in [0, 1] to L, a and b.

    Args:
      rgb: float32 or float64.
      xp: `jax.numpy`, or `numpy` for constants that are computed on the host.

    Returns:
      L in [0, 100], a and b, in the dtype of `rgb`.
    """
    linear = xp.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (
        _lab_root(component / white, xp)
        for component, white in zip(_mix(_TO_XYZ, linear), WHITE, strict=True)
    )
    return xp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: Float[Array, "... 3"], *, xp: ModuleType = jnp) -> Float[Array, "... 3"]:
    """L, a and b to sRGB, clipped to [0, 1]; the inverse of `rgb_to_lab` for colours of sRGB."""
    y = (lab[..., 0] + 16) / 116
    roots = (y + lab[..., 1] / 500, y, y - lab[..., 2] / 200)
    xyz = xp.stack(
        [white * _lab_power(root, xp) for root, white in zip(roots, WHITE, strict=True)], axis=-1
    )
    linear = xp.clip(xp.stack(_mix(_FROM_XYZ, xyz), axis=-1), 0, 1)
    power = 1.055 * xp.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055
    return xp.clip(xp.where(linear <= 0.0031308, 12.92 * linear, power), 0, 1)


def _mix(matrix: Sequence[Sequence[float]], x: Array) -> list[Array]:
    """The rows of matrix @ x."""
    return [a * x[..., 0] + b * x[..., 1] + c * x[..., 2] for a, b, c in matrix]


def _lab_root(t: Array, xp: ModuleType) -> Array:
    """f(t) of CIE 15: the cube root, and its tangent for dark colours."""
    return xp.where(t > _KNEE**3, xp.cbrt(xp.maximum(t, _KNEE**3)), t / (3 * _KNEE**2) + 4 / 29)


def _lab_power(root: Array, xp: ModuleType) -> Array:
    """The inverse of `_lab_root`."""
    return xp.where(root > _KNEE, root**3, 3 * _KNEE**2 * (root - 4 / 29))
