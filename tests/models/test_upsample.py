"""The transposed convolution of stride 2: its definition in loops, both ways to compute it."""

import jax
import numpy as np
import pytest

from ssl_jax.models import upsample


def oracle(x, kernel):
    """Every pixel of the input spreads over 4x4 pixels of the output, float64."""
    n, h, w, _ = x.shape
    out = np.zeros((n, 2 * h + 2, 2 * w + 2, kernel.shape[-1]))  # one more pixel on every side
    for i in range(h):
        for j in range(w):
            out[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "nc,abcd->nabd", x[:, i, j].astype(np.float64), kernel.astype(np.float64)
            )
    return out[:, 1:-1, 1:-1]


def arrays(h=3, w=5, c=2, d=4):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, h, w, c)), rng.normal(size=(4, 4, c, d))
    return x.astype(np.float32), kernel.astype(np.float32)


WAYS = {"patches": upsample._by_patches, "convolution": upsample._by_convolution}


@pytest.mark.parametrize("way", WAYS)
def test_both_ways_match_the_definition(way):
    x, kernel = arrays()
    out = WAYS[way](x, kernel)
    assert out.shape == (2, 6, 10, 4)
    np.testing.assert_allclose(out, oracle(x, kernel), rtol=1e-5, atol=1e-5)


def test_both_ways_have_the_same_gradients():
    x, kernel = arrays()

    def grads(way):
        return jax.jit(jax.grad(lambda x, k: (way(x, k) ** 2).sum(), (0, 1)))(x, kernel)

    for a, b in zip(*map(grads, WAYS.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_it_is_the_transpose_of_the_convolution_that_halves():
    """<double(x), y> = <x, halve(y)>, where halve is a 4x4 convolution of stride 2."""
    x, kernel = arrays(h=4, w=4)
    y = np.random.default_rng(1).normal(size=(2, 8, 8, 4)).astype(np.float32)
    halved = jax.lax.conv_general_dilated(
        y, kernel.swapaxes(2, 3), (2, 2), ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    np.testing.assert_allclose((upsample.double(x, kernel) * y).sum(), (x * halved).sum(), 1e-4)
