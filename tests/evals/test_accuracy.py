"""A classifier's own accuracy, and that nobody encodes the train split for it."""

import jax
import numpy as np
import pytest

from ssl_jax import evals, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.evals import accuracy
from ssl_jax.experiment.build import Experiment
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS


@pytest.mark.parametrize("classes", [4, 6])
@pytest.mark.parametrize("entries", [1, 2**24])
def test_it_is_the_share_of_labels_among_the_first(classes, entries, monkeypatch):
    monkeypatch.setattr(accuracy, "_ENTRIES", entries)
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(50, classes)), 1).astype(np.float32)  # with ties
    logits[:5] = 0
    label = rng.integers(0, classes, 50).astype(np.int32)
    label[:5] = np.arange(5) % classes
    hits = {1: 0, 5: 0}
    for row, true in zip(logits, label, strict=True):
        order = sorted(range(classes), key=lambda k: (-row[k], k))
        for k in hits:
            hits[k] += order.index(true) < k
    got = accuracy.evaluate({"h": logits, "label": label}, num_classes=classes)
    of_classes = [
        np.mean(logits[label == k].argmax(axis=1) == k)
        for k in range(classes)
        if (label == k).any()
    ]
    assert got.pop("mean_class") == pytest.approx(np.mean(of_classes))
    assert (
        got == {"top1": hits[1] / 50, "top5": hits[5] / 50}
        if classes > 5
        else {"top1": hits[1] / 50}
    )


def test_each_class_counts_alike():
    label = np.array([0] * 8 + [1] * 2)
    outcomes = {}
    logits = np.tile([1.0, 0.0], (10, 1))  # class 0 for all
    got = accuracy.evaluate({"h": logits, "label": label}, num_classes=2, outcomes=outcomes)
    assert (got["top1"], got["mean_class"]) == (0.8, 0.5)
    np.testing.assert_array_equal(outcomes["predicted"], np.zeros(10))
    np.testing.assert_array_equal(outcomes["label"], label)


def test_rows_without_a_label_do_not_count():
    logits = np.eye(6, dtype=np.float32)
    label = np.array([0, 1, -1, 5, -1, -1], np.int32)
    got = evals.evaluate(["accuracy"], None, {"logits": logits, "label": label}, num_classes=6)
    assert got["accuracy/top1"] == 2 / 3
    with pytest.raises(UserError, match="the test split has no labels and accuracy needs them"):
        evals.evaluate(["accuracy"], None, {"logits": logits, "label": np.full(6, -1)})


def test_data_of_other_classes_are_refused():
    rows = {"logits": np.eye(6, dtype=np.float32), "label": np.zeros(6, np.int32)}
    with pytest.raises(UserError, match="has 6 classes and the data have 10"):
        evals.evaluate(["accuracy"], None, rows, num_classes=10)


class Counting:
    """Logits that know the first label, and how many examples were asked about."""

    def __init__(self):
        self.rows = 0

    def __call__(self, batch):
        self.rows += len(batch["label"])
        return {
            "h": np.ones((len(batch["label"]), 3), np.float32),
            "logits": np.eye(10, dtype=np.float32)[np.zeros(len(batch["label"]), int)],
        }


def test_the_train_split_is_encoded_only_for_those_who_fit_something():
    config = ROWS["supervised"].load(eval__batch_size=359)
    prober = Prober(config, parallel.make_mesh(devices=jax.devices()[:1]))
    encode = Counting()
    got = prober.evaluate(encode, ("accuracy",))
    assert encode.rows == 359
    assert got["accuracy/top1"] == np.mean(prober.test.labels == 0)
    encode = Counting()
    prober.evaluate(encode, ("accuracy", "knn"))
    assert encode.rows >= 359 + 1438
    kept = prober.features(encode, prober.test).keys()
    assert {"h", "logits"} < set(kept)  # asked for directly, all of it


def test_a_method_without_logits_is_told_so_before_it_runs():
    for row, section, fits in (
        ("supervised", {}, True),
        ("distill", {}, True),
        ("simclr", {}, True),
        ("simclr", {"eval__final_names": ("knn", "accuracy")}, False),
        ("simclr", {"eval__names": ("accuracy",)}, False),
    ):
        config = ROWS[row].load(**section)
        experiment = Experiment.build(config, Prober(config, None).train.spec)
        if fits:
            check_evaluations(experiment)
            continue
        with pytest.raises(UserError) as caught:
            check_evaluations(experiment)
        assert str(caught.value) == (
            "evaluation 'accuracy' needs the output 'logits', but this method has h, z; leave it "
            "out of --evals, eval.names and eval.final_names"
        )
    config = ROWS["simclr"].load(eval__final_names=("acuracy",))
    with pytest.raises(UserError, match="unknown evaluation 'acuracy'.*Did you mean 'accuracy'"):
        check_evaluations(Experiment.build(config, Prober(config, None).train.spec))


def test_an_encoder_without_logits_is_told_so():
    config = ROWS["supervised"].load()
    prober = Prober(config, parallel.make_mesh())
    with pytest.raises(
        UserError, match="'accuracy' needs the output 'logits', but this method has h"
    ):
        prober.evaluate(lambda batch: {"h": np.ones((len(batch["label"]), 3))}, ("accuracy",))
