"""Autoencoders: their losses against NumPy, and what linear ones find against linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.optimize

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from tests.methods.contract import loss_and_aux
from tests.methods.test_methods import build

LINEAR = {"model__widths": (), "nets__decoder__widths": (), "method__activation": "linear"}
LINEAR |= {"method__l1": 0.0}


def dense(params, x):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def encoded_views(name, **overrides):
    """Method, weights that are not near zero, and views of eight digits."""
    experiment, source = build(name, **overrides)
    w = experiment.init_state().weights
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.asarray(0.3 * rng.normal(size=p.shape), jnp.float32), w.params
    )
    batch = source.batch(np.arange(8))
    keys = jax.random.split(jax.random.key(1), 8)
    views = experiment.method.views(keys, batch, key=jax.random.key(0), step=jnp.int32(0))
    return experiment.method, w._replace(params=params), views


def oracle(params, views, *, activation, error, l1=0.0, l2=0.0):
    """The loss of an autoencoder with at most one hidden layer on each side, float64."""
    x, seen = (np.asarray(views[name], np.float64).reshape(8, -1) for name in ("x", "input"))
    h = seen
    if "mlp" in params["encoder"] and params["encoder"]["mlp"]:
        h = np.maximum(dense(params["encoder"]["mlp"]["dense1"], seen), 0)
    code = dense(params["code"]["dense1"], h)
    code = {"relu": np.maximum(code, 0), "linear": code, "sigmoid": sigmoid(code)}[activation]
    into, decoder = np.asarray(params["code"]["dense1"]["kernel"], np.float64), params["decoder"]
    if "pixels" in decoder:
        out = code
        if decoder.get("mlp"):
            out = np.maximum(dense(decoder["mlp"]["dense1"], code), 0)
        out, last = dense(decoder["pixels"], out), np.asarray(decoder["pixels"]["kernel"])
    else:
        out, last = code @ into.T + np.asarray(decoder["bias"], np.float64), into
    if error == "squared":
        errors = ((out - x) ** 2).sum(axis=1)
    else:
        p = sigmoid(out)
        errors = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=1)
    penalty = l1 * np.abs(code).sum(axis=1).mean() + l2 * ((into**2).sum() + (last**2).sum())
    return errors.mean() + penalty


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("autoencoder", {"method__l1": 0.3}, dict(activation="relu", error="squared", l1=0.3)),
        ("autoencoder", {**LINEAR, "method__l2": 0.2},
         dict(activation="linear", error="squared", l2=0.2)),
        ("denoising-autoencoder", {}, dict(activation="sigmoid", error="cross_entropy")),
    ],
)  # fmt: skip
def test_the_loss_is_that_of_numpy(name, overrides, expected):
    method, w, views = encoded_views(name, **overrides)
    loss, aux = loss_and_aux(method, w, views, key=jax.random.key(0), step=jnp.int32(0))
    np.testing.assert_allclose(loss, oracle(w.params, views, **expected), rtol=1e-5)
    assert aux.outputs["h"].shape == (8, method.hyper.num_latents)


def test_evaluation_sees_whole_images_and_training_corrupted_ones():
    method, w, views = encoded_views("denoising-autoencoder")
    assert (np.asarray(views["input"]) != np.asarray(views["x"])).mean() > 0.05
    batch = {"image": np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)}
    h = method.features(w, batch)["h"]
    expected = sigmoid(dense(w.params["code"]["dense1"], batch["image"].reshape(2, -1) / 255))
    np.testing.assert_allclose(h, expected, rtol=1e-5)
    row = method.held_out(w, jax.random.split(jax.random.key(0), 2), batch)
    pixels = np.asarray(method.pixels(w, h)).reshape(2, -1)
    error = ((pixels - batch["image"].reshape(2, -1) / 255) ** 2).sum(axis=1)
    np.testing.assert_allclose(row["squared_error"], error, rtol=1e-4)


@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_linear_one_finds_the_principal_subspace(tied):
    """Float32: the error is that of PCA to 1e-4 of it, all angles are below 1e-3 radians."""
    if tied:
        overrides = {"method__corruption": "none", "method__error": "squared"}
        overrides |= {"method__activation": "linear", "method__num_latents": 4}
        experiment, source = build("denoising-autoencoder", **overrides)
    else:
        experiment, source = build("autoencoder", **LINEAR, method__num_latents=4)
    method, w = experiment.method, experiment.init_state().weights
    x = source.batch(np.arange(512))["image"].reshape(512, 8, 8, 1) / np.float32(255)
    views = {"x": jnp.asarray(x), "input": jnp.asarray(x)}
    flat, unravel = jax.flatten_util.ravel_pytree(w.params)

    @jax.jit
    def loss(flat):
        weights = Weights(unravel(flat), w.buffers)
        encoded, _ = method.encode(weights, views, key=None, step=None)
        return method.objective(weights, encoded, key=None, step=None)[0]

    value_and_gradient = jax.jit(jax.value_and_grad(loss))

    def in_float64(flat):
        value, gradient = value_and_gradient(jnp.asarray(flat, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    # A small start, so that both factors stay of one size.
    found = scipy.optimize.minimize(
        in_float64, 0.1 * flat, jac=True, method="L-BFGS-B",
        options=dict(maxiter=500, ftol=0, gtol=1e-6),
    )  # fmt: skip
    # Its line search ends where float32 cannot tell losses apart; gradients are still of use.
    descent = optax.sgd(0.03, momentum=0.95)

    def step(carry, _):
        flat, state = carry
        update, state = descent.update(jax.grad(loss)(flat), state)
        return (flat + update, state), None

    start = jnp.asarray(found.x, jnp.float32)
    (flat, _), _ = jax.jit(lambda x: jax.lax.scan(step, (x, descent.init(x)), length=3000))(start)
    params = unravel(flat)
    rows = x.reshape(512, -1).astype(np.float64)
    values, directions = np.linalg.eigh(np.cov(rows.T, ddof=0))
    np.testing.assert_allclose(loss(flat), values[:-4].sum(), rtol=1e-4)
    into = np.asarray(params["code"]["dense1"]["kernel"])
    out = into if tied else np.asarray(params["decoder"]["pixels"]["kernel"]).T
    # The weights into the code are free where no image differs from the mean; those out are not.
    angles = scipy.linalg.subspace_angles(out.astype(np.float64), directions[:, -4:])
    assert angles.max() < 1e-3
    centred = rows - rows.mean(axis=0)
    projected = centred @ directions[:, -4:] @ directions[:, -4:].T
    np.testing.assert_allclose(centred @ into @ out.T, projected, atol=2e-3)


@pytest.mark.parametrize("corruption", ["gaussian", "masking"])
def test_the_linear_optimum_of_corrupted_images(corruption):
    """W = S (S + s^2)^-1 with noise; (1-v) S [(1-v)^2 S + v(1-v) diag S]^-1 with masks.

    There the gradient of the expected loss vanishes. S has second moments about 0, without biases.
    """
    amount, dim = 0.4, 16
    experiment, _ = build(
        "denoising-autoencoder", method__corruption=corruption, method__amount=amount,
        method__error="squared", method__activation="linear", method__tied=False,
        method__num_latents=dim, nets__decoder={"name": "mlp_decoder", "widths": ()},
        data__image_size=4,
    )  # fmt: skip
    method = experiment.method
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(64, dim)) @ rng.normal(size=(dim, dim)) / 4).astype(np.float32)
    moments = x.T.astype(np.float64) @ x / len(x)
    if corruption == "gaussian":
        best = moments @ np.linalg.inv(moments + amount**2 * np.eye(dim))
    else:
        keep = 1 - amount
        noise = amount * keep * np.diag(np.diag(moments))
        best = keep * moments @ np.linalg.inv(keep**2 * moments + noise)

    def params(matrix):
        zero = jnp.zeros(dim)
        eye, kernel = jnp.eye(dim), jnp.asarray(matrix.T, jnp.float32)
        return {
            "encoder": {},
            "code": {"dense1": {"kernel": kernel, "bias": zero}},
            "decoder": {"pixels": {"kernel": eye, "bias": zero}},
        }

    images = jnp.asarray(np.tile(x, (64, 1)).reshape(-1, 4, 4, 1))
    buffers = experiment.init_state().weights.buffers

    @jax.jit
    def gradient(params, key):
        keys = jax.random.split(key, len(images))
        views = {"x": images, "input": method.corrupted(keys, images)}

        def loss(params):
            w = Weights(params, buffers)
            encoded, _ = method.encode(w, views, key=None, step=None)
            return method.objective(w, encoded, key=None, step=None)[0]

        return jax.grad(loss)(params)["code"]["dense1"]["kernel"]

    keys = jax.random.split(jax.random.key(0), 8)
    at_best = np.stack([gradient(params(best), key) for key in keys])
    elsewhere = np.stack([gradient(params(np.eye(dim)), key) for key in keys])
    noise = at_best.std(axis=0).max() / np.sqrt(len(keys))
    assert np.abs(at_best.mean(axis=0)).max() < 6 * noise
    assert np.abs(elsewhere.mean(axis=0)).max() > 15 * noise


def test_the_page_shows_lines_between_codes_beside_lines_between_pixels():
    experiment, source = build("denoising-autoencoder")
    method, w = experiment.method, experiment.init_state().weights
    batch = source.batch(np.arange(3))
    items = jax.jit(method.show)(w, jax.random.split(jax.random.key(0), 3), batch)
    traversals = items.pop("Latent traversals")
    assert set(items) == {"Reconstructions", "Interpolations", "Interpolations of pixels"}
    shown = items["Reconstructions"]
    assert shown.columns == ("corrupted", "reconstruction") and shown.pixels.shape[:2] == (3, 2)
    x = batch["image"].reshape(3, 8, 8, 1) / 255
    path, mixed = items["Interpolations"].pixels, items["Interpolations of pixels"].pixels
    codes = method.features(w, batch)["h"]
    np.testing.assert_allclose(path[:, 0], method.decode(w, codes), atol=1e-5)
    np.testing.assert_allclose(path[0, -1], method.decode(w, codes[1:2])[0], atol=1e-5)
    middle = (codes[2] + codes[0]) / 2
    np.testing.assert_allclose(path[2, 3], method.decode(w, middle[None])[0], atol=1e-5)
    np.testing.assert_allclose(mixed[2, 3], (x[2] + x[0]) / 2, atol=1e-5)
    number, spread = np.asarray(traversals.row_values).T
    np.testing.assert_allclose(spread, np.sort(np.std(codes, axis=0))[::-1][:12], rtol=1e-4)
    moved = np.array(codes[:1])
    moved[0, int(number[1])] -= 3 * spread[1]
    np.testing.assert_allclose(traversals.pixels[1, 0], method.decode(w, moved)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("autoencoder", {"method__tied": True}, "method.tied=True is for autoencoders without hid"),
        ("autoencoder", {"method__tied": True, "model__widths": ()}, "remove nets.decoder"),
        ("autoencoder", {"method__l2": 0.1, "model__widths": ()}, "set nets.decoder.name=mlp_deco"),
        ("denoising-autoencoder", {"method__tied": False}, "an autoencoder needs nets.decoder"),
        ("autoencoder", {"views__ops": ("normalize",)}, "remove normalize from views.ops"),
        ("denoising-autoencoder", {"method__amount": 1.5}, "method.amount=1.5 is the share"),
        ("denoising-autoencoder", {"method__corruption": "salt"}, "use one of .*salt_and_pepper"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, overrides, message):
    with pytest.raises(UserError, match=message) as told:
        build(name, **overrides)
    assert "\n" not in str(told.value)
