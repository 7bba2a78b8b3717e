"""Rows of a parameter with learning rates and weight decays of their own."""

import jax
import numpy as np
import optax
import pytest

from ssl_jax.core.method import RowRates
from ssl_jax.optim import make_optimizer

RATES, DECAYS = np.array([0.1, 2.0, 0.5]), np.array([0.0, 0.03, 0.2])
SHAPES = {"rows": {"kernel": (3, 4, 2), "bias": (3, 2)}, "other": {"kernel": (4, 2)}}
RUN = dict(batch_size=256, total_steps=5, steps_per_epoch=5)
SECTION = dict(base_lr=0.3, lr_scaling="none", warmup_epochs=0.0, weight_decay=0.01, nesterov=True)


def rates_of(path):
    return RowRates(RATES, DECAYS) if path.startswith("rows/") else None


def five_steps(section, params, grads, row_rates=None):
    tx = make_optimizer(section, **RUN, row_rates=row_rates)
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(5):
        updates, state = update(jax.tree.map(lambda g, i=step: g[i], grads), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_row_is_trained_as_if_it_were_alone(name):
    rng = np.random.default_rng(0)
    is_shape = dict(is_leaf=lambda x: isinstance(x, tuple))
    params = jax.tree.map(lambda s: rng.normal(size=s).astype(np.float32), SHAPES, **is_shape)
    grads = jax.tree.map(lambda s: rng.normal(size=(5, *s)).astype(np.float32), SHAPES, **is_shape)
    section = {**SECTION, "name": name}
    got = five_steps(section, params, grads, rates_of)
    for g, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        own = {**section, "base_lr": 0.3 * rate, "weight_decay": 0.01 + decay}
        row = jax.tree.map(lambda p, g=g: p[g], params["rows"])
        row_grads = jax.tree.map(lambda p, g=g: p[:, g], grads["rows"])
        alone = five_steps(own, row, row_grads)
        for leaf in ("kernel", "bias"):  # a bias is not decayed
            np.testing.assert_allclose(got["rows"][leaf][g], alone[leaf], rtol=1e-5, atol=1e-6)
    others = five_steps(section, params["other"], grads["other"])
    np.testing.assert_allclose(got["other"]["kernel"], others["kernel"], rtol=1e-6)
