"""The encoder of tables against a loop, and what missing values do."""

import jax
import numpy as np
import pytest

from ssl_jax.core.columns import Columns
from ssl_jax.models import make_encoder

COLUMNS = Columns(("a", "b", "c"), ((), ("x", "y"), ()), (10.0, 0.0, -1.0), (2.0, 1.0, 0.5))


@pytest.fixture(scope="module")
def encoder():
    net = make_encoder("table_encoder", columns=COLUMNS, width=5, depth=2, embedding_dim=3)
    params, buffers = net.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 3), np.float32))
    return jax.jit(lambda p, x: net.apply(p, buffers, x, train=True)[0][0]), params


def test_it_is_a_perceptron_of_standardised_numbers_and_embedded_categories(encoder):
    apply, params = encoder
    rows = np.array([[12, 1, -1.25], [np.nan, 0, 3], [8, 2, np.nan]], np.float32)
    expected = []
    for a, b, c in rows.astype(np.float64):
        numbers = [(a - 10) / 2, (c + 1) / 0.5]
        missing = [float(np.isnan(value)) for value in numbers]
        numbers = [0.0 if np.isnan(value) else value for value in numbers]
        x = np.concatenate([numbers, missing, params["embed1"]["embedding"][int(b)]])
        for name in ("dense1", "dense2"):
            x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        expected.append(x)
    np.testing.assert_allclose(apply(params, rows), expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_finite_where_values_are_missing(encoder):
    apply, params = encoder
    rows = np.array([[np.nan, 0, np.nan], [1e30, 2, -1e30]], np.float32)
    grads = jax.grad(lambda p: apply(p, rows[:1]).sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert np.isfinite(np.asarray(apply(params, rows))).all()
