"""The forward pass of multi-crop methods, as their papers write it."""

import jax.numpy as jnp
import numpy as np


def forward(method, params, buffers, families):
    """u [n V d] and the buffers of one net, a pass a family."""
    h, statistics = [], buffers["encoder"]
    for x in families:
        n, v = x.shape[:2]
        (features, _), statistics = method.encoder.apply(
            params["encoder"],
            statistics,
            x.reshape(n * v, *x.shape[2:]),
            train=True,
        )
        h.append(features.reshape(n, v, -1))
    h = jnp.concatenate(h, axis=1)
    z, projector = method.projector.apply(
        params["projector"],
        buffers["projector"],
        h.reshape(-1, h.shape[-1]),
        train=True,
    )
    z = np.asarray(z, np.float64).reshape(*h.shape[:2], -1)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return h[:, 0], unit, {"encoder": statistics, "projector": projector}
