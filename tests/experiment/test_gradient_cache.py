"""Micro-batches: the big batch's gradient, out of a fraction of the memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ssl_jax import data, hlo, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import gradient_cache, preflight, train_step
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.flops import traced_flops
from ssl_jax.models import Net
from tests.marks import slow_unless
from tests.methods import table
from tests.methods.test_methods import batches, build

BATCH = 32


class Plain(nn.Module):
    """A net without batch statistics."""

    @nn.compact
    def __call__(self, x, *, train):
        del train
        x = nn.relu(nn.Conv(8, (3, 3), strides=2)(x))
        h = jnp.mean(nn.relu(nn.Conv(16, (3, 3))(x)), axis=(1, 2))
        return h, {"h": h}


def grid(devices):
    return parallel.make_mesh(**devices, devices=jax.devices()[: int(np.prod([*devices.values()]))])


@functools.cache
def plain_experiment(devices=()):
    config = table.ROWS["simclr"].load(
        batch_size=BATCH, method__projector="none", eval__online=False,
        views__ops=("gaussian_noise",),
    )  # fmt: skip
    source = data.from_config(config.data, seed=0)
    mesh = grid(dict(devices) or {"data": 1})
    experiment = Experiment.build(config, source.spec, mesh)
    method = dataclasses.replace(experiment.method, encoder=Net(Plain()))
    return dataclasses.replace(experiment, method=method), source


@functools.cache
def plain_step(size=None, **devices):
    """State and metrics after one step of plain gradient descent, in float32."""
    experiment, source = plain_experiment(tuple(devices.items()))
    tx = optax.sgd(1.0)
    init = train_step.make_init(experiment.method, tx)
    step = train_step.make_train_step(experiment.method, tx, micro_batch_size=size)
    with jax.set_mesh(experiment.mesh):
        state = jax.jit(lambda: init(0, experiment.spec.batch(BATCH)))()
        batch = next(batches(experiment, source, 1))
        return jax.jit(step)(state, batch)


@pytest.mark.parametrize(
    ("size", "devices"),
    slow_unless(
        lambda value: value == (8, {"data": 8}),
        [
            (8, {"data": 8}),
            (BATCH, {"data": 8}),
            (8, {"data": 1}),
            (8, {"data": 2, "fsdp": 2}),
            (BATCH, {"data": 2, "tensor": 2}),
        ],
    ),
    ids=str,
)
def test_gradients_are_those_of_the_big_batch(size, devices):
    whole, expected, outputs = plain_step()
    state, metrics, cached = plain_step(size, **devices)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=1e-5)
    for path, leaf in by_path(whole.params).items():
        np.testing.assert_allclose(by_path(state.params)[path], leaf, atol=2e-6, err_msg=path)
    np.testing.assert_allclose(cached["z"], outputs["z"], atol=1e-5)  # in the batch's order


def test_the_shuffled_order_would_be_seen():
    _, _, outputs = plain_step()
    z = np.asarray(outputs["z"])
    assert np.abs(z - np.roll(z, 1, axis=0)).max() > 1e-2


@functools.cache
def classifier(devices=()):
    """A classifier without batch statistics, and a batch of which some examples have no label."""
    config = table.ROWS["supervised"].load(
        batch_size=BATCH, method__projector_layers=0, eval__online=False
    )
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec, grid(dict(devices) or {"data": 1}))
    encoder = dataclasses.replace(experiment.method.classifier, encoder=Net(Plain()))
    method = dataclasses.replace(experiment.method, classifier=encoder)
    batch = source.batch(np.arange(BATCH))
    batch["label"] = np.where(np.arange(BATCH) % 3 == 0, -1, batch["label"])
    return dataclasses.replace(experiment, method=method), batch


def classifier_step(devices, size):
    experiment, batch = classifier(tuple(devices.items()))
    tx = optax.sgd(1.0)
    init = train_step.make_init(experiment.method, tx)
    step = train_step.make_train_step(experiment.method, tx, micro_batch_size=size)
    with jax.set_mesh(experiment.mesh):
        state = jax.jit(lambda: init(0, experiment.spec.batch(BATCH)))()
        rows = parallel.to_global(batch, experiment.mesh, np.arange(BATCH), BATCH)
        return jax.jit(step)(state, rows)


@pytest.mark.parametrize(
    "devices",
    [{"data": 1}, pytest.param({"data": 2, "fsdp": 4}, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_mean_over_examples_accumulates(devices):
    """Micro-batches have different numbers of labels, so that a mean of means would be wrong."""
    whole, expected, outputs = classifier_step({"data": 1}, None)
    state, metrics, accumulated = classifier_step(devices, 8)
    for name in ("loss", "accuracy", "top5"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    for path, leaf in by_path(whole.params).items():
        np.testing.assert_allclose(by_path(state.params)[path], leaf, atol=2e-6, err_msg=path)
    np.testing.assert_allclose(accumulated["h"], outputs["h"], atol=1e-5)


def test_accumulation_encodes_every_example_once():
    """Gradient caching needs a second forward pass, which a mean over examples does not."""
    experiment, _ = classifier()
    method = experiment.method
    shapes = experiment.spec.batch(BATCH)
    state = jax.eval_shape(train_step.make_init(method, optax.sgd(1.0)), 0, shapes)

    def flops(method, size):
        step = train_step.make_train_step(method, optax.sgd(1.0), micro_batch_size=size)
        return traced_flops(step, state, shapes)

    class Undivided(type(experiment.method)):
        decomposes = False

    fields = {
        f.name: getattr(experiment.method, f.name) for f in dataclasses.fields(experiment.method)
    }
    assert flops(experiment.method, 8) == flops(experiment.method, None)
    assert flops(Undivided(**fields), 8) > 1.25 * flops(experiment.method, None)


def bn_run(devices, steps=2, **overrides):
    experiment, source = build(
        "simclr", devices, optimizer__name="sgd", optimizer__base_lr=0.1,
        optimizer__warmup_steps=0, optimizer__weight_decay=0.0, **overrides,
    )  # fmt: skip
    state, step = experiment.init_state(), experiment.compiled_train_step
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, steps):
            state, metrics, _ = step(state, batch)
    return state, metrics


@pytest.mark.slow
def test_batch_statistics_are_those_of_a_micro_batch_over_all_devices():
    one, metrics1 = bn_run(1, micro_batch_size=8)
    eight, metrics8 = bn_run(8, micro_batch_size=8)
    np.testing.assert_allclose(metrics8["loss"], metrics1["loss"], rtol=1e-4)
    for (path, a), b in zip(
        by_path((one.params, one.buffers)).items(),
        jax.tree.leaves((eight.params, eight.buffers)),
        strict=True,
    ):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=2e-5, err_msg=path)
    whole, _ = bn_run(1)
    means = [by_path(s.buffers) for s in (whole, one)]
    changed = [path for path in means[0] if np.abs(means[0][path] - means[1][path]).max() > 1e-6]
    assert changed  # they are not the big batch's


def program(micro_batch_size, **overrides):
    sizes = dict(batch_size=256, micro_batch_size=micro_batch_size)
    experiment, _ = build("simclr", 8, **sizes, **overrides)
    return experiment, hlo.read(experiment.compiled_train_step)


@pytest.mark.slow
def test_nothing_large_is_communicated_inside_the_loop():
    """Only batch statistics are; the gradients are summed once, behind the loop."""
    experiment, found = program(32)
    inside = [c for c in found.collectives if c.in_loop]
    largest = max(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state.buffers))
    assert inside and all(c.bytes <= 4 * 4 * largest for c in inside), inside
    assert not [c for c in inside if c.kind == "all-gather"]
    parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state.params))
    gradients = [c for c in found.collectives if "shard_map/psum" in c.op_name and not c.in_loop]
    assert {c.kind for c in gradients} == {"all-reduce"}
    assert parameters <= sum(c.bytes for c in gradients) < 1.2 * parameters


@pytest.mark.slow
def test_memory_falls_with_the_micro_batch():
    wide = dict(model__widths=(32, 64))  # activations are most of the memory
    temporaries = [program(size, **wide)[1].temp_bytes for size in (None, 64, 16)]
    assert temporaries[1] < 0.5 * temporaries[0]
    assert temporaries[2] < 0.5 * temporaries[1]


def test_sizes_that_do_not_fit_are_named():
    for size in (0, 3, 24, 64):
        with pytest.raises(UserError, match=f"micro_batch_size {size} has to divide batch_size 32"):
            gradient_cache.check_size(size, 32, 4)
    with pytest.raises(UserError, match="multiple of the 8 devices.*use 8 or 16"):
        gradient_cache.check_size(4, 32, 8)
    gradient_cache.check_size(None, 32, 8)
    with pytest.raises(UserError, match="micro_batch_size 6"):
        build("simclr", 8, micro_batch_size=6)


def test_the_preflight_says_what_it_means_for_batch_norm():
    experiment, _ = build("simclr", 8, micro_batch_size=8)
    said = dict(preflight.lines(experiment))["micro-batches"]
    assert said.startswith("2 x 8;") and "statistics are those of 8 examples and not 16" in said
    assert "micro-batches" not in dict(preflight.lines(build("simclr", 8)[0]))
