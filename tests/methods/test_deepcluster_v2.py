"""DeepCluster v2's own facts: its step, bank and clusterings, resume, recipes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import checkpoint
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.refresh import Refresher
from tests.marks import slow_unless
from tests.methods import paper_scale
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.multi_crop import forward
from tests.methods.test_methods import batches, build

EPOCH = dict(data__split="train[:48]", optimizer__warmup_steps=0, eval__batch_size=20)


@pytest.fixture(scope="module")
def tiny():
    return build("deepcluster-v2")


@pytest.fixture(scope="module")
def clustered():
    """An experiment of three steps an epoch, its data, and its first state after a refresh."""
    experiment, source = build("deepcluster-v2", **EPOCH)
    refresh = Refresher(experiment, source)
    with jax.set_mesh(experiment.mesh):
        return experiment, source, refresh, refresh(experiment.init_state(), 0)


def test_a_step_is_the_papers_equations(tiny):
    """Each view is classified by the clusters of its image, in all clusterings, in float64."""
    experiment, source = tiny
    method, w = experiment.method, experiment.init_state().weights
    index = np.arange(5, 21)
    views = views_of(method, jax.random.split(jax.random.key(0), 16), source.batch(index))
    loss, aux = jax.jit(functools.partial(loss_and_aux, method))(
        w, views, key=jax.random.key(1), step=jnp.int32(0)
    )
    h, z, _ = forward(method, w.params, w.buffers, (views["global"], views["local"]))
    assignments = np.asarray(w.buffers["assignments"])[index]
    terms, hits = [], []
    for number, centroids in enumerate(np.asarray(w.buffers["centroids"], np.float64)):
        logits = z @ centroids / 0.1  # (n, views, k)
        for view in range(4):
            rows = logits[:, view]
            own = rows[np.arange(16), assignments[:, number]]
            terms.append(np.mean(np.log(np.exp(rows).sum(axis=1)) - own))
            hits.append(np.mean(rows.argmax(axis=1) == assignments[:, number]))
    assert len(terms) == 3 * 4
    np.testing.assert_allclose(loss, np.mean(terms), rtol=1e-4)
    np.testing.assert_allclose(aux.metrics["cluster_accuracy"], np.mean(hits), atol=1e-6)
    np.testing.assert_allclose(aux.outputs["h"], h, rtol=1e-4, atol=1e-6)
    before, after = (np.asarray(buffers["bank"]) for buffers in (w.buffers, aux.buffers))
    np.testing.assert_allclose(after[index], z[:, :2], rtol=1e-4, atol=1e-5)
    others = np.setdiff1d(np.arange(len(before)), index)
    np.testing.assert_array_equal(after[others], before[others])
    for name in ("centroids", "assignments"):
        np.testing.assert_array_equal(aux.buffers[name], w.buffers[name])


def test_the_first_refresh_fills_the_bank_and_clusters_it(clustered):
    """Every image is in the cluster of the nearest centroid, in the bank of view h mod 2."""
    *_, state = clustered
    bank = np.asarray(state.buffers["bank"])
    assert bank.shape == (1024, 2, 8)
    np.testing.assert_allclose(np.linalg.norm(bank[:48], axis=-1), 1, rtol=1e-5)
    assert not bank[48:].any()
    assert np.abs(bank[:48, 0] - bank[:48, 1]).max() > 0.01  # two views
    centroids = np.asarray(state.buffers["centroids"])
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    assignments = np.asarray(state.buffers["assignments"])
    for h in range(3):
        nearest = np.argmax(bank[:48, h % 2] @ centroids[h], axis=1)
        np.testing.assert_array_equal(assignments[:48, h], nearest)
    # Two clusterings of one bank start from different rows.
    assert np.any(assignments[:48, 0] != assignments[:48, 2])


def test_later_refreshes_cluster_what_training_has_left_in_the_bank(clustered):
    experiment, _, refresh, state = clustered
    assert [refresh.due(step) for step in (0, 1, 3, 6)] == [True, False, True, True]
    moved = jax.random.normal(jax.random.key(5), state.buffers["bank"].shape)
    moved /= jnp.linalg.norm(moved, axis=-1, keepdims=True)
    with jax.set_mesh(experiment.mesh):
        after = refresh(state.replace(buffers={**state.buffers, "bank": moved}), 3)
    np.testing.assert_array_equal(after.buffers["bank"], moved)
    nearest = np.argmax(np.asarray(moved)[:48, 1] @ np.asarray(after.buffers["centroids"][1]), 1)
    np.testing.assert_array_equal(after.buffers["assignments"][:48, 1], nearest)


def test_a_run_restored_within_an_epoch_or_at_its_end_goes_on_bit_for_bit(clustered, tmp_path):
    experiment, source, refresh, _ = clustered
    given = list(batches(experiment, source, 5))

    def go_on(state, start, stop):
        with jax.set_mesh(experiment.mesh):
            for step in range(start, stop):
                if refresh.due(step):
                    state = refresh(state, step)
                state, *_ = experiment.compiled_train_step(state, given[step])
        return state

    whole = go_on(experiment.init_state(), 0, 5)
    for saved_at in (2, 3):
        with checkpoint.Checkpointer(tmp_path / str(saved_at)) as saves:
            saves.save(saved_at, go_on(experiment.init_state(), 0, saved_at), wait=True)
            restored, _ = saves.restore(experiment.abstract_state)
        for (path, a), b in zip(
            by_path(whole).items(), jax.tree.leaves(go_on(restored, saved_at, 5)), strict=True
        ):
            np.testing.assert_array_equal(a, b, err_msg=path)


def test_the_bank_is_split_over_the_devices_and_never_gathered():
    experiment, _ = build("deepcluster-v2", devices=8)
    shardings = experiment.state_shardings.buffers
    for name in ("bank", "assignments"):
        assert shardings[name].spec == P(("data", "fsdp")), name
    text = experiment.compiled_train_step.as_text()
    gathered = [line for line in text.splitlines() if "all-gather" in line and "2048,2,8" in line]
    assert not gathered


@pytest.mark.slow
def test_eight_devices_cluster_as_one_does():
    states = []
    for devices in (1, 8):
        experiment, source = build("deepcluster-v2", devices, eval__batch_size=400)
        with jax.set_mesh(experiment.mesh):
            state = Refresher(experiment, source)(experiment.init_state(), 0)
        states.append(jax.tree.map(np.asarray, state.buffers))
    one, eight = states
    # Batches of evaluation have the same size, so batch statistics agree.
    np.testing.assert_allclose(eight["bank"], one["bank"], atol=1e-4)
    same = np.mean(eight["assignments"] == one["assignments"])
    assert same > 0.98, same


RECIPES = {  # epochs, large views and their smallest area, small views
    "imagenet": (800, (2, 224, 224, 3), 0.14, 6),
    "imagenet_2x224": (400, (2, 224, 224, 3), 0.08, 0),
    "imagenet_2x160": (400, (2, 160, 160, 3), 0.08, 4),
}


@pytest.mark.parametrize("variant", slow_unless(lambda name: name == "imagenet", RECIPES))
def test_the_imagenet_recipes_are_the_released_ones(variant):
    epochs, large, smallest, small = RECIPES[variant]
    experiment = paper_scale.build(f"deepcluster_v2.py:{variant}")
    config, length, hyper = experiment.config, experiment.length, experiment.method.hyper
    assert (config.batch_size, length.total_steps) == (4096, epochs * (1_281_167 // 4096))
    assert (hyper.num_prototypes, hyper.num_clusterings, hyper.kmeans_iterations) == (3000, 3, 10)
    assert config.data.host_crops["global"].scale[0] == smallest
    shapes = {"global": large} | ({"local": (small, 96, 96, 3)} if small else {})
    assert experiment.method.families.shapes == shapes
    rate = experiment.groups.default.learning_rate
    got = [float(rate(step)) for step in (0, 10 * length.steps_per_epoch, length.total_steps)]
    np.testing.assert_allclose(got, [0.3, 4.8, 4.8e-3], rtol=1e-4)
    if not small:  # the others' are the same
        assert experiment.abstract_state.buffers["bank"].shape == (1252 * 1024, 2, 128)
    lines = dict(experiment.method.preflight(4096))
    assert lines["clusters"] == "3 clusterings of 3,000, before each epoch, 10 iterations"
    assert lines["memory bank"] == "1,281,167 x 2 x 128, 1,252.0 MiB over all devices"
