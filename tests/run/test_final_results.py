"""The end of a run: what is probed, under which names."""

import json
import types

import numpy as np
import pytest
from etils import epath

from ssl_jax import data, evals, parallel, report
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.evals import collapse, linear
from ssl_jax.experiment.build import Experiment
from ssl_jax.modalities.image import Image
from ssl_jax.run import (
    evaluation_checks,
    failures,
    final_results,
    metrics,
    report_contents,
)
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS

LINES = [("a", "b")]


def test_every_output_asked_for_has_a_row_and_h_is_the_last():
    config = ROWS["simclr"].load(eval__features=("h", "z"), eval__baselines=("pixels", "untrained"))
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state, apply = experiment.init_state(), experiment.features
    batch = source.batch(np.arange(4))
    prober = Prober(config, experiment.mesh)
    names = config.eval.baselines
    found = list(final_results.representations(experiment, prober, state, names, pytest.fail))
    assert [(name, feature) for name, _, feature in found] == [
        ("raw pixels", "h"),
        ("untrained encoder, z", "z"),
        ("untrained encoder", "h"),
        ("SimCLR, z", "z"),
        ("SimCLR", "h"),
    ]
    expected = apply(state.weights, batch)
    for name, model, feature in found[1:]:  # nothing has been trained
        outputs = model.features(batch)
        np.testing.assert_array_equal(outputs[feature], expected[feature], err_msg=name)
    evaluation_checks.check_evaluations(experiment)


def built(row, **changes):
    """An experiment, as if its config said `changes` too, and its source."""
    config = ROWS[row].load(eval__baselines=())
    source = data.from_config(config.data, seed=0)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return Experiment.build(config, source.spec), source


def test_evaluations_that_were_added_to_a_finished_run_are_named(tmp_path):
    chosen = evals.load_all(("knn", "linear", "collapse"))
    record = {"step": 2, "results": {"raw pixels": {"knn/top1": 0.5}, "SimCLR": {}}}

    def lines(**more):
        (tmp_path / "results.json").write_text(json.dumps(record | more))
        return final_results.lacking_lines(epath.Path(tmp_path), chosen)

    command = f"ssl_jax evaluate --workdir={tmp_path} --evals=linear,collapse"
    assert lines() == [f"not in its results: linear,collapse; {command}"]
    assert lines(not_computed={"SimCLR": {"linear": "x", "collapse": "y"}}) == []
    assert lines(not_computed={"SimCLR": {"evaluation": "no split"}}) == []
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "2_digits.json").write_text('{"step": 2, "linear/top1": 0.9}')
    (tmp_path / "evaluations" / "1_digits.json").write_text('{"step": 1, "collapse/rank": 9}')
    assert lines() == [f"not in its results: collapse; {command.replace('linear,', '')}"]


@pytest.mark.parametrize(
    ("row", "changes", "name"),
    [
        ("simclr", {"init_from": "runs/x"}, "SimCLR"),
        ("supervised", {}, "convnet, from scratch"),
        ("supervised", {"init_from": "runs/x"}, "convnet, fine-tuned"),
        ("supervised", {"init_from": "runs/x", "init_weights": False}, "convnet, from scratch"),
        ("supervised", {"init_from": "runs/x", "method.freeze_encoder": True}, "convnet, frozen"),
        ("supervised", {"method.freeze_encoder": True}, "convnet, frozen, untrained"),
        ("probe-grid", {"init_from": "runs/x"}, "convnet, frozen"),
        ("probe-grid", {}, "convnet, frozen, untrained"),
    ],
)
def test_a_net_is_shown_under_the_name_that_people_know(row, changes, name):
    experiment, _ = built(row, **changes)
    title = experiment.method.title
    assert final_results.shown_name(experiment) == name
    found = final_results._as_shown(experiment, {"raw pixels": {}, f"{title}, h": {}, title: {}})
    assert list(found) == ["raw pixels", f"{name}, h", name]


