"""LeJEPA's own facts: its step, and that the regulariser holds embeddings apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import losses
from tests.methods import paper_scale
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.multi_crop import forward
from tests.methods.rows.images import LEARNING
from tests.methods.test_methods import batches, build


def test_a_step_is_the_papers_equations():
    """The centre is the large views' mean, SIGReg is taken of each view with the same slices."""
    experiment, source = build("lejepa")
    method, w = experiment.method, experiment.init_state().weights
    views = views_of(method, jax.random.split(jax.random.key(0), 16), source.batch(range(16)))
    key = jax.random.key(1)
    loss, aux = jax.jit(functools.partial(loss_and_aux, method))(
        w, views, key=key, step=jnp.int32(0)
    )
    net, statistics = method.projector, w.buffers
    h, _, _ = forward(method, w.params, w.buffers, (views["global"], views["local"]))
    features, encoder = [], statistics["encoder"]
    for x in (views["global"], views["local"]):
        (rows, _), encoder = method.encoder.apply(
            w.params["encoder"], encoder, x.reshape(-1, *x.shape[2:]), train=True
        )
        features.append(rows.reshape(16, 2, -1))
    features = jnp.concatenate(features, axis=1)
    z, _ = net.apply(
        w.params["projector"], statistics["projector"], features.reshape(64, -1), train=True
    )
    z = z.reshape(16, 4, -1)
    distance = jnp.mean((z - z[:, :2].mean(axis=1, keepdims=True)) ** 2)
    _, objective_key = jax.random.split(key)
    gaussian = np.mean(
        [losses.sigreg(z[:, view], key=objective_key, num_slices=8) for view in range(4)]
    )
    np.testing.assert_allclose(loss, 0.95 * distance + 0.05 * gaussian, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["sigreg"], gaussian, rtol=1e-4)
    np.testing.assert_allclose(aux.outputs["h"], h, rtol=1e-4, atol=1e-6)


def test_the_minimal_scripts_views_are_all_large():
    experiment = paper_scale.build("lejepa.py:imagenette")
    assert experiment.method.families.shapes == {"global": (4, 128, 128, 3)}
    assert experiment.method.encoder.module.patch_size == 8
    assert (experiment.config.method.sigreg, experiment.config.batch_size) == (0.02, 256)
    imagenet = paper_scale.build("lejepa.py:imagenet").method.families.shapes
    assert imagenet == {"global": (2, 224, 224, 3), "local": (6, 98, 98, 3)}


@pytest.mark.slow
def test_without_the_regulariser_embeddings_collapse():
    spread = {}
    for share in (0.0, 0.2):
        experiment, source = build(
            "lejepa", method__sigreg=share, optimizer__warmup_steps=0, optimizer__base_lr=0.01,
            **LEARNING,
        )  # fmt: skip
        state = experiment.init_state()
        with jax.set_mesh(experiment.mesh):
            for batch in batches(experiment, source, 60):
                state, _, outputs = experiment.compiled_train_step(state, batch)[:3]
        spread[share] = float(jnp.std(outputs["z"].astype(jnp.float32), axis=0).mean())
    assert spread[0.2] > 5 * spread[0.0], spread
