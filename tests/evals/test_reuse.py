"""CKA against its definition, and feature reuse between the start and the end of a run."""

import jax
import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core.errors import UserError
from ssl_jax.evals import reuse
from ssl_jax.evals.cka import linear_cka
from ssl_jax.evals.model import Model
from ssl_jax.experiment.build import Experiment
from ssl_jax.run.first_state import first_state
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5)), RNG.normal(size=(12, 7))


def loop_cka(x, y):
    """Sums over pairs of features: the definition without Gram matrices."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)

    def cross(a, b):
        total = 0.0
        for i in range(a.shape[1]):
            for j in range(b.shape[1]):
                total += sum(a[n, i] * b[n, j] for n in range(len(a))) ** 2
        return total

    return cross(x, y) / np.sqrt(cross(x, x) * cross(y, y))


def test_linear_cka():
    assert linear_cka(X, Y) == pytest.approx(loop_cka(X, Y))
    rotation = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    assert linear_cka(X, 3 * X @ rotation + 7) == pytest.approx(1)
    assert linear_cka(X, np.full((12, 3), 0.1)) == 0
    narrow = np.zeros((4, 1))
    narrow[0] = 1
    assert linear_cka(narrow, np.roll(narrow, 1)) == pytest.approx(1 / 9)
    assert linear_cka(1e200 * X, 1e-200 * Y) == pytest.approx(linear_cka(X, Y))
    with pytest.raises(ValueError, match="got 12 and 11"):
        linear_cka(X, Y[:11])


@pytest.mark.slow
def test_reuse_of_the_layers_of_a_run():
    config = ROWS["multilabel"].load(data__num_examples=64)
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    prober = Prober(config, experiment.mesh)
    with jax.set_mesh(experiment.mesh):
        state, lines = first_state(experiment)
        assert lines == []
        start = experiment.model(state.weights)
        model = Model(start.features, start.method, start.weights, start=lambda: start)
        same = reuse.evaluate_model(model, prober, max_examples=16)
        assert same == pytest.approx(dict.fromkeys(("stage1", "stage2", "stage3", "stage4"), 1))
        noisy = jax.tree.map(
            lambda x: x + 0.3 * np.random.default_rng(2).normal(size=x.shape).astype(x.dtype),
            state.weights.params,
        )
        changed = Model(
            start.features, start.method, start.weights._replace(params=noisy), start=lambda: start
        )
        values = reuse.evaluate_model(changed, prober, max_examples=16, patches="mean")
        assert all(0 <= value < 0.999 for value in values.values())
        with pytest.raises(UserError, match="name it in eval.final_names"):
            reuse.evaluate_model(start, prober)
