"""DINO's own facts: its teacher and student, centre, schedules, frozen layer, recipes, collapse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import checkpoint
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models import count_parameters
from ssl_jax.models.prototypes import prototype_matrix
from ssl_jax.views.recipe import read_recipes
from tests.methods import paper_scale
from tests.methods.collapsing import watch
from tests.methods.contract import encode, loss_and_aux, views_of
from tests.methods.multi_crop import forward
from tests.methods.test_methods import batches, build


@pytest.fixture(scope="module")
def tiny():
    return build("dino")


@pytest.fixture(scope="module")
def given(tiny):
    return drawn(tiny)


def drawn(tiny, n=8):
    """Weights whose average and centre differ from their start, and views."""
    experiment, source = tiny
    state = experiment.init_state()
    rng = np.random.default_rng(8)
    centre = 0.1 * rng.normal(size=state.buffers["centre"].shape).astype(np.float32)
    ema = experiment.init_state(seed=9).params
    w = Weights(state.params, {**state.buffers, "centre": centre}, ema)
    keys = jax.random.split(jax.random.key(0), n)
    return w, views_of(experiment.method, keys, source.batch(np.arange(n)))


def test_a_step_is_the_papers_equations(tiny, given):
    """One forward pass a size and net; the loss over pairs, in float64; the centre after it."""
    method, (w, views) = tiny[0].method, given
    large, small = views["global"], views["local"]
    assert large.shape == (8, 2, 16, 16, 1) and small.shape == (8, 2, 8, 8, 1)
    loss, aux = jax.jit(functools.partial(loss_and_aux, method))(
        w, views, key=jax.random.key(1), step=jnp.int32(0)
    )
    h, u, student = forward(method, w.params, w.buffers, (large, small))
    _, t, teacher = forward(method, w.ema, w.buffers["teacher"], (large,))

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    centre = np.asarray(w.buffers["centre"], np.float64)
    outputs = t @ np.asarray(prototype_matrix(w.ema["prototypes"]), np.float64)
    log_q = log_softmax((outputs - centre) / 0.04)
    log_p = log_softmax(u @ np.asarray(prototype_matrix(w.params["prototypes"])) / 0.1)
    pairs = [(i, j) for i in range(2) for j in range(4) if i != j]
    assert len(pairs) == 6
    expected = np.mean([-np.sum(np.exp(log_q[:, i]) * log_p[:, j], axis=-1) for i, j in pairs])
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    np.testing.assert_allclose(aux.outputs["h"], h, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(aux.outputs["z"], u[:, :2], rtol=1e-4, atol=1e-5)
    entropy = -np.mean(np.sum(np.exp(log_q) * log_q, axis=-1))
    np.testing.assert_allclose(aux.metrics["target_entropy"], entropy, rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["kl"], expected - entropy, rtol=1e-3)
    moved = 0.9 * centre + 0.1 * outputs.mean(axis=(0, 1))
    np.testing.assert_allclose(aux.buffers["centre"], moved, rtol=1e-4, atol=1e-6)
    for path, leaf in by_path({**student, "teacher": teacher}).items():
        np.testing.assert_allclose(
            by_path(aux.buffers)[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path
        )


def test_no_gradient_reaches_the_teacher(tiny, given):
    method, (w, views) = tiny[0].method, given

    @jax.jit
    @jax.value_and_grad
    def loss(ema):
        key, step = jax.random.key(1), jnp.int32(0)
        return loss_and_aux(method, w._replace(ema=ema), views, key=key, step=step)[0]

    value, grads = loss(w.ema)
    for path, grad in by_path(grads).items():
        assert not np.any(grad), path
    rng = np.random.default_rng(3)
    moved = jax.tree.map(lambda x: x + np.float32(0.1 * rng.normal(size=x.shape)), w.ema)
    assert abs(loss(moved)[0] - value) > 1e-4


# Three steps an epoch; a warm-up would begin with a learning rate of 0.
EPOCH = dict(data__split="train[:48]", optimizer__warmup_steps=0)


def test_the_last_layer_is_frozen_for_an_epoch_with_its_optimizer_state():
    experiment, source = build("dino", **EPOCH)
    assert experiment.length.steps_per_epoch == 3
    first = experiment.init_state()
    step = experiment.compiled_train_step
    state, states = experiment.init_state(), []
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, 5):
            state, *_ = step(state, batch)
            states.append(jax.tree.map(np.asarray, state))

    def last_layer(state):
        paths = by_path((state.params, state.opt_state))
        return {
            path: leaf
            for path, leaf in paths.items()
            if "prototypes" in path and "ema" not in path.split("/")
        }

    start = last_layer(first)
    assert len(start) == 2  # the weights and their momentum
    for state in states[:3]:
        for path, leaf in last_layer(state).items():
            np.testing.assert_array_equal(leaf, start[path], err_msg=path)
        moved = by_path(state.params)["encoder/stage1/kernel"]
        assert np.any(moved != by_path(first.params)["encoder/stage1/kernel"])
    for path, leaf in last_layer(states[3]).items():
        assert np.any(leaf != start[path]), path


def test_a_restored_run_goes_on_bit_for_bit(tmp_path):
    """Across the end of the epoch in which the last layer is frozen."""
    experiment, source = build("dino", **EPOCH)
    step = experiment.compiled_train_step

    def go_on(state, given):
        with jax.set_mesh(experiment.mesh):
            for batch in given:
                state, *_ = step(state, batch)
        return state

    given = list(batches(experiment, source, 5))
    whole = go_on(experiment.init_state(), given)
    with checkpoint.Checkpointer(tmp_path) as saves:
        saves.save(2, go_on(experiment.init_state(), given[:2]), wait=True)
        restored, _ = saves.restore(experiment.abstract_state)
    for (path, a), b in zip(
        by_path(whole).items(), jax.tree.leaves(go_on(restored, given[2:])), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=path)


def test_the_teachers_temperature_changes_by_epoch_and_its_decay_by_step():
    method = paper_scale.build("dino.py:imagenet_vits16").method
    per_epoch, total = method.length.steps_per_epoch, method.length.total_steps
    assert (per_epoch, total) == (1_281_167 // 1024, 800 * (1_281_167 // 1024))
    epochs = np.array([0, 1, 15, 28, 29, 30, 500])
    expected = np.concatenate([np.linspace(0.04, 0.07, 30), np.full(771, 0.07)])[epochs]
    for offset in (0, per_epoch - 1):
        got = [float(method.teacher_temperature(jnp.int32(e * per_epoch + offset))) for e in epochs]
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    decay = [float(method.ema_decay(jnp.int32(step))) for step in (0, total // 2, total)]
    np.testing.assert_allclose(decay, [0.996, 0.998, 1.0], atol=1e-6)


def test_the_default_temperature_is_constant_and_a_warm_up_of_one_epoch_a_jump(tiny):
    assert float(tiny[0].method.teacher_temperature(jnp.int32(7))) == np.float32(0.04)
    jump = build(
        "dino", method__temperature_warmup_epochs=1, method__teacher_temperature=0.07, **EPOCH
    )[0].method
    got = [float(jump.teacher_temperature(jnp.int32(step))) for step in (0, 2, 3, 9)]
    np.testing.assert_allclose(got, [0.04, 0.04, 0.07, 0.07], rtol=1e-6)


@pytest.mark.slow
def test_the_teacher_has_no_stochastic_depth():
    experiment, source = build("dino-vit")
    method = experiment.method
    assert (method.encoder.module.drop_path, method.teacher_encoder.module.drop_path) == (0.2, 0)
    w, views = drawn((experiment, source))
    one, _ = encode(method, w, views, key=jax.random.key(1))
    other, _ = encode(method, w, views, key=jax.random.key(2))
    np.testing.assert_array_equal(one["t"], other["t"])
    assert np.abs(one["u"] - other["u"]).max() > 1e-3


def test_the_teacher_starts_as_the_student_with_its_batch_statistics(tiny):
    state = tiny[0].init_state()
    for path, leaf in by_path(state.weights.ema).items():
        np.testing.assert_array_equal(leaf, by_path(state.params)[path], err_msg=path)
    origin = tiny[0].method.origin
    assert origin("buffers/teacher/encoder/x/mean") == "buffers/encoder/x/mean"
    assert origin("params/encoder/x") == "params/encoder/x"


RECIPES = {  # batch, epochs, peak, last rate, decays, clip, frozen, global and local crops
    "imagenet": (512, 100, 1e-3, 1e-6, (0.04, 0.4), 3.0, 1, (0.4, 1.0), (8, 0.05, 0.4)),
    "imagenet_vits16": (1024, 800, 2e-3, 1e-5, (0.04, 0.4), 0, 1, (0.25, 1.0), (10, 0.05, 0.25)),
    "imagenet_vitb16": (1024, 400, 3e-3, 2e-6, (0.04, 0.4), 0.3, 3, (0.25, 1.0), (10, 0.05, 0.25)),
    "imagenet_r50": (4080, 800, 4.78125, 4.8e-3, (1e-6, 1e-6), 0, 1, (0.14, 1.0), (6, 0.05, 0.14)),
}


@pytest.mark.parametrize("variant", RECIPES)
def test_the_imagenet_recipes_are_the_released_ones(variant):
    batch, epochs, peak, last, decays, clip, frozen, large, small = RECIPES[variant]
    experiment = paper_scale.build(f"dino.py:{variant}")
    config, length = experiment.config, experiment.length
    assert config.batch_size == batch
    assert length.total_steps == epochs * (1_281_167 // batch)
    rate = experiment.groups.default.learning_rate
    np.testing.assert_allclose(rate(10 * length.steps_per_epoch), peak, rtol=1e-5)
    np.testing.assert_allclose(rate(length.total_steps), last, rtol=1e-4)
    decay = experiment.groups.default.weight_decay
    ends = [decay(step) if callable(decay) else decay for step in (0, length.total_steps)]
    np.testing.assert_allclose(ends, decays, rtol=1e-5)
    assert (config.optimizer.clip.norm, config.optimizer.clip.per) == (
        (clip, "tensor") if config.optimizer.name == "adamw" else (0, "all")
    )
    last_layer = experiment.groups.group("last_layer")
    assert last_layer.frozen_steps == frozen * length.steps_per_epoch
    scales = {name: tuple(crops["scale"]) for name, crops in config.data.host_crops.items()}
    assert scales == {"global": large, "local": small[1:]}
    shapes = experiment.method.families.shapes
    assert shapes == {"global": (2, 224, 224, 3), "local": (small[0], 96, 96, 3)}


def test_views_differ_in_blur_and_solarisation_alone():
    config = paper_scale.build("dino.py:imagenet").config
    first, second = read_recipes(config.views, 2)
    (local, *others) = read_recipes(config.views, 8, "local")
    assert all(other == local for other in others)
    chances = [
        {step.op: step.parameters.get("p") for step in recipe} for recipe in (first, second, local)
    ]
    assert [(ops["gaussian_blur"], ops["solarize"]) for ops in chances] == [
        (1.0, 0.0), (0.1, 0.2), (0.5, 0.0),
    ]  # fmt: skip
    for recipe in (second, local):
        for a, b in zip(first, recipe, strict=True):
            assert (a == b) or a.op in ("gaussian_blur", "solarize"), a.op


@pytest.mark.slow
def test_the_nets_are_the_released_ones():
    counts = {
        variant: {
            name: count_parameters(net)
            for name, net in paper_scale.build(f"dino.py:{variant}").abstract_state.params.items()
        }
        for variant in ("imagenet", "imagenet_vits16", "imagenet_r50")
    }
    vit_s16 = {"encoder": 21_665_664, "projector": 5_509_376, "prototypes": 256 * 65536}
    assert counts["imagenet"] == vit_s16
    assert counts["imagenet_vits16"] == {**vit_s16, "prototypes": 257 * 65536}
    assert counts["imagenet_r50"] == {
        "encoder": 23_508_032,
        "projector": 2049 * 4096 + 2 * 4096 + 4097 * 256,
        "prototypes": 256 * 60000,
    }


def test_the_preflight_tells_of_views_teacher_and_prototypes(tiny):
    lines = dict(tiny[0].method.preflight(16))
    assert lines["views"] == (
        "2 global of 16x16 and 2 local of 8x8 per image; 6 pairs of a target and another view"
    )
    assert "decay 0.98 to 1 over 100 steps; temperature 0.04" in lines["teacher"]
    assert lines["prototypes"].startswith("24 of 8 numbers")
    released = dict(paper_scale.build("dino.py:imagenet_vits16").method.preflight(1024))
    assert "temperature 0.04 to 0.07 in 30 epochs" in released["teacher"]
    assert "256.0 MiB a device" in released["prototypes"]


def test_a_vits_attention_maps_are_shown():
    experiment, source = build("dino-vit")
    batch, keys = source.batch(np.arange(3)), jax.random.split(jax.random.key(0), 3)
    items = jax.eval_shape(experiment.method.show, experiment.abstract_state.weights, keys, batch)
    maps = items["Attention maps"]
    assert maps.pixels.shape == (3, 2, 16, 16, 1) and maps.columns == ("head 1", "head 2")
    assert maps.inputs.shape == (3, 16, 16, 1)
    convnet, source = build("dino")
    state = convnet.abstract_state
    assert list(jax.eval_shape(convnet.method.show, state.weights, keys, batch)) == [
        "Augmented views"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("centred", [True, False])
def test_without_centring_one_prototype_gets_all_images_and_the_monitor_says_so(centred):
    changes = {} if centred else {"method__centre_momentum": 1.0}  # a centre of 0 for ever
    seen = watch("dino", steps=300, **changes)
    assert ("targets" in seen.causes) == (not centred)
    if centred:
        assert seen.causes == [] and seen.metrics["prototypes_used"] > 10
    else:
        assert seen.metrics["prototypes_used"] < 1.1 and seen.std[-1] < 0.1 * seen.std[0]
