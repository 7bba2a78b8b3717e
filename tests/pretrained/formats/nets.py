"""Encoders whose every number is away from 0 and 1, for tests of names and features."""

import jax
import numpy as np

from ssl_jax.models import make_encoder


def perturbed(size, channels=3, **model):
    """(net, params, buffers) with every weight, bias and statistic random."""
    net = make_encoder(**model)
    image = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        spread = 0.3 if name in ("bias", "mean") else 1.4 / np.sqrt(fan_in)
        return (spread * rng.normal(size=leaf.shape)).astype(np.float32)

    return net, *jax.tree_util.tree_map_with_path(draw, shapes)


def images(size, n=2):
    return np.random.default_rng(1).uniform(size=(n, size, size, 3)).astype(np.float32)
