"""Representations of scikit-learn: what is asked of it, and what is refused."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ssl_jax.core.errors import UserError
from ssl_jax.evals import decompositions


def examples(number=40, dim=12, directions=12):
    rng = np.random.default_rng(0)
    x = rng.random((number, directions)) @ rng.random((directions, dim))
    return (x / x.max()).astype(np.float32)


def distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def test_pca_in_blocks_keeps_all_that_varies():
    """Examples of three directions; the last block is too small for a step of its own."""
    x = examples(directions=3)
    blocks = np.split(x, [10, 20, 30, 38])
    codes = decompositions.fit_incremental_pca(blocks, components=3)(x)
    assert codes.shape == (40, 3) and codes.dtype == np.float32
    np.testing.assert_allclose(distances(codes), distances(x), atol=1e-4)
    expected = PCA(3).fit(x).transform(x)
    np.testing.assert_allclose(np.abs(codes), np.abs(expected), atol=1e-4)


def test_components_by_default():
    x = examples(directions=5)
    for name, count in {"pca": 12, "ica": 5, "rbm": 12}.items():
        assert decompositions.fit(name, x, components=None, seed=0)(x).shape == (40, count), name
    assert decompositions.fit("pca", x[:7], components=None, seed=0)(x).shape == (40, 7)
    assert decompositions.fit("rbm", x, components=20, seed=0)(x).shape == (40, 20)  # more than d


def test_what_cannot_be_fitted_is_one_line():
    x = examples(directions=5)
    for name, inputs, components, message in (
        (
            "pca",
            x,
            13,
            "components is 13, but pca of 40 train examples of 12 numbers has at most 12",
        ),
        (
            "ica",
            x[:8],
            9,
            "components is 9, but ica of 8 train examples of 12 numbers has at most 8",
        ),
        ("ica", x, 6, "ica of 6 components needs examples that vary .*; they vary in 5"),
        ("ica", np.ones_like(x), None, "ica of 1 components needs .*; they vary in 0"),
        ("rbm", x[:1], None, "rbm needs at least 2 train examples; there are 1"),
    ):
        with pytest.raises(UserError, match=message):
            decompositions.fit(name, inputs, components=components, seed=0)
