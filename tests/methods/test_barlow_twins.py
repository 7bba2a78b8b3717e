"""Barlow Twins' own facts: its forward passes, two learning rates, its recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import data, losses
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import count_parameters
from tests.methods import paper_scale
from tests.methods.collapsing import watch
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.table import ROWS
from tests.methods.test_methods import build


def test_each_view_has_its_own_forward_pass():
    experiment, source = build("barlow-twins")
    method, state = experiment.method, experiment.init_state()
    keys = jax.random.split(jax.random.key(0), 8)
    views = views_of(method, keys, source.batch(np.arange(8)))
    loss, aux = loss_and_aux(
        method, Weights(state.params, state.buffers), views, key=jax.random.key(1), step=state.step
    )
    z = []
    for view in (views[:, 0], views[:, 1]):
        (h, _), _ = method.encoder.apply(
            state.params["encoder"], state.buffers["encoder"], view, train=True
        )
        z_view, _ = method.projector.apply(
            state.params["projector"], state.buffers["projector"], h, train=True
        )
        z.append(z_view)
    np.testing.assert_allclose(aux.outputs["z"], jnp.stack(z, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, losses.barlow_twins(*z)[0], rtol=1e-4)
    other = method.objective(Weights({}, {}), aux.outputs, key=None, step=None)[1]
    assert set(other.metrics) == {"on_diagonal", "off_diagonal"}


def test_biases_and_norms_have_their_own_learning_rate_and_the_rest_lars():
    """The first update of the imagenet recipe's optimizer, without warm-up, on known gradients."""
    recipe = paper_scale.build("barlow_twins.py:imagenet").config.optimizer
    config = ROWS["barlow-twins"].load()
    with config.unlocked():
        config.optimizer = recipe.copy_and_resolve_references()
        config.optimizer.warmup_epochs = 0.0
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    params = experiment.init_state().params
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    updates, _ = jax.jit(experiment.tx.update)(grads, jax.jit(experiment.tx.init)(params), params)
    scale = 16 / 256
    seen = set()
    for path, update in by_path(updates).items():
        w, g = (np.asarray(by_path(tree)[path], np.float64) for tree in (params, grads))
        seen.add(w.ndim == 1)
        if w.ndim == 1:
            expected = -0.0048 * scale * g
        else:
            g = g + 1e-6 * w
            expected = -0.2 * scale * 1e-3 * np.linalg.norm(w) / np.linalg.norm(g) * g
        np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-9, err_msg=path)
    assert seen == {True, False}


@pytest.mark.slow
def test_the_imagenet_recipe_is_the_papers():
    experiment = paper_scale.build("barlow_twins.py:imagenet")
    optimizer, total = experiment.config.optimizer, experiment.length.total_steps
    assert total == 1000 * (1_281_167 // 2048)
    assert experiment.method.hyper.off_diagonal_weight == 0.0051
    assert (optimizer.name, optimizer.momentum_order) == ("lars", "lr_outside")
    warm = 10 * experiment.length.steps_per_epoch
    np.testing.assert_allclose(experiment.schedule(warm), 1.6, rtol=1e-5)
    np.testing.assert_allclose(experiment.schedule(total), 1.6e-3, rtol=1e-3)
    params = experiment.abstract_state.params
    counts = {name: count_parameters(net) for name, net in params.items()}
    assert counts == {"encoder": 23_508_032, "projector": 151_027_712}
    for path, leaf in by_path(params).items():
        one_dimensional = experiment.method.param_group(path) == "one_dimensional"
        assert one_dimensional == (leaf.ndim == 1), path
    assert "256 MiB" in dict(experiment.method.preflight(2048))["loss"]


@pytest.mark.slow
def test_barlow_twins_does_not_collapse():
    seen = watch(
        "barlow-twins",
        steps=80,
        model__widths=(8, 16, 32),
        method__hidden_dim=64,
        method__output_dim=32,
        optimizer__base_lr=3e-3,
        optimizer__lr_scaling="none",
        optimizer__warmup_steps=0,
    )
    assert seen.causes == []
    assert seen.std[-1] > 0.5 and seen.rank[-1] > 0.3 * seen.rank[0]
    assert seen.losses[-1] < 0.5 * seen.losses[0]
