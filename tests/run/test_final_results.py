"""The end of a run: what is probed, under which names."""

import json
import types

import numpy as np
import pytest

from ssl_jax import data, evals, report
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.modalities.image import Image
from ssl_jax.run import evaluation_checks, final_results, metrics, report_contents
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS

LINES = [("a", "b")]


def test_every_output_asked_for_has_a_row_and_h_is_the_last():
    config = ROWS["simclr"].load(eval__features=("h", "z"), eval__baselines=True)
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state, apply = experiment.init_state(), experiment.features
    batch = source.batch(np.arange(4))
    found = list(final_results.representations(experiment, state))
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
    config = ROWS[row].load(eval__baselines=False)
    source = data.from_config(config.data, seed=0)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return Experiment.build(config, source.spec), source


@pytest.mark.parametrize(
    ("row", "changes", "name"),
    [
        ("simclr", {"init_from": "runs/x"}, "SimCLR"),
        ("supervised", {}, "convnet, from scratch"),
        ("supervised", {"init_from": "runs/x"}, "convnet, fine-tuned"),
        ("supervised", {"init_from": "runs/x", "init_weights": False}, "convnet, from scratch"),
        ("supervised", {"init_from": "runs/x", "method.freeze_encoder": True}, "convnet, frozen"),
        ("supervised", {"method.freeze_encoder": True}, "convnet, frozen, untrained"),
    ],
)
def test_a_net_is_shown_under_the_name_that_people_know(row, changes, name):
    experiment, _ = built(row, **changes)
    title = experiment.method.title
    assert final_results.shown_name(experiment) == name
    found = final_results._as_shown(experiment, {"raw pixels": {}, f"{title}, h": {}, title: {}})
    assert list(found) == ["raw pixels", f"{name}, h", name]


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


def test_an_evaluation_that_fails_costs_its_own_metrics(monkeypatch, tmp_path, capsys):
    experiment, source = built("simclr", **{"eval.final_names": ("knn", "few_shot")})
    prober = Prober(experiment.config, experiment.mesh)

    def evaluate(model, evaluations, feature, on_error):
        on_error("few_shot", UserError("class 3 has only 1 labelled train examples"))
        return {"knn/top1": 0.5}

    monkeypatch.setattr(prober, "evaluate", evaluate)
    state = experiment.init_state()
    assert final_results._evaluate(experiment, prober, state, source) == {
        "SimCLR": {"knn/top1": 0.5}
    }
    assert capsys.readouterr().err == (
        "warning: evaluation 'few_shot' of SimCLR failed: class 3 has only 1 labelled train "
        "examples\n"
    )


@pytest.mark.parametrize("content", ["", '{"step": 3, "resu', "[]", '{"step": "x"}', '{"step": 3}'])
def test_damaged_results_are_those_of_a_run_that_is_not_finished(tmp_path, content):
    path = tmp_path / "results.json"
    assert not final_results.is_finished(tmp_path, 3)
    path.write_text('{"step": 3, "results": {}}')
    assert final_results.is_finished(tmp_path, 3)
    path.write_text(content)
    assert not final_results.is_finished(tmp_path, 3)


def test_results_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "results.json.tmp").mkdir()  # as little writable as a full disk
    config = ROWS["simclr"].load(eval__final_names=(), eval__baselines=False, log__report=False)
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state = experiment.init_state()
    with pytest.raises(RunError, match=r"results.json cannot be written: .*; the training is save"):
        final_results.evaluate_and_report(
            experiment, Prober(config, experiment.mesh), state, source, tmp_path, LINES
        )
