"""The importance-weighted bound, of a method whose weights are known."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ssl_jax.core.errors import UserError
from ssl_jax.evals import iwae
from ssl_jax.evals.features import extract
from ssl_jax.evals.model import Model
from ssl_jax.run.evaluation_checks import check_evaluations
from tests.run.test_final_results import built


class Known:
    """The log weight of sample i of example x is x sin(i)."""

    def log_weights(self, w, keys, batch, first, *, count):
        return jnp.sin(first + jnp.arange(count))[:, None] * batch["x"] + w


def prober(x):
    batches = [{"x": x[i : i + 4], "index": np.arange(i, i + 4)} for i in range(0, len(x), 4)]
    return types.SimpleNamespace(
        test=x, evenly=lambda *_: None, features=lambda encode, *_: extract(encode, batches)
    )


@pytest.mark.parametrize("at_a_time", [1, 3, 7, 50])
def test_it_is_the_log_of_the_mean_weight(at_a_time):
    x = np.linspace(-2, 3, 8).astype(np.float32)
    model = Model(None, method=Known(), weights=jnp.float32(-700))
    got = iwae.evaluate_model(model, prober(x), num_samples=7, at_a_time=at_a_time)
    weights = np.sin(np.arange(7))[:, None] * x - 700.0
    expected = np.mean(scipy.special.logsumexp(weights, axis=0) - np.log(7))
    assert got == {"bound": pytest.approx(expected, rel=1e-6), "samples": 7.0}


def test_other_methods_have_none():
    experiment, _ = built("autoencoder", **{"eval.final_names": ("iwae",)})
    with pytest.raises(UserError, match="evaluation 'iwae' is not for method"):
        check_evaluations(experiment)
    check_evaluations(built("vae", **{"eval.final_names": ("iwae",)})[0])
