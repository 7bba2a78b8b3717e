"""What every method has to satisfy, through the one train step."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax import checkpoint, data, parallel
from ssl_jax.core import named_methods
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from tests.marks import slow_unless
from tests.methods import table


def build(name, devices=1, **overrides):
    """A row's experiment and its data; one for all tests that ask for the same."""
    try:
        return _built(name, devices, **overrides)
    except TypeError:  # an override cannot be hashed
        return fresh_build(name, devices, **overrides)


def fresh_build(name, devices=1, **overrides):
    """The same, built anew: for tests that change what it is built from."""
    config = table.ROWS[name].load(**overrides)
    source = data.from_config(config.data, seed=config.seed)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=jax.devices()[:devices])
    return Experiment.build(config, source.spec, mesh), source


_built = functools.cache(fresh_build)


def batches(experiment, source, steps):
    size = experiment.config.batch_size
    rows = np.arange(size)
    with data.batches(source, batch_size=size, seed=0, num_steps=steps) as stream:
        for batch in stream:
            yield parallel.to_global(batch, experiment.mesh, rows, size)


def recorded(experiment):
    """The same experiment; its optimizer's state also holds the last gradients."""
    inner = experiment.tx

    def init(params):
        return {"optimizer": inner.init(params), "grads": jax.tree.map(jnp.zeros_like, params)}

    def update(grads, state, params):
        updates, optimizer = inner.update(grads, state["optimizer"], params)
        return updates, {"optimizer": optimizer, "grads": grads}

    return dataclasses.replace(experiment, tx=optax.GradientTransformation(init, update))


def run(experiment, source, steps, states=None):
    """The last state, metrics and outputs of every step; `states` gets a copy of each state."""
    state, compiled, history = experiment.init_state(), experiment.compiled_train_step, []
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, steps):
            state, metrics, outputs = compiled(state, batch)
            history.append((metrics, outputs))
            if states is not None:
                states.append(jax.tree.map(np.array, state))
    return state, history


@functools.cache
def three_steps(name):
    """A row's experiment and source, and what `run` gives of three steps."""
    experiment, source = build(name)
    experiment, states = recorded(experiment), []
    return experiment, source, *run(experiment, source, 3, states), states


@pytest.fixture(params=slow_unless(lambda name: not table.ROWS[name].slow, table.ROWS))
def name(request):
    return request.param


def test_every_method_has_a_row():
    covered = {row.load().method.name for row in table.ROWS.values()}
    assert covered == set(named_methods.names())


def test_three_steps_keep_the_states_structure_and_finite_metrics(name):
    experiment, _, state, history, _ = three_steps(name)
    expected = experiment.abstract_state
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for (path, leaf), want in zip(by_path(state).items(), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (want.shape, want.dtype), path
        assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim), path
        assert np.isfinite(np.asarray(leaf, np.float64)).all(), path
    assert int(state.step) == 3
    for metrics, _ in history:
        for key, value in metrics.items():
            assert value.shape == () and np.isfinite(value), key


def test_outputs_feed_the_probe_and_the_collapse_monitor(name):
    experiment, _, _, history, _ = three_steps(name)
    n = experiment.config.batch_size
    outputs = history[-1][1]
    assert outputs["h"].ndim == 2 and len(outputs["h"]) == n
    assert ("z" in outputs) == table.ROWS[name].embeds
    if table.ROWS[name].embeds:
        assert outputs["z"].ndim == 3 and len(outputs["z"]) == n


def test_gradients_reach_what_they_should(name):
    *_, states = three_steps(name)
    untrained = table.ROWS[name].untrained
    for path, grad in by_path(states[0].opt_state["grads"]).items():
        expected = not any(re.search(pattern, path) for pattern in untrained)
        assert np.any(grad != 0) == expected, path


