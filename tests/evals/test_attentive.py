"""The protocol of the attentive probe, on tokens of which one tells the class."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from ssl_jax import evals
from ssl_jax.core.errors import UserError
from ssl_jax.evals import attentive, tokens
from ssl_jax.evals.known import Known
from ssl_jax.run.dry_evaluation import dry_evaluation
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.final_results import evaluate_and_report
from ssl_jax.run.probing import Prober
from tests.evals.stub_prober import MODEL, StubProber
from tests.run.test_final_results import LINES, built

P, D, CLASSES = 6, 8, 3
FAST = dict(learning_rates=(1e-3, 0.3), weight_decays=(1e-3,), batch_size=32, min_steps=60)
FAST |= dict(epochs=1.0)


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples in memory: all tokens are noise but one, which is marked and tells the class."""

    x: np.ndarray
    label: np.ndarray

    def __len__(self):
        return len(self.label)


def source(n, seed):
    rng = np.random.default_rng(seed)
    x, label = rng.normal(size=(n, P, D)), rng.integers(0, CLASSES, n)
    place = rng.integers(0, P, n)
    x[np.arange(n), place] = 0.3 * rng.normal(size=(n, D))
    x[np.arange(n), place, CLASSES] = 5.0
    x[np.arange(n), place, label] += 2.0
    return Source(x.astype(np.float32), label.astype(np.int32))


stub = functools.partial(StubProber, num_classes=CLASSES)


def evaluate(prober, **options):
    with jax.set_mesh(prober.mesh):
        return attentive.evaluate_model(MODEL, prober, **{**FAST, **options})


@pytest.fixture(scope="module")
def splits():
    return source(400, 0), source(150, 1)


@pytest.fixture(scope="module")
def measured(splits):
    return evaluate(stub(*splits))


def test_it_finds_the_token_that_a_mean_hides(splits, measured):
    rows = [{"h": split.x.mean(axis=1), "label": split.label} for split in splits]
    linear = evals.evaluate(["linear"], *rows, config={"linear": {"num_l2": 3}})["linear/top1"]
    assert measured["top1"] > 0.9 > linear + 0.1
    assert set(measured) == set(attentive.measures(Known(None, None, 0, num_classes=CLASSES)))
    assert measured["steps"] == 60 and measured["best_learning_rate"] == 0.3
    assert measured["rate_at_edge"] == 1.0  # of a grid of two


def test_streamed_tokens_give_the_same(splits, measured):
    assert evaluate(stub(*splits), max_gib=0.0) == measured


@pytest.mark.slow
def test_eight_devices_give_the_same(splits, measured):
    got = evaluate(stub(*splits, devices=8))
    assert got["top1"] == pytest.approx(measured["top1"], abs=0.0134)  # two test examples
    assert {**got, "top1": 0, "val_top1": 0} == {**measured, "top1": 0, "val_top1": 0}


def test_the_choice_sees_held_out_train_only(splits, measured):
    train, test = splits
    shuffled = Source(test.x[::-1], np.random.default_rng(0).permutation(test.label))
    other = evaluate(stub(train, shuffled))
    assert other["top1"] < measured["top1"] - 0.2
    assert {**other, "top1": measured["top1"]} == measured
    # Streamed, every read of examples shows: moments and training see the same 90%.
    prober = stub(train, test)
    evaluate(prober, max_gib=0.0)
    (_, first), (_, moments), (_, trained), (_, chosen), (last, scored) = prober.read
    assert len(first) == 1 and last == "test" and len(scored) == len(test)
    assert set(trained) == set(moments) and len(moments) == 360 and len(chosen) == 40
    assert not set(trained) & set(chosen)


def test_examples_without_a_label_do_not_count(splits, measured):
    train, test = splits
    unlabelled = Source(
        np.concatenate([test.x, 9 * test.x]),
        np.append(test.label, np.full(len(test), -1, np.int32)),
    )
    assert evaluate(stub(train, unlabelled)) == measured
    with pytest.raises(UserError, match="needs labelled train examples"):
        evaluate(stub(Source(train.x, np.full(400, -1, np.int32)), test))


def test_moments_are_those_of_numpy(splits):
    train, test = splits
    moved = Source(train.x * 0.01 + 100, train.label)  # squares in float32 would cancel
    prober = stub(moved, test)
    with jax.set_mesh(prober.mesh):
        read, _, _ = tokens.readers(
            MODEL, prober, attentive.FEATURE,
            examples=np.arange(400), size=32, max_gib=0.0, evaluation="attentive",
        )  # fmt: skip
        scaling = attentive._scaling(read, np.arange(400))
    means = moved.x.mean(axis=1, dtype=np.float64)
    np.testing.assert_allclose(scaling.mean, means.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scaling.deviation, means.std(axis=0), rtol=1e-3)


def test_a_note_about_tokens_that_do_not_fit():
    options = dict(evals.load("attentive").options)
    shape = {"last1/patches": jax.ShapeDtypeStruct((1, 196, 768), "float32")}
    known = Known(None, None, 1_281_167, outputs=shape)
    evaluation = evals.load("attentive")
    assert "take 718.4 GiB" in evaluation.check(known)
    assert evaluation.check(known._replace(num_train=10_000)) == ""
    with pytest.raises(UserError, match="val_fraction=0.1 of 4 train examples leaves none"):
        evaluation.check(known._replace(num_train=4))
    assert options["epochs"] == 20.0


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("bert", {}, "evaluation 'attentive' is not for method"),
        ("mae", {"eval.attentive.feature": "layer7/patches"}, "no output 'layer7/patches'.* 1 l"),
        ("mae", {"eval.attentive.feature": "h"}, "eval.attentive.feature is 'h', which is no out"),
        ("mae", {"eval.features": ("h", "last2/cls")}, "no output 'last2/cls'.*has 1 layers"),
        ("vae", {}, "no output 'last1/patches': this method has no layers"),
    ],
)
def test_it_says_where_it_cannot_be_computed(row, changes, message):
    experiment, _ = built(row, **{"eval.final_names": ("linear", "attentive"), **changes})
    with pytest.raises(UserError, match=message) as told:
        check_evaluations(experiment)
    assert "\n" not in str(told.value)


@pytest.mark.slow
def test_a_run_ends_with_it(tmp_path):
    """Table, results.json and report of a masked autoencoder and of its untrained encoder."""
    experiment, training = built(
        "mae",
        **{
            "eval.final_names": ("attentive", "linear"),
            "eval.baselines": ("pixels", "untrained"),
            "eval.features": ("h", "last1/mean"), "log.report": True,
            "eval.linear": dict(num_l2=1, max_iterations=2),
            "eval.attentive": dict(learning_rates=(1e-2,), epochs=1.0, min_steps=1),
        },
    )  # fmt: skip
    prober = Prober(experiment.config, experiment.mesh)
    check_evaluations(experiment)
    assert dry_evaluation(experiment, prober) == []
    with jax.set_mesh(experiment.mesh):
        state = experiment.init_state()
        evaluate_and_report(experiment, prober, state, training, tmp_path, LINES)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert set(results) == {
        "raw pixels", "untrained encoder", "untrained encoder, last1/mean", "MAE",
        "MAE, last1/mean",
    }  # fmt: skip
    attentive_rows = [row for row, values in results.items() if "attentive/top1" in values]
    assert attentive_rows == ["untrained encoder", "MAE"]
    assert all("linear/top1" in values for values in results.values())
    assert "attentive" in (tmp_path / "report.html").read_text()
