"""How results on labelled texts are shown: their own columns, and what beats which baseline."""

import io

from rich.console import Console

from ssl_jax import report
from ssl_jax.report import tables

RESULTS = {
    "most frequent class": {"task/accuracy": 0.061},
    "TF-IDF, logistic": {"task/accuracy": 0.659},
    "supervised": {"task/accuracy": 0.712, "task/macro_f1": 0.64, "task/rmse": 1.5},
}


def said(results):
    out = io.StringIO()
    Console(file=out, width=80).print(report.summary_table(results))
    return out.getvalue()


def test_scores_of_a_task_have_columns_in_percent():
    lines = said(RESULTS).splitlines()
    assert lines[0].split() == ["score,", "%", "accuracy", "macro", "F1"]
    assert lines[2].split()[-2:] == ["6.1", "–"]
    assert lines[4].split() == ["supervised", "71.2", "64.0"]  # a root mean square is no share
    assert tables.summarise(RESULTS).best("task/accuracy") == 0.712


def test_probes_alone_are_accuracies():
    assert said({"SimCLR": {"knn/top1": 0.9}}).split()[:3] == ["accuracy,", "%", "kNN"]


def test_scores_of_other_tasks_are_named_as_they_are_known():
    keys = ("f1", "matthews", "pearson", "spearman", "exact_match", "entity_f1")
    columns = tables.summarise({"x": {f"task/{key}": 0.5 for key in keys}}).columns
    assert [heading for _, heading in columns] == [
        "F1", "Matthews", "Pearson", "Spearman", "exact match", "entity F1",
    ]  # fmt: skip


def test_the_page_compares_with_the_strongest_baseline():
    page = report.render(report.ReportInputs(config={}, results=RESULTS))
    assert "71.2%" in page and "5.3 points above" in page and "TF-IDF, logistic (65.9%)" in page
    assert "Score in %; the best of a column is bold." in page
