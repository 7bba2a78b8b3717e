"""MAE's own facts: masks, patches, its step, cost of the encoder, parameters, recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import count_parameters
from ssl_jax.models.patches import patchify, unpatchify
from tests.methods import paper_scale
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.test_methods import build


@pytest.fixture(scope="module")
def tiny():
    return build("mae")


@pytest.fixture(scope="module")
def given(tiny):
    """Weights and views of 8 images."""
    experiment, source = tiny
    keys = jax.random.split(jax.random.key(0), 8)
    return experiment.init_state().weights, views_of(
        experiment.method, keys, source.batch(range(8))
    )


@pytest.fixture(scope="module")
def predict(tiny):
    return jax.jit(functools.partial(tiny[0].method._predict, train=True))


def test_a_step_is_the_papers_equations(tiny, given, predict):
    """The error of normalised pixels, over hidden patches alone, in float64."""
    method, (w, views) = tiny[0].method, given
    _, predicted, _ = predict(w, views)
    loss, aux = jax.jit(functools.partial(loss_and_aux, method))(
        w, views, key=jax.random.key(1), step=jnp.int32(0)
    )
    terms = []
    x, orders, predicted = map(np.asarray, (views["x"], views["order"], predicted))
    for image, order, of_image in zip(x, orders, predicted, strict=True):
        image = np.asarray(image, np.float64)
        for number in np.asarray(order)[4:]:  # of 16 patches
            row, column = divmod(int(number), 4)
            patch = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].ravel()
            target = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            terms.append(np.mean((np.asarray(of_image[number]) - target) ** 2))
    assert len(terms) == 8 * 12
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    assert aux.weight == 8 and set(aux.outputs) == {"h"}


def test_the_encoder_does_not_depend_on_hidden_pixels(tiny, given, predict):
    """And the predictions at hidden places depend on the visible ones alone."""
    method, (w, views) = tiny[0].method, given
    place = jnp.argsort(views["order"], axis=1)
    hidden = (place >= method.num_visible)[:, :, None]
    patches = patchify(views["x"], 4)
    other = unpatchify(jnp.where(hidden, 9.0, patches), method.view.shape, 4)
    h, predicted, _ = predict(w, views)
    h_other, predicted_other, _ = predict(w, {**views, "x": other})
    np.testing.assert_array_equal(h_other, h)
    np.testing.assert_array_equal(predicted_other, predicted)
    seen = unpatchify(jnp.where(hidden, patches, 9.0), method.view.shape, 4)
    assert np.abs(predict(w, {**views, "x": seen})[0] - h).max() > 1e-3


def test_masks_are_an_examples_own_and_uniform(tiny, given):
    """A quarter is visible; every place equally often."""
    _, views = given
    orders = np.asarray(views["order"])
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(16), (8, 1)))
    assert len(np.unique(orders, axis=0)) == 8
    keys = jax.random.split(jax.random.key(3), 4000)
    many = np.asarray(jax.jit(tiny[0].method._orders)(keys))[:, :4]
    share = np.bincount(many.ravel(), minlength=16) / 4000
    np.testing.assert_allclose(share, 0.25, atol=0.03)


@pytest.mark.parametrize("shape", [(16, 16, 1), (8, 12, 3)])
def test_patches_and_images_are_inverses(shape):
    images = jax.random.normal(jax.random.key(0), (2, *shape))
    patches = patchify(images, 4)
    assert patches.shape == (2, shape[0] * shape[1] // 16, 16 * shape[2])
    np.testing.assert_array_equal(patches[1, 1], images[1, :4, 4:8].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, shape, 4), images)
    with pytest.raises(ValueError, match="patches of 5 do not tile"):
        patchify(images, 5)


@pytest.fixture(scope="module")
def imagenet():
    return paper_scale.build("mae.py:imagenet")


@pytest.mark.slow
def test_147_of_196_patches_are_hidden_and_parameters_are_the_released_ones(imagenet):
    method = imagenet.method
    assert (method.num_patches, method.num_patches - method.num_visible) == (196, 147)
    assert count_parameters(imagenet.abstract_state.params) == 111_655_680
    large = paper_scale.build("mae.py:imagenet_l").abstract_state.params
    assert count_parameters(large) == 329_239_296


def test_the_encoder_costs_less_than_a_third_of_a_full_one():
    """Floating-point operations of its matrix products, at the paper's size but for the depth."""
    imagenet = paper_scale.build("mae.py:imagenet", model__depth=4)
    method = imagenet.method
    state = imagenet.abstract_state

    def encode(params, buffers, x, keep=None):
        inputs = (x,) if keep is None else (x, keep)
        return method.encoder.apply(params, buffers, *inputs, train=True)[0][0]

    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    keep = jax.ShapeDtypeStruct((2, method.num_visible), jnp.int32)
    arrays = state.params["encoder"], state.buffers["encoder"], x
    costs = [
        jax.jit(encode).lower(*more).cost_analysis()["flops"] for more in (arrays, (*arrays, keep))
    ]
    assert costs[1] / costs[0] < 0.30, costs


def test_the_imagenet_recipe_is_the_released_one(imagenet):
    config, length = imagenet.config, imagenet.length
    assert (config.batch_size, length.total_steps) == (4096, 1600 * (1_281_167 // 4096))
    rate = imagenet.groups.default.learning_rate
    np.testing.assert_allclose(rate(40 * length.steps_per_epoch), 2.4e-3, rtol=1e-5)
    np.testing.assert_allclose(rate(length.total_steps), 0, atol=1e-9)
    optimizer = config.optimizer
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.05)
    assert tuple(config.data.host_crops["global"].scale) == (0.2, 1.0)
    decoder = imagenet.method.decoder.module
    assert (decoder.dim, decoder.depth, decoder.num_heads, decoder.values) == (512, 8, 16, 768)


def test_the_page_shows_visible_patches_as_they_are(tiny, given):
    experiment, source = tiny
    keys = jax.random.split(jax.random.key(0), 4)
    batch = source.batch(range(4))
    item = jax.jit(experiment.method.show)(given[0], keys, batch)["Reconstructions"]
    assert item.pixels.shape == (4, 2, 16, 16, 1)
    assert item.columns == ("visible", "reconstruction")
    order = jax.jit(experiment.method._orders)(keys)
    for row in range(4):
        pasted, original = (
            patchify(x, 4)[0] for x in (item.pixels[row, 1:], item.inputs[row][None])
        )
        visible = np.asarray(order[row, :4])
        np.testing.assert_allclose(pasted[visible], original[visible], atol=1e-6)
    assert item.pixels.min() >= 0 and item.pixels.max() <= 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method__mask_ratio": 0.99}, "method.mask_ratio=0.99 of 16 patches leaves 0 visible"),
        ({"model__patch_size": 5}, "views of 16x16 pixels do not divide .*model.patch_size=5"),
        ({"model__pool": "mean"}, "MAE needs a ViT whose h is its class token"),
        ({"nets__decoder__num_heads": 3}, "nets.decoder.dim 16 does not divide into 3 heads"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("mae", **overrides)
