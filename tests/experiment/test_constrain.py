"""A constraint on parameters holds at first, after init_from and after every update."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.methods import byol
from tests.methods.test_methods import fresh_build, run

PATH = "encoder/stage1/kernel"


def unit(self, params):
    """One kernel with columns of norm 1."""
    kernel = by_path(params)[PATH]
    return replace(params, {PATH: kernel / jnp.sqrt(jnp.sum(kernel**2, axis=(0, 1, 2)))})


def norms(params):
    return np.sqrt(np.sum(np.square(by_path(params)[PATH]), axis=(0, 1, 2)))


@pytest.fixture
def constrained(monkeypatch):
    monkeypatch.setattr(byol.BYOL, "constrain", unit)
    return fresh_build("byol")


def test_it_holds_from_the_first_step_on(constrained):
    experiment, source = constrained
    first = experiment.init_state()
    np.testing.assert_allclose(norms(first.params), 1, rtol=1e-6)
    np.testing.assert_array_equal(by_path(first.weights.ema)[PATH], by_path(first.params)[PATH])
    loaded = {"params": {PATH: 3 * by_path(first.params)[PATH]}, "buffers": {}}
    np.testing.assert_allclose(norms(experiment.init_state(loaded).params), 1, rtol=1e-6)
    last, _ = run(experiment, source, 2)
    np.testing.assert_allclose(norms(last.params), 1, rtol=1e-6)
    assert not np.array_equal(by_path(last.params)[PATH], by_path(first.params)[PATH])
