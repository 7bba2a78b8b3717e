"""Metric rows -> the charts of a report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from ssl_jax import evals
from ssl_jax.evals.metric import SPREAD, Metric
from ssl_jax.report import figures, panels
from ssl_jax.report.figures import Level, Line
from ssl_jax.report.inputs import Results
from ssl_jax.report.panels import Chosen, Panel
from ssl_jax.report.tables import Summary, summarise

Rows = Sequence[Mapping[str, Any]]
MAX_POINTS = 300  # maximum number of points in a line; more are averaged in bins


class KeyEntry(NamedTuple):
    """A line in the key of a chart: its label, its colour slot, whether it is a dashed level."""

    label: str
    slot: int
    is_level: bool = False

    @property
    def colour(self) -> str:
        """As a CSS value."""
        return f"var(--s{self.slot % figures.NUM_SERIES})"


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart with its texts on the page.

    Attributes:
      title: with its unit in brackets.
      svg: the drawing.
      key: the key of the lines; empty for a single line.
      last: the last or the median value, formatted; empty for several lines.
      note: a remark, e.g. on omitted values.
    """

    title: str
    svg: Markup
    key: tuple[KeyEntry, ...] = ()
    last: str = ""
    note: str = ""


def series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), float [n] each, of the rows that have `key`; the last row of a step wins."""
    values = {int(row["step"]): float(row[key]) for row in rows if _is_number(row.get(key))}
    steps = sorted(values)
    return np.array(steps, float), np.array([values[step] for step in steps], float)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def numeric_keys(rows: Rows) -> list[str]:
    """Names of all numbers in the rows, sorted."""
    return sorted({k for row in rows for k, v in row.items() if k != "step" and _is_number(v)})


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MAX_POINTS points: means over equal numbers of consecutive values, without nan."""
    if len(x) <= MAX_POINTS:
        return x, y
    size = -(-len(x) // MAX_POINTS)
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    finite = np.isfinite(y)
    means = [y[p][finite[p]].mean() if finite[p].any() else np.nan for p in parts]
    return np.array([x[p].mean() for p in parts]), np.array(means)


def training_charts(rows: Rows, config: Mapping[str, Any] | None = None) -> list[Chart]:
    """Loss, contrastive accuracy and the like, then whatever else was logged.

    Args:
      rows: of the run.
      config: the eval section, where it names evaluations of its own.
    """
    return _charts(panels.training_panels(numeric_keys(rows), config), rows)


def collapse_charts(
    rows: Rows, alerts: Sequence[float] = (), config: Mapping[str, Any] | None = None
) -> list[Chart]:
    """The collapse monitor over the steps, with a mark at each warning.

    Args:
      rows: of the run.
      alerts: steps of the warnings.
      config: as of `training_charts`.
    """
    return _charts(panels.monitor_panels(numeric_keys(rows), config), rows, alerts, size=(520, 230))


def _charts(
    chosen: Sequence[Chosen],
    rows: Rows,
    alerts: Sequence[float] = (),
    size: tuple[float, float] = (360, 210),
) -> list[Chart]:
    return [_chart(*panel, rows, alerts, size) for panel in chosen]


def _chart(
    name: str,
    panel: Panel,
    keys: list[str],
    rows: Rows,
    alerts: Sequence[float],
    size: tuple[float, float],
) -> Chart:
    if panel.ranked:
        keys = _ranked(rows, keys)
        labels = [f"{panel.ranked} {key.rpartition('/')[2]}" for key in keys]
    else:
        labels = _short_labels(keys)
    lines, broken = [], 0
    for slot, (key, label) in enumerate(zip(keys, labels, strict=True)):
        x, y = series(rows, key)
        broken += int((~np.isfinite(y)).sum())
        y = np.where(np.isfinite(y), y, np.nan)
        slot = min(slot, figures.GREY) if panel.ranked else slot
        lines.append(Line(label, *thin(x, y), slot=slot))
    svg = figures.line_chart(
        name, panel.title, lines, alerts=alerts, percent=panel.percent,
        from_zero=panel.from_zero, log=panel.log, size=size,
    )  # fmt: skip
    single = len(lines) == 1
    key = () if single else _key(lines, panel)
    last = _value(series(rows, keys[0])[1], panel) if single else ""
    note = f"{broken} non-finite value{'s' * (broken > 1)} left out" if broken else ""
    return Chart(panel.title, svg, key, last, note)


def _ranked(rows: Rows, keys: Sequence[str]) -> list[str]:
    """The keys by their last values, the largest first; values that are not finite come last."""
    last = {key: series(rows, key)[1][-1] for key in keys}
    return sorted(keys, key=lambda key: -last[key] if np.isfinite(last[key]) else np.inf)


def _key(lines: Sequence[Line], panel: Panel) -> tuple[KeyEntry, ...]:
    """The key of a chart; of a ranked one the coloured lines, and how many others there are."""
    coloured = [line for line in lines if not panel.ranked or line.slot < figures.GREY]
    key = tuple(KeyEntry(line.label, line.slot) for line in coloured)
    others = len(lines) - len(coloured)
    return (*key, KeyEntry(f"{others} others", figures.GREY)) if others else key


def _value(y: np.ndarray, panel: Panel) -> str:
    """The last value, or the median of the finite ones."""
    value = float(y[-1])
    if panel.typical and np.isfinite(y).any():
        value = float(np.median(y[np.isfinite(y)]))
    if not np.isfinite(value):
        return str(value)
    text = f"{100 * value:.1f}%" if panel.percent else figures.short_number(value)
    return f"median {text}" if panel.typical else text


def _short_labels(keys: Sequence[str]) -> list[str]:
    """The parts in which keys differ: "collapse/rankme_h", "collapse/rankme_z" -> "h", "z"."""
    words = [re.split(r"[/_]", key) for key in keys]
    for end, others in ((0, slice(1, None)), (-1, slice(None, -1))):
        while len(words) > 1 and all(len(w) > 1 and w[end] == words[0][end] for w in words):
            words = [w[others] for w in words]
    return [" ".join(w).removeprefix("eval ") for w in words]


def evaluation_charts(
    rows: Rows, results: Results, config: Mapping[str, Any] | None = None
) -> list[Chart]:
    """The metrics of evaluations over the steps, beside what the baselines of `results` reach.

    Fractions share a chart, a family has its own, and so has each metric of another unit, and each
    that no evaluation declares.

    Args:
      rows: of the run.
      results: representation -> its metrics; the last one is the trained model.
      config: the eval section, where it names evaluations of its own.
    """
    known = numeric_keys(rows)
    elsewhere = {key for chosen in panels.training_panels(known, config) for key in chosen.keys}
    metrics = {}
    for key in known:
        metric = evals.describe(key, config) if key.startswith(panels.EVAL) else None
        if metric is not None and metric.shown and key not in elsewhere:
            metrics[key] = metric
    shares = {k: m for k, m in metrics.items() if m.unit == "%" and not m.series}
    charts = _shares_chart(rows, shares, summarise(dict(list(results.items())[:-1]), config))
    families: dict[str, dict[str, Metric]] = {}
    for key, metric in metrics.items():
        if metric.series:
            families.setdefault(key.split("/")[1], {})[key] = metric
    for number, family in enumerate(families.values()):
        charts.append(_family_over_steps(f"family{number}", rows, family))
    others = [
        Chosen(f"evaluation{number}", Panel(_capitalised(metric.title_with_unit), (key,)), [key])
        for number, (key, metric) in enumerate(metrics.items())
        if metric.unit != "%" and not metric.series
    ]
    others += panels.undeclared_panels(known, config)
    return charts + _charts(others, rows, size=(540, 280))


def _shares_chart(rows: Rows, shares: Mapping[str, Metric], baselines: Summary) -> list[Chart]:
    labels = {key: metric.heading for key, metric in shares.items()}
    if panels.ONLINE in numeric_keys(rows):
        labels[panels.ONLINE] = "online probe, training batches"
    if not labels:
        return []
    lines = [
        Line(label, *thin(*series(rows, key)), slot=slot)
        for slot, (key, label) in enumerate(labels.items())
    ]
    compared = next(
        (key for key in shares if key.removeprefix(panels.EVAL) in baselines.columns), None
    )
    levels = [] if compared is None else _levels(baselines, compared.removeprefix(panels.EVAL))
    single = next(iter(shares.values())) if len(lines) == 1 and shares else None
    title = "Score" if single is None else _capitalised(single.title)
    return [_percent_chart("scores", title, lines, levels)]


def _levels(summary: Summary, key: str) -> list[Level]:
    slot = figures.NUM_SERIES - 1
    heading = summary.columns[key].heading
    return [
        Level(f"{heading}, {name}", scores[key].mean, slot=slot - number % 2)
        for number, (name, scores) in enumerate(summary.rows.items())
        if key in scores
    ]


def _family_over_steps(name: str, rows: Rows, family: Mapping[str, Metric]) -> Chart:
    lines = []
    members = sorted(family.items(), key=lambda member: member[1].number)
    for slot, (key, metric) in enumerate(members):
        x, y = series(rows, key)
        spread = dict(zip(*series(rows, key + SPREAD), strict=True))
        band = np.array([spread.get(step, np.nan) for step in x]) if spread else None
        lines.append(Line(metric.heading, x, y, band, slot=slot))
    title = _capitalised(members[0][1].title)
    if any(line.spread is not None for line in lines):
        title += ", mean ± std"
    return _percent_chart(name, title, lines, [])


def _percent_chart(name: str, title: str, lines: list[Line], levels: list[Level]) -> Chart:
    svg = figures.line_chart(name, title, lines, levels=levels, percent=True, size=(540, 280))
    key = [KeyEntry(line.label, line.slot) for line in lines]
    key += [KeyEntry(level.label, level.slot, is_level=True) for level in levels]
    return Chart(title, svg, tuple(key))


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def family_charts(summary: Summary) -> tuple[Chart, ...]:
    """Each family of metrics over its number, one line per representation, bars of one std.

    Families of fewer than two metrics are left out.
    """
    charts = (_family_chart(summary, name, family) for name, family in summary.families().items())
    return tuple(chart for chart in charts if chart is not None)


def _family_chart(summary: Summary, name: str, family: Mapping[int, str]) -> Chart | None:
    names = [row for row, scores in summary.rows.items() if scores.keys() & family.values()]
    if len(family) < 2 or not names:
        return None
    # On a log axis 0 stands where half of the smallest other number would.
    smallest = min((number for number in family if number), default=1)
    numbers = np.array([number or smallest / 2 for number in family], float)
    ticks = {place: f"{number:g}" for place, number in zip(numbers, family, strict=True)}
    lines = []
    for position, row in enumerate(names):
        scores = [summary.rows[row].get(key) for key in family.values()]
        mean = np.array([np.nan if s is None else s.mean for s in scores])
        spread = np.array([np.nan if s is None or s.std is None else s.std for s in scores])
        # The trained encoder, which comes last, has the first colour everywhere on the page.
        slot = 0 if position == len(names) - 1 else figures.NUM_SERIES - 1 - position % 2
        # Side by side, or the bars would hide each other.
        shift = 2 ** (0.05 * (position - (len(names) - 1) / 2))
        lines.append(Line(row, numbers * shift, mean, spread, slot=slot, dots=True))
    metric = summary.columns[next(iter(family.values()))]
    title = _capitalised(metric.title)
    svg = figures.line_chart(f"family_{name}", title, lines, percent=metric.unit == "%",
                             x_label=metric.series, x_ticks=ticks, error_bars=True,
                             size=(360, 250))  # fmt: skip
    return Chart(title, svg, tuple(KeyEntry(line.label, line.slot) for line in lines))


def steps_chart(results: Results) -> Chart | None:
    """The accuracy of predictions of held-out examples over the steps ahead; None without any.

    Args:
      results: representation -> its metrics. Each with "held_out/step_3_accuracy" has a line.
    """
    lines = []
    for name, scores in results.items():
        steps = {
            int(match[1]): value
            for key, value in scores.items()
            if (match := re.fullmatch(r"(?:eval/)?held_out/step_(\d+)_accuracy", key))
        }
        if steps:
            x = np.array(sorted(steps), float)
            y = np.array([steps[int(k)] for k in x], float)
            lines.append(Line(name, x, y, slot=len(lines), dots=True))
    if not lines:
        return None
    title = "Share of predictions whose latent has the highest score of its window"
    svg = figures.line_chart("steps", title, lines, percent=True, from_zero=True,
                             x_label="steps ahead", size=(540, 280))  # fmt: skip
    return Chart(title, svg, tuple(KeyEntry(line.label, line.slot) for line in lines))
