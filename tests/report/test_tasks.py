"""How results on labelled texts are shown: their own columns, and what beats which baseline."""

import io
import re

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
    assert lines[0].split() == ["accuracy,", "%", "macro", "F1,", "%", "RMSE"]
    assert lines[2].split()[-3:] == ["6.1", "–", "–"]
    assert lines[4].split() == ["supervised", "71.2", "64.0", "1.500"]
    assert tables.summarise(RESULTS).best("task/accuracy") == 0.712


def test_probes_alone_are_in_percent():
    assert said({"SimCLR": {"knn/top1": 0.9}}).split()[:3] == ["in", "%", "kNN"]


def test_scores_of_other_tasks_are_named_as_they_are_known():
    keys = ("f1", "matthews", "pearson", "spearman", "exact_match", "entity_f1")
    columns = tables.summarise({"x": {f"task/{key}": 0.5 for key in keys}}).columns
    assert [metric.heading for metric in columns.values()] == [
        "F1", "Matthews", "Pearson", "Spearman", "exact match", "entity F1",
    ]  # fmt: skip


def test_the_page_compares_with_the_strongest_baseline():
    page = report.render(report.ReportInputs(config={}, results=RESULTS))
    assert "71.2%" in page and "5.3 points above" in page and "TF-IDF, logistic (65.9%)" in page
    assert "The best of a column is bold." in page


def test_answers_to_prompts_are_summed_up_by_the_most_demonstrations():
    results = {
        "chance": {f"prompting/{shots}": 0.125 for shots in (0, 1, 8)},
        "GPT": {"prompting/0": 0.13, "prompting/1": 0.4, "prompting/8": 0.874},
    }
    page = report.render(report.ReportInputs(config={}, results=results))
    assert "Right answers of GPT to prompts with 8 demonstrations" in page
    assert "87.4%" in page and "74.9 points above" in page


def test_a_score_is_bold_only_where_another_row_has_it():
    page = report.render(report.ReportInputs(config={}, results=RESULTS))
    assert '<td><span class="best">71.2</span></td>' in page and "<td>64.0</td>" in page
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True, color_system="standard").print(
        report.summary_table(RESULTS)
    )
    bold = re.findall(r"\x1b\[1m *([\d.]+)\x1b", out.getvalue())
    assert bold == ["71.2"]
    alone = report.render(report.ReportInputs(config={}, results={"x": RESULTS["supervised"]}))
    assert "is bold" not in alone and 'class="best"' not in alone


# A fine-tuning that ended before the first training metrics were due.
CONFIG = {
    "epochs": 10.0,
    "log": {"every_steps": 10},
    "early_stopping": {"patience": 3},
    "checkpoint": {"best_metric": "eval/task/accuracy"},
    "eval": {"validation_split": "train[80%:90%]", "test_split": "train[90%:]"},
}
ROWS = [{"step": s, "eval/task/accuracy": 0.8, "eval/task/macro_f1": 0.4} for s in range(1, 5)]


def text_of(**inputs):
    """The page's words, without its tags and its style."""
    page = report.render(report.ReportInputs(**{"config": CONFIG, "rows": ROWS} | inputs))
    return re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.S)


def test_evaluations_are_drawn_where_no_training_metrics_are():
    text = text_of()
    assert "The run ended after 4 steps, before the first training metrics" in text
    assert "every 10 steps (log.every_steps)" in text and "Evaluations over time" in text
    assert "Of the validation split, train[80%:90%]; the results above are of the test" in text
    assert "macro F1" in text
    one_split = CONFIG | {"eval": {"validation_split": None, "test_split": "test"}}
    assert "Of the test split, as the results above." in text_of(config=one_split)
    # Where some are due, they are missing for another reason.
    assert "No training metrics were recorded" in text_of(config={"log": {"every_steps": 4}})


def test_a_run_that_stopped_early_says_so():
    text = text_of(last_step=4, total_steps=10, best_step=4)
    assert "epochs4 of 10" in text and "steps4 of 10" in text
    assert "Stopped early at step 4 of 10: 3 evaluations in a row without a better " in text
    assert "The results are those of step 4: no earlier one was better." in text
    text = text_of(last_step=4, total_steps=10, best_step=1)
    assert "The results are those of step 1, the best by eval/task/accuracy." in text


def test_a_run_that_went_on_to_its_end_says_nothing_of_it():
    for inputs in ({}, {"last_step": 4, "total_steps": 4, "best_step": 4}):
        text = text_of(**inputs)
        assert "Stopped early" not in text and "results are those of" not in text
        assert "epochs10" in text and "steps4" in text and "4 of" not in text
    text = text_of(last_step=4, total_steps=4, best_step=3)
    assert "Stopped early" not in text and "The results are those of step 3, the best by" in text
