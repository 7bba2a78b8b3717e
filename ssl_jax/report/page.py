"""The report page: sections of escaped HTML, each left out where its data are missing."""

from __future__ import annotations

import datetime
import importlib.resources
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import ssl_jax
from ssl_jax.report import curves, galleries, shown
from ssl_jax.report.curves import Chart
from ssl_jax.report.figures import NUM_SERIES
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.markup import esc
from ssl_jax.report.tables import Score, Summary, family_note, summarise


def render(inputs: ReportInputs) -> str:
    """The whole page."""
    sections = [
        ("results", "Results", _results(inputs)),
        ("training", "Training", _training(inputs)),
        ("evaluations", "Evaluations over time", _evaluations(inputs)),
        ("map", "Map of the representation", galleries.maps_of(inputs)),
        ("neighbours", "Nearest neighbours", galleries.neighbour_gallery(inputs)),
        *shown.sections(inputs),
        ("collapse", "Collapse monitor", _collapse(inputs)),
        ("preflight", "Preflight", _preflight(inputs)),
        ("environment", "Environment", _environment(inputs)),
        ("config", "Configuration", _config(inputs.config)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{esc(title)}</a>' for name, title, _ in sections)
    body = [_header(inputs), f"<nav>{links}</nav>", _facts(inputs), _ending(inputs)]
    body.append(_first_warning(inputs))
    body += [
        f'<section id="{name}"><h2>{esc(title)}</h2>\n{content}</section>'
        for name, title, content in sections
    ]
    body.append(f"<footer>Written by ssl_jax {esc(ssl_jax.__version__)}.</footer>")
    files = importlib.resources.files("ssl_jax.report")
    template = string.Template((files / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=esc(inputs.name or "report"),
        style=(files / "page.css").read_text(encoding="utf-8") + galleries.LEGEND_STYLE,
        body="\n".join(filter(None, body)),
    )


# ----------------------------------------------------------------------------------------- top


def _header(inputs: ReportInputs) -> str:
    date = inputs.date or datetime.date.today().isoformat()
    parts = [inputs.method, inputs.dataset and f"on {inputs.dataset}"]
    what = " ".join(part for part in parts if part)
    subtitle = " · ".join(part for part in (what, date) if part)
    return (f"<header><h1>{esc(inputs.name or 'Report')}</h1>"
            f'<p class="subtitle">{esc(subtitle)}</p></header>')  # fmt: skip


def _facts(inputs: ReportInputs) -> str:
    flat = flatten(inputs.config)
    steps = _last_step(inputs)
    epochs = flat.get("epochs")
    took = f"{steps:,}" if steps is not None else flat.get("steps")
    if _stopped_early(inputs):
        took = f"{took} of {inputs.total_steps:,}"
        if epochs is not None:
            epochs = f"{epochs * steps / inputs.total_steps:.4g} of {_value(epochs)}"
    facts = [
        ("encoder", flat.get("model.name")),
        ("batch size", flat.get("batch_size")),
        ("epochs", epochs),
        ("steps", took),
        ("optimizer", flat.get("optimizer.name")),
        ("temperature", flat.get("method.temperature")),
        ("rows", _rows(flat)),
        ("seed", flat.get("seed")),
    ]
    items = "".join(
        f"<div><dt>{label}</dt><dd>{esc(_value(value))}</dd></div>"
        for label, value in facts
        if value is not None
    )
    return f'<dl class="facts">{items}</dl>' if items else ""


def _last_step(inputs: ReportInputs) -> int | None:
    if inputs.last_step is not None:
        return inputs.last_step
    return max((int(row["step"]) for row in inputs.rows), default=None)


def _stopped_early(inputs: ReportInputs) -> bool:
    last, total = inputs.last_step, inputs.total_steps
    return last is not None and total is not None and last < total


def _ending(inputs: ReportInputs) -> str:
    """Where the run ended, if before its end, and whose state the results are of."""
    flat = flatten(inputs.config)
    metric, patience = flat.get("checkpoint.best_metric"), flat.get("early_stopping.patience")
    code = f"<code>{esc(metric)}</code>" if metric else ""
    parts = []
    if _stopped_early(inputs):
        why = ""
        if code and patience:
            looks = "evaluation" if patience == 1 else "evaluations"
            why = f": {patience} {looks} in a row without a better {code}"
        parts.append(
            f"<b>Stopped early</b> at step {inputs.last_step:,} of {inputs.total_steps:,}{why}."
        )
    best = inputs.best_step
    if best is not None and (parts or best != inputs.last_step):
        by = f", the best by {code}" if code else ", the best"
        if best == inputs.last_step:
            by = ": no earlier one was better"
        parts.append(f"The results are those of <b>step {best:,}</b>{by}.")
    return f'<p class="ending">{" ".join(parts)}</p>' if parts else ""


def _rows(flat: Mapping[str, Any]) -> str | None:
    """Of text: what a row is, and its tokens."""
    kind, length = (flat.get(f"data.options.{key}") for key in ("rows", "sequence_length"))
    return f"{kind}, {length} tokens" if kind and length else None


def _first_warning(inputs: ReportInputs) -> str:
    warnings = inputs.all_warnings()
    if not warnings:
        return ""
    times = "once" if len(warnings) == 1 else f"{len(warnings)} times"
    step, text = warnings[0]
    return (
        f'<div class="warnings"><p>The <a href="#collapse">collapse monitor</a> warned {times}, '
        f"first at step <b>{step:,}</b>: {esc(text)}</p></div>"
    )


# ------------------------------------------------------------------------------------- results


def _results(inputs: ReportInputs) -> str:
    summary = summarise(inputs.results, inputs.eval_section)
    if not summary.columns:
        return ""
    notes = ["In %." if summary.in_percent else ""]
    if any(summary.best(key) is not None for key in summary.columns):
        notes.append("The best of a column is bold.")
    if note := family_note(summary):
        notes.append(f"{esc(note)}.")
    chart = curves.family_chart(summary)
    figure = f"<figure>{_chart(chart)}</figure>" if chart else ""
    table = f'<div>{_summary_table(summary)}<p class="note">{" ".join(notes).strip()}</p></div>'
    return f'{_headline(summary)}<div class="table-and-chart">{table}{figure}</div>'


def _headline(summary: Summary) -> str:
    """One sentence that compares the last row with the best baseline, in the first metric of both.

    Other outputs of the trained model are no baselines.
    """
    *others, trained = summary.rows
    last = summary.rows[trained]
    for key, metric in summary.columns.items():
        baselines = {
            name: summary.rows[name][key] for name in others
            if key in summary.rows[name] and not name.startswith(f"{trained}, ")
        }  # fmt: skip
        if key in last and baselines and metric.better:
            break
    else:
        return ""
    choose = max if metric.better == "higher" else min
    name = choose(baselines, key=lambda name: baselines[name].mean)
    gap = last[key].mean - baselines[name].mean
    side = "above" if gap >= 0 else "below"
    is_percent = metric.unit == "%"
    amount = f"{abs(100 * gap):.1f} points" if is_percent else metric.with_unit(abs(gap))
    title = metric.in_words
    return (
        f'<p class="lead">{esc(title[:1].upper() + title[1:])} of {esc(trained)}: '
        f"<b>{last[key].with_unit}</b>, <b>{amount} {side}</b> {esc(name)} "
        f"({baselines[name].with_unit}).</p>"
    )


def _summary_table(summary: Summary) -> str:
    heads = "".join(
        f'<th scope="col" title="{esc(metric.in_words)}">{esc(metric.column)}</th>'
        for metric in summary.columns.values()
    )
    rows = []
    for number, (name, scores) in enumerate(summary.rows.items()):
        trained = number == len(summary.rows) - 1 and number > 0
        row = "".join(_cell(scores.get(key), summary.best(key)) for key in summary.columns)
        kind = ' class="trained"' if trained else ""
        rows.append(f'<tr{kind}><th scope="row">{esc(name)}</th>{row}</tr>')
    return (f'<div class="scroll"><table class="summary"><thead><tr><th></th>{heads}</tr>'
            f"</thead><tbody>{''.join(rows)}</tbody></table></div>")  # fmt: skip


def _cell(score: Score | None, best: float | None) -> str:
    if score is None:
        return "<td>–</td>"
    mean, *spread = str(score).split(" ± ")
    mean = f'<span class="best">{mean}</span>' if score.mean == best else mean
    return f"<td>{mean}" + "".join(f' <span class="std">± {s}</span>' for s in spread) + "</td>"


# -------------------------------------------------------------------------------------- curves


def _charts(charts: Sequence[Chart], *, wide: bool = False) -> str:
    kind = "charts wide" if wide else "charts"
    figures = "".join(f"<figure>{_chart(chart)}</figure>" for chart in charts)
    return f'<div class="{kind}">{figures}</div>'


def _chart(chart: Chart) -> str:
    last = f'<span class="last">{esc(chart.last)}</span>' if chart.last else ""
    key = "".join(
        f'<li><i class="{"level" if level else "line"}" style="border-color: '
        f'var(--s{slot % NUM_SERIES})"></i>{esc(label)}</li>'
        for label, slot, level in chart.key
    )
    return (f"<figcaption><span>{esc(chart.title)}</span>{last}</figcaption>"
            + (f'<ul class="key">{key}</ul>' if key else "") + chart.svg
            + (f'<p class="note">{esc(chart.note)}</p>' if chart.note else ""))  # fmt: skip


def _training(inputs: ReportInputs) -> str:
    charts = curves.training_charts(inputs.rows)
    if not charts:
        return f"<p>{_why_no_training(inputs)}</p>"
    known = curves.numeric_keys(inputs.rows)
    notes = ["Beside each title: the last value."]
    if "train/contrastive_accuracy" in known:
        notes.append("Contrastive accuracy: how often an anchor is closest to its own other view "
                     "among all candidates of the batch.")  # fmt: skip
    if "train/entropy" in known:
        notes.append("Entropy: of the softmax over those candidates.")
    return f'<p class="note">{" ".join(notes)}</p>' + _charts(charts)


def _why_no_training(inputs: ReportInputs) -> str:
    every, steps = flatten(inputs.config).get("log.every_steps"), _last_step(inputs)
    if every is None or steps is None or every <= steps:
        return "No training metrics were recorded for this run."
    took = f"{steps:,} step" + "s" * (steps != 1)
    return (f"The run ended after {took}, before the first training metrics: they are written "
            f"every {every:,} steps (<code>log.every_steps</code>).")  # fmt: skip


def _evaluations(inputs: ReportInputs) -> str:
    charts = curves.evaluation_charts(inputs.rows, inputs.results, inputs.eval_section)
    if not charts:
        return ""
    return f'<p class="note">{_evaluated_on(inputs)}</p>' + _charts(charts, wide=True)


def _evaluated_on(inputs: ReportInputs) -> str:
    """Which split the values over time are of, and which those of the table."""
    flat = flatten(inputs.config)
    validation, test = flat.get("eval.validation_split"), flat.get("eval.test_split")
    if validation is None or validation == test:
        return "Of the test split, as the results above."
    return (f"Of the validation split, <code>{esc(validation)}</code>; the results above are of "
            f"the test split, <code>{esc(test)}</code>.")  # fmt: skip


def _collapse(inputs: ReportInputs) -> str:
    warnings = inputs.all_warnings()
    charts = curves.collapse_charts(inputs.rows, [step for step, _ in warnings])
    if not charts and not warnings:
        return ""
    parts = []
    if charts:
        parts.append(
            '<p class="note">Effective rank: the exponential of the entropy of a batch\'s singular '
            "values (RankMe, Garrido et al. 2023), at most its size or the number of dimensions; 1 "
            "is full collapse. Spread: standard deviation of a dimension of the normalised "
            "vectors times √d; 1 for directions uniform on the sphere, 0 where all agree. "
            "Alignment: mean squared distance of two views of an image, on the unit sphere; "
            "uniformity: log of the mean Gaussian potential of pairs, 0 where all agree, lower is "
            "more uniform (Wang &amp; Isola 2020).</p>"
        )
    items = "".join(f"<li><b>step {step:,}</b> {esc(text)}</li>" for step, text in warnings)
    if items:
        parts.append(f'<div class="warnings"><ul>{items}</ul></div>')
    else:
        parts.append("<p>No warning was raised.</p>")
    return "".join(parts) + (_charts(charts, wide=True) if charts else "")


# ------------------------------------------------------------------------------- what was run


def _preflight(inputs: ReportInputs) -> str:
    text = inputs.preflight.strip("\n")
    return f"<pre>{esc(text)}</pre>" if text.strip() else ""


def _environment(inputs: ReportInputs) -> str:
    items = "".join(
        f'<dt>{esc(label)}</dt><dd class="mono">{esc(text)}</dd>'
        for label, text in inputs.environment.items()
    )
    return f'<dl class="pairs">{items}</dl>' if items else ""


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings -> dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _config(config: Mapping[str, Any]) -> str:
    groups: dict[str, dict[str, Any]] = {}
    for key, value in flatten(config).items():
        section, _, rest = key.rpartition(".")
        groups.setdefault(section, {})[rest] = value
    blocks = []
    for section, values in sorted(groups.items()):
        items = "".join(
            f"<dt>{esc(key)}</dt><dd>{esc(_value(value))}</dd>" for key, value in values.items()
        )
        title = f"<h3>{esc(section)}</h3>" if section else ""
        blocks.append(f"<section>{title}<dl>{items}</dl></section>")
    return f'<div class="config mono">{"".join(blocks)}</div>' if blocks else ""


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_value(item) for item in value) + ")"
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    return str(value) if value != "" else '""'
