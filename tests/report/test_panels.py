"""Which metrics of a run share a chart, and that every metric has one."""

import jax
import jax.numpy as jnp

from ssl_jax.evals import collapse
from ssl_jax.report import curves, panels


def lines(chosen):
    """Title -> keys of each panel."""
    return {one.panel.title: one.keys for one in chosen}


def row(*keys):
    return [{"step": step, **dict.fromkeys(keys, 0.25 * step)} for step in (1, 2)]


def test_what_an_evaluation_scores_as_training_does_is_a_line_beside_it():
    known = ["eval/held_out/accuracy", "eval/held_out/loss", "train/accuracy", "train/loss"]
    assert lines(panels.training_panels(known)) == {
        "Loss": ["train/loss"],  # the evaluation's is for the log only
        "Accuracy": ["eval/held_out/accuracy", "train/accuracy"],
    }
    rows = row("eval/held_out/accuracy", "train/accuracy")
    assert curves.evaluation_charts(rows, {}) == []
    # Under a name that the config gives, too.
    section = {"later": {"evaluation": "held_out"}}
    known = ["eval/later/elbo", "train/elbo"]
    assert lines(panels.training_panels(known, section)) == {"ELBO (nats)": known}
    assert lines(panels.training_panels(known)) == {"ELBO (nats)": ["train/elbo"]}


def test_without_such_a_metric_of_training_it_stands_among_the_evaluations():
    rows = row("eval/held_out/accuracy", "train/loss")
    assert [chart.title for chart in curves.training_charts(rows)] == ["Loss"]
    (chart,) = curves.evaluation_charts(rows, {})
    assert chart.title == "Accuracy on hidden parts of held-out examples"


def test_metrics_that_the_table_does_not_name_have_a_chart_of_their_own():
    rows = row("train/kl", "train/teacher_accuracy", "train/lr/body", "train/lr/head",
               "memory/used", "train/steps_per_s", "train/epoch", "train/psnr",
               "train/new_kl")  # fmt: skip
    charts = {chart.title: chart for chart in curves.training_charts(rows)}
    assert list(charts) == ["KL (nats)", "Learning rate", "Memory used", "New KL", "PSNR, dB",
                            "Teacher accuracy"]  # fmt: skip
    assert charts["Teacher accuracy"].last == "50.0%" and charts["KL (nats)"].last == "0.5"
    assert [entry.label for entry in charts["Learning rate"].key] == ["body", "head"]
    (chart,) = curves.collapse_charts(row("collapse/new_measure"))
    assert chart.title == "New measure"


def test_of_many_latents_those_with_the_largest_kl_have_a_colour():
    rows = [
        {"step": step, **{f"train/latent_kl/{n}": step * kl for n, kl in enumerate(values)}}
        for step in (1, 2)
        for values in ([0.1, 3.0, 0.2, 5.0, float("nan"), 1.0, 0.7, 4.0, 0.3, 0.0, 0.5],)
    ]
    (chart,) = curves.training_charts(rows)
    assert chart.title == "KL of each latent (nats)"
    labels = [entry.label for entry in chart.key]
    assert labels == ["latent 3", "latent 7", "latent 1", "latent 5", "7 others"]
    assert [entry.slot for entry in chart.key] == [0, 1, 2, 3, 4]
    (few,) = curves.training_charts([{"step": 1, "train/latent_kl/0": 1.0, "train/latent_kl/1": 2}])
    assert [entry.label for entry in few.key] == ["latent 1", "latent 0"]


def test_evaluations_that_nobody_declares_are_drawn():
    rows = row("eval/old/score", "eval/old/score_std", "eval/knn/k", "eval/phones/top1")
    assert [chart.title for chart in curves.evaluation_charts(rows, {})] == [
        "Old score", "Phones top1",
    ]  # fmt: skip
    section = {"phones": {"evaluation": "linear"}}
    assert [chart.title for chart in curves.evaluation_charts(rows, {}, section)] == [
        "Accuracy of a linear classifier, phones", "Old score",
    ]  # fmt: skip


def test_the_page_stays_short_where_a_method_logs_much():
    known = sorted(f"train/x{number}" for number in range(40))
    assert len(panels.training_panels(known)) == panels.MAX_OTHERS


def test_every_measure_of_the_collapse_monitor_has_its_place():
    z, h = jax.ShapeDtypeStruct((4, 2, 3), jnp.float32), jax.ShapeDtypeStruct((4, 5), jnp.float32)
    names = jax.eval_shape(collapse.diagnostics, z, h)
    known = sorted([f"collapse/{name}" for name in names]
                   + [f"eval/collapse/{name}" for name in collapse.METRICS])  # fmt: skip
    chosen = lines(panels.monitor_panels(known))
    assert list(chosen) == [panel.title for panel in panels.COLLAPSE]
    assert chosen["Effective rank (RankMe)"] == [
        "collapse/rankme_h", "collapse/rankme_z", "eval/collapse/rankme_h",
    ]  # fmt: skip
    drawn = {key for keys in chosen.values() for key in keys}
    assert all("effective_rank" in key for key in set(known) - drawn)
    assert not panels.training_panels(known)
