"""Stacked denoising autoencoders: the loss of a layer against NumPy, and a stack end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.pretrained import trained_run
from tests.commands import run
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.test_methods import build

NAME = "stacked-denoising-autoencoder"


def started(**overrides):
    """Method, weights that are not near zero, and views of eight digits."""
    experiment, source = build(NAME, **overrides)
    rng = np.random.default_rng(0)
    w = experiment.init_state().weights
    w = w._replace(
        params=jax.tree.map(
            lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32), w.params
        )
    )
    batch = source.batch(np.arange(8))
    views = views_of(experiment.method, jax.random.split(jax.random.key(1), 8), batch)
    return experiment.method, w, batch, views


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layers(params):
    """(kernel, bias, bias of the reconstruction) of each layer, float64."""
    dense, decoder = params["encoder"]["mlp"], params["decoder"]
    for number in range(1, len(dense) + 1):
        one = dense[f"dense{number}"]
        arrays = one["kernel"], one["bias"], decoder[f"layer{number}"]["bias"]
        yield [np.asarray(array, np.float64) for array in arrays]


@pytest.mark.parametrize("error", ["cross_entropy", "squared"])
def test_the_loss_is_that_of_the_codes_below(error):
    method, w, _, views = started(method__error=error, method__amount=0.3)
    (kernel, bias, _), (top, top_bias, back) = layers(w.params)
    a = sigmoid(np.asarray(views["x"], np.float64).reshape(8, -1) @ kernel + bias)
    keys = jax.random.wrap_key_data(views["key"])
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 8)))(keys)[:, 0, 0]
    seen = np.where(np.asarray(drawn) < 0.3, 0, a)
    assert 0.1 < (seen == 0).mean() < 0.5
    decoded = sigmoid(seen @ top + top_bias) @ top.T + back
    if error == "squared":
        errors = ((decoded - a) ** 2).sum(axis=1)
    else:
        share = sigmoid(decoded)
        errors = -(a * np.log(share) + (1 - a) * np.log(1 - share)).sum(axis=1)
    loss, _ = loss_and_aux(method, w, views, key=jax.random.key(0), step=jnp.int32(0))
    np.testing.assert_allclose(loss, errors.mean(), rtol=1e-5)


def test_images_are_encoded_and_decoded_through_all_layers():
    method, w, batch, views = started()
    (kernel, bias, first), (top, top_bias, back) = layers(w.params)
    a = sigmoid(np.asarray(views["x"], np.float64).reshape(8, -1) @ kernel + bias)
    z = sigmoid(a @ top + top_bias)
    np.testing.assert_allclose(jax.jit(method.features)(w, batch)["h"], z, rtol=1e-5)
    image = sigmoid(sigmoid(z @ top.T + back) @ kernel.T + first)
    decoded = jax.jit(method.decode)(w, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(decoded.reshape(8, -1), image, rtol=1e-5)


FLAGS = (
    "--config.steps=3",
    "--config.batch_size=32",
    "--config.optimizer.warmup_epochs=0",
    "--config.eval.every_epochs=0",
    "--config.eval.names=()",
    "--config.eval.final_names=()",
    "--config.eval.baselines=()",
    "--config.eval.online=False",
    "--config.log.report=False",
    "--config.log.tensorboard=False",
)


def params_of(workdir):
    return by_path(trained_run.load(str(workdir)).weights.params)


@pytest.mark.slow
def test_a_stack_of_two_layers_is_trained_and_fine_tuned(tmp_path):
    """The layer below is the one of the first run and does not change; fine-tuning changes all."""
    first, second, tuned = (tmp_path / name for name in ("1", "2", "tuned"))
    stack = "--config=denoising_autoencoder:digits_stack"
    run(first, stack, "--config.model.widths=(8,)", *FLAGS)
    two_layers = "--config.model.widths=(8,4)"
    run(second, stack, two_layers, f"--config.init_from={first}", *FLAGS)
    below, above = params_of(first), params_of(second)
    assert set(below) < set(above)
    for path, array in below.items():
        np.testing.assert_array_equal(array, above[path], err_msg=path)
    classifier = ("--config=denoising_autoencoder:digits_finetune", two_layers, *FLAGS)
    done = run(tuned, *classifier, f"--config.init_from={second}")
    assert "4 arrays" in done.stdout + done.stderr
    after = params_of(tuned)
    for path in [path for path in above if path.startswith("encoder/")]:
        change = np.abs(np.asarray(after[path]) - np.asarray(above[path])).max()
        assert 0 < change < 0.02, path


def test_layers_below_come_from_the_run_below():
    method = build(NAME)[0].method
    assert method.origin("params/encoder/mlp/dense1/kernel") == "params/encoder/mlp/dense1/kernel"
    assert method.origin("params/decoder/layer1/bias") == "params/decoder/layer1/bias"
    assert method.origin("params/encoder/mlp/dense2/kernel") is None
    assert method.origin("params/decoder/layer2/bias") is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model__activation": "tanh"}, "set model.activation=sigmoid or method.error=squared"),
        ({"optimizer__weight_decay": 0.1}, "optimizer.weight_decay=0.1 would change the frozen"),
        ({"model__widths": ()}, "set model.name=mlp_encoder and model.widths"),
        ({"method__amount": 1.5}, "method.amount=1.5 is the share of values that masking changes"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message) as told:
        build(NAME, **overrides)
    assert "\n" not in str(told.value)
