"""The desiderata of whole models, on tiny nets and drawn shapes."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ssl_jax import data, evals, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import properties
from ssl_jax.evals.known import Known
from ssl_jax.evals.model import Model
from ssl_jax.evals.properties import layers
from ssl_jax.evals.properties.metrics import METRICS, PROPERTIES
from ssl_jax.experiment.build import Experiment
from ssl_jax.modalities.image import IMAGE
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS
from tests.run.test_final_results import built

OPTIONS = dict(
    perturbations=("shift", "hue"), strengths=(0.5, 1.0), probe_examples=60, pairs=5, neighbours=3
)
ROW = functools.partial(ROWS["vae-conv"].load, eval__baselines=(), data__options__num_generated=320)


@pytest.fixture(scope="module")
def vae():
    config = ROW()
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(
        config, source.spec, parallel.make_mesh(devices=jax.devices()[:1])
    )
    return experiment, Prober(config, experiment.mesh), experiment.init_state()


def measure(model, prober, **options):
    with jax.set_mesh(prober.mesh):
        return evals.load("properties", {"properties": {**OPTIONS, **options}}).call(
            model=model, prober=prober, feature="h", seed=0
        )


@pytest.fixture(scope="module")
def measured(vae):
    experiment, prober, state = vae
    return {
        "pixels": measure(Model(IMAGE.raw_features), prober),
        "vae": measure(experiment.model(state.weights), prober),
    }


def test_raw_pixels_are_their_own_scale(measured):
    pixels = {name.removeprefix("properties/"): v for name, v in measured["pixels"].items()}
    assert pixels["lipschitz"] == pytest.approx(1, abs=1e-4)
    assert pixels["lipschitz_95"] == pytest.approx(1, abs=1e-4)
    assert pixels["decoded"] == pytest.approx(1) and pixels["midpoint"] > 0
    assert 0 < pixels["cosine_shift_100"] < pixels["cosine_shift_50"] < 1
    assert not [name for name in pixels if name.startswith("depth_stage")]


def test_every_property_of_a_vae_is_measured(measured):
    values = {name.removeprefix("properties/"): v for name, v in measured["vae"].items()}
    missing = {one.name for one in PROPERTIES} - set(values)
    assert missing == {"sap", "dci_disentanglement", "dci_completeness", "dci_informativeness"}
    assert all(np.isfinite(value) for value in values.values())
    places = {name.split("_")[1] for name in values if name.startswith("depth_")}
    assert places == {"stage1", "stage2", "features"}
    assert "depth_stage1_shape" in values and "nmi_background" in values
    # Values in their ranges.
    for name in ("nmi", "knn_purity", "hoyer", "active", "dead", "rank_share", "mig", "linear"):
        assert 0 <= values[name] <= 1, name
    assert 1 <= values["rank"] <= 3 + 1e-4
    known = Known(None, None, 0)
    assert set(evals.load("properties").measures(known)) <= set(values)


def test_scale_and_width_of_a_code_do_not_matter(vae, measured):
    """Pixels that are repeated and scaled have the properties of pixels."""
    _, prober, _ = vae

    def repeated(batch):
        h = IMAGE.raw_features(batch)["h"]
        return {"h": 100 * jax.numpy.concatenate([h, h], axis=1)}

    got = measure(Model(repeated), prober)
    same = ("lipschitz", "invariance", "nmi", "silhouette", "knn_purity", "rank", "active",
            "unit_purity", "linear")  # fmt: skip
    for name in same:
        expected = measured["pixels"][f"properties/{name}"]
        assert got[f"properties/{name}"] == pytest.approx(expected, abs=2e-3), name
    assert got["properties/mig"] == pytest.approx(0, abs=1e-9)  # every code is there twice


def test_a_constant_code_has_no_properties(vae):
    _, prober, _ = vae
    with pytest.raises(UserError, match="are the same for all 64 examples") as told:
        measure(Model(lambda batch: {"h": jax.numpy.ones((len(batch["image"]), 4))}), prober)
    assert "\n" not in str(told.value)


def test_the_code_that_is_the_class(vae):
    """Perfect clusters and units; changes of the image do not reach it."""
    _, prober, _ = vae

    def encode(batch):
        return {"h": jax.nn.one_hot(batch["label"], 6)}

    got = measure(Model(encode), prober)
    for name in ("nmi", "ari", "knn_purity", "invariance", "hoyer"):
        assert got[f"properties/{name}"] == pytest.approx(1, abs=1e-6), name
    assert got["properties/unit_purity"] > 0.9  # a class has fewer than nine examples
    assert got["properties/lipschitz"] == 0
    assert got["properties/active"] == pytest.approx(1 / 6)
    assert got["properties/rank"] == pytest.approx(5, abs=0.3)
    assert got["properties/depth_features_shape"] == pytest.approx(1)
    assert "properties/midpoint" not in got


@pytest.mark.slow
def test_eight_devices_are_one(measured):
    config = ROW()
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    prober = Prober(config, experiment.mesh)
    got = measure(experiment.model(experiment.init_state().weights), prober)
    assert set(got) == set(measured["vae"])
    for name, value in measured["vae"].items():
        assert got[name] == pytest.approx(value, abs=2e-2), name


@pytest.mark.slow
def test_sap_and_dci_on_request(vae):
    _, prober, _ = vae
    model = Model(lambda batch: {"h": batch["image"][:, 7:9, 8, 0].astype("float32")})
    got = measure(model, prober, disentanglement=("sap", "dci"), perturbations=("hue",))
    assert {"properties/sap", "properties/dci_completeness"} <= set(got)
    assert "properties/mig" not in got


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 65}, "64 test examples for 65 clusters"),
        ({"neighbours": 64}, "properties.neighbours is 64, but there are 64 test examples; use at"),
        ({"max_examples": 5}, "5 test examples for 6 clusters"),
    ],
)
def test_too_few_examples_are_found_before_the_run(vae, options, message):
    _, prober, _ = vae
    evaluation = evals.load("properties", {"properties": options})
    with pytest.raises(UserError, match=message) as told:
        evaluation.check(Known(prober.train, prober.test, 320))
    assert "\n" not in str(told.value)
    assert evals.load("properties").check(Known(prober.train, prober.test, 320)) == ""


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("vae-conv", {"eval.properties.layers": ("stage9",)}, "no output 'stage9/patches'"),
        ("vae", {"eval.properties.layers": ("stage1",)}, "no layers of a ViT or of a conv"),
        ("vae", {"eval.properties.perturbations": ("twirl",)}, "use .*one of shift, rotation"),
        ("vae", {"eval.properties.strengths": (0.0,)}, "above 0, at most 1"),
    ],
)
def test_bad_options_are_one_line(row, changes, message):
    with pytest.raises(UserError, match=message) as told:
        experiment, _ = built(row, **{"eval.final_names": ("properties",), **changes})
        check_evaluations(experiment)
    assert "\n" not in str(told.value)


def test_layers_are_averaged_over_cells():
    patches = np.random.default_rng(0).normal(size=(2, 15, 4)).astype(np.float32)
    maps = patches.reshape(2, 3, 5, 4)
    got = layers.pooled(patches, shape=(6, 10), cells=2)
    cells = [maps[:, r, c].mean(axis=(1, 2)) for r in (slice(0, 2), slice(2, 3))
             for c in (slice(0, 3), slice(3, 5))]  # fmt: skip
    np.testing.assert_allclose(got, np.concatenate(cells, axis=1), atol=1e-6)
    mean = patches.mean(axis=1)
    np.testing.assert_allclose(layers.pooled(patches, shape=(6, 10), cells=1), mean, atol=1e-6)
    odd = layers.pooled(patches[:, :13], shape=(6, 10), cells=2)  # they form no grid
    np.testing.assert_allclose(odd, patches[:, :13].mean(axis=1), atol=1e-6)
    with pytest.raises(UserError, match="layers has 'stage3', but this encoder has stage1, stage2"):
        layers.choose(("stage1", "stage2"), ("stage3",))
    assert layers.choose(("stage1", "stage2"), ("stage2", "stage1")) == ("stage1", "stage2")


def test_every_property_is_described():
    assert len({one.heading for one in PROPERTIES}) == len(PROPERTIES)
    for one in PROPERTIES:
        assert METRICS[one.name] == dataclasses.replace(one.metric) and one.measures and one.values
    axes = [one for one in PROPERTIES if one.on_axis is not None]
    assert all(0 <= one.on_axis(value) <= 1 for one in axes for value in (-3.0, 0.0, 0.4, 9.0))
    assert properties.NEEDS == ()
