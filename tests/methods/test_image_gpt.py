"""Image GPT's own facts: first loss, causality, palette, representations and completions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.refresh import Refresher
from ssl_jax.methods import image_gpt
from ssl_jax.methods.image_gpt import dequantize, quantize
from tests.methods import table
from tests.methods.contract import loss_and_aux, views_of

N, SIDE, COLORS = 4, 6, 8
RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(0), N)


def batch():
    x = RNG.integers(0, 256, (N, 8, 8, 1), np.uint8)
    return {"image": x, "label": np.zeros(N, np.int32), "index": np.arange(N, dtype=np.int32)}


@functools.cache
def begun(row="image-gpt", **overrides):
    """A method, its first weights and confident ones."""
    config = table.ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    method = Experiment.build(config, source.spec, mesh).method
    params, buffers = jax.jit(method.init)(jax.random.key(0), batch())
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda p: 0.4 * rng.normal(size=p.shape).astype(np.float32), params)
    return method, Weights(params, buffers), Weights(jax.tree.map(jnp.asarray, drawn), buffers)


@functools.partial(jax.jit, static_argnums=0)
def loss(method, w, images):
    views = views_of(method, KEYS, images)
    step = jnp.zeros((), jnp.int32)
    return views, loss_and_aux(method, w, views, key=jax.random.key(1), step=step)


@pytest.mark.parametrize("row", ["image-gpt", "image-gpt-bert"])
def test_the_first_loss_is_exactly_the_logarithm_of_the_palette(row):
    method, w, _ = begun(row, method__num_colors=512)
    views, (value, aux) = loss(method, w, batch())
    np.testing.assert_allclose(value, np.log(512), rtol=1e-6)
    hidden = views.get("hidden")
    assert aux.weight == (N * SIDE**2 if hidden is None else hidden.sum()) > 0


@pytest.mark.parametrize("row", ["image-gpt", "image-gpt-bert"])
def test_the_loss_is_the_mean_over_predicted_pixels(row):
    method, _, w = begun(row)
    images = batch()
    views, (value, aux) = loss(method, w, images)
    palette = np.float64(w.buffers["palette"])
    pixels = np.float64(views["x"]).reshape(N, -1, 1)
    colors = np.square(pixels[:, :, None] - palette).sum(-1).argmin(-1)
    np.testing.assert_array_equal(quantize(views["x"], w.buffers["palette"]), colors)
    hidden = np.asarray(views.get("hidden", np.ones(colors.shape, bool)))
    given = {"position": np.tile(np.arange(SIDE**2), (N, 1))}
    if row == "image-gpt":
        given["tokens"] = np.concatenate([np.full((N, 1), COLORS), colors[:, :-1]], axis=1)
    else:
        given |= {"tokens": colors, "hidden": hidden}
    (_, out), _ = method.encoder.apply(w.params["encoder"], {}, given, train=False)
    table_of_colors = np.float64(w.params["encoder"]["output"]["embedding"])
    logits = np.float64(out["tokens"]) @ table_of_colors.T
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses = -np.take_along_axis(log_p, colors[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(value, losses[hidden].mean(), rtol=1e-5)
    hits = (logits.argmax(axis=-1) == colors)[hidden]
    np.testing.assert_allclose(aux.metrics["accuracy"], hits.mean(), rtol=1e-6)
    rows = jax.jit(method.held_out)(w, KEYS, images)
    np.testing.assert_allclose(rows["loss"], (losses * hidden).sum(axis=1), rtol=1e-5)


def test_pixels_to_come_have_no_influence():
    """Of the prediction of pixel 10: it and all later ones; of the features: the last one."""
    method, _, w = begun()
    colors = jnp.asarray(RNG.integers(0, COLORS, (1, SIDE**2)))
    tokens = jax.jit(lambda colors: method._forward(w.params, colors)[1]["tokens"])
    first = tokens(colors)
    for place, unchanged in ((10, 11), (0, 1), (35, 36)):
        other = tokens(colors.at[0, place].set((colors[0, place] + 1) % COLORS))
        same = np.asarray(first == other).all(axis=(0, 2))
        assert same[:unchanged].all() and not same[unchanged:].any()

    def prediction(embeddings):
        def given(next_function, args, kwargs, context):
            is_color = context.module.name == "color" and context.method_name == "__call__"
            return embeddings if is_color else next_function(*args, **kwargs)

        from flax import linen as nn

        with nn.intercept_methods(given):
            return method._forward(w.params, colors)[1]["tokens"][0, 10].sum()

    gradient = jax.jit(jax.grad(prediction))(jnp.ones((1, SIDE**2, 16)))
    assert np.asarray(gradient[0] != 0).any(axis=1).tolist() == [True] * 11 + [False] * 25


def test_the_palette_is_made_of_the_training_images_and_quantising_twice_is_once():
    config = table.ROWS["image-gpt"].load()
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    experiment = Experiment.build(config, source.spec, mesh)
    with jax.set_mesh(mesh):
        state = experiment.init_state()
        refresher = Refresher(experiment, source)
        assert refresher.due(0) and not refresher.due(1)
        palette = jax.device_get(refresher(state, 0).buffers["palette"])
    assert palette.shape == (COLORS, 1) and len(np.unique(palette)) == COLORS
    assert palette.min() < 0.05 and 0.9 < palette.max() <= 1
    images = source.batch(np.arange(64))["image"] / np.float32(255)
    colors = quantize(images, palette)
    near = dequantize(colors, palette).reshape(images.shape)
    np.testing.assert_array_equal(quantize(near, palette), colors)
    # Much nearer than a random palette of the first step.
    first = jax.device_get(state.buffers["palette"])
    other = dequantize(quantize(images, first), first).reshape(images.shape)
    assert np.square(near - images).mean() < 0.5 * np.square(other - images).mean()


def test_layers_are_normalised_by_what_follows_and_completions_keep_what_is_given():
    method, _, w = begun()
    images = batch()
    layers = jax.jit(method.layers)(w, images)
    colors = quantize(method.eval_view(images["image"]), w.buffers["palette"])
    _, out = method._forward(w.params, colors)
    net = w.params["encoder"]
    for i, scale in ((1, net["layer2"]["norm1"]["scale"]), (2, net["norm"]["scale"])):
        x = np.float64(out[f"layer{i}"])
        expected = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * np.float64(scale)
        np.testing.assert_allclose(layers[f"layer{i}"].patches, expected, rtol=1e-3, atol=1e-4)
    h = jax.jit(method.features)(w, images)["h"]
    np.testing.assert_allclose(h, layers["layer1"].patches.mean(axis=1), rtol=1e-4, atol=1e-5)
    (item,) = jax.jit(method.show)(w, KEYS, images).values()
    assert item.pixels.shape == (N, 5, SIDE, SIDE, 1)
    for column in (1, 2, 3, 4):
        np.testing.assert_array_equal(item.pixels[:, column, :3], item.pixels[:, 0, :3])
    assert (np.asarray(item.pixels[:, 1, 3:]) == 0.5).all()
    known = np.asarray(w.buffers["palette"]).ravel()
    assert np.isin(np.asarray(item.pixels[:, 2:]), known).all()
    assert (np.asarray(item.pixels[:, 2, 3:]) != np.asarray(item.pixels[:, 3, 3:])).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(model__name="vit_ti16"), "'vit_ti16' does not read pixels .* image_gpt_tiny"),
        (dict(views__ops=("normalize",)), "remove normalize from views.ops"),
        (dict(method__num_colors=1), "method.num_colors is 1"),
        (dict(method__objective="gan"), "method.objective is 'gan'"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        config = table.ROWS["image-gpt"].load()
        changes = {key.replace("__", "."): value for key, value in change.items()}
        from ssl_jax import config as config_lib

        if "model.name" in changes:
            config.model = type(config.model)({"name": changes.pop("model.name")})
        config = config_lib.apply(config, changes)
        source = data.from_config(config.data, seed=0)
        image_gpt.make(config, source.spec, None)
