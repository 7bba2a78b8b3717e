"""Final evaluation of a run: scores with baselines, results.json, report.html."""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
from etils import epath

from ssl_jax import data, modalities, parallel, report
from ssl_jax.core import storage
from ssl_jax.core.console import make_console
from ssl_jax.core.errors import RunError, UserError
from ssl_jax.evals.model import Model
from ssl_jax.evals.registry import Evaluation
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.experiment.train_step import TrainState
from ssl_jax.run import (
    baselines,
    evaluation_file,
    failures,
    metrics,
    outcomes,
    report_contents,
    results_file,
)
from ssl_jax.run.first_state import first_state
from ssl_jax.run.probing import Prober

_T = TypeVar("_T")


def is_finished(workdir: epath.Path, step: int) -> bool:
    """Whether the final results of `step` are written."""
    return _record(workdir).get("step", -1) >= step


def lacks_report(experiment: Experiment, workdir: epath.Path) -> bool:
    """Whether the config asks for a report page that is not there; the same on all processes."""
    lacks = experiment.config.log.report and not _page(workdir).exists()
    return bool(parallel.from_first_process([int(lacks)])[0])


def not_computed_lines(workdir: epath.Path) -> list[str]:
    """A line for each evaluation that has no value in the results of a finished run."""
    reasons = _record(workdir).get("not_computed", {})
    lines = [
        f"not computed: {name} of {row} ({reason})"
        for row, names in reasons.items()
        for name, reason in names.items()
    ]
    if lines:
        lines.append(f"ssl_jax evaluate --workdir={workdir} computes what can be computed now")
    return lines


def lacking_lines(workdir: epath.Path, evaluations: Sequence[Evaluation]) -> list[str]:
    """A line that names the evaluations that a finished run has neither computed nor tried.

    Args:
      workdir: of the run.
      evaluations: those that its config asks for now, perhaps since it has ended.
    """
    record = _record(workdir)
    rows, failed = record.get("results", {}), record.get("not_computed", {})
    tried = {key.partition("/")[0] for row in (*rows.values(), *failed.values()) for key in row}
    tried |= evaluation_file.computed(workdir, record["step"]) if "step" in record else set()
    lacking = [evaluation.name for evaluation in evaluations if evaluation.name not in tried]
    if not lacking or {"evaluation", "features"} & tried:
        return []
    names = ",".join(lacking)
    return [f"not in its results: {names}; ssl_jax evaluate --workdir={workdir} --evals={names}"]


def evaluated_step(workdir: epath.Path) -> int:
    """The step whose state the results of a finished run are of."""
    record = _record(workdir)
    return record.get("best_step", record["step"])


def _record(workdir: epath.Path) -> dict[str, Any]:
    """The content of results.json; empty if it is missing or, with a warning, damaged."""
    try:
        return results_file.read(workdir)
    except UserError as error:
        failures.warn("reading the results", error)
        return {}


def _page(workdir: epath.Path) -> epath.Path:
    return epath.Path(workdir) / report.PAGE_NAME