def test_features_do_not_depend_on_the_rest_of_the_batch(name):
    experiment, source, state, _, _ = three_steps(name)
    one, other = (
        experiment.features(state.weights, source.batch(np.r_[0:4, rest]))
        for rest in (np.arange(4, 8), np.arange(8, 12))
    )
    for key, value in one.items():
        assert value.dtype in (np.float32, np.int32) and len(value) == 8
        np.testing.assert_allclose(value[:4], other[key][:4], rtol=1e-5, atol=1e-6)
    assert np.any(np.asarray(one["h"][4:]) != np.asarray(other["h"][4:]))


# The step of a kind of state each; the others' are slow tests.
EIGHT_DEVICES = ("simclr", "moco-v2", "supervised")


@pytest.mark.parametrize("name", slow_unless(EIGHT_DEVICES.__contains__, table.ROWS))
def test_eight_devices_take_the_step_of_one(name):
    """Loss, gradients, buffers and moving average, from the states that one device reached."""
    one, source, _, history, after = three_steps(name)
    eight = recorded(build(name, 8)[0])
    before = [one.init_state(), *after]
    with jax.set_mesh(eight.mesh):
        for i, batch in enumerate(batches(eight, source, 3)):
            state = jax.device_put(before[i], eight.state_shardings)
            state, metrics, outputs = eight.compiled_train_step(state, batch)
            expected, expected_outputs = history[i]
            np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-5, atol=1e-6)
            for key, value in expected_outputs.items():
                np.testing.assert_allclose(outputs[key], value, rtol=1e-3, atol=1e-4, err_msg=key)
            a, b = (
                by_path({"g": s.opt_state["grads"], "b": s.buffers, "ema": s.weights.ema})
                for s in (after[i], state)
            )
            for path, leaf in a.items():
                atol = table.ROWS[name].rounding * max(1.0, np.max(np.abs(leaf), initial=0))
                np.testing.assert_allclose(b[path], leaf, rtol=1e-3, atol=atol, err_msg=path)


@pytest.mark.slow
def test_parameters_split_over_fsdp_change_nothing():
    """Two groups of four devices, each device holding a quarter of every large kernel."""
    sgd = dict(
        optimizer__name="sgd",
        optimizer__base_lr=0.1,
        optimizer__warmup_steps=0,
        model__widths=(4, 64, 64),
    )
    whole, _ = run(*build("simclr", **sgd), 3)
    experiment, source = build("simclr", 8, mesh__fsdp=4, **sgd)
    split, _ = run(experiment, source, 3)
    assert any(
        leaf.addressable_shards[0].data.size * 4 == leaf.size
        for leaf in jax.tree.leaves(split.params)
    )
    for path, leaf in by_path(whole.params).items():
        np.testing.assert_allclose(
            by_path(split.params)[path], leaf, rtol=1e-3, atol=2e-5, err_msg=path
        )


def test_a_checkpoint_brings_the_whole_state_back(name, tmp_path):
    experiment, source, state, _, _ = three_steps(name)
    with checkpoint.Checkpointer(tmp_path) as saves:
        saves.save(3, state, wait=True)
        restored, step = saves.restore(experiment.abstract_state)
    assert step == 3
    for (path, before), after in zip(
        by_path(state).items(), jax.tree.leaves(restored), strict=True
    ):
        np.testing.assert_array_equal(before, after, err_msg=path)
    # And the next step goes on from it.
    with jax.set_mesh(experiment.mesh):
        batch = next(batches(experiment, source, 1))
        state, metrics, _ = experiment.compiled_train_step(restored, batch)
    assert int(state.step) == 4 and np.isfinite(metrics["loss"])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(name):
    experiment, source, state, _, _ = three_steps(name)
    again, _ = run(experiment, source, 3)
    for (path, a), b in zip(by_path(state).items(), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
    other = experiment.init_state(seed=1)
    assert any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(
            jax.tree.leaves(other.params),
            jax.tree.leaves(experiment.init_state().params),
            strict=True,
        )
    )
