"""CPC on images: grids, directions, what a loss and its gradients depend on, recipes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from tests.losses.test_cpc import oracle
from tests.methods import paper_scale
from tests.methods.contract import encode, loss_and_aux, views_of
from tests.methods.test_methods import build

ALL = ("down", "up", "right", "left")


@pytest.fixture(scope="module")
def tiny():
    return build("cpc-images")


@pytest.fixture(scope="module")
def step(tiny):
    """Weights, patches of 4 images, and what `encode` makes of them."""
    experiment, source = tiny
    method, w = experiment.method, experiment.init_state().weights
    views = views_of(method, jax.random.split(jax.random.key(0), 4), source.batch(range(4)))
    return w, views, encode(method, w, views)[0]


def test_the_grids_of_the_papers():
    v1 = paper_scale.build("cpc_images.py:imagenet").method
    v2 = paper_scale.build("cpc_images.py:imagenet_v2_r50").method
    assert (v1.grid, v1.hyper.patch_size, v1.steps) == ((7, 7), 64, (1, 2, 3, 4, 5))
    assert (v2.grid, v2.hyper.patch_size, v2.steps) == ((6, 6), 80, (3,))
    assert v2.hyper.directions == ALL and v1.hyper.directions == ("down",)


def test_the_loss_is_the_oracles_of_the_encoded_patches(tiny, step):
    w, views, encoded = step
    loss, aux = loss_and_aux(tiny[0].method, w, views, key=jax.random.key(0), step=0)
    expected = oracle(encoded["predictions"]["down"], encoded["targets"]["down"], [0] * 4, "mixed")
    np.testing.assert_allclose(loss, np.mean([x for x, _ in expected.values()]), rtol=1e-5)
    for k, (_, accuracy) in expected.items():
        np.testing.assert_allclose(aux.metrics[f"accuracy_step_{k}"], accuracy, rtol=1e-5)


def test_an_untrained_net_has_a_loss_near_that_of_chance(tiny, step):
    w, views, _ = step
    loss, _ = loss_and_aux(tiny[0].method, w, views, key=jax.random.key(0), step=0)
    count = 4 * np.prod(tiny[0].method.grid)
    np.testing.assert_allclose(loss, np.log(count), rtol=0.1)


def test_predictions_do_not_depend_on_patches_below(tiny, step):
    """The gradient of the predictions from row i is exactly 0 in the pixels of rows below i."""
    method, (w, views, _) = tiny[0].method, step
    rows, columns = method.grid
    k = method.steps[0]

    def from_row(views, i):
        latents, _ = method.latents(w, views, train=True)
        predictions, _ = method.predict(w, latents, "down")
        p = predictions[k].reshape(len(views), rows - k, columns, -1)
        return jnp.sum(jnp.sin(p[:, i]))

    gradient = jax.jit(jax.grad(from_row), static_argnums=1)
    for i in range(rows - k):
        by_row = np.abs(gradient(views, i)).sum((0, 2, 3, 4, 5))
        assert np.all(by_row[i + 1 :] == 0) and by_row[i] > 0


def test_the_latent_of_a_patch_does_not_depend_on_the_others(tiny, step):
    method, (w, views, _) = tiny[0].method, step
    latents = jax.jit(lambda views: method.latents(w, views, train=True)[0])
    changed = np.array(views)
    changed[1:], changed[0, 1:], changed[0, 0, 1:] = 0.3, 0.6, 0.9
    np.testing.assert_array_equal(latents(views)[0, 0, 0], latents(changed)[0, 0, 0])


def test_directions_are_turns_of_one_path(tiny):
    """Prediction j of a direction belongs to a patch `k` further in this direction."""
    method = tiny[0].method
    method = dataclasses.replace(method, hyper=dataclasses.replace(method.hyper, directions=ALL))
    rows, columns = method.grid
    w = tiny[0].init_state().weights
    one = w.params["context"]["down"]
    w = w._replace(params={**w.params, "context": dict.fromkeys(ALL, one)})
    width = jax.tree.leaves(one["block1_conv1"]["kernel"])[0].shape[2]
    z = np.random.default_rng(0).normal(size=(2, rows, columns, width)).astype(np.float32)
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    moves = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}
    for direction in ALL:
        predictions, targets = method.predict(w, z, direction)
        turned = np.rot90(places, {"down": 0, "left": 1, "up": 2, "right": 3}[direction])
        flat = turned.reshape(-1, 2)
        for k, p in predictions.items():
            count = p.shape[1]
            # The context of prediction j is position j, its target is among the last ones.
            np.testing.assert_array_equal(
                flat[-count:] - flat[:count], np.tile(np.multiply(k, moves[direction]), (count, 1))
            )
        if direction != "down":
            again, same = method.predict(w, _turned(z, direction), "down")
            np.testing.assert_allclose(targets, same, rtol=1e-5, atol=1e-6)
            for k in predictions:
                np.testing.assert_allclose(predictions[k], again[k], rtol=1e-5, atol=1e-6)


def _turned(z, direction):
    if direction == "up":
        return z[:, ::-1, ::-1]
    # To the right: column j becomes row j, and the first row the last column.
    return z[:, ::-1].swapaxes(1, 2) if direction == "right" else z.swapaxes(1, 2)[:, ::-1]


def test_four_directions_have_a_context_net_each():
    experiment, source = build("cpc-images-v2")
    params = experiment.init_state().params
    assert set(params["context"]) == set(ALL)
    first, second = (params["context"][d]["predict1"]["kernel"] for d in ("down", "up"))
    assert np.any(first != second)
    method = experiment.method
    keys = jax.random.split(jax.random.key(0), 4)
    views = np.asarray(views_of(method, keys, source.batch(range(4))))
    assert np.all(views.any((3, 4)).sum(-1) == 1)  # one channel of each patch, its own
    assert len({tuple(patch.any((0, 1))) for patch in views[0].reshape(-1, *views.shape[3:])}) > 1
    _, aux = loss_and_aux(
        method, experiment.init_state().weights, views, key=jax.random.key(0), step=0
    )
    by_direction = [aux.metrics[f"accuracy_{direction}"] for direction in ALL]
    np.testing.assert_allclose(
        aux.metrics["contrastive_accuracy"], np.mean(by_direction), rtol=1e-5
    )


def test_grey_images_stay_grey_in_evaluation():
    experiment, source = build("cpc-images", method__grey=True)
    images = experiment.method.eval_view(source.batch(range(2))["image"])
    cut = np.asarray(experiment.method.cut(images))
    np.testing.assert_allclose(cut[..., 0], cut[..., 2], atol=1e-6)
    assert np.asarray(images[..., 0] - images[..., 2]).std() > 0.01


def test_features_are_the_mean_over_the_patches(tiny, step):
    experiment, source = tiny
    batch = source.batch(range(4))
    method, (w, *_) = experiment.method, step
    latents = method.latents(w, method.cut(method.eval_view(batch["image"])), train=False)[0]
    h = method.features(w, batch)["h"]
    np.testing.assert_allclose(h, np.mean(latents, axis=(1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_pictures_of_patches(tiny, step):
    experiment, source = tiny
    method, (w, *_) = experiment.method, step
    keys = jax.random.split(jax.random.key(0), 3)
    (item,) = method.show(w, keys, source.batch(range(3))).values()
    rows, columns = method.grid
    side = method.hyper.patch_size + 1
    pixels = np.asarray(item.pixels)
    assert pixels.shape == (3, 3, rows * side, columns * side, 3)
    known = method.steps[0] * side  # rows that nothing predicts
    np.testing.assert_array_equal(pixels[:, 2, :known], pixels[:, 1, :known])
    real, shown = (
        pixels[:, i]
        .reshape(3, rows, side, columns, side, 3)
        .swapaxes(2, 3)
        .reshape(-1, side**2 * 3)
        for i in (1, 2)
    )
    assert {patch.tobytes() for patch in shown} <= {patch.tobytes() for patch in real}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(method__last_step=9), r"4x4 patches of 8 pixels.*last_step=9 needs 10 rows"),
        (dict(method__patch_size=30), r"0x0 patches of 30 pixels"),
        (dict(method__first_step=2, method__last_step=1), r"first_step=2 is above"),
        (dict(method__directions=("down", "down")), r"method.directions is .*different names"),
        (dict(method__directions=("down", "dwon")), r"Did you mean 'down'"),
        (dict(views__ops=("center_crop", "normalize")), r"remove normalize from views.ops"),
        (dict(views__families={"local": {"count": 1}}), r"views.families.local .*'patch'"),
        (
            dict(
                views__families={"patch": {"count": 1, "ops": ("resize",), "resize": {"size": 9}}}
            ),
            r"9x9 of patches of 8x8 pixels; it must not change",
        ),
        (dict(batch_size=1), r"compares each image with the other images"),
    ],
)
def test_bad_values_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("cpc-images", **overrides)
