"""The summary of a run: one row a representation, one column a metric that is shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax import evals
from ssl_jax.evals.metric import SPREAD, Metric
from ssl_jax.report.inputs import Results


@dataclasses.dataclass(frozen=True)
class Score:
    """A value of a metric, with its standard deviation over draws where it has one."""

    metric: Metric
    mean: float
    std: float | None = None

    def __str__(self) -> str:
        return self.metric.format(self.mean, self.std)

    @property
    def with_unit(self) -> str:
        return str(self) + (self.metric.unit if self.metric.unit == "%" else "")


@dataclasses.dataclass(frozen=True)
class Summary:
    """Scores by row and column.

    Attributes:
      columns: the metrics by key, in the order shown: families first, then in the order of the
        results.
      rows: representation -> column key -> its score; scores that are missing are left out.
    """

    columns: Mapping[str, Metric]
    rows: Mapping[str, Mapping[str, Score]]

    def best(self, key: str) -> float | None:
        """The best mean of a column, None where there are no two to compare."""
        means = [scores[key].mean for scores in self.rows.values() if key in scores]
        return self.columns[key].best(means)

    @property
    def in_percent(self) -> bool:
        """Whether all columns are."""
        return bool(self.columns) and all(metric.unit == "%" for metric in self.columns.values())

    def family(self) -> dict[int, str]:
        """Number -> column key of the first family of metrics, e.g. of few-shot accuracies."""
        return next(iter(self.families().values()), {})

    def families(self) -> dict[str, dict[int, str]]:
        """Evaluation -> number -> column key of its family of metrics."""
        families: dict[str, dict[int, str]] = {}
        for key, metric in self.columns.items():
            if metric.series:
                families.setdefault(key.partition("/")[0], {})[metric.number] = key
        return families


def summarise(results: Results, config: Mapping[str, Any] | None = None) -> Summary:
    """Picks the metrics that are shown out of `results`; keys may carry an `eval/` in front.

    Args:
      results: representation -> its metrics.
      config: the eval section, where it names evaluations of its own.
    """
    metrics: dict[str, Metric] = {}
    rows: dict[str, dict[str, Score]] = {}
    for name, values in results.items():
        values = {key.removeprefix("eval/"): value for key, value in values.items()}
        rows[name] = {}
        for key, value in values.items():
            metric = evals.describe(key, config)
            if metric is None or not metric.shown or _finite(value) is None:
                continue
            metrics[key] = metric
            rows[name][key] = Score(metric, float(value), _finite(values.get(key + SPREAD)))
    names = [key.partition("/")[0] for key in metrics]

    def order(key: str) -> tuple[bool, int, int]:
        metric = metrics[key]
        return not metric.series, names.index(key.partition("/")[0]), metric.number or 0

    return Summary({key: metrics[key] for key in sorted(metrics, key=order)}, rows)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def summary_table(
    results: Results, *, title: str | None = None, config: Mapping[str, Any] | None = None
) -> Table:
    """`results` as a table for the console: mean ± std, the best of a column bold.

    Args:
      results: representation -> its metrics, as in `ReportInputs.results`.
      title: a line above it.
      config: as of `summarise`.
    """
    summary = summarise(results, config)
    table = Table(
        title=None if title is None else Text(title, "bold"),
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("in %" if summary.in_percent else "", min_width=17)
    for metric in summary.columns.values():
        table.add_column(_heading(metric, summary), justify="right", no_wrap=True)
    for name, scores in summary.rows.items():
        cells = []
        for key in summary.columns:
            score = scores.get(key)
            text = "–" if score is None else str(score).replace(" ", "")  # to fit 80 columns
            best = score is not None and score.mean == summary.best(key)
            cells.append(Text(text, "bold" if best else ""))
        table.add_row(Text(name), *cells)
    if note := family_note(summary):
        table.caption = note
    return table


def _heading(metric: Metric, summary: Summary) -> str:
    """With the unit, where columns have several."""
    is_percent = metric.unit == "%" and not summary.in_percent
    return f"{metric.heading}, %" if is_percent else metric.column


def family_note(summary: Summary) -> str:
    """What the numbers of each family count; "" where there is none."""
    return "; ".join(_note_of(summary, family) for family in summary.families().values())


def _note_of(summary: Summary, family: Mapping[int, str]) -> str:
    metric = next(iter(summary.columns[key] for key in family.values()))
    number = str(metric.number)
    note = f"{metric.heading.replace(number, 'k', 1)}: k {metric.series}"
    drawn = any(
        key in scores and scores[key].std is not None
        for scores in summary.rows.values()
        for key in family.values()
    )
    return f"{note}; mean ± std over draws" if drawn else note
