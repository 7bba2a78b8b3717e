"""The section of the results: one sentence, the table, and the chart of a family of metrics."""

from __future__ import annotations

import dataclasses

from ssl_jax.report import curves
from ssl_jax.report.curves import Chart
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.tables import Score, Summary, family_note, summarise


@dataclasses.dataclass(frozen=True)
class Headline:
    """The trained model's score beside that of the best baseline, all as text.

    Attributes:
      subject: the metric and the trained model, e.g. "Accuracy of BYOL with a kNN classifier".
      score: of the trained model.
      gap: the difference from the baseline, e.g. "3.1 points above".
      baseline, baseline_score: of the best baseline.
    """

    subject: str
    score: str
    gap: str
    baseline: str
    baseline_score: str


@dataclasses.dataclass(frozen=True)
class Column:
    """The heading of a metric's column, and the metric in words."""

    heading: str
    title: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """A score as text, its standard deviation ("" for none), and whether it is the best."""

    mean: str
    std: str
    is_best: bool

    @classmethod
    def from_score(cls, score: Score, best: float | None) -> Cell:
        """The cell of a score in a column with the best mean `best`."""
        mean, _, std = str(score).partition(" ± ")
        return cls(mean, std, score.mean == best)


@dataclasses.dataclass(frozen=True)
class Row:
    """The scores of a representation; None in columns without a score."""

    name: str
    cells: tuple[Cell | None, ...]
    is_trained: bool


@dataclasses.dataclass(frozen=True)
class Results:
    """The section of the results.

    Attributes:
      headline: None if no baseline has a metric of the trained model.
      columns, rows: of the table.
      note: below the table.
      chart: the chart of the first family of metrics; None if there is none.
      not_computed: one line per evaluation without a value.
    """

    headline: Headline | None
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    note: str
    charts: tuple[Chart, ...]
    not_computed: tuple[str, ...]

    @classmethod
    def from_inputs(cls, inputs: ReportInputs) -> Results | None:
        """The section of a report; None without shown metrics and failed evaluations."""
        summary = summarise(inputs.results, inputs.eval_section)
        not_computed = tuple(
            f"{name} of {row}: {reason}"
            for row, reasons in inputs.not_computed.items()
            for name, reason in reasons.items()
        )
        if not summary.columns:
            return cls(None, (), (), "", (), not_computed) if not_computed else None
        columns = tuple(Column(m.column, m.in_words) for m in summary.columns.values())
        charts = curves.family_charts(summary)
        return cls(
            _headline(summary), columns, _rows(summary), _note(summary), charts, not_computed
        )


def _note(summary: Summary) -> str:
    sentences = []
    if summary.in_percent:
        sentences.append("In %.")
    if any(summary.best(key) is not None for key in summary.columns):
        sentences.append("The best of a column is bold.")
    if note := family_note(summary):
        sentences.append(f"{note}.")
    return " ".join(sentences)


def _rows(summary: Summary) -> tuple[Row, ...]:
    best = {key: summary.best(key) for key in summary.columns}
    last = len(summary.rows) - 1
    return tuple(
        Row(
            name,
            tuple(
                Cell.from_score(scores[key], best[key]) if key in scores else None for key in best
            ),
            is_trained=number == last and number > 0,
        )
        for number, (name, scores) in enumerate(summary.rows.items())
    )


def _headline(summary: Summary) -> Headline | None:
    """One sentence that compares the last row with the best baseline, in the first metric of both.

    Of a family of metrics it may be the last, see `Metric.headline`. Other outputs of the trained
    model are no baselines.
    """
    *others, trained = summary.rows
    last = summary.rows[trained]
    outputs = f"{trained}, "
    rivals = {
        key: {
            name: summary.rows[name][key]
            for name in others
            if key in summary.rows[name] and not name.startswith(outputs)
        }
        for key, metric in summary.columns.items()
        if key in last and metric.better
    }
    rivals = {key: baselines for key, baselines in rivals.items() if baselines}
    if not rivals:
        return None
    key = next(iter(rivals))
    metric = summary.columns[key]
    if metric.headline == "largest":
        family = [one for one in rivals if summary.columns[one].title == metric.title]
        key = max(family, key=lambda one: summary.columns[one].number or 0)
        metric = summary.columns[key]
    baselines = rivals[key]
    choose = max if metric.better == "higher" else min
    name = choose(baselines, key=lambda name: baselines[name].mean)
    gap = last[key].mean - baselines[name].mean
    is_percent = metric.unit == "%"
    amount = f"{abs(100 * gap):.1f} points" if is_percent else metric.with_unit(abs(gap))
    subject = metric.of_model(trained)
    return Headline(
        subject=subject[:1].upper() + subject[1:],
        score=last[key].with_unit,
        gap=f"{amount} {'above' if gap >= 0 else 'below'}",
        baseline=name,
        baseline_score=baselines[name].with_unit,
    )
