"""What metrics say of themselves, for tables and checks."""

import pytest

from ssl_jax import evals
from ssl_jax.evals import metric
from ssl_jax.evals.metric import Metric


@pytest.mark.parametrize(
    ("unit", "value", "std", "text"),
    [
        ("%", 0.71234, None, "71.2"),
        ("%", 0.71234, 0.031, "71.2 ± 3.1"),
        ("", 0.71234, None, "0.712"),
        ("nats", 1234.56, None, "1,234.6"),
    ],
)
def test_values_are_written_in_their_unit(unit, value, std, text):
    assert Metric("x", unit=unit).format(value, std) == text


def test_units_stand_behind_values_and_in_headings():
    assert Metric("kNN").with_unit(0.5) == "50.0%" and Metric("kNN").column == "kNN"
    assert Metric("loss", unit="nats").with_unit(0.5) == "0.500 nats"
    assert Metric("loss", unit="nats").column == "loss, nats"
    assert Metric("MIG", unit="").with_unit(0.5) == "0.500"


def test_the_best_is_what_the_metric_says():
    assert Metric("a").best([1, 3, 2]) == 3
    assert Metric("a", better="lower").best([1, 3, 2]) == 1
    assert Metric("a", better=None).best([1, 2]) is None and Metric("a").best([1]) is None


def test_a_family_has_a_number_in_its_name():
    declared = {
        "top1": Metric("kNN"),
        "{shots:d}": Metric("{shots}-shot", "few shots", series="labels a class"),
        "{task}_loss": Metric("{task} loss", unit="nats"),
    }
    found = metric.find(declared, "16")
    assert (found.heading, found.title, found.number) == ("16-shot", "few shots", 16)
    assert found.in_words == "few shots with 16 labels a class"
    assert metric.find(declared, "next_loss").heading == "next loss"
    assert metric.find(declared, "next_loss").in_words == "next loss"
    assert found.series == "labels a class" and metric.find(declared, "top1") == Metric("kNN")
    for name in ("1_std", "top", "top1/x", "-1"):
        assert metric.find(declared, name) is None


def test_a_sentence_on_a_model():
    assert Metric("mAP", "average precision").of_model("BYOL") == "average precision of BYOL"
    declared = {"{k:d}": Metric("{k}", "hits", series="severity")}
    assert metric.find(declared, "3").of_model("BYOL") == "hits of BYOL with severity 3"
    for key, sentence in {
        "knn/top1": "accuracy of BYOL with a kNN classifier",
        "few_shot/1": "accuracy of BYOL with one label a class",
        "few_shot/8": "accuracy of BYOL with 8 labels a class",
        "retrieval/recall_1": "recall of BYOL among one neighbour",
        "prompting/4": "right answers of BYOL to prompts with 4 demonstrations",
        "svm/1": "mean average precision of BYOL with linear SVMs on one positive a label",
    }.items():
        assert evals.describe(key).of_model("BYOL") == sentence
    fine = evals.describe("fine/top1", {"fine": {"evaluation": "knn"}})
    assert fine.of_model("BYOL") == "accuracy of BYOL with a kNN classifier, fine"


@pytest.mark.parametrize("name", evals.names())
def test_every_sentence_names_the_model(name):
    for declared in evals.load(name).module.METRICS.values():
        assert "BYOL" in declared.of_model("BYOL")
        assert "{number}" not in declared.sentence or declared.series


def test_keys_of_results_and_of_rows():
    assert evals.describe("knn/top1").heading == "kNN"
    assert evals.describe("eval/knn/top1") == evals.describe("knn/top1")
    assert evals.describe("few_shot/4").number == 4
    assert evals.describe("knn/top2") is None and evals.describe("train/loss") is None


def test_what_training_logs_of_the_same_kind():
    assert evals.logged_as("eval/held_out/accuracy") == "train/accuracy"
    assert evals.logged_as("collapse/std_h") == "collapse/std_h"
    section = {"later": {"evaluation": "held_out"}}
    assert evals.logged_as("later/elbo", section) == "train/elbo"
    for key in ("later/elbo", "knn/top1", "train/loss"):
        assert evals.logged_as(key) is None
    assert evals.describe_logged("train/masked_loss").unit == "nats"
    assert evals.describe_logged("train/contrastive_accuracy").unit == "%"
    assert evals.describe_logged("train/lr") is None and evals.describe_logged("knn/top1") is None
