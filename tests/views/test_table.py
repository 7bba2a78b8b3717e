"""Corrupted rows of tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.methods.base.inputs import table_views
from ssl_jax.views import make_views
from ssl_jax.views.table import corrupt_columns

N, C = 400, 10
SCARF = {"ops": ("corrupt_columns",), "corrupt_columns": {"rate": 0.6}}


@pytest.fixture(scope="module")
def rows():
    """Values 1, draws of the first view 2 and of the second 3."""
    return jnp.broadcast_to(jnp.array([1.0, 2.0, 3.0])[None, :, None], (N, 3, C))


def keys(count=N):
    return jax.random.split(jax.random.key(0), count)


def test_a_share_of_the_columns_of_each_row_is_replaced(rows):
    out = np.asarray(jax.jit(lambda k, x: corrupt_columns(k, x[:, 0], x[:, 1]))(keys(), rows))
    np.testing.assert_array_equal((out == 2).sum(axis=1), 6)  # floor(0.6 * 10) of each
    share = (out == 2).mean(axis=0)
    assert np.abs(share - 0.6).max() < 0.1  # every column equally often
    for rate, expected in ((0.0, 0), (1.0, C), (0.55, 5)):
        changed = corrupt_columns(keys(), rows[:, 0], rows[:, 1], rate=rate) == 2
        assert set(np.asarray(changed.sum(axis=1)).tolist()) == {expected}


def test_missing_values_are_drawn_too(rows):
    draws = jnp.full((N, C), jnp.nan)
    out = corrupt_columns(keys(), rows[:, 0], draws)
    assert np.isnan(np.asarray(out)).sum() == 6 * N


def test_views_of_scarf(rows):
    """The first view is the row itself; views have their own draws and columns."""
    views = table_views({**SCARF, "overrides": {"0": {"ops": ()}}}, num_views=2)
    out = np.asarray(views.recipe(keys(), rows))
    assert out.shape == (N, 2, C)
    np.testing.assert_array_equal(out[:, 0], 1)
    assert set(np.unique(out[:, 1])) == {1, 3}
    both = np.asarray(table_views(SCARF, num_views=2).recipe(keys(), rows))
    np.testing.assert_array_equal(both[:, 1], out[:, 1])
    assert set(np.unique(both[:, 0])) == {1, 2}
    agree = ((both[:, 0] == 1) == (both[:, 1] == 1)).mean()
    assert abs(agree - (0.36 + 0.16)) < 0.03  # which columns: independent
    np.testing.assert_array_equal(views.eval_view(rows), 1)
    # Of a row, whatever the rest of the batch.
    np.testing.assert_array_equal(views.recipe(keys()[3:5], rows[3:5]), out[3:5])


def test_ops_of_other_data_are_refused():
    with pytest.raises(UserError, match="views.ops has 'corrupt_columns', which is for tables"):
        make_views(SCARF)
    with pytest.raises(UserError, match="views.ops has 'flip', which is for images, and the data"):
        table_views({"ops": ("flip",)}, num_views=2)
    with pytest.raises(UserError, match="at most 2 views, not 3"):
        table_views(SCARF, num_views=3)
