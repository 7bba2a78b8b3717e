"""Renders the report page; sections without data are omitted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import ssl_jax
from ssl_jax.report import (
    config_values,
    curves,
    galleries,
    maps,
    probes,
    properties,
    retrieval,
    shown,
    templating,
)
from ssl_jax.report.curves import Chart
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.overview import Overview
from ssl_jax.report.properties import Desiderata
from ssl_jax.report.results import Results
from ssl_jax.report.templating import Section


def render(inputs: ReportInputs) -> str:
    """The whole page as HTML."""
    sections = [
        Section("results", "Results", "results.html", Results.from_inputs(inputs)),
        Section(
            "properties", "Desiderata", "properties.html", Desiderata.from_results(inputs.results)
        ),
        *_units(inputs),
        Section("probes", "Probes", "probes.html", probes.section(inputs)),
        Section("training", "Training", "training.html", _training(inputs)),
        Section("evaluations", "Evaluations over time", "evaluations.html", _evaluations(inputs)),
        Section(
            "steps",
            "Accuracy by step of prediction",
            "steps.html",
            curves.steps_chart(inputs.results),
        ),
        Section("map", "Map of the representation", "maps.html", galleries.map_section(inputs)),
        Section(
            "neighbours",
            "Nearest neighbours",
            "neighbours.html",
            galleries.neighbour_gallery(inputs),
        ),
        Section("retrieval", "Retrieval", "retrieval.html", retrieval.section(inputs)),
        *shown.sections(inputs),
        Section("collapse", "Collapse monitor", "collapse.html", _collapse(inputs)),
        Section("preflight", "Preflight", "preflight.html", _preflight(inputs)),
        Section(
            "environment",
            "Environment",
            "environment.html",
            tuple(inputs.environment.items()),
        ),
        Section("config", "Configuration", "config.html", config_values.groups(inputs.config)),
    ]
    return _page(inputs, sections)


def render_comparison(name: str, results: Mapping[str, Mapping[str, float]]) -> str:
    """A page with the desiderata of the representations of several runs side by side.

    Args:
      name: heading of the page.
      results: representation -> its metrics.
    """
    content = Desiderata.from_results(results, of_run=False)
    section = Section("properties", "Desiderata", "properties.html", content)
    return _page(ReportInputs(config={}, name=name, results=results), [section])


def _page(inputs: ReportInputs, sections: Sequence[Section]) -> str:
    return templating.render(
        "page.html",
        overview=Overview.from_inputs(inputs),
        sections=[section for section in sections if section.content],
        max_classes=maps.MAX_COLOURED_CLASSES,
        version=ssl_jax.__version__,
    )


def _units(inputs: ReportInputs) -> list[Section]:
    """What excites the units, if the desiderata have been measured."""
    item = properties.gallery(inputs)
    if item is None:
        return []
    template, content = shown.content(item, inputs)
    return [Section("units", "What excites a unit most", template, content)]


@dataclasses.dataclass(frozen=True)
class _Training:
    """Charts of the training metrics; without any, why there are none.

    Attributes:
      charts: may be empty.
      note: how to read them.
      last_step: last step of the run; None if unknown.
      first_due: the step of the first training metrics; None unless the run ended before it.
    """

    charts: list[Chart]
    note: str
    last_step: int | None
    first_due: int | None


def _training(inputs: ReportInputs) -> _Training:
    known = curves.numeric_keys(inputs.rows)
    notes = ["Beside each title: the last value."]
    if "train/contrastive_accuracy" in known:
        notes.append("Contrastive accuracy: how often an anchor is closest to its own other view "
                     "among all candidates of the batch.")  # fmt: skip
    if "train/entropy" in known:
        notes.append("Entropy: of the softmax over those candidates.")
    every = config_values.flatten(inputs.config).get("log.every_steps")
    last = inputs.steps_taken
    too_short = every is not None and last is not None and every > last
    charts = curves.training_charts(inputs.rows, inputs.eval_section)
    return _Training(charts, " ".join(notes), last, every if too_short else None)


@dataclasses.dataclass(frozen=True)
class _Evaluations:
    """Charts of evaluations over time.

    Attributes:
      charts: at least one.
      validation_split: the split of these values; None if it is the test split.
      test_split: the split of the results.
    """

    charts: list[Chart]
    validation_split: str | None
    test_split: str | None


def _evaluations(inputs: ReportInputs) -> _Evaluations | None:
    charts = curves.evaluation_charts(inputs.rows, inputs.results, inputs.eval_section)
    if not charts:
        return None
    flat = config_values.flatten(inputs.config)
    validation, test = flat.get("eval.validation_split"), flat.get("eval.test_split")
    return _Evaluations(charts, None if validation == test else validation, test)


@dataclasses.dataclass(frozen=True)
class _Collapse:
    """Charts and warnings, (step, text), of the collapse monitor; one of both may be empty."""

    charts: list[Chart]
    warnings: list[tuple[int, str]]


def _collapse(inputs: ReportInputs) -> _Collapse | None:
    warnings = inputs.all_warnings()
    alerts = [step for step, _ in warnings]
    charts = curves.collapse_charts(inputs.rows, alerts, inputs.eval_section)
    return _Collapse(charts, warnings) if charts or warnings else None


def _preflight(inputs: ReportInputs) -> str:
    text = inputs.preflight.strip("\n")
    return text if text.strip() else ""
