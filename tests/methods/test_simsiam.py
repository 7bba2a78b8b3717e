"""SimSiam's own facts: its forward passes, its predictor's learning rate, and how it collapses."""

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


def test_each_view_has_its_own_forward_pass_and_predicts_the_other():
    experiment, source = build("simsiam")
    method, state = experiment.method, experiment.init_state()
    keys = jax.random.split(jax.random.key(0), 8)
    views = views_of(method, keys, source.batch(np.arange(8)))
    loss, aux = loss_and_aux(
        method, Weights(state.params, state.buffers), views, key=jax.random.key(1), step=state.step
    )
    p, z, after = [], [], state.buffers
    for view in (views[:, 0], views[:, 1]):
        (h, _), encoder = method.encoder.apply(
            state.params["encoder"], after["encoder"], view, train=True
        )
        z_view, projector = method.projector.apply(
            state.params["projector"], after["projector"], h, train=True
        )
        p_view, predictor = method.predictor.apply(
            state.params["predictor"], after["predictor"], z_view, train=True
        )
        z.append(z_view)
        p.append(p_view)
        after = {"encoder": encoder, "projector": projector, "predictor": predictor}
    expected = losses.simsiam(jnp.stack(p, axis=1), jnp.stack(z, axis=1))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert -1 <= float(loss) <= 1
    for path, leaf in by_path(after).items():
        np.testing.assert_allclose(by_path(aux.buffers)[path], leaf, rtol=1e-6, err_msg=path)
    # The output BatchNorm has neither scale nor offset: z has mean 0 and variance 1.
    np.testing.assert_allclose(np.mean(z[0], axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(z[0], axis=0), 1, atol=0.02)


@pytest.mark.slow
def test_the_predictors_learning_rate_stays_while_the_others_fall():
    """Plain gradient descent on a gradient of ones over the whole run of the imagenet recipe."""
    recipe = paper_scale.build("simsiam.py:imagenet").config.optimizer
    assert (recipe.name, recipe.schedule, recipe.warmup_epochs) == ("sgd", "cosine", 0.0)
    assert (recipe.base_lr, recipe.weight_decay, recipe.momentum) == (0.05, 1e-4, 0.9)
    config = ROWS["simsiam"].load(optimizer__momentum=0.0, optimizer__weight_decay=0.0)
    with config.unlocked():
        for key in ("name", "base_lr", "lr_scaling", "schedule", "warmup_epochs", "groups"):
            config.optimizer[key] = recipe[key]
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    params = experiment.init_state().params
    ones, state = jax.tree.map(jnp.ones_like, params), experiment.tx.init(params)
    total, update = experiment.length.total_steps, jax.jit(experiment.tx.update)
    steps = []
    for _ in range(total):
        updates, state = update(ones, state, params)
        steps.append(by_path(updates))
    lr = 0.05 * 16 / 256
    for path in steps[0]:
        each = np.array([-float(step[path].reshape(-1)[0]) for step in steps])
        np.testing.assert_allclose(each[0], lr, rtol=1e-5, err_msg=path)
        np.testing.assert_allclose(
            each[total // 2], lr if path.startswith("predictor/") else lr / 2, rtol=1e-5
        )
        np.testing.assert_allclose(each[-1] > 0.99 * lr, path.startswith("predictor/"))


def test_weight_decay_is_on_all_parameters_as_in_the_released_code():
    assert paper_scale.build("simsiam.py:imagenet").config.optimizer.exclude == ""


@pytest.mark.slow
def test_the_imagenet_recipe_is_the_papers():
    experiment = paper_scale.build("simsiam.py:imagenet")
    assert experiment.length.total_steps == 100 * (1_281_167 // 512)
    np.testing.assert_allclose(experiment.schedule(0), 0.1, rtol=1e-6)
    params = experiment.abstract_state.params
    counts = {name: count_parameters(net) for name, net in params.items()}
    assert counts == {"encoder": 23_508_032, "projector": 12_591_104, "predictor": 2_100_224}
    norms = set(params["projector"])
    assert norms == {"dense1", "norm1", "dense2", "norm2", "dense3"}  # the last has no parameters
    assert set(params["predictor"]["dense2"]) == {"kernel", "bias"}


# The same settings, but for the stop-gradient, without BatchNorm at the projector's end.
COLLAPSE = dict(
    steps=80,
    model__widths=(8, 16, 32),
    method__projector_norm="none",
    method__hidden_dim=64,
    method__output_dim=32,
    method__predictor_dim=16,
    optimizer__base_lr=0.02,
    optimizer__schedule="constant",
    optimizer__warmup_steps=0,
)


@pytest.mark.slow
def test_simsiam_does_not_collapse():
    seen = watch("simsiam", **COLLAPSE)
    assert seen.causes == []
    assert seen.std[-1] > 0.5 and seen.rank[-1] > 0.15 * seen.rank[0]
    assert -0.9 < seen.losses[-1] < -0.1


@pytest.mark.slow
def test_without_the_stop_gradient_simsiam_collapses_and_the_monitor_says_so():
    seen = watch("simsiam", method__stop_gradient=False, **COLLAPSE)
    assert seen.causes == ["complete"]
    assert seen.std[0] > 0.5 and seen.std[-1] < 0.1
    assert seen.rank[-1] < 0.15 * seen.rank[0]
    assert seen.losses[-1] < -0.98


def test_the_preflight_warns_of_the_missing_stop_gradient():
    assert build("simsiam")[0].method.preflight(16) == []
    method = build("simsiam", method__stop_gradient=False)[0].method
    assert "collapses" in dict(method.preflight(16))["note"]
