"""SimCLR v2's own facts: one forward pass, where fine-tuning starts, its recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data, losses, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from ssl_jax.models import count_parameters
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.rows.row import CONFIGS
from tests.methods.table import ROWS


def build(**overrides):
    config = ROWS["simclr-v2"].load(**overrides)
    source = data.from_config(config.data, seed=0)
    return Experiment.build(
        config, source.spec, parallel.make_mesh(devices=jax.devices()[:1])
    ), source


def paper_scale(variant):
    config = config_lib.resolve(config_lib.load(f"{CONFIGS}/simclr_v2.py:{variant}"))
    spec = data.spec_from_config(config.data)
    return Experiment.build(config, spec, parallel.make_mesh(devices=jax.devices()[:8]))


@pytest.fixture(scope="module")
def tiny():
    """A method with statistics and parameters of which none is 0 or 1."""
    experiment, source = build()
    state = experiment.init_state()
    rng = np.random.default_rng(0)

    def noisy(x):
        return x + 0.1 * np.abs(rng.normal(size=x.shape)).astype(np.float32)

    params, buffers = jax.tree.map(noisy, (state.params, state.buffers))
    return experiment, source, params, buffers


def test_the_loss_is_nt_xent_of_both_views_through_one_forward_pass(tiny):
    experiment, source, params, buffers = tiny
    method = experiment.method
    keys = jax.random.split(jax.random.key(0), 8)
    batch = source.batch(np.arange(8))
    views = views_of(method, keys, batch)
    loss, aux = loss_and_aux(method, Weights(params, buffers), views, key=jax.random.key(1), step=0)
    together = np.concatenate(
        [np.asarray(views[:, view]) for view in (0, 1)]
    )  # statistics do not mind the order
    (h, _), encoder = method.encoder.apply(
        params["encoder"], buffers["encoder"], together, train=True
    )
    z, _ = method.projector.apply(params["projector"], buffers["projector"], h, train=True)
    expected, _ = losses.nt_xent(z[:8], z[8:], temperature=0.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.outputs["h"], h[:8], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(aux.outputs["z"][:, 1], z[8:], rtol=1e-4, atol=1e-5)
    for path, leaf in by_path(encoder).items():
        np.testing.assert_allclose(by_path(aux.buffers["encoder"])[path], leaf, rtol=1e-4)


@pytest.mark.parametrize("selector", [0, 1, 2])
def test_where_fine_tuning_starts(tiny, selector):
    """0 is the encoder's output, 1 is ReLU(BN(W1 h)), 2 the same once more."""
    _, source, params, buffers = tiny
    experiment, _ = build(method__ft_proj_selector=selector)
    method, batch = experiment.method, source.batch(np.arange(6))
    features = jax.jit(method.features)(Weights(params, buffers), batch)
    (h, _), _ = method.encoder.apply(
        params["encoder"],
        buffers["encoder"],
        jax.jit(method.eval_view)(batch["image"]),
        train=False,
    )
    np.testing.assert_allclose(features["h"], h, rtol=1e-6)
    expected = np.asarray(h, np.float64)
    for i in range(1, selector + 1):
        head, statistics = params["projector"], buffers["projector"]["batch_stats"]
        expected = expected @ head[f"dense{i}"]["kernel"]
        norm, running = head[f"norm{i}"], statistics[f"norm{i}"]
        expected = (expected - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        expected = np.maximum(expected * norm["scale"] + norm["bias"], 0)
    np.testing.assert_allclose(features["ft"], expected, rtol=1e-4, atol=1e-5)
    assert np.any(expected > 0) and features["ft"].dtype == jnp.float32


def test_an_unset_width_is_that_of_h():
    experiment, source = build(method__hidden_dim=None)
    state = experiment.init_state()
    assert state.params["projector"]["dense1"]["kernel"].shape == (8, 8)
    features = jax.jit(experiment.method.features)(state.weights, source.batch(np.arange(2)))
    assert features["ft"].shape == (2, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("imagenet", 23_508_032), ("imagenet_sk", 35_215_584), ("imagenet_big", 794_704_160)],
)
def test_the_imagenet_recipe_is_the_papers(variant, parameters):
    experiment = paper_scale(variant)
    assert count_parameters(experiment.abstract_state.params["encoder"]) == parameters
    length = experiment.length
    assert (length.steps_per_epoch, length.total_steps) == (312, 800 * 312)
    np.testing.assert_allclose(experiment.schedule(40 * 312), 6.4, rtol=1e-6)
    np.testing.assert_allclose(experiment.schedule(20 * 312), 3.2, rtol=1e-6)
    width = 2048 if variant != "imagenet_big" else 3 * 2048
    projector = experiment.abstract_state.params["projector"]
    assert [projector[f"dense{i}"]["kernel"].shape for i in (1, 2, 3)] == [
        (width, width),
        (width, width),
        (width, 128),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method__ft_proj_selector": 3}, "ft_proj_selector is 3; .* projector_layers=3"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(UserError, match=message):
        build(**change)


@pytest.mark.slow
def test_the_memory_gives_negatives_of_earlier_steps():
    """The loss sees the queue of before the step; the step's keys then replace the oldest."""
    experiment, source = build(method__memory_size=16, batch_size=8)
    method, state = experiment.method, experiment.init_state()
    assert state.buffers["queue"].shape == (16, method.hyper.output_dim)
    ema_params = jax.tree.map(lambda x: 0.9 * x + 0.01, state.params)
    views = views_of(method, jax.random.split(jax.random.key(0), 8), source.batch(np.arange(8)))

    def run(buffers, ema_params):
        key = jax.random.key(1)
        return loss_and_aux(
            method, Weights(state.params, buffers, ema_params), views, key=key, step=jnp.int32(0)
        )

    loss, aux = run(state.buffers, ema_params)
    z = aux.outputs["z"]
    expected, _ = losses.nt_xent(
        z[:, 0], z[:, 1], temperature=method.hyper.temperature, negatives=state.buffers["queue"]
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    plain, _ = losses.nt_xent(z[:, 0], z[:, 1], temperature=method.hyper.temperature)
    assert loss > plain

    _, k, _ = method.embed(ema_params, state.buffers, views[:, 1], key=jax.random.key(2))
    queue = aux.buffers["queue"]
    np.testing.assert_allclose(queue[:8], losses.unit_length(k), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(queue[8:], state.buffers["queue"][8:])
    assert aux.buffers["pointer"] == 8
    assert run(aux.buffers, ema_params)[1].buffers["pointer"] == 0

    # The memory network's batch statistics are no one else's, and it gets no gradient.
    other = jax.tree.map(lambda x: 0.5 * x, ema_params)
    for a, b in zip(
        jax.tree.leaves(run(state.buffers, other)[1].buffers["encoder"]),
        jax.tree.leaves(aux.buffers["encoder"]),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    grads = jax.grad(lambda ema: run(state.buffers, ema)[0])(ema_params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method__memory_size=24), "memory_size 24 must be a multiple of batch_size 16"),
    ],
)
def test_a_memory_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        build(**changes)
