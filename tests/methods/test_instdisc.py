"""InstDisc's own facts: its bank, its constant Z, its negatives, its recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from tests.methods import paper_scale
from tests.methods.contract import encode, views_of
from tests.methods.table import ROWS
from tests.methods.test_methods import batches, build, run


@pytest.fixture(scope="module")
def tiny():
    return build("instdisc")


def rows_of(experiment, source, rows, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(rows))
    return views_of(experiment.method, keys, source.batch(np.asarray(rows)))


def objective(experiment, state, encoded, updates):
    """The loss of the first step."""
    w = state.weights._replace(buffers={**state.buffers, **updates})
    return jax.jit(experiment.method.objective)(
        w, encoded, key=jax.random.key(0), step=jnp.int32(0)
    )


def test_embeddings_are_of_unit_length_and_features_stand_before_the_linear_layer(tiny):
    experiment, source = tiny
    state = experiment.init_state()
    views = rows_of(experiment, source, range(8))
    encoded, _ = encode(experiment.method, state.weights, views)
    np.testing.assert_allclose(np.linalg.norm(encoded["v"], axis=1), 1, rtol=1e-5)
    features = experiment.features(state.weights, source.batch(np.arange(4)))
    assert features["h"].shape == (4, 8)
    np.testing.assert_allclose(np.linalg.norm(features["z"], axis=1), 1, rtol=1e-5)
    assert set(state.params["projector"]) == {"dense1"}  # one layer, with a bias
    assert set(state.params["projector"]["dense1"]) == {"kernel", "bias"}


def test_negatives_are_drawn_with_replacement_by_the_examples_own_keys(tiny):
    experiment, source = tiny
    count = source.spec.num_examples
    views = rows_of(experiment, source, range(300))
    drawn = np.asarray(views["negatives"])
    assert drawn.shape == (300, 40) and drawn.dtype == np.int32
    assert drawn.min() >= 0 and drawn.max() < count and drawn.max() > 0.99 * count
    np.testing.assert_allclose(drawn.mean(), (count - 1) / 2, rtol=0.03)
    assert any(len(set(row)) < 40 for row in drawn)  # with replacement
    assert len({tuple(row) for row in drawn}) == 300
    np.testing.assert_array_equal(views["index"], np.arange(300))
    # An example's do not depend on what else is in the batch.
    keys = jax.random.split(jax.random.key(0), 300)[7:9]
    alone = views_of(experiment.method, keys, source.batch(np.arange(7, 9)))
    np.testing.assert_array_equal(alone["negatives"], drawn[7:9])
    np.testing.assert_allclose(alone["image"], views["image"][7:9], atol=1e-6)


def test_the_loss_is_nce_against_the_bank_before_its_update(tiny):
    experiment, source = tiny
    state = experiment.init_state()
    encoded, updates = encode(
        experiment.method, state.weights, rows_of(experiment, source, range(16))
    )
    loss, aux = objective(experiment, state, encoded, updates)
    bank, v = (np.asarray(x, np.float64) for x in (state.buffers["bank"], encoded["v"]))
    index = np.arange(16)
    candidates = np.concatenate([index[:, None], encoded["negatives"]], axis=1)
    p = np.exp(np.einsum("nd,nmd->nm", v, bank[candidates]) / experiment.method.hyper.temperature)
    z = p.mean() * len(bank)
    h = p / z / (p / z + 40 / len(bank))
    expected = -np.mean(np.log(h[:, 0]) + np.log(1 - h[:, 1:]).sum(axis=1))
    proximal = 0.5 * np.mean(np.sum((v - bank[index]) ** 2, axis=1))
    np.testing.assert_allclose(loss, expected + proximal, rtol=1e-5)
    np.testing.assert_allclose(aux.buffers["log_z"], np.log(z), rtol=1e-5)
    np.testing.assert_allclose(aux.outputs["z"][:, 0], v, rtol=1e-6)
    assert aux.outputs["z"].shape == (16, 1, 8)


def test_z_is_estimated_at_the_first_step_and_kept(tiny):
    _, history = run(*tiny, 4)
    values = [float(metrics["log_z"]) for metrics, _ in history]
    assert values[0] != 0 and len(set(values)) == 1


def test_the_bank_follows_the_images_of_each_batch(tiny):
    experiment, source = tiny
    momentum = experiment.method.hyper.bank_momentum
    state, step = experiment.init_state(), experiment.compiled_train_step
    seen = set()
    with jax.set_mesh(experiment.mesh):
        for batch in batches(experiment, source, 3):
            before, index = np.asarray(state.buffers["bank"]), np.asarray(batch["index"])
            state, _, outputs = step(state, batch)
            after = np.asarray(state.buffers["bank"])
            mixed = momentum * before[index] + (1 - momentum) * np.asarray(outputs["z"])[:, 0]
            expected = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
            np.testing.assert_allclose(after[index], expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(after[index], axis=1), 1, rtol=1e-5)
            others = np.setdiff1d(np.arange(len(after)), index)
            np.testing.assert_array_equal(after[others], before[others])
            assert not seen & set(index)  # no image twice in an epoch
            seen |= set(index)


@pytest.mark.parametrize("count", [0, 25])
def test_the_softmax_is_over_all_images_or_over_drawn_ones(count):
    experiment, source = build("instdisc-whole-bank", method__num_negatives=count)
    state = experiment.init_state()
    assert "log_z" not in state.buffers
    encoded, updates = encode(
        experiment.method, state.weights, rows_of(experiment, source, range(16))
    )
    bank = state.buffers["bank"]
    loss, _ = objective(experiment, state, encoded, updates)
    rows = (
        np.broadcast_to(np.arange(len(bank)), (16, len(bank)))
        if count == 0
        else np.concatenate([np.arange(16)[:, None], encoded["negatives"]], axis=1)
    )
    s = np.einsum("nd,nmd->nm", encoded["v"], np.asarray(bank)[rows]).astype(np.float64) / 0.5
    own = np.sum(np.asarray(encoded["v"]) * bank[:16], axis=1) / 0.5
    np.testing.assert_allclose(loss, np.mean(np.log(np.exp(s).sum(axis=1)) - own), rtol=1e-5)


def test_normalised_views_have_a_normalised_evaluation_view():
    plain, source = build("instdisc")
    experiment, _ = build(
        "instdisc",
        views__ops=("random_affine", "normalize"),
        views__normalize=ConfigDict(dict(mean=(0.3,), std=(0.2,))),
    )
    image = source.batch(np.arange(4))["image"]
    found = jax.jit(experiment.method.eval_view)(image)
    np.testing.assert_allclose(
        found, (jax.jit(plain.method.eval_view)(image) - 0.3) / 0.2, atol=1e-5
    )
    keys = jax.random.split(jax.random.key(0), 4)
    shown = jax.jit(experiment.method.show)(None, keys, {"image": image})["Augmented views"].pixels
    assert shown.shape[:2] == (4, 1) and shown.min() >= 0 and 0.5 < shown.max() <= 1


@pytest.mark.parametrize("variant", ["cifar10", "imagenet", "softmax"])
def test_the_recipes_are_the_released_codes(variant):
    experiment = paper_scale.build(f"instdisc.py:{variant}")
    hyper = experiment.method.hyper
    assert experiment.method.num_examples == experiment.spec.num_examples  # rows of the bank
    steps = experiment.length.steps_per_epoch
    rates = [float(experiment.schedule(epoch * steps)) for epoch in (0, 119, 121, 161)]
    np.testing.assert_allclose(rates, [0.03, 0.03, 0.003, 0.0003], rtol=1e-4)
    assert (hyper.loss, hyper.num_negatives, hyper.temperature) == {
        "cifar10": ("softmax", 0, 0.1),
        "imagenet": ("nce", 4096, 0.07),
        "softmax": ("softmax", 65536, 0.07),
    }[variant]


def test_the_losses_that_the_whole_bank_suits():
    config = ROWS["instdisc"].load(method__num_negatives=0)
    with pytest.raises(UserError, match="num_negatives=0.*set method.loss=softmax"):
        Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())


@pytest.mark.parametrize("row", ["instdisc", "moco-bank"])
def test_a_sampler_that_repeats_examples_is_refused(row):
    config = ROWS[row].load()
    with config.unlocked():
        config.batch_size = 16
        config.data.sampler = {"name": "pk", "examples_per_class": 4}
    spec, mesh = data.spec_from_config(config.data), parallel.make_mesh()
    with pytest.raises(UserError, match="'pk', which may draw an example twice .* memory bank"):
        Experiment.build(config, spec, mesh)
    with config.unlocked():
        config.data.sampler.short_classes = "leave_out"
    assert Experiment.build(config, spec, mesh).spec.unique_examples


def test_the_preflight_says_what_is_compared(tiny):
    said = dict(tiny[0].method.preflight(16))
    assert said["loss"] == "nce; negatives: 40 drawn for each example of 1,438 images"
    assert said["memory bank"].startswith("1,438 x 8, ")
    whole = dict(build("instdisc-whole-bank")[0].method.preflight(16))
    assert whole["loss"] == "softmax; negatives: all of 1,438 images"
