"""Metric learning's own facts: its classes, their buffers, its refreshes, and bad options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.refresh import Refresher
from ssl_jax.losses.metric import class_losses, margins
from ssl_jax.methods import metric_learning
from ssl_jax.methods.base import metric_losses
from tests.methods.table import ROWS
from tests.methods.test_methods import build, fresh_build


def options(**changes):
    return metric_learning.HyperParameters(**changes)


def of_classes(loss, z, label, state):
    """The loss of one step, jitted."""

    def f(z, kernel, buffers):
        now = state._replace(kernel=kernel, buffers=buffers)
        return metric_losses.loss_of_classes(options(loss=loss), z, label, now, jnp.int32(0))

    return jax.jit(f)(z, state.kernel, state.buffers)


def embeddings(n=12, d=4):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, d)), jnp.float32)


@pytest.mark.slow
def test_adaptive_margins_count_the_classes_once():
    experiment, source = build("metric-adaptive")
    refresh = Refresher(experiment, source)
    due = [step for step in range(experiment.length.total_steps) if refresh.due(step)]
    assert due == [0]
    state = refresh(experiment.init_state(), 0)
    counts = state.buffers["class_counts"]
    np.testing.assert_array_equal(counts, np.bincount(source.labels, minlength=len(counts)))
    got = margins.from_counts(counts)
    assert got[np.argmin(counts)] == got.max() and got[np.argmax(counts)] == got.min()


@pytest.mark.slow
def test_cleaning_leaves_out_mislabelled_examples_and_other_sub_centres():
    experiment, source = build("metric-subcenter")
    state = experiment.init_state()
    count, labels = source.spec.num_examples, source.labels
    z = np.asarray(experiment.features(state.weights, source.batch(np.arange(count)))["z"])
    kernel = np.asarray(state.params["classes"]["kernel"])
    _, dominant = class_losses.clean(z, labels, kernel)
    nearest = kernel[labels, np.asarray(dominant)[labels]]
    cosine = np.sum(z * nearest, 1) / np.linalg.norm(z, axis=1) / np.linalg.norm(nearest, axis=1)
    angles = np.degrees(np.arccos(cosine))
    limit = float(np.median(angles))
    hyper = dataclasses.replace(experiment.method.hyper, clean_angle=limit)
    experiment = dataclasses.replace(
        experiment, method=dataclasses.replace(experiment.method, hyper=hyper)
    )
    refresh = Refresher(experiment, source)
    step = experiment.method.refresh_every(experiment.length)
    before = refresh(state, 0)
    assert np.asarray(before.buffers["keep"]).all()
    after = refresh(before, step)
    keep, subcenters = (np.asarray(after.buffers[name]) for name in ("keep", "subcenters"))
    sure = np.abs(angles - limit) > 0.1
    np.testing.assert_array_equal(keep[sure], (angles < limit)[sure])
    assert sure.mean() > 0.5 and 0 < keep.sum() < count
    assert (subcenters == np.asarray(dominant)[:, None]).all()
    # A batch of examples that were left out has no loss, and moves no sub-centre.
    method, w = experiment.method, after.weights
    rows = np.flatnonzero(~keep)[:4]
    encoded = {"h": embeddings(4), "z": embeddings(4, 8), "label": source.labels[rows],
               "index": jnp.asarray(rows)}  # fmt: skip

    def loss(params):
        return method.objective(
            w._replace(params=params), encoded, key=jax.random.key(0), step=jnp.int32(step)
        )[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(w.params)
    assert value == 0 and not np.any(gradient["classes"]["kernel"])


def test_centres_and_the_dynamic_scale_are_buffers():
    z, label = embeddings(), jnp.repeat(jnp.arange(3, dtype=jnp.int32), 4)
    kernel, bias, centers = jnp.ones((3, 1, 4)), jnp.zeros(3), jnp.zeros((3, 4))
    state = metric_losses.ClassState(kernel, bias, {"centers": centers}, 3)
    _, metrics, buffers = of_classes("center", z, label, state)
    expected = 0.5 * z.reshape(3, 4, 4).sum(1) / 5
    np.testing.assert_allclose(buffers["centers"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["center_loss"], np.mean(np.sum(z**2, 1)) / 2, rtol=1e-5)
    state = metric_losses.ClassState(kernel, None, {"scale": jnp.float32(2.0)}, 3)
    _, metrics, buffers = of_classes("adacos", z, label, state)
    assert buffers["scale"] == metrics["scale"] != 2.0


def test_rows_of_pairs_and_triplets_need_no_classes():
    z = embeddings()
    same = jnp.array([5, 5, 1, 2, 3, 3, 9, 8, 4, 4, 0, 1])
    for size, loss in ((2, "pair"), (3, "triplet")):
        value, metrics = metric_losses.loss_of_groups(options(loss=loss), z, same, size)
        assert np.isfinite(value) and value > 0 and metrics
    near, _ = metric_losses.loss_of_groups(options(loss="pair"), z[::2].repeat(2, 0), same * 0, 2)
    assert near == 0


def test_a_large_class_matrix_is_split_over_the_devices():
    """Of 1500 classes the matrix has 1536 rows, and so have its optimizer's statistics."""
    config = ROWS["metric-triplet"].load(method__loss="arcface", optimizer__name="adamw")
    spec = dataclasses.replace(build("metric-triplet")[0].spec, num_classes=1500)
    experiment = Experiment.build(config, spec, parallel.make_mesh(data=8))
    state, shardings = experiment.abstract_state, experiment.state_shardings
    assert state.params["classes"]["kernel"].shape == (1536, 1, 8)
    spec = shardings.params["classes"]["kernel"].spec
    assert tuple(spec[0]) == ("data", "fsdp")
    split = [
        leaf for leaf, array in zip(
            jax.tree.leaves(shardings.opt_state), jax.tree.leaves(state.opt_state), strict=True
        ) if array.shape == (1536, 1, 8)
    ]  # fmt: skip
    assert len(split) >= 2 and all(leaf.spec == spec for leaf in split)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method.loss": "arcface", "method.margin": 28.6}, "an angle in radians, use a number"),
        ({"method.loss": "cosface", "method.margin": 3.0}, "a difference of cosines"),
        ({"method.loss": "sphereface", "method.margin": 2.5}, "a whole number from 1 to 8"),
        (
            {"method.loss": "supcon", "method.margin": 0.5},
            "method.loss 'supcon' has no such margin",
        ),
        ({"method.scale": -1.0}, "method.scale is -1"),
        ({"method.loss": "arcfase"}, "method.loss is 'arcfase'.*arcface"),
        ({"method.smallest_margin": 0.6}, "larger than largest_margin 0.5"),
        ({"method.clean_every_epochs": 1.0}, "is for subcenter_arcface, not triplet"),
        ({"method.straight_through": True}, "is for arcface, not triplet"),
        ({"data.sampler.examples_per_class": 1, "batch_size": 4}, "compares examples of one class"),
        ({"data.sampler.examples_per_class": 16}, "has one class of data.sampler"),
    ],
)
def test_bad_options_are_one_line(changes, message):
    changes = {key.replace(".", "__"): value for key, value in changes.items()}
    with pytest.raises(UserError, match=message) as error:
        fresh_build("metric-triplet", **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec, loss, message",
    [
        (dict(num_classes=None), "triplet", "needs class labels.*pairs:FILE"),
        (dict(num_classes=1), "triplet", "has 1 class"),
        (dict(num_classes=2), "adacos", "needs 3 classes"),
    ],
)
def test_data_without_enough_classes_are_refused(spec, loss, message):
    config = ROWS["metric-triplet"].load(method__loss=loss)
    experiment, _ = build("metric-triplet")
    with pytest.raises(UserError, match=message):
        metric_learning.make(
            config, dataclasses.replace(experiment.spec, **spec), experiment.length
        )
