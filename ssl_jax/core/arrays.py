"""Array types for shape annotations such as `Float[Array, "n d"]` of `jaxtyping`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    Array = jax.Array
    Scalar = float | jax.Array
else:
    # What pure functions take: arrays of JAX, traced or not, and of NumPy.
    Array = jax.Array | np.ndarray
    # Numbers such as temperatures, which may be learned.
    Scalar = float | int | np.number | jax.Array | np.ndarray
