"""SwAV's own facts: its step, codes and queue, unit prototypes, frozen steps, recipes, collapse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.models import count_parameters
from tests.losses.test_sinkhorn import oracle as sinkhorn_oracle
from tests.methods import paper_scale
from tests.methods.collapsing import watch
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.multi_crop import forward
from tests.methods.rows.images import LEARNING
from tests.methods.test_methods import batches, build


@pytest.fixture(scope="module")
def tiny():
    return build("swav")


@pytest.fixture(scope="module")
def jitted(tiny):
    return jax.jit(functools.partial(loss_and_aux, tiny[0].method))


@pytest.fixture(scope="module")
def given(tiny):
    """Weights and views of 16 images."""
    experiment, source = tiny
    keys = jax.random.split(jax.random.key(0), 16)
    views = views_of(experiment.method, keys, source.batch(range(16)))
    return experiment.init_state().weights, views


@pytest.mark.parametrize("queue_is_used", [False, True])
def test_a_step_is_the_papers_equations(tiny, jitted, given, queue_is_used):
    """One forward pass a size; codes of each large view; the loss over pairs, in float64."""
    w, views = given
    loss, aux = jitted(w, views, key=jax.random.key(1), step=jnp.int32(queue_is_used))
    h, z, _ = forward(tiny[0].method, w.params, w.buffers, (views["global"], views["local"]))
    kernel = np.asarray(w.params["prototypes"]["kernel"], np.float64)
    log_p = z @ kernel / 0.1
    log_p -= np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    queue = np.asarray(w.buffers["queue"], np.float64)
    terms = []
    for i in range(2):
        rows = np.concatenate([queue[:, i], z[:, i]]) if queue_is_used else z[:, i]
        q = sinkhorn_oracle(rows @ kernel, 0.05, 3)[-16:]
        terms += [-np.sum(q * log_p[:, j], axis=-1).mean() for j in range(4) if j != i]
    assert len(terms) == 6
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    np.testing.assert_allclose(aux.outputs["h"], h, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(aux.outputs["z"], z[:, :2], rtol=1e-4, atol=1e-5)
    # The batch is as long as the queue and replaces it.
    np.testing.assert_allclose(aux.buffers["queue"], z[:, :2], rtol=1e-4, atol=1e-5)


def test_the_queue_is_used_from_the_first_step_of_its_epoch_on():
    """Which is never before it is full."""
    for start_epoch, length, first in ((0, 16, 1), (0, 48, 3), (1, 16, 3)):
        experiment, _ = build(
            "swav",
            data__split="train[:48]",
            method__queue_start_epoch=start_epoch,
            method__queue_length=length,
        )
        assert experiment.length.steps_per_epoch == 3
        z = jax.random.normal(jax.random.key(0), (16, 2, 8))
        kernel = jax.random.normal(jax.random.key(1), (8, 24))
        buffers = {"queue": 3 * jax.random.normal(jax.random.key(2), (length, 2, 8))}
        codes = jax.jit(functools.partial(experiment.method.codes, buffers, z, kernel))
        alone = codes(jnp.int32(0))
        for step in (first - 1, first):
            same = np.array_equal(codes(jnp.int32(step)), alone)
            assert same == (step < first), (start_epoch, length, step)


def test_prototypes_stay_unit_vectors_and_stand_still_while_frozen():
    experiment, source = build(
        "swav",
        data__split="train[:48]",
        optimizer__warmup_steps=0,
        optimizer__groups__prototypes__frozen_epochs=1.0,
    )
    state, kernels = experiment.init_state(), []
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, 5):
            kernels.append(np.asarray(state.params["prototypes"]["kernel"]))
            state, *_ = experiment.compiled_train_step(state, batch)
    kernels.append(np.asarray(state.params["prototypes"]["kernel"]))
    for kernel in kernels:
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, rtol=1e-6)
    moved = [not np.array_equal(kernel, kernels[0]) for kernel in kernels]
    assert moved == [False] * 4 + [True] * 2


def test_no_gradient_reaches_the_queue(tiny, given):
    w, views = given

    def loss(queue):
        with_queue = w._replace(buffers={**w.buffers, "queue": queue})
        key, step = jax.random.key(1), jnp.int32(5)
        return loss_and_aux(tiny[0].method, with_queue, views, key=key, step=step)[0]

    assert not np.any(jax.jit(jax.grad(loss))(w.buffers["queue"]))


RECIPES = {  # batch, epochs, first, peak and last rate, frozen steps, queue, crops
    "imagenet": (4096, 800, 0.3, 4.8, 4.8e-3, 313, 0, (0.14, 1.0), 6),
    "imagenet_2x224": (4096, 400, 0.3, 4.8, 4.8e-3, 313, 0, (0.08, 1.0), 0),
    "imagenet_256": (256, 400, 0.6, 0.6, 6e-4, 5005, 3840, (0.14, 1.0), 6),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", RECIPES)
def test_the_imagenet_recipes_are_the_released_ones(variant):
    batch, epochs, start, peak, last, frozen, queue, scale, small = RECIPES[variant]
    experiment = paper_scale.build(f"swav.py:{variant}")
    config, length, hyper = experiment.config, experiment.length, experiment.method.hyper
    assert (config.batch_size, length.total_steps) == (batch, epochs * (1_281_167 // batch))
    rate = experiment.groups.default.learning_rate
    warmup = 10 * length.steps_per_epoch if start < peak else 0
    got = [float(rate(step)) for step in (0, warmup, length.total_steps)]
    np.testing.assert_allclose(got, [start, peak, last], rtol=1e-4)
    assert experiment.groups.group("prototypes").frozen_steps == frozen
    assert (hyper.num_prototypes, hyper.queue_length, hyper.queue_start_epoch) == (3000, queue, 15)
    assert config.optimizer.exclude == "" and config.optimizer.weight_decay == 1e-6
    crops = config.data.host_crops
    assert tuple(crops["global"].scale) == scale
    shapes = {"global": (2, 224, 224, 3)} | ({"local": (small, 96, 96, 3)} if small else {})
    assert experiment.method.families.shapes == shapes
    if small:
        assert tuple(crops.local.scale) == (0.05, 0.14)
        counts = {
            name: count_parameters(net) for name, net in experiment.abstract_state.params.items()
        }
        projector = 2049 * 2048 + 2 * 2048 + 2049 * 128
        assert counts == {"encoder": 23_508_032, "projector": projector, "prototypes": 128 * 3000}


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match=r"method.queue_length 40 must be a multiple .* 32 or 48"):
        build("swav", method__queue_length=40)
    with pytest.raises(UserError, match=r"method.num_prototypes 2,000 is more than the 1,\d+ "):
        build("swav", method__num_prototypes=2000)


def test_the_preflight_tells_of_views_codes_and_prototypes(tiny):
    lines = dict(tiny[0].method.preflight(16))
    assert lines["views"].startswith("2 global of 16x16 and 2 local of 8x8 per image; 6 pairs")
    assert lines["codes"] == (
        "of 16 embeddings per view, and 16 of the last 1 batches from epoch 0 on"
    )
    assert lines["prototypes"].startswith("24 of 8 numbers")


@pytest.mark.slow
def test_without_equal_use_of_the_prototypes_one_gets_all_images():
    """Sinkhorn is what holds SwAV apart: without it the codes name fewer and fewer prototypes."""
    used = {}
    for iterations in (0, 3):
        experiment, source = build(
            "swav",
            method__sinkhorn_iterations=iterations,
            method__queue_length=0,
            optimizer__warmup_steps=0,
            optimizer__base_lr=0.01,
            **LEARNING,
        )
        state = experiment.init_state()
        with jax.set_mesh(experiment.mesh):
            for batch in batches(experiment, source, 60):
                state, metrics, *_ = experiment.compiled_train_step(state, batch)
        used[iterations] = float(by_path(metrics)["prototypes_used"])
    assert used[3] > 20 and used[0] < 6, used


@pytest.mark.slow
def test_without_sinkhorn_one_prototype_gets_all_images_and_the_monitor_says_so():
    seen = watch("swav", steps=80, method__sinkhorn_iterations=0, method__queue_length=0)
    assert seen.causes == ["targets"] and seen.metrics["prototypes_used"] < 1.1
