"""I-JEPA's own facts: its step, padding, teacher, recipe."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from tests.methods import paper_scale
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.test_methods import build

KEY = jax.random.key(1)


@pytest.fixture(scope="module")
def tiny():
    return build("ijepa")


@pytest.fixture(scope="module")
def given(tiny):
    """Weights whose average differs from them, and views of 8 images."""
    experiment, source = tiny
    state = experiment.init_state()
    w = state.weights._replace(ema={"encoder": experiment.init_state(seed=9).params["encoder"]})
    keys = jax.random.split(jax.random.key(0), 8)
    views = views_of(experiment.method, keys, source.batch(range(8)))
    return w, jax.tree.map(np.asarray, views)


@pytest.fixture(scope="module")
def step(tiny):
    """(w, views) -> (loss, aux)."""
    jitted = jax.jit(functools.partial(loss_and_aux, tiny[0].method))
    return lambda w, views: jitted(w, views, key=KEY, step=jnp.int32(0))


def test_a_step_is_the_papers_equations(tiny, given, step):
    """Image by image and block by block, without padding."""
    method, (w, views) = tiny[0].method, given
    encoder, predictor = method.encoder, method.predictor
    terms = []
    for i in range(2):
        x = views["x"][i][None]
        context = views["context"][i][views["is_context"][i]][None]
        (_, out), _ = encoder.apply(w.params["encoder"], {}, x, context, train=True)
        (_, whole), _ = encoder.apply(w.ema["encoder"], {}, x, train=False)
        y = np.asarray(whole["patch_tokens"][0], np.float64)
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        errors = []
        for targets, real in zip(views["targets"][i], views["is_target"][i], strict=True):
            places = targets[real][None, None]
            p, _ = predictor.apply(
                w.params["predictor"], {}, out["patch_tokens"], context,
                np.ones(context.shape, bool), places, np.ones(places.shape, bool), train=True,
            )  # fmt: skip
            e = np.abs(np.asarray(p[0, 0], np.float64) - y[np.asarray(places[0, 0])])
            errors.append(np.where(e < 1, e**2 / 2, e - 0.5))
        terms.append(np.mean(np.concatenate(errors)))
    first_two = jax.tree.map(lambda rows: rows[:2], views)
    loss, aux = step(w, first_two)
    np.testing.assert_allclose(loss, np.mean(terms), rtol=2e-4)
    assert aux.weight == 2


def test_padding_changes_nothing(given, step):
    w, views = given
    other = {**views}
    for places, real in (("context", "is_context"), ("targets", "is_target")):
        assert not np.all(views[real][:2])
        other[places] = np.where(views[real], views[places], 7)
    other, views = (jax.tree.map(lambda rows: rows[:2], tree) for tree in (other, views))
    np.testing.assert_allclose(step(w, other)[0], step(w, views)[0], rtol=1e-6)


def test_no_gradient_reaches_the_target_encoder(tiny, given):
    w, views = given
    views = jax.tree.map(lambda rows: rows[:2], views)

    def loss(ema):
        key, step = KEY, jnp.int32(0)
        return loss_and_aux(tiny[0].method, w._replace(ema=ema), views, key=key, step=step)[0]

    for path, grad in by_path(jax.jit(jax.grad(loss))(w.ema)).items():
        assert not np.any(grad), path


def test_all_images_of_a_batch_have_targets_of_one_size_at_their_own_places(given):
    _, views = given
    counts = np.asarray(views["is_target"]).sum(axis=2)
    assert counts.min() == counts.max() > 0
    for i in range(8):
        context = set(np.asarray(views["context"][i])[np.asarray(views["is_context"][i])])
        blocks = [
            frozenset(np.asarray(places)[np.asarray(real)])
            for places, real in zip(views["targets"][i], views["is_target"][i], strict=True)
        ]
        assert len(context) > 5 and not context & set().union(*blocks)
    assert len(np.unique(np.asarray(views["targets"])[:, 0, 0])) > 1


def test_metrics_say_whether_the_targets_depend_on_the_image(given, step):
    """Images that are all the same have the same targets at each position."""
    w, views = given
    same = {**views, "x": np.broadcast_to(views["x"][:1], views["x"].shape)}
    (_, some), (_, none) = (step(w, v) for v in (views, same))
    for name in ("patch_target_variance", "blind_loss"):
        assert some.metrics[name] > 1e-3 and none.metrics[name] < 1e-9, name


def test_the_imagenet_recipe_is_the_released_one():
    experiment = paper_scale.build("ijepa.py:imagenet")
    config, length, method = experiment.config, experiment.length, experiment.method
    assert (config.batch_size, length.total_steps) == (2048, 300 * (1_281_167 // 2048))
    assert method.grid == (16, 16) and method.hyper.num_targets == 4
    rate, decay = experiment.groups.default.learning_rate, experiment.groups.default.weight_decay
    steps = (0, 40 * length.steps_per_epoch, length.total_steps)
    np.testing.assert_allclose([rate(s) for s in steps], [2e-4, 1e-3, 1e-6], rtol=1e-4)
    np.testing.assert_allclose([decay(0), decay(length.total_steps)], [0.04, 0.4], rtol=1e-5)
    momenta = [float(method.ema_decay(jnp.int32(length.total_steps * k // 2))) for k in range(3)]
    np.testing.assert_allclose(momenta, [0.996, 0.998, 1.0], atol=1e-6)
    assert not method.encoder.module.cls_token and config.views.ops == ("normalize",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model__patch_size": 8}, "a grid of 2x2 patches leaves contexts of at most 2 patches"),
        ({"model__cls_token": True}, "I-JEPA needs a ViT without a class token"),
        ({"method__min_context": 50}, "at most 38 patches, and method.min_context=50"),
        ({"nets__predictor__num_heads": 3}, "nets.predictor.dim 16 does not divide into 3 heads"),
    ],
)
def test_what_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=message):
        build("ijepa", **overrides)


def test_the_report_shows_the_context_and_the_targets():
    """Patches outside of a block are grey; a target is no part of the context."""
    experiment, source = build("ijepa")
    method, batch = experiment.method, source.batch(np.arange(3))
    keys = jax.random.split(jax.random.key(0), 3)
    item = jax.jit(lambda keys, batch: method.show(None, keys, batch))(keys, batch)
    item = item["Contexts and targets"]
    images = np.asarray(item.pixels)  # (n, 1 + targets, h, w, c)
    assert images.shape[:2] == (3, 1 + method.hyper.num_targets) == (3, len(item.columns))
    whole = np.asarray(item.inputs)[:, None]
    grey = np.isclose(images, whole.mean(), atol=1e-6)
    assert (np.isclose(images, whole, atol=1e-6) | grey).all() and grey.any()
    context, targets = ~grey[:, :1], ~grey[:, 1:]
    assert context.any() and targets.any() and not (context & targets).any()
