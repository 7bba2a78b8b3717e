"""Context encoders: the two losses and whose parameters they move, the band, the pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import losses
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import loss_and_aux
from tests.methods import paper_scale
from tests.methods.contract import views_of
from tests.methods.test_methods import build, fresh_build, run

KEY = jax.random.key(1)
STEP = jnp.int32(0)


@pytest.fixture(scope="module")
def tiny():
    return build("context-encoder")


@pytest.fixture(scope="module")
def given(tiny):
    """Weights, and views of 8 images."""
    experiment, source = tiny
    keys = jax.random.split(jax.random.key(0), 8)
    views = views_of(experiment.method, keys, source.batch(range(8)))
    return experiment.init_state().weights, views


@pytest.fixture(scope="module")
def step(tiny, given):
    """The loss, what comes with it, its gradients, and gradients of the losses by themselves."""
    method, (w, views) = tiny[0].method, given

    def generator(params):
        """The predicted middle, 8x8 of 16x16, and its error: written out for a hole of 6x6."""
        w_now = w._replace(params=params)
        _, predicted, _ = method._generate(w_now, views, train=True)
        target = views["x"][:, 4:12, 4:12]
        weight = jnp.full((8, 8, 8), 10.0).at[:, 1:7, 1:7].set(1.0)
        error = jnp.mean(weight[..., None] * (predicted - target) ** 2)
        return error, (predicted, target)

    def adversarial(params):
        _, (predicted, _) = generator(params)
        fixed = (w.params["discriminator"], w.buffers["discriminator"])
        logits, _ = method.discriminator.apply(*fixed, predicted, train=True)
        return jnp.mean(-jax.nn.log_sigmoid(logits)), logits

    def discriminator(params):
        _, (predicted, target) = generator(w.params)
        buffers = w.buffers["discriminator"]
        real, fake = (
            method.discriminator.apply(params["discriminator"], buffers, x, train=True)[0]
            for x in (target, predicted)
        )
        return jnp.mean(-jax.nn.log_sigmoid(real) - jax.nn.log_sigmoid(-fake)), (real, fake)

    @jax.jit
    def everything(params):
        def loss(params):
            return loss_and_aux(method, w._replace(params=params), views, key=KEY, step=STEP)

        return {
            "step": jax.value_and_grad(loss, has_aux=True)(params),
            "l2": jax.value_and_grad(generator, has_aux=True)(params),
            "adversarial": jax.value_and_grad(adversarial, has_aux=True)(params),
            "discriminator": jax.value_and_grad(discriminator, has_aux=True)(params),
        }

    return everything(w.params)


def test_one_scalar_gives_each_player_the_gradient_of_its_own_loss(step):
    (loss, aux), grads = step["step"]
    (l2, _), l2_grads = step["l2"]
    (adversarial, _), adversarial_grads = step["adversarial"]
    (critic, (real, fake)), critic_grads = step["discriminator"]
    np.testing.assert_allclose(aux.metrics["l2"], l2, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["adversarial_loss"], adversarial, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["discriminator_loss"], critic, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.999 * l2 + 0.001 * adversarial + critic, rtol=1e-5)
    right = (np.asarray(real) > 0).mean() / 2 + (np.asarray(fake) < 0).mean() / 2
    np.testing.assert_allclose(aux.metrics["discriminator_accuracy"], right)
    for net in ("encoder", "decoder"):
        expected = jax.tree.map(
            lambda a, b: 0.999 * a + 0.001 * b, l2_grads[net], adversarial_grads[net]
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
            grads[net],
            expected,
        )
        assert any(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(adversarial_grads[net]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        grads["discriminator"],
        critic_grads["discriminator"],
    )


def test_without_adversarial_weight_the_gradient_is_that_of_the_squared_error(tiny, given, step):
    w, views = given
    method = build("context-encoder", method__adversarial_weight=0.0)[0].method
    assert method.discriminator is None
    params = {name: w.params[name] for name in ("encoder", "decoder")}
    buffers = {name: w.buffers[name] for name in ("encoder", "decoder")}

    @jax.jit
    def gradients(params):
        def loss(params):
            now = w._replace(params=params, buffers=buffers)
            return loss_and_aux(method, now, views, key=KEY, step=STEP)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, aux), grads = gradients(params)
    (l2, _), expected = step["l2"]
    np.testing.assert_allclose(loss, l2, rtol=1e-5)
    assert "discriminator_loss" not in aux.metrics
    for net in params:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
            grads[net],
            expected[net],
        )


def test_the_hole_is_hidden_from_the_encoder_and_the_band_is_not(tiny, given):
    method, (w, views) = tiny[0].method, given
    hole = np.asarray(views["hole"])
    assert hole.sum() == 8 * 36 and hole[:, 5:11, 5:11].all()
    weight = np.asarray(method._weights(views["hole"]))
    assert (weight == 10).sum() == 8 * 28 and (weight == 1).sum() == 8 * 36
    assert not weight.sum(where=~np.pad(np.ones((8, 8, 8), bool), ((0, 0), (4, 4), (4, 4))))
    generate = jax.jit(lambda views: method._generate(w, views, train=False)[:2])
    other = {**views, "x": jnp.where(views["hole"][..., None], 0.7, views["x"])}
    for a, b in zip(generate(views), generate(other), strict=True):
        np.testing.assert_array_equal(a, b)
    band = jnp.asarray(weight == 10)
    other = {**views, "x": jnp.where(band[..., None], 0.7, views["x"])}
    assert np.abs(generate(views)[1] - generate(other)[1]).max() > 1e-6


def test_the_page_shows_input_output_and_truth(tiny, given):
    experiment, source = tiny
    batch = source.batch(range(3))
    keys = jax.random.split(jax.random.key(0), 3)
    item = jax.jit(experiment.method.show)(given[0], keys, batch)["Filled holes"]
    assert item.pixels.shape == (3, 3, 16, 16, 3)
    filled, output, truth = np.moveaxis(np.asarray(item.pixels), 1, 0)
    np.testing.assert_allclose(truth, batch["image"] / 255, atol=1e-3)
    hole = np.zeros((16, 16), bool)
    hole[5:11, 5:11] = True
    np.testing.assert_allclose(
        filled[:, hole], np.broadcast_to([117, 104, 123], (3, 36, 3)) / 255, atol=1e-5
    )
    for images in (filled, output):
        np.testing.assert_array_equal(images[:, ~hole], truth[:, ~hole])


def test_the_two_players_have_their_own_rates():
    experiment = paper_scale.build("context_encoder.py:imagenet")
    rates = experiment.groups.rates(1000)
    assert rates["learning_rate"] == pytest.approx(2e-3)
    assert rates["learning_rate/discriminator"] == pytest.approx(2e-4)
    assert experiment.groups.group("discriminator").section.b1 == 0.5
    method = experiment.method
    assert method.region == (64, 64) and method.hyper.overlap == 4
    groups = {method.param_group(f"{net}/x") for net in ("encoder", "decoder")}
    assert groups == {"default"} and method.param_group("discriminator/x") == "discriminator"


def test_alexnet_fills_random_regions_without_a_discriminator():
    experiment = paper_scale.build("context_encoder.py:imagenet_alexnet")
    method, params = experiment.method, experiment.abstract_state.params
    assert set(params) == {"encoder", "decoder"} and method.region == (224, 224)
    # m channels of n x n positions, here 7x7: m n^4 weights.
    assert params["decoder"]["channel_wise"]["kernel"].size == 256 * 7**4
    stages = [name for name in params["decoder"] if name.startswith("stage") and "_" not in name]
    assert len(stages) + 1 == 5  # transposed convolutions, with that of the pixels
    assert experiment.groups.rates(1000)["learning_rate"] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method__overlap": 4}, "method.overlap=4 leaves no hole: .* has 8 pixels; use at most 3"),
        ({"method__mask": "centre"}, "method.mask.*'centre'.*center"),
        ({"nets__decoder__channels": (8, 4)}, "predicts 16x16 pixels from a map of 4x4; .* 8x8"),
        ({"model__channels": (4,) * 5}, "views of 16x16 pixels are too small for the 5 stages"),
        ({"nets__discriminator__channels": (4,) * 4}, "discriminator halves 8x8 pixels 4 times"),
        ({"method__fill": (0.1, 0.2)}, "method.fill=.* has 2 values for images of 3 channels"),
        ({"views__ops": ("normalize",)}, "remove normalize from views.ops"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("context-encoder", **overrides)


@pytest.mark.slow
def test_500_steps_neither_diverge_nor_stop_learning():
    """At the end the discriminator is neither blind nor perfect, and holes are better than flat."""
    experiment, source = fresh_build(
        "context-encoder",
        batch_size=32,
        steps=500,
        data__options__num_generated=512,
        model__channels=(16, 32),
        nets__decoder__channels=(32,),
        nets__decoder__bottleneck=64,
        nets__discriminator__channels=(8, 16),
        views__ops=("random_resized_crop", "flip"),
        views__random_resized_crop__size=16,
    )
    state, history = run(experiment, source, 500)
    last = [metrics for metrics, _ in history[-50:]]
    accuracy = np.mean([m["discriminator_accuracy"] for m in last])
    assert 0.5 <= accuracy <= 0.95, accuracy
    assert all(np.isfinite(m["loss"]) for m, _ in history)
    assert np.mean([m["l2"] for m in last]) < 0.5 * np.mean([m["l2"] for m, _ in history[:10]])
    batch = source.batch(range(64))
    x = batch["image"].astype(np.float32) / 255
    hole = np.zeros((64, 16, 16), np.float32)
    hole[:, 5:11, 5:11] = 1
    mean = np.broadcast_to(x.mean(axis=(0, 1, 2)), x.shape)
    flat = float(np.mean(losses.psnr(mean, x, hole)))
    held_out = jax.jit(experiment.method.held_out)
    keys = jax.random.split(jax.random.key(0), 64)
    psnr = float(np.mean(held_out(state.weights, keys, batch)["psnr"]))
    assert psnr > flat + 1, (psnr, flat)