@pytest.mark.slow
def test_the_report_of_a_run_that_stopped_early(monkeypatch, tmp_path):
    """It says so, and draws what there is; results.json keeps the method's own name."""
    changes = {"init_from": "runs/bert", "log.report": True, "log.every_steps": 10}
    experiment, source = built("supervised-text", **changes)
    with metrics.MetricWriter(tmp_path, tensorboard=False) as writer:
        for step in (1, 2):
            writer.write(step, {"eval/task/accuracy": 0.5})
    scores = {"task/accuracy": 0.5, "task/macro_f1": 0.25}
    prober = types.SimpleNamespace(
        evaluations=lambda *_: evals.automatic()[-1:], evaluate=lambda *_, **__: scores,
        config=experiment.config, task="classify", test=source,
        token_counts=np.zeros(source.spec.vocabulary.size),
    )  # fmt: skip
    monkeypatch.setattr(report_contents, "shown_items", lambda *_: {})
    state = experiment.init_state()
    final_results.evaluate_and_report(
        experiment, prober, state, source, tmp_path, [("a", "b")], last_step=2
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["results"] == {"supervised": scores} and results["stopped_early"]
    page = (tmp_path / "report.html").read_text()
    total = experiment.length.total_steps
    name = f"{experiment.config.model.name}, fine-tuned"
    assert f'<th scope="row">{name}</th>' in page and f"{name} on " in page
    assert f"<b>Stopped early</b> at step 2 of {total}" in page
    assert "The run ended after 2 steps" in page and "Evaluations over time" in page
    assert "The results are those of <b>step 0</b>, the best" in page


def test_what_cannot_be_shown_costs_its_place_in_the_report_only(monkeypatch, tmp_path, capsys):
    changes = {"eval.final_names": ("knn",), "log.report": True}
    experiment, source = built("simclr", **changes)

    def show(self, w, keys, batch):
        raise ValueError("no such\nlatent")

    monkeypatch.setattr(type(experiment.method), "show", show)
    prober = Prober(experiment.config, experiment.mesh)
    monkeypatch.setattr(prober, "evaluate", lambda *_, **__: {"knn/top1": 0.5})
    monkeypatch.setattr(Image, "report", lambda *_: {})
    state = experiment.init_state()
    final_results.evaluate_and_report(experiment, prober, state, source, tmp_path, LINES)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results == {"SimCLR": {"knn/top1": 0.5}}
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if line.startswith("warning")]
    assert line == ("warning: Method.show of method simclr failed: ValueError: no such latent")
    assert '<th scope="row">SimCLR</th>' in (tmp_path / "report.html").read_text()
    # The page itself, too.
    monkeypatch.setattr(report, "write", show)
    (tmp_path / "results.json").unlink()
    final_results.evaluate_and_report(experiment, prober, state, source, tmp_path, LINES)
    assert (tmp_path / "results.json").exists()
    assert "warning: the report page failed" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()  # the page of other results is gone


def failing(*_, **__):
    raise UserError("class 3 has only 1 labelled train examples")


def test_an_evaluation_that_fails_costs_its_own_metrics(monkeypatch, tmp_path, capsys):
    """Its row in results.json and on the page says why."""
    changes = {"eval.final_names": ("knn", "linear", "collapse"), "log.report": True}
    experiment, source = built("simclr", **changes)
    prober = Prober(experiment.config, experiment.mesh)
    monkeypatch.setattr(linear, "evaluate", failing)
    monkeypatch.setattr(collapse, "_ranks", lambda *_: {"rankme_h": np.nan})
    monkeypatch.setattr(Image, "report", lambda *_: {})
    monkeypatch.setattr(report_contents, "shown_items", lambda *_: {})
    state = experiment.init_state()
    final_results.evaluate_and_report(experiment, prober, state, source, tmp_path, LINES)
    record = json.loads((tmp_path / "results.json").read_text())
    (values,) = record["results"].values()
    assert set(values) == {
        "knn/top1", "knn/top5", "knn/k", "collapse/std_h", "collapse/uniformity_h"
    }  # fmt: skip
    reason = "class 3 has only 1 labelled train examples"
    assert record["not_computed"] == {
        "SimCLR": {"linear": reason, "collapse/rankme_h": "its value is nan"}
    }
    said = capsys.readouterr().err
    assert f"warning: evaluation 'linear' of SimCLR failed: {reason}\n" in said
    assert "warning: 'collapse/rankme_h' of SimCLR failed: its value is nan\n" in said
    assert f"<li>linear of SimCLR: {reason}</li>" in (tmp_path / "report.html").read_text()
    assert final_results.not_computed_lines(tmp_path)[:2] == [
        f"not computed: linear of SimCLR ({reason})",
        "not computed: collapse/rankme_h of SimCLR (its value is nan)",
    ]
    # A page that is written later shows the same.
    (tmp_path / "report.html").unlink()
    final_results.write_missing_report(experiment, prober, state, source, tmp_path, LINES)
    assert f"<li>linear of SimCLR: {reason}</li>" in (tmp_path / "report.html").read_text()


