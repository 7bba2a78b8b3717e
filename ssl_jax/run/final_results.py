"""The end of a run: final probes beside their baselines, results.json, report.html."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
from etils import epath
from rich.console import Console

from ssl_jax import data, report
from ssl_jax.core.storage import write_whole
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.train_step import TrainState
from ssl_jax.methods.base.labelled import Labelled
from ssl_jax.run import metrics, showcase
from ssl_jax.run.probing import Prober, raw_pixels

_RESULTS = "results.json"
_RAW, _UNTRAINED = "raw pixels", "untrained encoder"
_UNIGRAM = "unigram"
_BASELINES = {"majority": "most frequent class", "tfidf": "TF-IDF, logistic"}


def is_finished(workdir: epath.Path, step: int) -> bool:
    """Whether the final results of `step` are written."""
    path = epath.Path(workdir) / _RESULTS
    return path.exists() and json.loads(path.read_text()).get("step", -1) >= step


def finish(
    experiment: Experiment,
    prober: Prober,
    state: TrainState,
    source: data.Source,
    workdir: epath.Path,
    lines: list[tuple[str, str]],
    *,
    last_step: int | None = None,
) -> None:
    """Probes the final state, prints the table, writes results.json and report.html.

    Args:
      experiment: what ran.
      prober: the probes' splits.
      state: the final state.
      source: the training data, for examples of the views.
      workdir: where to write.
      lines: the preflight's, for the report.
      last_step: of the run, where the state is not that of its end but its best.
    """
    primary = jax.process_index() == 0
    apply = experiment.features
    results: dict[str, dict[str, float]] = {}
    section = experiment.config.eval
    chosen = prober.evaluations(section.final_names) if section.final_names else ()
    probed = chosen or section.transformations
    for name, encode, feature in _representations(experiment, apply, state) if probed else ():
        # Pixels make no logits, and those of the encoder are not of z; what nothing is left for has
        # no row.
        every = feature == "h" and name != _RAW
        own = [one for one in chosen if every or one.feature_of(feature) == feature]
        found = prober.evaluate(encode, own, feature) if own else {}
        for change in section.transformations:
            found |= prober.transformation(encode, change, feature)
        if found:
            results[name] = found
    if prober.task:
        results |= _task_results(experiment, prober, apply, state, source, results)
    predicted = _held_out(experiment, prober, state)
    shown = {}
    if experiment.config.log.report:
        if experiment.spec.vocabulary is None:
            shown = showcase.pictures(experiment, prober, apply, state, source)
        else:
            shown = showcase.words(experiment, prober, state)
    if not primary:
        return
    last_step = int(state.step) if last_step is None else last_step
    shown_results = _as_shown(experiment, results)
    if results:
        Console().print(report.summary_table(shown_results))
    if predicted:
        Console().print(report.held_out_table(predicted))
    if experiment.config.log.report:
        config = experiment.config
        inputs = report.ReportInputs(
            config=config.to_dict(),
            method=shown_name(experiment),
            dataset=config.data.name,
            last_step=last_step,
            total_steps=experiment.length.total_steps,
            best_step=int(state.step),
            rows=metrics.read_metrics(workdir),
            results=shown_results,
            held_out=predicted,
            preflight=preflight.text(lines),
            environment=environment(),
            **shown,
        )
        print(f"report: {report.write(workdir, inputs)}", flush=True)
    record = {"step": last_step, "results": results, "environment": environment()}
    if last_step != int(state.step):
        record["best_step"] = int(state.step)
    if last_step < experiment.length.total_steps:
        record["stopped_early"] = True
    if predicted:
        record["held_out"] = predicted
    write_whole(epath.Path(workdir) / _RESULTS, json.dumps(record, indent=2) + "\n")


def shown_name(experiment: Experiment) -> str:
    """What people call the trained net.

    Of a method that learns from labels that is the encoder and what became of it: "supervised" does
    not say whether it was fine-tuned.
    """
    method, config = experiment.method, experiment.config
    if not isinstance(method, Labelled):
        return method.title
    pretrained = config.init_from is not None and config.init_weights
    if method.hyper.freeze_encoder:
        how = "frozen" if pretrained else "frozen, untrained"
    else:
        how = "fine-tuned" if pretrained else "from scratch"
    return f"{config.model.name}, {how}"


def _as_shown(
    experiment: Experiment, results: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    """`results`, which results.json has under the method's title, under the name people know."""
    title, shown = experiment.method.title, shown_name(experiment)
    names = {f"{title}, {one}": f"{shown}, {one}" for one in experiment.config.eval.features}
    names[title] = shown
    return {names.get(name, name): scores for name, scores in results.items()}


def _representations(experiment: Experiment, apply, state: TrainState):
    """(name, encode, feature) of everything to probe, the trained encoder's h last."""
    features = sorted(experiment.config.eval.features, key=lambda feature: feature == "h")

    def of(title: str, state: TrainState):
        for feature in features:
            name = title if feature == "h" else f"{title}, {feature}"
            yield name, lambda batch: apply(state.weights, batch), feature

    if experiment.config.eval.baselines:
        if experiment.spec.modality == "image":
            yield _RAW, raw_pixels, "h"
        yield from of(_UNTRAINED, experiment.init_state())
    yield from of(experiment.method.title, state)


def _task_results(
    experiment: Experiment,
    prober: Prober,
    apply,
    state: TrainState,
    source: data.Source,
    results: dict[str, dict[str, float]],
) -> dict[str, dict[str, float]]:
    """Predictor -> how well it does what the texts are labelled for; the method last.

    Args:
      source: what the method has learned from, and the baselines too.
      results: of the probes, to whose rows these are added.
    """
    found = {}
    if experiment.config.eval.baselines and prober.task == "classify":
        from ssl_jax.evals import text_baselines  # scikit-learn takes a second to import

        simple = text_baselines.baselines(source, prober.test, seed=prober.config.seed)
        found = {_BASELINES[name]: {"task/accuracy": value} for name, value in simple.items()}
    title = experiment.method.title
    scores = prober.task_scores(lambda batch: apply(state.weights, batch))
    return {**found, title: {**results.pop(title, {}), **scores}}


def _held_out(
    experiment: Experiment, prober: Prober, state: TrainState
) -> dict[str, dict[str, float]]:
    """Predictor -> how well it names what is hidden of the test split; the method last."""
    if not experiment.predicts:
        return {}
    score = experiment.held_out
    found, guessed = prober.held_out(lambda batch: score(state.weights, batch))
    return {**({_UNIGRAM: guessed} if guessed else {}), experiment.method.title: found}


def environment() -> dict[str, str]:
    """Versions, devices, command and commit, for results and reports."""
    versions = {name: metadata.version(name) for name in ("jax", "flax", "optax")}
    devices = jax.devices()
    out = {
        "ssl_jax": metadata.version("ssl_jax"),
        **versions,
        "python": platform.python_version(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "command": " ".join(["ssl_jax train", *sys.argv[1:]]),
    }
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if commit.returncode == 0:
        out["commit"] = commit.stdout.strip()
    return out
