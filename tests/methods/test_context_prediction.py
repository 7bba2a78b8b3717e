"""Context prediction's own facts: pairs, positions, patches, loss, recipe, the shortcut."""

import jax
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from tests.methods import paper_scale
from tests.methods.pretext import first_step
from tests.methods.test_methods import build, fresh_build


@pytest.fixture(scope="module")
def tiny():
    return build("context-prediction")


@pytest.fixture(scope="module")
def step(tiny):
    """Weights, views of 4 images, and the loss of a new net with the logits before it."""
    return first_step(*tiny, 4)


def test_the_classes_are_the_positions_of_the_second_patch(tiny, step):
    """Each position is equally frequent, and those of a pair in both orders sum to 7."""
    method, targets = tiny[0].method, np.asarray(step[1]["target"])
    places = {(-1, -1): 0, (-1, 0): 1, (-1, 1): 2, (0, -1): 3,
              (0, 1): 4, (1, -1): 5, (1, 0): 6, (1, 1): 7}  # fmt: skip
    labels = {}
    for (a, b), target in zip(method.questions, targets[0], strict=True):
        offset = np.array(divmod(b, 3)) - np.array(divmod(a, 3))
        assert places[tuple(offset.tolist())] == target
        labels[a, b] = target
    assert len(labels) == 16 and all(labels[b, a] == 7 - labels[a, b] for a, b in labels)
    np.testing.assert_array_equal(np.bincount(targets.ravel()), [8] * 8)


def test_the_loss_is_that_of_both_orders(step):
    """In float64; that of a new net is log 8."""
    _, views, loss, aux, logits = step
    logits = np.asarray(logits, np.float64).reshape(-1, 8)
    targets = np.asarray(views["target"]).ravel()
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(loss, -np.mean(log_p[np.arange(64), targets]), rtol=1e-5)
    np.testing.assert_allclose(loss, np.log(8), atol=0.05)
    hits = logits.argmax(axis=1) == targets
    np.testing.assert_allclose(aux.metrics["accuracy"], hits.mean(), rtol=1e-6)
    assert aux.weight == 64


def test_the_head_gets_the_two_codes_in_order(tiny, step):
    """A change of one patch changes the logits of its pairs only, and the codes are shared."""
    method, (w, views, *_) = tiny[0].method, step
    predict = jax.jit(lambda pieces: method.predict(w, pieces, train=False)[1])
    pieces = np.asarray(views["pieces"])
    mirrored = np.concatenate([pieces[:, :1, ::-1], pieces[:, 1:]], axis=1)
    changed = np.abs(predict(mirrored) - predict(pieces)).max(axis=(0, 2)) > 0
    assert [pair for pair, is_new in zip(method.questions, changed, strict=True) if is_new] == [
        (4, 0), (0, 4)
    ]  # fmt: skip
    equal = np.repeat(pieces[:, :1], 9, axis=1)  # all pairs look alike
    logits = np.asarray(predict(equal))
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:, :1], logits.shape), atol=1e-6)


def test_patches_keep_their_gap_and_stay_inside():
    method = build("context-prediction", method__jitter=1)[0].method
    keys = jax.random.split(jax.random.key(0), 300)
    corners = np.asarray(jax.jit(lambda keys: method._corners(keys, (32, 32)))(keys))
    assert corners.min() == 0 and corners.max() == 32 - 8
    offsets = corners - corners[:, 4:5]
    expected = 10 * (np.stack(np.divmod(np.arange(9), 3), axis=1) - 1)
    difference = offsets - expected
    assert difference.min() == -2 and difference.max() == 2  # both patches are shifted
    sides = np.asarray(jax.jit(method._sides)(keys))
    assert sides.min() == 3 and np.mean(sides < 8) == pytest.approx(0.5, abs=0.1)


def test_patches_have_one_channel_and_unit_contrast(step):
    pieces = np.asarray(step[1]["pieces"])
    power = np.mean(pieces**2, axis=(2, 3, 4))
    assert power.max() <= 2500.1
    textured = power > 2000
    assert np.mean(textured) > 0.2  # the others are flat ground
    deviations = np.sort(pieces.std(axis=(2, 3)), axis=-1)[textured]
    assert np.all(deviations[:, 1] < 0.05 * deviations[:, 2])


