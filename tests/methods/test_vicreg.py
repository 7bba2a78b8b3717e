"""VICReg's own facts: its forward passes, its three weights, its recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import losses
from ssl_jax.core.method import Weights
from ssl_jax.models import count_parameters
from tests.methods import paper_scale
from tests.methods.collapsing import watch
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.test_methods import build


@pytest.mark.slow
def test_each_view_has_its_own_forward_pass():
    experiment, source = build("vicreg")
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
    np.testing.assert_allclose(loss, losses.vicreg(*z)[0], rtol=1e-5)


def test_a_dimension_of_z_begins_at_a_third():
    """PyTorch's kernels: after BatchNorm and ReLU the variance is 0.341 / 3 (LeCun's: 0.341)."""
    method = build("vicreg", method__hidden_dim=256, method__output_dim=256)[0].method
    h = np.random.default_rng(0).normal(size=(256, 64)).astype(np.float32)
    params, buffers = method.projector.init(jax.random.key(0), h)
    z, _ = method.projector.apply(params, buffers, h, train=True)
    np.testing.assert_allclose(np.mean(np.std(z, axis=0)), (0.341 / 3) ** 0.5, rtol=0.1)


def test_the_configs_weights_are_those_of_the_loss():
    z = np.random.default_rng(0).normal(size=(16, 2, 8)).astype(np.float32)
    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 0.7}
    method = build("vicreg", **{f"method__{key}": w for key, w in weights.items()})[0].method
    encoded = {"h": z[:, 0], "z": jnp.asarray(z)}
    loss, aux = method.objective(Weights({}, {}), encoded, key=None, step=None)
    np.testing.assert_allclose(loss, losses.vicreg(z[:, 0], z[:, 1], **weights)[0], rtol=1e-6)
    total = sum(weight * aux.metrics[key] for key, weight in weights.items())
    np.testing.assert_allclose(loss, total, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "batch_size", "epochs", "peak"),
    [("imagenet", 2048, 1000, 1.6), ("imagenet100", 512, 100, 0.6)],
)
def test_the_imagenet_recipes_are_the_released_codes(variant, batch_size, epochs, peak):
    experiment = paper_scale.build(f"vicreg.py:{variant}")
    optimizer, total = experiment.config.optimizer, experiment.length.total_steps
    assert total == epochs * (1_281_167 // batch_size)
    assert (optimizer.name, optimizer.momentum_order) == ("lars", "lr_outside")
    warm = 10 * experiment.length.steps_per_epoch
    np.testing.assert_allclose(experiment.schedule(warm), peak, rtol=1e-5)
    np.testing.assert_allclose(experiment.schedule(total), 1e-3 * peak, rtol=1e-3)
    hyper = experiment.method.hyper
    assert (hyper.invariance, hyper.variance, hyper.covariance) == (25, 25, 1)
    projector = experiment.abstract_state.params["projector"]
    # Barlow Twins' and a bias in both hidden layers.
    assert count_parameters(projector) == 151_027_712 + 2 * 8192
    assert [sorted(projector[f"dense{i}"]) for i in (1, 2, 3)] == [
        ["bias", "kernel"], ["bias", "kernel"], ["kernel"],
    ]  # fmt: skip
    assert "256 MiB" in dict(experiment.method.preflight(batch_size))["loss"]


# The same settings, but for the weights.
COLLAPSE = dict(
    steps=80,
    model__widths=(8, 16, 32),
    method__hidden_dim=64,
    method__output_dim=32,
    optimizer__base_lr=0.01,
    optimizer__schedule="constant",
    optimizer__warmup_steps=0,
)


@pytest.mark.slow
def test_every_term_keeps_off_another_collapse():
    whole = watch("vicreg", **COLLAPSE)
    assert whole.causes == []
    assert whole.std[-1] > 0.5 and whole.rank[-1] > 0.2 * whole.rank[0]
    assert whole.losses[-1] < 0.8 * whole.losses[0]
    assert whole.metrics["variance"] < 0.6
    # Without the covariance term the dimensions repeat each other.
    repeating = watch("vicreg", method__covariance=0.0, **COLLAPSE)
    assert repeating.rank[-1] < 0.6 * whole.rank[-1]
    assert repeating.metrics["covariance"] > 5 * whole.metrics["covariance"]
    # Without either z shrinks to a point, all standard deviations go to 0.
    shrinking = watch("vicreg", method__covariance=0.0, method__variance=0.0, **COLLAPSE)
    assert shrinking.metrics["variance"] > 0.9
    assert shrinking.losses[-1] < 0.05 * shrinking.losses[0]
