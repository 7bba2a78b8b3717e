"""What every method has to satisfy, through the one train step."""

import re

import jax
import numpy as np
import pytest

from ssl_jax import checkpoint, data, parallel
from ssl_jax.core import method
from ssl_jax.core.method import loss_and_aux
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from tests.methods import table
from tests.methods.contract import views_of


def build(name, devices=1, **overrides):
    config = table.ROWS[name].load(**overrides)
    source = data.from_config(config.data, seed=config.seed)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=jax.devices()[:devices])
    return Experiment.build(config, source.spec, mesh), source


def batches(experiment, source, steps):
    size = experiment.config.batch_size
    rows = np.arange(size)
    with data.batches(source, batch_size=size, seed=0, num_steps=steps) as stream:
        for batch in stream:
            yield parallel.to_global(batch, experiment.mesh, rows, size)


def run(experiment, source, steps):
    """States, metrics and outputs of some steps; the states are copies."""
    state, compiled, history = experiment.init_state(), experiment.compiled_train_step, []
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, steps):
            state, metrics, outputs = compiled(state, batch)
            history.append((metrics, outputs))
    return state, history


@pytest.fixture(scope="module")
def three_steps():
    done = {}

    def get(name):
        if name not in done:
            experiment, source = build(name)
            done[name] = (experiment, source, *run(experiment, source, 3))
        return done[name]

    return get


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] * row.slow) for name, row in table.ROWS.items()
    ]
)
def name(request):
    return request.param


def test_every_method_has_a_row():
    covered = {row.load().method.name for row in table.ROWS.values()}
    assert covered == set(method.names())


def test_three_steps_keep_the_states_structure_and_finite_metrics(name, three_steps):
    experiment, _, state, history = three_steps(name)
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


def test_outputs_feed_the_probe_and_the_collapse_monitor(name, three_steps):
    experiment, _, _, history = three_steps(name)
    n = experiment.config.batch_size
    outputs = history[-1][1]
    assert outputs["h"].ndim == 2 and len(outputs["h"]) == n
    assert ("z" in outputs) == table.ROWS[name].embeds
    if table.ROWS[name].embeds:
        assert outputs["z"].ndim == 3 and len(outputs["z"]) == n


def test_gradients_reach_what_they_should(name, three_steps):
    experiment, source, *_ = three_steps(name)
    state = experiment.init_state()
    batch = next(batches(experiment, source, 1))
    keys = jax.random.split(jax.random.key(1), experiment.config.batch_size)
    views = views_of(experiment.method, keys, batch)

    def loss(params):
        w = state.weights._replace(params=params)
        return loss_and_aux(experiment.method, w, views, key=jax.random.key(2), step=state.step)[0]

    untrained = table.ROWS[name].untrained
    for path, grad in by_path(jax.jit(jax.grad(loss))(state.params)).items():
        expected = not any(re.search(pattern, path) for pattern in untrained)
        assert bool(np.any(np.asarray(grad) != 0)) == expected, path


def test_features_do_not_depend_on_the_rest_of_the_batch(name, three_steps):
    experiment, source, state, _ = three_steps(name)
    batch = source.batch(np.arange(8))
    whole = experiment.features(state.weights, batch)
    part = experiment.features(state.weights, jax.tree.map(lambda x: x[:4], batch))
    for key, value in whole.items():
        assert value.dtype in (np.float32, np.int32) and len(value) == 8
        np.testing.assert_allclose(value[:4], part[key], rtol=1e-5, atol=1e-6)


# The step of a kind of state each; the others' are slow tests.
EIGHT_DEVICES = ("simclr", "moco-v2", "supervised")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in EIGHT_DEVICES))
        for name in table.ROWS
    ],
)
def test_eight_devices_equal_one_after_five_sgd_steps(name):
    """Loss, parameters and batch statistics. SGD, since Adam magnifies rounding."""
    results = []
    for devices in (1, 8):
        experiment, source = build(
            name, devices, optimizer__name="sgd", optimizer__base_lr=0.1,
            optimizer__warmup_steps=0, optimizer__weight_decay=1e-4,
        )  # fmt: skip
        state, history = run(experiment, source, 5)
        results.append((by_path((state.params, state.buffers)), [m["loss"] for m, _ in history]))
    (one, losses1), (eight, losses8) = results
    np.testing.assert_allclose(losses8[:2], losses1[:2], rtol=2e-5)
    atol = table.ROWS[name].rounding
    np.testing.assert_allclose(losses8, losses1, rtol=atol)
    for path, leaf in one.items():
        np.testing.assert_allclose(eight[path], leaf, rtol=1e-3, atol=atol, err_msg=path)


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


def test_a_checkpoint_brings_the_whole_state_back(name, three_steps, tmp_path):
    experiment, source, state, _ = three_steps(name)
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


def test_the_same_seed_gives_the_same_bits_and_another_does_not(name, three_steps):
    experiment, source, state, _ = three_steps(name)
    again, _ = run(experiment, source, 3)
    for (path, a), b in zip(by_path(state).items(), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=path)
    other, _ = build(name, seed=1)
    assert any(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(
            jax.tree.leaves(other.init_state().params),
            jax.tree.leaves(experiment.init_state().params),
            strict=True,
        )
    )
