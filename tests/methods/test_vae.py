"""The VAE's own facts: its bound against NumPy, its noise, its schedule, its held-out scores."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ssl_jax import checkpoint, data, losses, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment, held_out_keys
from tests.methods.contract import encode, loss_and_aux, views_of
from tests.methods.table import ROWS
from tests.methods.test_methods import batches, build, run

SGD = dict(
    optimizer__name="sgd",
    optimizer__base_lr=1e-3,
    optimizer__schedule="constant",
    optimizer__warmup_epochs=0.0,
)
LINEAR = dict(
    method__likelihood="gaussian",
    method__pixel_mean="linear",
    method__learn_noise=True,
    model__widths=(),
    nets__decoder__widths=(),
)


@functools.cache
def first_weights(overrides):
    return build("vae", **dict(overrides))[0].init_state().weights


def start(**overrides):
    """The method, its first weights and a batch of eight digits."""
    experiment, source = build("vae", **overrides)
    of_another_net = {"method__learn_noise", "model__widths"} & set(overrides)
    w = first_weights(tuple(overrides.items()) if of_another_net else ())
    return experiment.method, w, source.batch(np.arange(8))


def loss_of(method, w, views, step=0):
    return loss_and_aux(method, w, views, key=jax.random.key(0), step=jnp.int32(step))


# -------------------------------------------------------------------------------- the loss in NumPy


def dense(params, x):
    return x @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def oracle(params, x, noise, *, beta=1.0, free_nats=0.0, std=None):
    """The loss of an MLP with tanh from its weights, float64; a `std` means Gaussian pixels."""
    x, noise = np.asarray(x, np.float64), np.asarray(noise, np.float64)
    flat = x.reshape(len(x), -1)
    h = np.tanh(dense(params["encoder"]["mlp"]["dense1"], flat))
    mean, log_var = np.split(dense(params["posterior"]["dense1"], h), 2, axis=1)
    z = mean + np.exp(log_var / 2) * noise
    h = np.tanh(dense(params["decoder"]["mlp"]["dense1"], z))
    share = 1 / (1 + np.exp(-dense(params["decoder"]["pixels"], h)))
    if std is None:
        pixels = flat * np.log(share) + (1 - flat) * np.log(1 - share)
    else:
        pixels = -0.5 * ((flat - share) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    kl = 0.5 * (mean**2 + np.exp(log_var) - log_var - 1)
    return np.mean(-pixels.sum(1) + beta * np.maximum(kl, free_nats).sum(1))


CASES = {
    "vae": ({}, {}),
    "beta": (dict(method__beta=4.0, method__free_nats=0.05), dict(beta=4.0, free_nats=0.05)),
    "gaussian": (dict(method__likelihood="gaussian", method__noise_std=0.3), dict(std=0.3)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_matches_the_oracle(case):
    overrides, arguments = CASES[case]
    method, w, batch = start(**overrides)
    views = views_of(method, jax.random.split(jax.random.key(1), 8), batch)
    loss, aux = loss_of(method, w, views)
    np.testing.assert_allclose(
        loss, oracle(w.params, views["x"], views["noise"], **arguments), rtol=1e-6
    )
    terms = {name: aux.metrics[name] for name in ("elbo", "reconstruction", "kl")}
    expected = -terms["reconstruction"] - terms["kl"]
    np.testing.assert_allclose(terms["elbo"], expected, rtol=1e-6)
    np.testing.assert_allclose(aux.weight, 8)


def test_the_gradient_matches_finite_differences_of_the_oracle():
    method, w, batch = start()
    views = views_of(method, jax.random.split(jax.random.key(1), 8), batch)
    grads = by_path(
        jax.jit(jax.grad(lambda params: loss_of(method, w._replace(params=params), views)[0]))(
            w.params
        )
    )
    params = jax.tree.map(lambda leaf: np.array(leaf, np.float64), w.params)
    for path, leaf in by_path(params).items():
        flat = leaf.reshape(-1)  # a view
        for index in np.linspace(0, flat.size - 1, 3).astype(int):
            values, kept = [], flat[index]
            for sign in (1, -1):
                flat[index] = kept + sign * 1e-5
                values.append(oracle(params, views["x"], views["noise"]))
            flat[index] = kept
            expected = (values[0] - values[1]) / 2e-5
            np.testing.assert_allclose(
                np.ravel(grads[path])[index], expected, rtol=2e-4, atol=2e-5, err_msg=path
            )


def test_a_linear_vae_reaches_the_likelihood_of_probabilistic_pca():
    """At the weights that PCA gives, the bound is tight and its gradient is zero.

    Tipping & Bishop 1999: x ~ N(m, W W' + s^2 I), W = U (L - s^2)^1/2, s^2 the mean of the left out
    eigenvalues; the posterior of z has the covariance s^2 (W'W + s^2)^-1, which is diagonal.
    """
    method, w, _ = start(**LINEAR, method__num_latents=3, batch_size=16)
    rng = np.random.default_rng(0)
    spread = np.concatenate([[0.3, 0.2, 0.1], np.full(61, 0.02)])
    x = 0.5 + rng.normal(size=(200, 64)) * spread @ np.linalg.qr(rng.normal(size=(64, 64)))[0]
    centre = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False, ddof=0))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[3:].mean()
    weight = vectors[:, :3] * np.sqrt(values[:3] - noise)  # (64, 3)
    precision = values[:3]  # of W'W + s^2
    covariance = weight @ weight.T + noise * np.eye(64)
    log_likelihood = -0.5 * (
        64 * math.log(2 * math.pi)
        + np.linalg.slogdet(covariance)[1]
        + np.einsum("ni,ij,nj->n", x - centre, np.linalg.inv(covariance), x - centre)
    )
    kernel = np.concatenate([weight / precision, np.zeros((64, 3))], axis=1)
    log_var = np.log(noise / precision)
    params = {
        **w.params,
        "posterior": {
            "dense1": {
                "kernel": kernel, "bias": np.concatenate([-centre @ kernel[:, :3], log_var]),
            }
        },
        "decoder": {"pixels": {"kernel": weight.T, "bias": centre}},
        "noise": {"log_scale": np.log(noise) / 2},
    }  # fmt: skip
    params = jax.tree.map(jnp.float32, params)
    assert jax.tree.structure(params) == jax.tree.structure(w.params)
    # Each z with its opposite, so that what is odd in the noise cancels.
    half = rng.normal(size=(40 * 200, 3))
    half /= np.sqrt((half**2).mean(0))
    views = {
        "x": np.tile(x.reshape(200, 8, 8, 1), (80, 1, 1, 1)).astype(np.float32),
        "noise": np.concatenate([half, -half]).astype(np.float32),
    }
    (loss, _), grads = jax.value_and_grad(
        lambda params: loss_of(method, w._replace(params=params), views), has_aux=True
    )(params)
    np.testing.assert_allclose(-loss, log_likelihood.mean(), rtol=2e-4)
    # Off the optimum the derivative by log s alone is about 64 a unit.
    assert abs(float(grads["noise"]["log_scale"])) < 0.1
    for path, grad in by_path(grads).items():
        assert np.abs(grad).max() < 0.5, path
    # The posterior is exact: each importance weight is the likelihood.
    images = np.round(255 * x[:4].reshape(4, 8, 8, 1)).astype(np.uint8)
    pixels = images.reshape(4, 64) / 255 - centre
    squares = np.einsum("ni,ij,nj->n", pixels, np.linalg.inv(covariance), pixels)
    constant = 64 * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1]
    weights = log_weights(method, w._replace(params=params), images, count=5)
    np.testing.assert_allclose(weights, np.tile(-(constant + squares) / 2, (5, 1)), rtol=1e-3)


def log_weights(method, w, images, *, first=0, count):
    keys = jax.random.split(jax.random.key(0), len(images))
    run = jax.jit(method.log_weights, static_argnames="count")
    return np.asarray(run(w, keys, {"image": images}, first, count=count))


def test_samples_have_their_numbers_noise_and_the_bound_rises_with_them():
    method, w, batch = start()
    params = jax.tree.map(lambda p: 1.5 * p, w.params)  # a posterior that is not the prior
    w, images = w._replace(params=params), np.asarray(batch["image"])
    weights = log_weights(method, w, images, count=64)
    np.testing.assert_allclose(
        log_weights(method, w, images, first=60, count=4), weights[60:], rtol=1e-5
    )
    assert len(np.unique(weights)) == weights.size
    bounds = [
        np.mean(scipy.special.logsumexp(weights.reshape(-1, k, len(images)), axis=1) - math.log(k))
        for k in (1, 4, 16, 64)
    ]
    assert np.all(np.diff(bounds) > 0)
    # With one sample it is the bound of a VAE, in expectation.
    keys = jax.random.split(jax.random.key(0), len(images))
    terms, _ = method._terms(w, method._add_noise(keys, images / np.float32(255)), train=False)
    elbo = terms["log_likelihood"] - terms["kl"].sum(axis=1)
    np.testing.assert_allclose(bounds[0], elbo.mean(), atol=4 * weights.std(axis=0).max() / 8)


# ---------------------------------------------------------------------------------------- the noise


def test_noise_is_the_examples_own():
    """Neither the other examples nor their number change it; another key does."""
    method, _, batch = start()
    keys = jax.random.split(jax.random.key(3), 8)
    views = views_of(method, keys, batch)
    few = views_of(method, keys[5:], jax.tree.map(lambda x: x[5:], batch))
    np.testing.assert_array_equal(views["noise"][5:], few["noise"])
    many = views_of(
        method, jax.random.split(jax.random.key(4), 1000), {"image": batch["image"][[0] * 1000]}
    )["noise"]
    assert abs(np.mean(many)) < 0.05 and abs(np.std(many) - 1) < 0.05
    assert len(np.unique(many)) > 0.99 * many.size


def test_the_features_have_no_noise_and_are_the_posteriors_mean():
    method, w, batch = start()
    features = jax.jit(method.features)(w, batch)
    views = {**views_of(method, jax.random.split(jax.random.key(0), 8), batch)}
    encoded, _ = encode(method, w, views)
    np.testing.assert_allclose(features["h"], encoded["mean"], rtol=1e-6)
    kl = losses.gaussian_kl(features["h"], features["log_var"])
    np.testing.assert_allclose(kl, encoded["kl"], rtol=1e-5, atol=1e-7)
    logged = loss_of(method, w, views)[1].metrics  # the KL of each latent, and their sum
    of_latents = [logged[f"latent_kl/{number}"] for number in range(4)]
    np.testing.assert_allclose(of_latents, np.mean(np.asarray(kl), axis=0), rtol=1e-5)
    np.testing.assert_allclose(np.sum(of_latents), logged["kl"], rtol=1e-5)


def test_binarized_pixels_are_black_or_white_with_the_grey_value_as_probability():
    method, _, batch = start(method__binarize=True)
    grey = np.asarray(batch["image"][0], np.float32) / 255
    same = {"image": np.repeat(batch["image"][:1], 4000, axis=0)}
    x = views_of(method, jax.random.split(jax.random.key(0), 4000), same)["x"]
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_allclose(np.mean(x, axis=0), grey, atol=0.04)
    np.testing.assert_array_equal(np.std(x, axis=0)[grey == 0], 0)


# -------------------------------------------------------------------------------- weights of the KL


def test_beta_rises_linearly_by_step():
    experiment, source = build("vae", method__beta=4.0, method__beta_warmup_epochs=2.0)
    steps = 2 * experiment.length.steps_per_epoch
    betas = [float(experiment.method.beta(jnp.int32(s))) for s in (0, steps // 2, steps, 9 * steps)]
    np.testing.assert_allclose(betas, [0, 4 * (steps // 2) / steps, 4, 4], rtol=1e-6)
    _, history = run(experiment, source, 2)
    np.testing.assert_allclose([m["beta"] for m, _ in history], [0, 4 / steps], rtol=1e-6)
    assert build("vae", method__beta=4.0)[0].method.beta(jnp.int32(0)) == 4


@pytest.mark.slow
def test_a_large_beta_collapses_the_posterior_and_it_is_seen():
    changes = dict(optimizer__name="adamw", optimizer__base_lr=1e-2, optimizer__schedule="constant")
    counts = {}
    for beta in (1.0, 1000.0):
        _, history = run(*build("vae", method__beta=beta, **changes), 150)
        metrics = history[-1][0]
        counts[beta] = float(metrics["active_latents"])
        assert metrics["kl"] > 1 if beta == 1 else metrics["kl"] < 0.05
    assert counts[1000.0] == 0 < counts[1.0]


# ------------------------------------------------------------------- devices, micro-batches, resume


@functools.cache
def three_steps(devices=1, micro=None):
    options = dict(method__binarize=True, method__beta_warmup_epochs=0.1, **SGD)
    return run(*build("vae", devices, micro_batch_size=micro, **options), 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices, micro", [(1, 4), (8, None), (4, 8)], ids=["micro", "devices", "both"]
)
def test_devices_and_micro_batches_change_nothing(devices, micro):
    """Three steps with warm-up, binarised pixels: each example's draws are its own."""
    whole, history = three_steps()
    split, other = three_steps(devices, micro)
    for path, leaf in by_path(whole.params).items():
        np.testing.assert_allclose(by_path(split.params)[path], leaf, atol=2e-6, err_msg=path)
    for (metrics, outputs), (other_metrics, other_outputs) in zip(history, other, strict=True):
        for name in ("loss", "elbo", "kl", "beta"):
            np.testing.assert_allclose(other_metrics[name], metrics[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(other_outputs["h"], outputs["h"], rtol=1e-4, atol=1e-6)


def test_a_run_resumes_bit_for_bit(tmp_path):
    experiment, source = build("vae", method__learn_noise=True, method__likelihood="gaussian")
    whole, _ = run(experiment, source, 4)
    half, _ = run(experiment, source, 2)
    with checkpoint.Checkpointer(tmp_path) as saves:
        saves.save(2, half, wait=True)
        state, _ = saves.restore(experiment.abstract_state)
    with jax.set_mesh(experiment.mesh):
        for number, batch in enumerate(batches(experiment, source, 4)):
            if number >= 2:
                state, *_ = experiment.compiled_train_step(state, batch)
    for (path, leaf), other in zip(by_path(whole).items(), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=path)


# ----------------------------------------------------------------------------------------- held out


@pytest.mark.parametrize("case", ["vae", "gaussian"])
def test_held_out_scores_are_the_bound_of_each_image(case):
    overrides, arguments = CASES[case]
    method, w, batch = start(**overrides)
    keys = held_out_keys(batch["index"])
    rows = jax.device_get(jax.jit(method.held_out)(w, keys, batch))
    noise = views_of(method, keys, batch)["noise"]
    for number in (0, 3):
        one = slice(number, number + 1)
        x = np.asarray(batch["image"][one], np.float64) / 255
        expected = -oracle(w.params, x, noise[one], **arguments)
        np.testing.assert_allclose(rows["elbo"][number], expected, rtol=1e-5)
        bits = -expected / math.log(2) / 64 + (math.log2(255) if case == "gaussian" else 0)
        np.testing.assert_allclose(rows["bits_per_dim"][number], bits, rtol=1e-5)
    np.testing.assert_allclose(rows["elbo"], -rows["reconstruction"] - rows["kl"], rtol=1e-6)


def test_bits_of_uniform_noise_are_eight():
    """A Gaussian as wide as the pixels' own spread, of images that no latent describes."""
    method, w, _ = start(method__likelihood="gaussian", method__noise_std=math.sqrt(1 / 12))
    image = np.random.default_rng(0).integers(0, 256, size=(64, 8, 8, 1)).astype(np.uint8)
    params = jax.tree.map(np.zeros_like, w.params)  # the posterior is the prior, the mean 1/2
    rows = jax.jit(method.held_out)(
        w._replace(params=params), jax.random.split(jax.random.key(0), 64), {"image": image}
    )
    # The entropy of N(0, 1/12) is log2(2 pi e / 12) / 2 = 0.25 bits above that of the uniform one.
    np.testing.assert_allclose(np.mean(rows["bits_per_dim"]), math.log2(255) + 0.26, atol=0.03)
    np.testing.assert_array_equal(rows["kl"], 0)


def test_what_is_shown_is_decoded_from_the_posterior_and_the_prior():
    method, w, batch = start()
    shown = jax.device_get(jax.jit(method.show)(w, jax.random.split(jax.random.key(0), 8), batch))
    features, decode = jax.jit(method.features)(w, batch), jax.jit(method.decode)
    expected = np.asarray(decode(w, features["h"]))
    reconstructed = shown["Reconstructions"]
    np.testing.assert_allclose(reconstructed.pixels[:, 0], expected, atol=1e-6)
    np.testing.assert_allclose(reconstructed.inputs, batch["image"] / 255, atol=1e-6)
    traversals = shown["Latent traversals"]
    assert traversals.pixels.shape == (4, 7, 8, 8, 1) and len(traversals.rows) == 4
    for row in range(4):  # the middle is the image itself
        np.testing.assert_allclose(traversals.pixels[row, 3], expected[0], atol=1e-6)
    latent, kl = np.asarray(traversals.row_values).T
    mean_kl = np.mean(losses.gaussian_kl(features["h"], features["log_var"]), axis=0)
    np.testing.assert_allclose(kl, np.sort(mean_kl)[::-1], rtol=1e-5)
    moved = np.array(features["h"][:1])
    moved[0, int(latent[0])] += 2
    np.testing.assert_allclose(traversals.pixels[0, 5], decode(w, moved)[0], atol=1e-6)
    samples = shown["Samples"].pixels
    assert samples.shape == (8, 8, 8, 8, 1) and np.ptp(samples, axis=(0, 1)).max() > 1e-3


# ----------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "overrides, message",
    [
        (dict(method__learn_noise=True), "learn_noise=True is for method.likelihood=gaussian"),
        (
            dict(method__likelihood="gaussian", method__binarize=True),
            "binarize=True is for method.likelihood=bernoulli",
        ),
        (dict(method__beta=-1.0), "method.beta is -1"),
        (dict(method__likelihood="poisson"), "method.likelihood is 'poisson'"),
        (dict(views__ops=("normalize",)), "remove normalize from views.ops"),
        (
            dict(nets__decoder__name="convnet"),
            "nets.decoder.name is 'convnet'; use one of mlp_decoder",
        ),
        (dict(nets__decoder__width=(3,)), "nets.decoder.width.*Did you mean 'widths'"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value.split()[0],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("vae", **overrides)


def test_a_decoder_that_does_not_fit_the_images_is_named():
    config = ROWS["vae"].load()
    with config.unlocked():
        config.nets.decoder = dict(name="conv_decoder")
    spec = data.from_config(config.data, seed=0).spec
    with pytest.raises(UserError, match="multiples of 16; they are 8x8"):
        Experiment.build(config, spec, parallel.make_mesh(devices=jax.devices()[:1]))
