"""Where the stages of a convolutional net are active: the power of activations at each position.

For a feature map F of c channels the map is the mean over channels of F^2 (Zagoruyko & Komodakis
2017, section 3.1, with p = 2). Gidaris et al. 2018, Figure 3, show such maps of RotNet and of a
supervised net.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ssl_jax.core.arrays import Array
from ssl_jax.core.layer_outputs import LayerOutput, grid_shape
from ssl_jax.models.stages import stage_names


def activation_maps(layers: Mapping[str, LayerOutput], shape: tuple[int, int]) -> dict[str, Array]:
    """Maps of the stages, of the size of the images.

    Each map is divided by its maximum. Pixels have the value of the nearest position. A stage is
    left out if it has a single position, or if its positions form no grid with the aspect ratio of
    the images.

    Args:
      layers: `Method.layers` of n images.
      shape: height and width of the images.

    Returns:
      name of the stage -> float32 [n h w] in [0, 1].
    """
    height, width = shape
    maps = {}
    for name in stage_names(layers):
        patches = layers[name].patches  # (n, p, c)
        n, count = patches.shape[:2]
        grid = grid_shape(count, height, width)
        if count == 1 or grid is None:
            continue
        power = jnp.mean(jnp.square(patches.astype(jnp.float32)), axis=2)
        power = power / jnp.maximum(power.max(axis=1, keepdims=True), 1e-12)
        maps[name] = jax.image.resize(power.reshape(n, *grid), (n, height, width), "nearest")
    return maps
