"""MoCo v3's own facts: its symmetric loss, its moving average, its frozen patch projection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import data, optim, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import count_parameters
from ssl_jax.views.recipe import read_recipes
from tests.methods import paper_scale
from tests.methods.contract import encode, loss_and_aux, views_of
from tests.methods.table import ROWS
from tests.methods.test_methods import build, run


@pytest.fixture(scope="module")
def tiny():
    return build("moco-v3")


def objective(q, k, temperature, step=0):
    experiment, _ = build("moco-v3", method__temperature=temperature)
    encoded = {"h": q[:, 0], "z": q, "p": q, "k": k}
    return experiment.method.objective(
        Weights({}, {}), encoded, key=jax.random.key(0), step=jnp.int32(step)
    )


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_identical_features_give_twice_t_times_the_log_of_the_batch(temperature):
    same = np.ones((16, 2, 8), np.float32)
    loss, _ = objective(same, same, temperature)
    np.testing.assert_allclose(loss, 2 * (2 * temperature * np.log(16)), rtol=1e-6)


def test_the_loss_is_the_two_contrasts_across_views():
    """In float64, query by query."""
    t = 0.2
    q, k = np.random.default_rng(0).normal(size=(2, 16, 2, 8)).astype(np.float32)
    k += q[:, ::-1]
    unit = [x.astype(np.float64) / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k)]
    expected, hits = 0.0, []
    for view in range(2):
        for i in range(16):
            s = unit[1][:, 1 - view] @ unit[0][i, view] / t
            expected += 2 * t * (np.log(np.exp(s).sum()) - s[i]) / 16
            hits.append(s.argmax() == i)
    loss, aux = objective(q, k, t)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["contrastive_accuracy"], np.mean(hits))
    assert 0 < np.mean(hits) < 1


def test_queries_have_a_predictor_and_keys_the_average_without_one(tiny):
    experiment, source = tiny
    method, state = experiment.method, experiment.init_state()
    assert set(state.weights.ema) == {"encoder", "projector"}
    views = views_of(method, jax.random.split(jax.random.key(1), 16), source.batch(np.arange(16)))
    ema = jax.tree.map(lambda leaf: leaf * 1.1 + 0.05, state.weights.ema)
    encoded, updates = encode(
        method, Weights(state.params, state.buffers, ema), views, key=jax.random.key(0)
    )

    @jax.jit
    def alone(params, buffers, x):
        h, z, buffers = method.embed(params, buffers, x, key=jax.random.key(0))
        return h, z, buffers

    buffers = state.buffers
    for view in range(2):
        x = views[:, view]  # statistics of one view alone
        h, z, buffers = alone(state.params, buffers, x)
        q, predictor = method.predictor.apply(
            state.params["predictor"], buffers["predictor"], z, train=True
        )
        buffers = {**buffers, "predictor": predictor}
        _, k, _ = alone(ema, state.buffers, x)
        np.testing.assert_allclose(encoded["z"][:, view], z, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(encoded["p"][:, view], q, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(encoded["k"][:, view], k, rtol=1e-4, atol=1e-5)
        if view == 0:
            np.testing.assert_allclose(encoded["h"], h, rtol=1e-4, atol=1e-5)
    # The running statistics have seen both views, one after the other, and no keys.
    for path, leaf in by_path(updates).items():
        np.testing.assert_allclose(leaf, by_path(buffers)[path], rtol=1e-4, atol=1e-5)


def test_no_gradient_reaches_the_moving_average(tiny):
    experiment, source = tiny
    method, state = experiment.method, experiment.init_state()
    views = views_of(method, jax.random.split(jax.random.key(1), 16), source.batch(np.arange(16)))

    def loss(ema_params):
        w = Weights(state.params, state.buffers, ema_params)
        return loss_and_aux(method, w, views, key=jax.random.key(2), step=state.step)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(state.weights.ema)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))
    other = jax.tree.map(lambda leaf: leaf * 1.1 + 0.05, state.weights.ema)
    assert abs(jax.jit(loss)(other) - value) > 1e-4


def test_the_momentum_rises_to_one_along_a_cosine(tiny):
    experiment, _ = tiny
    decay = experiment.method.ema_decay
    np.testing.assert_allclose([decay(0), decay(50), decay(100)], [0.97, 0.985, 1.0], rtol=1e-6)
    same = np.ones((16, 2, 8), np.float32)
    _, aux = objective(same, same, 0.5, step=50)
    np.testing.assert_allclose(aux.metrics["momentum"], 0.985, rtol=1e-6)
    constant, _ = build("moco-v3", method__momentum_schedule="constant")
    assert constant.method.ema_decay == 0.97


@pytest.mark.slow
def test_the_frozen_patch_projection_keeps_every_bit():
    """Its gradient is zero (the shared tests see that), and weight decay leaves it alone."""
    experiment, source = build("moco-v3-vit", optimizer__weight_decay=0.1)
    start = experiment.init_state()
    after, _ = run(experiment, source, 3)
    changed = {
        path
        for path, leaf in by_path(after.params).items()
        if np.any(np.asarray(leaf) != np.asarray(by_path(start.params)[path]))
    }
    still = set(by_path(after.params)) - changed
    assert still == {"encoder/patch_embed/proj/kernel", "encoder/patch_embed/proj/bias"}
    for path in still:
        np.testing.assert_allclose(
            by_path(after.weights.ema)[path], by_path(start.params)[path], rtol=1e-5
        )
    # Without the freeze it does get a gradient.
    experiment, source = build(
        "moco-v3-vit", method__frozen="", optimizer__groups=ConfigDict(), optimizer__name="sgd",
        optimizer__weight_decay=0.0, optimizer__warmup_steps=0,
    )  # fmt: skip
    start, (after, _) = experiment.init_state(), run(experiment, source, 1)
    path = "encoder/patch_embed/proj/kernel"
    assert np.any(by_path(after.params)[path] != by_path(start.params)[path])


# --- Configs


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["imagenet", "vit_s16"])
def test_the_heads_are_the_papers(variant):
    experiment = paper_scale.build(f"moco_v3.py:{variant}")
    params = experiment.abstract_state.params
    vit = variant.startswith("vit")
    assert len(params["projector"]) == (6 - 1 if vit else 3)  # a norm without affine has none
    assert set(params["predictor"]) == {"dense1", "norm1", "dense2"}
    heads = {**params["projector"], **params["predictor"]}
    assert all(set(layer) == {"kernel"} for name, layer in heads.items() if "dense" in name)
    norms = set(experiment.abstract_state.buffers["predictor"]["batch_stats"])
    assert norms == ({"norm1", "norm2"} if vit else {"norm1"})


def test_the_recipes_are_the_papers():
    peaks = {}
    for variant in ("imagenet", "imagenet300", "imagenet1000", "vit_b16"):
        experiment = paper_scale.build(f"moco_v3.py:{variant}")
        schedule, total = experiment.schedule, experiment.length.total_steps
        peaks[variant] = (
            max(float(schedule(step)) for step in range(0, total, 8)),
            float(experiment.method.ema_decay(0)),
            experiment.config.optimizer.weight_decay,
            experiment.method.hyper.temperature,
        )
    for variant, expected in {
        "imagenet": (0.6 * 16, 0.99, 1e-6, 1.0),
        "imagenet300": (0.3 * 16, 0.99, 1e-6, 1.0),
        "imagenet1000": (0.3 * 16, 0.996, 1.5e-6, 1.0),
        "vit_b16": (1.5e-4 * 16, 0.99, 0.1, 0.2),
    }.items():
        np.testing.assert_allclose(peaks[variant], expected, rtol=1e-3)


@pytest.mark.slow
def test_the_vits_are_the_papers():
    """12 heads also in ViT-S; fixed positions; Table 1 has 22 and 86 million parameters."""
    for variant, millions in (("vit_s16", 21.6), ("vit_b16", 85.7)):
        experiment = paper_scale.build(f"moco_v3.py:{variant}")
        module = experiment.method.encoder.module
        assert (module.num_heads, module.positions) == (12, "sincos_row_first")
        encoder = experiment.abstract_state.params["encoder"]
        np.testing.assert_allclose(count_parameters(encoder) / 1e6, millions, atol=0.1)
        frozen = [path for path in by_path(encoder) if "patch_embed" in path]
        groups = {experiment.method.param_group(f"encoder/{path}") for path in frozen}
        assert groups == {"frozen"}
        assert experiment.method.param_group("encoder/layer1/attn/qkv/kernel") == "default"


def test_the_moving_average_is_one_step_of_the_schedule_behind_the_released_code():
    """There it moves before the keys of step t, with m(t); here after step t - 1, with m(t - 1)."""
    steps, rng = 40, np.random.default_rng(0)
    m = [1 - (1 - 0.9) * (1 + np.cos(np.pi * t / steps)) / 2 for t in range(steps)]
    params = np.cumsum(rng.normal(size=steps + 1))  # before each step
    tx = optim.track_ema(optim.cosine_ema(0.9, steps))
    state = tx.init(jnp.float32(params[0]))
    same = official = params[0]
    for t in range(1, steps):
        update = jnp.float32(params[t] - params[t - 1])
        _, state = tx.update(update, state, jnp.float32(params[t - 1]))
        same = m[t - 1] * same + (1 - m[t - 1]) * params[t]
        official = m[t] * official + (1 - m[t]) * params[t]
        np.testing.assert_allclose(state.ema, same, rtol=1e-4, atol=1e-4)  # of step t's keys
    assert 1e-3 < abs(official - same) < 0.1 * abs(params).max()
    # Of the 300-epoch recipe a step changes m by so little.
    total = 300 * 1_281_167 // 4096
    schedule = [1 - 0.01 * (1 + np.cos(np.pi * t / total)) / 2 for t in range(total + 1)]
    assert np.diff(schedule).max() < 1.7e-7


def test_the_views_are_byols_two_kinds():
    config = paper_scale.build("moco_v3.py:imagenet").config
    assert config.data.host_crops["global"].scale == (0.2, 1.0)
    small = paper_scale.build("moco_v3.py:vit_s16").config
    assert small.data.host_crops["global"].scale == (0.08, 1.0)
    first, second = (
        {step.op: step.parameters for step in recipe} for recipe in read_recipes(config.views, 2)
    )
    assert (first["gaussian_blur"]["p"], second["gaussian_blur"]["p"]) == (1.0, 0.1)
    assert (first["solarize"]["p"], second["solarize"]["p"]) == (0.0, 0.2)
    jitter = dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8, strength=1.0)
    for step in (first, second):
        assert {name: step["color_jitter"][name] for name in jitter} == jitter


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("moco-v3", {"method__frozen": "stem"}, "optimizer.groups.frozen belong together"),
        ("moco-v3-vit", {"method__frozen": ""}, "optimizer.groups.frozen belong together"),
        (
            "moco-v3-vit",
            {"optimizer__groups": ConfigDict(dict(frozen=dict(weight_decay=0.0)))},
            "optimizer.groups.frozen.base_lr must be 0",
        ),
    ],
)
def test_bad_values_are_named(name, change, message):
    config = ROWS[name].load(**change)
    with pytest.raises(UserError, match=message):
        Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())


def test_a_regex_that_matches_nothing_is_named():
    experiment, _ = build("moco-v3-vit", method__frozen="patches")
    with pytest.raises(UserError, match="optimizer.groups.frozen: no parameter is in this group"):
        _ = experiment.abstract_state


def test_the_preflight_says_how_many_keys_there_are(tiny):
    said = dict(tiny[0].method.preflight(4096))
    assert said["negatives"] == "4,095 keys per query, 8,192 queries per step"
    assert said["momentum"] == "0.97 to 1 along a cosine"
