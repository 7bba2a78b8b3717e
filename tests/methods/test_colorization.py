"""Colorization: its step, the frequencies of colours, grey images, the net's parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.experiment.refresh import Refresher
from ssl_jax.methods import colorization
from ssl_jax.models import count_parameters, make_encoder, make_map_decoder
from ssl_jax.models.stages import last_map_shape
from ssl_jax.views.color_bins import in_gamut_bins
from ssl_jax.views.lab import lab_to_rgb, rgb_to_lab
from tests.methods import paper_scale
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.test_methods import build


@pytest.fixture(scope="module")
def tiny():
    return build("colorization")


@pytest.fixture(scope="module")
def state(tiny):
    experiment, source = tiny
    with jax.set_mesh(experiment.mesh):
        return Refresher(experiment, source)(experiment.init_state(), 0)


@pytest.fixture(scope="module")
def lab(tiny):
    """Views of 8 images; the last one is almost grey."""
    experiment, source = tiny
    keys = jax.random.split(jax.random.key(0), 8)
    lab = np.array(views_of(experiment.method, keys, source.batch(range(8))))
    lab[7, ..., 1:] *= 4 / np.abs(lab[7, ..., 1:]).max()
    return lab


def oracle_targets(lab):
    """Of every fourth pixel (strides 2, 2, 2, 1 and twice the map), in float64: [n h w q]."""
    ab, bins = lab[:, ::4, ::4, 1:].astype(np.float64), in_gamut_bins().astype(np.float64)
    squared = ((ab[..., None, :] - bins) ** 2).sum(axis=-1)
    order = np.argsort(squared, axis=-1, kind="stable")[..., :10]
    weights = np.exp(-np.take_along_axis(squared, order, axis=-1) / 50)
    target = np.zeros(squared.shape)
    np.put_along_axis(target, order, weights / weights.sum(axis=-1, keepdims=True), axis=-1)
    return target


def test_a_step_is_the_papers_equations(tiny, state, lab):
    method, w = tiny[0].method, state.weights
    assert method.stride == 4
    h, logits, _ = jax.jit(functools.partial(method._predict, train=True))(w, lab[..., :1])
    loss, aux = loss_and_aux(method, w, lab, key=jax.random.key(1), step=0)
    target, wide = oracle_targets(lab), np.asarray(logits, np.float64)
    assert wide.shape == (8, 4, 4, 313)
    cross_entropy = -(target * (wide - np.log(np.exp(wide).sum(-1, keepdims=True)))).sum(axis=-1)
    p = np.asarray(w.buffers["color_frequencies"], np.float64)
    inverse = 1 / (0.5 * p + 0.5 / 313)
    weights = (inverse / (p * inverse).sum())[target.argmax(axis=-1)]
    expected = (weights * cross_entropy).mean(axis=(1, 2))[:7].sum() / 8  # the eighth is grey
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["is_colored"], 7 / 8)
    np.testing.assert_allclose(
        aux.metrics["cross_entropy"], cross_entropy.mean(axis=(1, 2))[:7].sum() / 8, rtol=1e-4
    )
    np.testing.assert_array_equal(aux.outputs["h"], h)
    assert aux.weight == 8


def test_frequencies_are_those_of_the_training_set(tiny, state):
    experiment, source = tiny
    p = np.asarray(state.buffers["color_frequencies"])
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    # The mean over the images of a coarse histogram, whatever the crops: most of them is ground.
    pixels = source.batch(range(len(source)))["image"].astype(np.float32) / 255
    target = oracle_targets(rgb_to_lab(pixels, xp=np))
    assert np.corrcoef(p, target.mean(axis=(0, 1, 2)))[0, 1] > 0.9
    refresh = Refresher(experiment, source)
    due = [step for step in range(experiment.length.total_steps + 1) if refresh.due(step)]
    assert due == [0, experiment.length.total_steps]  # no step follows the last one


def test_grey_images_with_three_channels_are_refused_before_the_first_step(tiny):
    experiment, source = tiny
    refresh = Refresher(experiment, dataclasses.replace(source, images=source.images * 0 + 90))
    message = r"colorization needs images in colour; no .* above method.smallest_color=5"
    with jax.set_mesh(experiment.mesh), pytest.raises(UserError, match=message):
        refresh(experiment.init_state(), 0)


def test_the_page_shows_lightness_and_colours(tiny, state):
    experiment, source = tiny
    batch = source.batch(range(3))
    item = jax.jit(experiment.method.show)(
        state.weights, jax.random.split(jax.random.key(0), 3), batch
    )["Colorizations"]
    assert item.pixels.shape == (3, 3, 16, 16, 3)
    grey, decoded, true = np.moveaxis(np.asarray(item.pixels), 1, 0)
    np.testing.assert_allclose(true, batch["image"] / 255, atol=1e-3)
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-3)
    np.testing.assert_allclose(
        rgb_to_lab(grey)[..., 0], rgb_to_lab(true.astype(np.float32))[..., 0], atol=0.1
    )
    assert np.abs(decoded - grey).max() > 0.01
    assert decoded.min() >= 0 and decoded.max() <= 1


def test_enlarged_colours_stay_at_the_pixels_they_are_targets_of():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
    large = np.asarray(jax.jit(colorization._enlarge, static_argnums=1)(x, 4))
    assert large.shape == (1, 12, 8, 2)
    np.testing.assert_allclose(large[:, ::4, ::4], x, atol=1e-6)
    np.testing.assert_allclose(large[0, 2, 0], (x[0, 0, 0] + x[0, 1, 0]) / 2, atol=1e-6)
    np.testing.assert_allclose(large[0, 11, 7], x[0, 2, 1], atol=1e-6)


def test_held_out_scores_count_positions_of_coloured_images(tiny, state):
    experiment, source = tiny
    batch = dict(source.batch(range(4)))
    grey = np.asarray(lab_to_rgb(jnp.array([60.0, 0.0, 0.0])))
    batch["image"] = np.concatenate([batch["image"][:3], 0 * batch["image"][:1] + grey[0] * 255])
    batch["image"] = batch["image"].astype(np.uint8)
    scores = jax.jit(experiment.method.held_out)(state.weights, None, batch)
    np.testing.assert_array_equal(scores["count"], [16, 16, 16, 0])
    assert np.all(scores["loss"][:3] > 0) and scores["loss"][3] == 0
    assert np.all(scores["hits"] <= scores["count"])


def test_the_papers_net_has_32_2_million_parameters():
    encoder, decoder = (
        make_encoder("colorization_net"),
        make_map_decoder("color_decoder", values=313),
    )

    def parameters(key, x):
        params, buffers = encoder.init(key, x)
        (h, out), _ = encoder.apply(params, buffers, x, train=False)
        decoder_params, _ = decoder.init(key, out["stage7"])
        logits, _ = decoder.apply(decoder_params, {}, out["stage7"], train=False)
        return {"encoder": params, "decoder": decoder_params}, h, logits, out

    x = jax.ShapeDtypeStruct((1, 176, 176, 1), jnp.float32)
    params, h, logits, out = jax.eval_shape(parameters, jax.random.key(0), x)
    assert (h.shape, logits.shape) == ((1, 512), (1, 44, 44, 313))
    assert out["stage3"].shape == (*out["stage4"].shape[:3], 256) == (1, 22, 22, 256)
    # Convolutions of blocks 1 to 7, BatchNorm, block 8 and the classifier.
    blocks = [(1, 64), (64, 64), (64, 128), (128, 128), (128, 256), *[(256, 256)] * 2, (256, 512)]
    blocks += [(512, 512)] * 11
    convolutions = sum(9 * a * b + b for a, b in blocks)
    norms = 2 * (64 + 128 + 256 + 4 * 512)
    last = 16 * 512 * 256 + 256 + 2 * (9 * 256 * 256 + 256) + 256 * 313 + 313
    assert count_parameters(params) == convolutions + norms + last == 32_235_385


def test_the_imagenet_recipe_is_the_released_one():
    experiment = paper_scale.build("colorization.py:imagenet")
    assert experiment.method.view.shape == (176, 176, 3) and experiment.method.stride == 4
    rate = experiment.groups.default.learning_rate
    np.testing.assert_allclose([rate(0), rate(224_999), rate(225_001)], [3e-5, 3e-5, 3e-6])
    assert (experiment.config.batch_size, experiment.length.total_steps) == (40, 450_000)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data__channels": 1}, "needs images with 3 channels; those of shapes have 1"),
        ({"views__center_crop__size": 20}, "map of 6x6 does not tile views of 20x20"),
        ({"views__ops": ("normalize",)}, "remove normalize from views.ops"),
        ({"method__neighbours": 314}, "method.neighbours"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("colorization", **overrides)


def test_an_encoder_without_maps_is_named():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    with pytest.raises(UserError, match="colorization needs .* model.name=mlp_encoder has none"):
        last_map_shape(make_encoder("mlp_encoder"), x, method="colorization", name="mlp_encoder")