def evaluate_and_report(
    experiment: Experiment,
    prober: Prober,
    state: TrainState,
    source: data.Source,
    workdir: epath.Path,
    lines: list[tuple[str, str]],
    *,
    last_step: int | None = None,
) -> None:
    """Evaluates the final state, prints the table, writes results.json, then report.html.

    If an evaluation or a picture fails, a warning is printed and only its own part is missing. In
    results.json, `not_computed` gives the reasons by row and evaluation.

    Args:
      experiment: the experiment that ran.
      prober: gives the splits.
      state: the state to evaluate, final or best.
      source: the training data, for examples of the views.
      workdir: folder to write to.
      lines: the preflight lines, for the report.
      last_step: last step of the run; default: the step of `state`.
    """
    results, not_computed = _evaluate(experiment, prober, state, source)
    last_step = int(state.step) if last_step is None else last_step
    shown_results = _as_shown(experiment, results)
    if jax.process_index() == 0:
        if any(results.values()):
            for table in report.tables_of(shown_results, experiment.config.eval):
                make_console().print(table)
        record = {"step": last_step, "results": results}
        if not_computed:
            record["not_computed"] = not_computed
        record["sizes"] = preflight.sizes(experiment)
        record["environment"] = environment()
        if last_step != int(state.step):
            record["best_step"] = int(state.step)
        if last_step < experiment.length.total_steps:
            record["stopped_early"] = True
        path = epath.Path(workdir) / results_file.NAME
        try:
            if experiment.config.eval.outcomes:
                outcomes.write(workdir, prober.outcomes)
            if _page(workdir).exists():
                _page(workdir).unlink()  # it shows other results
            storage.write_whole(path, json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise RunError(
                f"{path} cannot be written: {error}; the training is saved, and the same command "
                "evaluates it again"
            ) from error
    if experiment.config.log.report:
        _report(
            experiment, prober, state, source, workdir, lines, shown_results, last_step,
            _as_shown(experiment, not_computed),
        )  # fmt: skip


def write_missing_report(
    experiment: Experiment,
    prober: Prober,
    state: TrainState,
    source: data.Source,
    workdir: epath.Path,
    lines: list[tuple[str, str]],
) -> None:
    """Writes report.html from the results.json of a run that ended between the two.

    Args:
      experiment, prober, source, workdir, lines: as of `evaluate_and_report`.
      state: that of `evaluated_step`.
    """
    record = _record(workdir)
    results = _as_shown(experiment, record["results"])
    _report(
        experiment, prober, state, source, workdir, lines, results, record["step"],
        _as_shown(experiment, record.get("not_computed", {})),
    )  # fmt: skip


def _report(
    experiment: Experiment,
    prober: Prober,
    state: TrainState,
    source: data.Source,
    workdir: epath.Path,
    lines: list[tuple[str, str]],
    results: dict[str, dict[str, float]],
    last_step: int,
    not_computed: failures.NotComputed,
) -> None:
    """Writes report.html. A part that fails is left out, with a warning."""
    w, config = state.weights, experiment.config
    title = f"method {config.method.name}"

    modality, model = modalities.of(experiment.spec), experiment.model(w)
    examples = functools.cache(lambda: report_contents.examples(prober, source))
    parts = {
        f"Method.show of {title}": lambda: report_contents.shown_items(experiment, w, examples()),
        "the activation maps": lambda: report_contents.activation_items(experiment, w, examples()),
        "the nearest patches": lambda: report_contents.correspondence_items(
            experiment, w, examples()
        ),
        f"the report of {modality.unit}": lambda: modality.report(prober, model.features),
    }
    report_parts: dict[str, dict[str, Any]] = {}
    for name, part in parts.items():
        try:
            report_parts[name] = part()
        except Exception as error:
            failures.warn(name, error)
            report_parts[name] = {}
    shown, maps, patches, contents = report_parts.values()
    if jax.process_index() != 0:
        return
    try:
        inputs = report.ReportInputs(
            config=config.to_dict(),
            method=shown_name(experiment),
            dataset=config.data.name,
            last_step=last_step,
            total_steps=experiment.length.total_steps,
            best_step=int(state.step),
            rows=metrics.read_metrics(workdir),
            results=results,
            not_computed=not_computed,
            preflight=preflight.text(lines),
            environment=environment(),
            shown=shown | maps | patches,
            **contents,
        )
        print(f"report: {report.write(workdir, inputs)}", flush=True)
    except Exception as error:
        failures.warn("the report page", error)


def _evaluate(
    experiment: Experiment, prober: Prober, state: TrainState, source: data.Source
) -> tuple[dict[str, dict[str, float]], failures.NotComputed]:
    """Metrics by row: baselines of evaluations and representations; the trained model last.

    Returns:
      the metrics, and by row and evaluation why some have none. The trained model has a row of
      metrics if an evaluation applies to it, even if none of them has a value.
    """
    title = experiment.method.title
    results: dict[str, dict[str, float]] = {}
    not_computed: failures.NotComputed = {}
    try:
        chosen = prober.evaluations(experiment.config.eval.final_names, experiment.method)
    except Exception as error:
        failures.warn("the evaluation", error)
        return results, {title: {"evaluation": failures.reason(error)}}

    def without_features(row: str, error: Exception) -> None:
        failures.warn(f"the features of {row}", error)
        not_computed[row] = {"features": failures.reason(error)}

    names = experiment.config.eval.baselines
    needed = {evaluation.feature_of("h") for evaluation in chosen if evaluation.of_features}
    names = tuple(
        name
        for name in names
        if name == baselines.UNTRAINED or needed.intersection(baselines.outputs(name))
    )
    rows = representations(experiment, prober, state, names, without_features)
    for row, model, feature in rows:

        def on_error(name: str, error: Exception, row: str = row) -> None:
            failures.warn(f"evaluation {name!r} of {row}", error)
            not_computed.setdefault(row, {})[name] = failures.reason(error)

        is_trained = row == title
        applicable = [
            evaluation
            for evaluation in chosen
            if applies_to_row(evaluation, model, feature, is_trained=is_trained)
        ]
        if not applicable:
            continue
        values = prober.evaluate(model, applicable, feature, on_error=on_error)
        for evaluation in applicable if is_trained else ():
            if evaluation.of_model and evaluation.name not in not_computed.get(row, {}):
                for name, baseline in rows_beside(evaluation, model, prober, source).items():
                    results[name] = results.get(name, {}) | baseline
        values = failures.without_values_that_are_not_finite(values, row, not_computed)
        if values or is_trained:
            results[row] = values
    return results, not_computed


def rows_beside(
    evaluation: Evaluation, model: Model, prober: Prober, source: data.Source | None = None
) -> dict[str, dict[str, float]]:
    """`Evaluation.baselines`; none, with a warning, if they fail."""
    try:
        return evaluation.baselines(model, prober, source)
    except Exception as error:
        failures.warn(f"baselines of evaluation {evaluation.name!r}", error)
        return {}


def applies_to_row(evaluation: Evaluation, model: Model, feature: str, *, is_trained: bool) -> bool:
    """Whether an evaluation has a value for a row of the table.

    Evaluations of the whole model apply to the trained model only. Raw inputs have few outputs,
    most only h. An evaluation of another output is shown in the row of h.
    """
    if not evaluation.of_features:
        return is_trained
    needed = evaluation.feature_of(feature)
    if needed == feature:
        return model.method is not None or feature in model.raw_outputs
    return feature == "h" and (model.method is not None or needed in model.raw_outputs)


def shown_name(experiment: Experiment) -> str:
    """The name of the trained net in tables and on the report page.

    For a method that trains a head on any encoder, it is the encoder and how it was trained,
    because "supervised" does not tell whether it was fine-tuned.
    """
    method, config = experiment.method, experiment.config
    if not method.named_by_encoder:
        return method.title
    pretrained = config.init_from is not None and config.init_weights
    if method.freezes_encoder:
        how = "frozen" if pretrained else "frozen, untrained"
    else:
        how = "fine-tuned" if pretrained else "from scratch"
    return f"{config.model.name}, {how}"


def _as_shown(experiment: Experiment, results: dict[str, _T]) -> dict[str, _T]:
    """`results` by row, with the method's title, the key in results.json, as `shown_name`."""
    title, shown = experiment.method.title, shown_name(experiment)
    features = experiment.config.eval.features
    names = {f"{title}, {feature}": f"{shown}, {feature}" for feature in features}
    names[title] = shown
    return {names.get(name, name): scores for name, scores in results.items()}


def representations(
    experiment: Experiment,
    prober: Prober,
    state: TrainState,
    names: Sequence[str],
    on_error: Callable[[str, Exception], None],
) -> Iterator[tuple[str, Model, str]]:
    """Yields (row, model, feature) of each evaluated representation; the trained h comes last.

    Args:
      experiment: of the run.
      prober: gives what baselines are fitted to.
      state: the trained state.
      names: baselines, see `eval.baselines`; those of texts have no row here.
      on_error: called with the row and the error of a baseline that fails, which is left out.
    """
    features = sorted(experiment.config.eval.features, key=lambda feature: feature == "h")

    def rows_of(title: str, model: Model) -> Iterator[tuple[str, Model, str]]:
        for feature in features:
            yield title if feature == "h" else f"{title}, {feature}", model, feature

    for name, title, model in baseline_models(experiment, prober, names, on_error):
        if name == baselines.UNTRAINED:
            yield from rows_of(title, model)
        else:
            yield title, model, "h"
        del model
    trained = dataclasses.replace(
        experiment.model(state.weights),
        start=lambda: experiment.model(first_state(experiment)[0].weights),
    )
    yield from rows_of(experiment.method.title, trained)


def baseline_models(
    experiment: Experiment,
    prober: Prober,
    names: Sequence[str],
    on_error: Callable[[str, Exception], None],
) -> Iterator[tuple[str, str, Model]]:
    """Yields (name, row, model) of baselines; see `representations` for the arguments."""
    for name in names:
        if name not in baselines.TITLES:
            continue  # of texts, see `Evaluation.baselines`
        title = baselines.TITLES[name]
        try:
            if name == baselines.UNTRAINED:
                model = experiment.model(experiment.init_state().weights)
            else:
                model = baselines.model(name, prober)
        except Exception as error:  # such as two states that do not fit in memory
            on_error(title, error)
            continue
        yield name, title, model
        del model


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
