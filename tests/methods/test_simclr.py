"""SimCLR's own facts: its views, its one forward pass, its config at paper scale."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import config as config_lib
from ssl_jax import data, losses, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights, hyper_parameters
from ssl_jax.data.kinds import fashion_mnist
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods import simclr
from tests import commands
from tests.data.kinds.test_idx import write
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.rows.row import CONFIGS
from tests.methods.table import ROWS
from tests.methods.test_methods import build


@pytest.fixture(scope="module")
def tiny():
    return build("simclr")


def test_views_of_an_image_stand_side_by_side(tiny):
    experiment, source = tiny
    batch = source.batch(np.arange(6))
    keys = jax.random.split(jax.random.key(0), 6)
    views = views_of(experiment.method, keys, batch)
    state = experiment.init_state()
    shown = jax.jit(experiment.method.show)(state.weights, keys, batch)["Augmented views"]
    np.testing.assert_array_equal(shown.inputs, batch["image"])
    pairs = shown.pixels
    assert pairs.shape == (6, 2, *views.shape[1:])
    np.testing.assert_allclose(views[0::2], pairs[:, 0], atol=1e-6)
    np.testing.assert_allclose(views[1::2], pairs[:, 1], atol=1e-6)
    assert not np.array_equal(pairs[:, 0], pairs[:, 1])


def test_the_loss_is_nt_xent_of_both_views_through_one_forward_pass(tiny):
    experiment, source = tiny
    method, state = experiment.method, experiment.init_state()
    keys = jax.random.split(jax.random.key(0), 8)
    views = views_of(method, keys, source.batch(np.arange(8)))
    loss, aux = loss_and_aux(
        method, Weights(state.params, state.buffers), views, key=jax.random.key(1), step=state.step
    )
    (h, _), _ = method.encoder.apply(
        state.params["encoder"], state.buffers["encoder"], views, train=True
    )
    z, _ = method.projector.apply(
        state.params["projector"], state.buffers["projector"], h, train=True
    )
    expected, _ = losses.nt_xent(z[0::2], z[1::2], temperature=0.5)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(aux.outputs["h"], h[0::2], rtol=1e-6)
    np.testing.assert_allclose(aux.outputs["z"][:, 1], z[1::2], rtol=1e-6)


def test_features_come_from_before_the_projector(tiny):
    experiment, source = tiny
    state = experiment.init_state()
    batch = source.batch(np.arange(4))
    features = jax.jit(experiment.method.features)(state.weights, batch)
    assert features["h"].shape == (4, 8) and features["z"].shape == (4, 8)
    other = jax.tree.map(jnp.zeros_like, state.params["projector"])
    changed = jax.jit(experiment.method.features)(
        Weights({**state.params, "projector": other}, state.buffers), batch
    )
    np.testing.assert_array_equal(changed["h"], features["h"])
    assert not np.array_equal(changed["z"], features["z"])


@pytest.mark.slow
def test_the_imagenet_recipe_is_the_papers():
    config = config_lib.resolve(config_lib.load(f"{CONFIGS}/simclr.py:imagenet"))
    spec = data.spec_from_config(config.data)
    assert (spec.num_examples, spec.num_classes) == (1_281_167, 1000)
    assert spec.arrays["image/global"].shape == (2, 224, 224, 3)  # two crops made on the host
    experiment = Experiment.build(config, spec, parallel.make_mesh(devices=jax.devices()[:8]))
    assert experiment.length.steps_per_epoch == 1_281_167 // 4096
    peak = max(experiment.schedule(step) for step in range(experiment.length.total_steps))
    np.testing.assert_allclose(peak, 4.8, rtol=1e-3)
    encoder = experiment.abstract_state.params["encoder"]
    assert sum(leaf.size for leaf in jax.tree.leaves(encoder)) == 23_508_032


@pytest.mark.slow
def test_the_fashion_variant_trains_on_idx_files(tmp_path):
    """The whole command, on images that the test writes, with a narrow net."""
    write(tmp_path / "data", zipped=True, sizes=(40, 20), side=(28, 28))
    commands.run(
        tmp_path / "run",
        "--config=simclr:fashion_60k",
        f"--config.data.options.folder={tmp_path}/data",
        "--config.batch_size=20",
        "--config.epochs=1",
        "--config.model.width=0.0625",
        "--config.method.hidden_dim=16",
        "--config.eval.final_names=('knn',)",
        "--config.log.report=False",
        "--config.log.every_steps=1",
    )
    assert list(commands.losses(tmp_path / "run")) == [1, 2]
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert list(results) == ["raw pixels", "untrained encoder", "SimCLR"]
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["data"]["class_names"] == list(fashion_mnist.CLASS_NAMES)


def test_unknown_keys_of_the_method_are_named():
    with pytest.raises(ValueError, match="method.temprature.*Did you mean 'temperature'"):
        hyper_parameters(
            simclr.HyperParameters,
            {"name": "simclr", "temprature": 0.1},
            "method",
        )


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"method__loss": "nt_logistic", "method__implementation": "ring"},
            "with nt_logistic use one of auto, dense, blockwise",
        ),
        ({"method__semi_hard": True}, "semi_hard=True is for nt_logistic and margin_triplet"),
        ({"method__loss": "info_nce", "method__semi_hard": True}, "triplet, not info_nce"),
    ],
)
def test_bad_values_are_named(change, message):
    config = ROWS["simclr"].load(**change)
    with pytest.raises(UserError, match=message):
        Experiment.build(config, data.spec_from_config(config.data), parallel.make_mesh())


@pytest.mark.parametrize(
    "change, label, said",
    [
        ({}, "loss", "nt_xent, dense: the similarities take"),
        ({"batch_size": 8192}, "loss", "nt_xent, blockwise: the similarities would take 128 MiB"),
        ({"batch_size": 8192}, "negatives", "16,382 views per anchor, 16,384 anchors per step"),
        ({"method__implementation": "ring"}, "loss", "nt_xent, ring: as configured"),
        ({"method__loss": "margin_triplet"}, "negatives", "15 views per anchor, 16 anchors"),
        ({"method__loss": "info_nce"}, "negatives", "15 views per anchor, 16 anchors"),
    ],
)
def test_the_preflight_says_which_loss_runs_how(change, label, said):
    config = ROWS["simclr"].load(**change)
    spec = dataclasses.replace(data.spec_from_config(config.data), num_examples=10_000)
    experiment = Experiment.build(config, spec, parallel.make_mesh(data=8))
    with jax.set_mesh(experiment.mesh):
        assert said in dict(experiment.method.preflight(config.batch_size))[label]


def test_the_configs_choice_of_loss_is_what_runs(tiny):
    _, source = tiny
    z = np.random.default_rng(0).normal(size=(16, 2, 8)).astype(np.float32)
    pair = z[:, 0], z[:, 1]
    for change, expected in (
        ({"loss": "nt_logistic"}, losses.nt_logistic(*pair, temperature=0.5)),
        (
            {"loss": "nt_logistic", "semi_hard": True},
            losses.nt_logistic(*pair, temperature=0.5, semi_hard=True),
        ),
        ({"loss": "margin_triplet", "margin": 0.4}, losses.margin_triplet(*pair, margin=0.4)),
        ({"temperature": 0.1}, losses.nt_xent(*pair, temperature=0.1)),
        ({"loss": "info_nce"}, losses.info_nce(*pair, temperature=0.5)),
    ):
        config = ROWS["simclr"].load(**{f"method__{key}": value for key, value in change.items()})
        method = Experiment.build(config, source.spec).method
        loss, aux = method.objective(
            Weights({}, {}),
            {"z": jnp.asarray(z)},
            key=jax.random.key(0),
            step=jnp.zeros((), jnp.int32),
        )
        np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
        assert set(aux.metrics) == set(expected[1])