def without_features(monkeypatch, prober, split):
    """Makes the features of one split impossible to compute."""
    compute = prober.features
    lost = getattr(prober, split)

    def features(encode, source, *arguments):
        if source is lost:
            raise UserError(f"no readable image among 8 of {split}")
        return compute(encode, source, *arguments)

    monkeypatch.setattr(prober, "features", features)


@pytest.mark.parametrize("lost", ["train", "test"])
def test_features_that_cannot_be_computed_cost_what_needs_them(monkeypatch, lost):
    changes = {"eval.final_names": ("knn", "accuracy"), "eval.baselines": ("pixels", "untrained")}
    experiment, source = built("supervised", **changes)
    prober = Prober(experiment.config, experiment.mesh)
    without_features(monkeypatch, prober, lost)
    results, not_computed = final_results._evaluate(
        experiment, prober, experiment.init_state(), source
    )
    title = experiment.method.title
    assert list(not_computed) == ["raw pixels", "untrained encoder", title]
    accuracies = {f"accuracy/{name}" for name in ("top1", "top5", "mean_class")}
    measured = accuracies if lost == "train" else set()
    assert set(results[title]) == measured  # the row of the trained model is there, and the last
    assert set(not_computed[title]) == ({"knn"} if lost == "train" else {"knn", "accuracy"})
    assert list(results)[-1] == title


def test_a_table_without_any_value_is_not_drawn(monkeypatch, tmp_path, capsys):
    experiment, source = built("simclr", **{"eval.final_names": ("knn",), "log.report": True})
    prober = Prober(experiment.config, experiment.mesh)
    monkeypatch.setattr(prober, "evaluations", failing)
    monkeypatch.setattr(Image, "report", lambda *_: {})
    monkeypatch.setattr(report_contents, "shown_items", lambda *_: {})
    state = experiment.init_state()
    final_results.evaluate_and_report(experiment, prober, state, source, tmp_path, LINES)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["results"] == {} and list(record["not_computed"]) == ["SimCLR"]
    said = capsys.readouterr()
    assert "warning: the evaluation failed: class 3 has only 1" in said.err
    assert said.out.startswith("report: ")
    page = (tmp_path / "report.html").read_text()
    assert "<li>evaluation of SimCLR: class 3 has only 1 labelled train examples</li>" in page


def test_the_end_of_another_process_is_no_result(monkeypatch):
    """A restart has to compute what this process could not."""
    monkeypatch.setattr(parallel, "lost_process", lambda error: "gloo")
    with pytest.raises(UserError, match="gone"):
        failures.warn("evaluation 'knn'", UserError("gone"))


@pytest.mark.parametrize(
    "content",
    [
        "", '{"step": 3, "resu', "[]", '{"step": "x"}', '{"step": 3}',
        '{"step": 3, "results": {}, "not_computed": {"SimCLR": 5}}',
    ],
)  # fmt: skip
def test_damaged_results_are_those_of_a_run_that_is_not_finished(tmp_path, content):
    path = tmp_path / "results.json"
    assert not final_results.is_finished(tmp_path, 3)
    path.write_text('{"step": 3, "results": {}}')
    assert final_results.is_finished(tmp_path, 3)
    path.write_text(content)
    assert not final_results.is_finished(tmp_path, 3)


def test_results_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "results.json.tmp").mkdir()  # as little writable as a full disk
    config = ROWS["simclr"].load(eval__final_names=(), eval__baselines=(), log__report=False)
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state = experiment.init_state()
    with pytest.raises(RunError, match=r"results.json cannot be written: .*; the training is save"):
        final_results.evaluate_and_report(
            experiment, Prober(config, experiment.mesh), state, source, tmp_path, LINES
        )
