"""Every base of methods of images gives the layers of the encoder that it evaluates."""

import jax
import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.experiment.build import Experiment
from tests.methods.table import ROWS

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("mae", "last1/cls"),
        ("simclr", "last1/mean"),
        pytest.param("cpc-images", "last1/mean", marks=SLOW),
        pytest.param("ijepa", "last1/mean", marks=SLOW),
        pytest.param("instdisc", "last1/mean", marks=SLOW),
        pytest.param("rotnet", "last1/mean", marks=SLOW),
        pytest.param("jigsaw", "last1/mean", marks=SLOW),
        pytest.param("dino", "last1/mean", marks=SLOW),
        pytest.param("supervised-vit", "last1/cls", marks=SLOW),
        pytest.param("distill", "last1/mean", marks=SLOW),
    ],
)
def test_h_is_an_output_of_the_last_layer(row, name):
    config = ROWS[row].load()
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state, batch = experiment.init_state(), source.batch(np.arange(4))
    model = experiment.model(state.weights)
    outputs = model.outputs({"image": batch["image"]}, ("h", name))
    np.testing.assert_allclose(outputs[name], outputs["h"], rtol=1e-5, atol=1e-5)
    shapes = experiment.output_shapes(source.spec.evaluated, [name])
    assert shapes[name] == jax.ShapeDtypeStruct((1, *outputs[name].shape[1:]), "float32")
