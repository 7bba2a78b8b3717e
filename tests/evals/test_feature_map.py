"""Classifiers of feature maps, on maps whose positions tell the class and whose mean does not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import feature_map
from ssl_jax.evals.known import Known
from ssl_jax.models.functional import Net, count_parameters
from ssl_jax.run.evaluation_checks import check_evaluations
from tests.evals.stub_prober import MODEL, StubProber
from tests.run.test_final_results import built

D = 3
SHORT = dict(batch_size=32, epochs=10.0, learning_rate=0.05)


@dataclasses.dataclass(frozen=True)
class Spec:
    arrays: dict


@dataclasses.dataclass(frozen=True)
class Source:
    """Maps of 2x3 positions, row by row, of images of 4x6 pixels."""

    x: np.ndarray
    label: np.ndarray

    spec = Spec({"image": jax.ShapeDtypeStruct((4, 6, 3), "uint8")})

    def __len__(self):
        return len(self.label)


def source(n, seed):
    """Class 1: the mark of feature 0 is left of that of feature 1; class 0: right of it."""
    rng = np.random.default_rng(seed)
    x, label = 0.1 * rng.normal(size=(n, 2, 3, D)), rng.integers(0, 2, n)
    row, column = rng.integers(0, 2, n), rng.integers(0, 2, n)
    every = np.arange(n)
    x[every, row, column, 1 - label] += 1
    x[every, row, column + 1, label] += 1
    return Source(x.reshape(n, 6, D).astype(np.float32), label.astype(np.int32))


stub = functools.partial(StubProber, num_classes=2)


def evaluate(prober, **options):
    with jax.set_mesh(prober.mesh), pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_map, "_CHANNELS", 16)
        return feature_map.evaluate_model(MODEL, prober, **{**SHORT, **options})


@pytest.fixture(scope="module")
def splits():
    return source(256, 0), source(100, 1)


@pytest.fixture(scope="module")
def measured(splits):
    return evaluate(stub(*splits))


@pytest.mark.parametrize("classifier", ["convolutional", "connected"])
def test_it_finds_what_the_mean_over_positions_hides(classifier, splits, measured):
    rows = [{"h": split.x.mean(axis=1), "label": split.label} for split in splits]
    linear = evals.evaluate(["linear"], *rows, config={"linear": {"num_l2": 3}})["linear/top1"]
    if classifier == "connected":
        measured = evaluate(stub(*splits), classifier=classifier)
    assert measured["top1"] > 0.95 and linear < 0.7
    assert measured["steps"] == 80 and measured["loss"] < 0.3
    assert set(measured) == set(feature_map.measures(Known(None, None, 0, num_classes=2)))


def test_streamed_maps_give_the_same(splits, measured):
    assert evaluate(stub(*splits), max_gib=0.0) == measured


@pytest.mark.slow
def test_eight_devices_normalise_over_the_global_batch(splits, measured):
    got = evaluate(stub(*splits, devices=8))
    assert got["steps"] == measured["steps"]
    assert got["loss"] == pytest.approx(measured["loss"], rel=1e-3)


def test_examples_without_a_label_do_not_count(splits, measured):
    train, test = splits
    unlabelled = Source(
        np.concatenate([test.x, 9 * test.x]),
        np.append(test.label, np.full(len(test), -1, np.int32)),
    )
    assert evaluate(stub(train, unlabelled)) == measured
    none = Source(train.x, np.full(len(train), -1, np.int32))
    for splits_without, name in (((none, test), "train"), ((train, none), "test")):
        with pytest.raises(UserError, match=f"needs labelled examples in the {name} split"):
            evaluate(stub(*splits_without), classifier="connected", epochs=1.0)


@pytest.mark.parametrize(
    ("classifier", "parameters"),
    [
        ("convolutional", (9 + 1 + 1) * 192 * 192 + 6 * 192 + 193 * 10),
        ("connected", 8 * 8 * 192 * 200 + 200 * 200 + 4 * 200 + 201 * 10),
    ],
)
def test_the_classifiers_have_the_released_size(classifier, parameters):
    net = Net(feature_map._module(classifier, 10))
    shape = jax.ShapeDtypeStruct((1, 8, 8, 192), jnp.float32)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), shape)
    assert count_parameters(params) == parameters


def test_the_rate_falls_to_a_fifth_three_times():
    rates = feature_map.learning_rates(0.1, 100)
    got = [float(rates(step)) for step in (0, 34, 36, 69, 71, 84, 86, 99)]
    np.testing.assert_allclose(got, [0.1, 0.1, 0.02, 0.02, 0.004, 0.004, 8e-4, 8e-4], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("bert", {}, "evaluation 'feature_map' is not for method"),
        ("rotnet", {"eval.feature_map.feature": "h"}, "eval.feature_map.feature is 'h', which is"),
        ("rotnet", {"eval.feature_map.feature": "stage9/patches"}, "no output 'stage9/patches'"),
        ("rotnet", {"eval.feature_map.classifier": "linear"}, "use one of convolutional, connec"),
    ],
)
def test_it_says_where_it_cannot_be_computed(row, changes, message):
    names = {"eval.final_names": ("feature_map",)}
    with pytest.raises(UserError, match=message) as told:
        experiment, _ = built(row, **{"eval.features": ("h",), **names, **changes})
        check_evaluations(experiment)
    assert "\n" not in str(told.value)


def test_positions_that_form_no_grid_are_refused():
    shape = {"stage2/patches": jax.ShapeDtypeStruct((1, 7, 8), "float32")}
    known = Known(source(4, 0), None, 4, outputs=shape)
    with pytest.raises(UserError, match="the 7 positions of .* form no grid on images of 4x6"):
        evals.load("feature_map").check(known)
    section = {"connected": {"evaluation": "feature_map", "classifier": "connected"}}
    with pytest.raises(UserError, match=r"of eval\.connected\.feature='stage2/patches' form no"):
        evals.load("connected", section).check(known)
    six = {"stage2/patches": jax.ShapeDtypeStruct((1, 6, 8), "float32")}
    assert evals.load("feature_map").check(known._replace(outputs=six)) == ""