@pytest.mark.slow
def test_the_page_shows_the_patches(tiny, step):
    experiment, source = tiny
    keys = jax.random.split(jax.random.key(0), 2)
    item = jax.jit(experiment.method.show)(step[0], keys, source.batch(range(2)))["Patches"]
    assert item.pixels.shape == (2, 2, 24, 24, 3)
    assert item.pixels.min() >= 0 and item.pixels.max() <= 1
    assert item.rows[0].format(*item.row_values[0].tolist()).startswith("predicted ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"method__patch_size": 12}, "patch_size=12 .*needs views of 42 pixels, .*have 32x32"),
        ({"data__channels": 1}, "method.color=drop changes colours, and shapes is grey; use"),
        ({"method__color": "grey"}, "method.color is 'grey'; use one of drop, project, keep"),
        ({"method__smallest_side": 8}, "method.smallest_side=8 is not below method.patch_size=8"),
        ({"views__ops": ("flip", "normalize")}, "normalises each piece .*remove normalize"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("context-prediction", **overrides)


def test_the_imagenet_recipe_is_the_papers():
    experiment = paper_scale.build("context_prediction.py:imagenet", devices=1)
    method, params = experiment.method, experiment.abstract_state.params
    hyper = method.hyper
    assert (hyper.patch_size, hyper.gap, hyper.jitter, hyper.color) == (96, 48, 7, "drop")
    assert hyper.grid_side == 384 and method.view.shape == (400, 400, 3)
    shapes = {name: params["head"][name]["kernel"].shape for name in params["head"]}
    assert shapes == {"dense1": (8192, 4096), "dense2": (4096, 4096), "out": (4096, 8)}
    assert params["branch"]["dense1"]["kernel"].shape == (3 * 3 * 256, 4096)
    assert 9 * experiment.config.batch_size == 513


def aberrated_dots(count, strength):
    """Images of white dots at random places, whose green channel is enlarged about the centre.

    uint8 [n 32 32 3]. A patch has no content in common with another; only the colours at the edges
    of its dots tell where in the image it lies.
    """
    places = np.random.default_rng(0).uniform(-4, 36, size=(count, 40, 2))
    images = np.empty((count, 32, 32, 3))
    for channel, scale in enumerate((1, 1 + strength, 1)):
        at = 15.5 + scale * (places - 15.5)
        rows, columns = (np.exp(-((np.arange(32) - at[..., i, None]) ** 2) / 2) for i in (0, 1))
        images[..., channel] = np.einsum("ndh,ndw->nhw", rows, columns)
    return (255 * np.clip(0.1 + 0.9 * images, 0, 1)).astype(np.uint8)


def accuracy_on_dots(color, steps=60, n=64):
    """Share of right positions in the last ten of `steps` steps on images with aberration."""
    experiment, _ = fresh_build(
        "context-prediction", method__color=color, method__downsample=0.0, batch_size=n,
        model__widths=(16, 32), method__code_dim=32, method__hidden_dims=(64, 32), steps=steps,
        optimizer__warmup_steps=5, eval__online=False,
    )  # fmt: skip
    images = aberrated_dots(1024, 0.12)
    state, accuracies = experiment.init_state(), []
    with jax.set_mesh(experiment.mesh):
        for step in range(steps):
            rows = (step * n + np.arange(n, dtype=np.int32)) % len(images)
            batch = {"image": images[rows], "label": np.zeros_like(rows), "index": rows}
            batch = parallel.to_global(batch, experiment.mesh, np.arange(n), n)
            state, metrics, _ = experiment.compiled_train_step(state, batch)
            accuracies.append(float(metrics["accuracy"]))
    return np.mean(accuracies[-10:])


@pytest.mark.slow
def test_chromatic_aberration_solves_the_task_unless_colours_are_dropped():
    """One of eight is chance."""
    assert accuracy_on_dots("keep") > 0.4
    assert accuracy_on_dots("drop") < 0.16
