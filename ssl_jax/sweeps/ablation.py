"""Compares the results of a sweep with the published curve that it reproduces.

With another data set, net and budget, only the order of the settings of a published curve can be
reproduced. So the comparison is Spearman's rank correlation between our means over seeds and the
published values. Means are over the seeds that all settings have, because seeds differ by as much
as settings do; standard deviations are over all seeds of a setting. `published.json` contains the
published values in the papers' units (%). Values that a paper only draws are not included; claims
of its text are.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import math
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any

from ssl_jax.core.errors import UserError, nearest

SEED = "seed"  # the label over which results are averaged
AVERAGE = "mean"  # the position of the mean over several positions
Row = Mapping[str, Any]
_BY = "chosen by"
_ONLY_POINT = "the only point"
_LOWEST = (-math.inf, None, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of a sweep: a measure of the results over a label of the cells.

    Attributes:
      measure: the column of the results, e.g. "few_shot/1" or "train/entropy". Labels in braces are
        replaced by their values: "{task}/mlp/top1".
      measure_label: the title of the measure.
      x: the label of the cells on the horizontal axis.
      x_label: the title of that axis.
      series: the label that distinguishes lines, or rows of a matrix; None for one line.
      names: value of `series` -> name in the figure.
      where: label -> value of the cells to include; default: all cells.
      panel: what distinguishes the panel from others of the same measure, e.g. "8 epochs"; empty:
        the labels and values of `where`.
      best_over: labels over which the best mean over seeds is selected, as in papers that tune each
        setting.
      chosen_by: the column by which it is selected instead of the measure, such as a score on
        validation data, "eval/accuracy/top1"; labels in braces are replaced. None: the measure.
      average_of: values of `x` whose mean is a further point, `AVERAGE`, of each series that has
        them all. Its published value is the paper's own average.
      columns: value of `x` -> column of the results, for a curve over several measures of a cell;
        `x` is then no label of the cells, and `measure` is not read.
      percent: whether the measure is a fraction, shown in %.
      matrix: whether it is drawn as a matrix with `series` as rows and `x` as columns.
      joined: whether a line joins the points; not if the settings have no order.
      published: the table of `published.json` to compare with.
      published_measure: the column of that table, in % if `percent`. If a paper gives an order
        without values, the column "order" contains ranks, of which 1 is the worst.
      published_label: the title of the published measure.
      published_panel: `panel` of the published curve.
      stands_for: label -> our value -> the corresponding published value; other values correspond
        to themselves.
    """

    measure: str
    measure_label: str
    x: str
    x_label: str
    series: str | None = None
    names: Mapping[Hashable, str] = dataclasses.field(default_factory=dict)
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    panel: str = ""
    best_over: tuple[str, ...] = ()
    chosen_by: str | None = None
    average_of: tuple[Hashable, ...] = ()
    columns: Mapping[Hashable, str] = dataclasses.field(default_factory=dict)
    percent: bool = True
    matrix: bool = False
    joined: bool = True
    published: str | None = None
    published_measure: str = "top1"
    published_label: str = "top-1, %"
    published_panel: str = ""
    stands_for: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of cells that the curve uses."""
        x = () if self.columns else (self.x,)
        own = (*x, *([self.series] if self.series else ()), *self.where, *self.best_over)
        return tuple(dict.fromkeys(own))

    @property
    def measures(self) -> tuple[str, ...]:
        """The columns of the results that it shows."""
        return tuple(self.columns.values()) or (self.measure,)


@dataclasses.dataclass(frozen=True)
class Point:
    """The score of a setting, measured or published, in the measure's unit or in %.

    Attributes:
      x: the value of the curve's label `x`.
      series: the value of the curve's label `series`; None without series.
      mean: the mean over the seeds that all settings have; None if there is no value.
      std: the standard deviation over all its seeds (n - 1); None for a single seed.
      published: the corresponding published value; None if there is none.
      note: a text in place of the value, e.g. "fails".
    """

    x: Any
    series: Any
    mean: float | None
    std: float | None = None
    published: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over the `count` settings that are measured and published."""

    rho: float
    count: int

    def __str__(self) -> str:
        return f"{self.rho:.2f}".replace("-", "\N{MINUS SIGN}") + f" over {self.count} settings"


@dataclasses.dataclass(frozen=True)
class Published:
    """One table of `published.json`.

    Attributes:
      paper: authors and year.
      place: table, figure or section.
      url: of the paper or the repository.
      setting: data, net and measure.
      rows: labels and values, in the paper's units.
      claim: what the paper concludes, if it prints no numbers or more than them.
      checked: which values were compared with the paper, and by what; "" if that is not recorded.
    """

    paper: str
    place: str
    url: str
    setting: str
    rows: tuple[Row, ...]
    claim: str = ""
    checked: str = ""


@functools.cache
def published() -> dict[str, Published]:
    """All published tables, name -> table."""
    text = (importlib.resources.files("ssl_jax.sweeps") / "published.json").read_text("utf-8")
    return {
        name: Published(**{**table, "rows": tuple(table["rows"])})
        for name, table in json.loads(text).items()
    }


def table_of(curve: Curve) -> Published | None:
    """The published table of a curve; None if it has none.

    Raises:
      UserError: there is no table with that name.
    """
    if curve.published is None:
        return None
    if curve.published not in published():
        raise UserError(
            f"there is no published table {curve.published!r}; tables: {', '.join(published())}."
            f"{nearest(curve.published, published())}"
        )
    return published()[curve.published]


def seeds_said(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """Over which seeds the rows are averaged, e.g. "mean ± std over 3 seeds".

    Args:
      rows: one per finished cell.
      labels: the labels of the cells.

    Returns:
      "" if every setting has one seed.
    """
    if SEED not in labels:
        return ""
    found = [{row[SEED] for row in members} for members in _settings(rows, labels).values()]
    most, shared = max(map(len, found), default=1), set.intersection(*found) if found else set()
    if most == 1:
        return ""
    if not shared:
        return f"mean ± std over up to {most} seeds"
    if all(seeds == shared for seeds in found):
        return f"mean ± std over {most} seeds"
    seeds = "1 seed" if len(shared) == 1 else f"{len(shared)} seeds"
    return f"mean over {seeds} that all settings have, std over up to {most}"


def shared_seeds(rows: Sequence[Row], labels: Sequence[str], columns: Sequence[str]) -> set[Any]:
    """The seeds of which every setting with a value in one of the columns has one.

    Args:
      rows: one row per cell of a sweep.
      labels: the labels of the cells.
      columns: columns of the results; labels in braces are replaced by the values of the row.
    """
    found = [
        {
            row.get(SEED)
            for row in members
            if any(_number(row.get(column.format(**row))) is not None for column in columns)
        }
        for members in _settings(rows, labels).values()
    ]
    return set.intersection(*[seeds for seeds in found if seeds] or [set()])


def _settings(rows: Sequence[Row], labels: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of each setting, by its labels without the seed, in the order of appearance."""
    kept = [label for label in labels if label != SEED]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[label] for label in kept), []).append(row)
    return groups


def average_over_seeds(
    rows: Sequence[Row],
    labels: Sequence[str],
    columns: Sequence[str],
    seeds: Collection[Any] | None = None,
) -> list[dict[str, Any]]:
    """Averages the results over seeds.

    Args:
      rows: one row per cell of a sweep.
      labels: the labels of the cells, including the seed.
      columns: the columns of the results. Missing and non-finite values are ignored.
      seeds: the seeds that means are over; a setting that has none of them is averaged over its
        own. None: for each column, those that all settings with a value have.

    Returns:
      One row per setting, in the order of appearance: its labels without the seed, and for each
      column (mean, std, count). Standard deviation and count are of all seeds of the setting; the
      former divides by n - 1 and is None for a single value. Columns without values are omitted.
    """
    kept = [label for label in labels if label != SEED]
    of_column = {
        column: shared_seeds(rows, labels, [column]) if seeds is None else seeds
        for column in columns
    }
    out = []
    for setting, members in _settings(rows, labels).items():
        averaged = dict(zip(kept, setting, strict=True))
        for column in columns:
            values = [
                (row.get(SEED), v) for row in members if (v := _number(row.get(column))) is not None
            ]
            if values:
                own = [v for _, v in values]
                shared = [v for seed, v in values if seed in of_column[column]]
                std = statistics.stdev(own) if len(own) > 1 else None
                averaged[column] = (statistics.fmean(shared or own), std, len(own))
        out.append(averaged)
    return out


def _number(value: Any) -> float | None:
    """A value of a result as a number; None if it is missing or not finite."""
    return float(value) if value not in (None, "") and math.isfinite(float(value)) else None


def points(
    rows: Sequence[Row], labels: Sequence[str], curve: Curve, seeds: Collection[Any] | None = None
) -> list[Point]:
    """The measured points of a curve, means over seeds, with their published values.

    Args:
      rows: one row per cell of the sweep.
      labels: the labels of the cells.
      curve: the curve.
      seeds: the seeds that means are over; None: those that all settings of the curve have.

    Raises:
      UserError: settings of one point differ in a label that the curve does not name.
    """
    best = _best(rows, labels, curve, seeds)
    scale = 100 if curve.percent else 1
    points = [
        Point(x, series, scale * mean, None if std is None else scale * std,
              _published_value(curve, row))
        for (x, series), row in best.items()
        for mean, std, _ in [row[""]]
    ]  # fmt: skip
    return points + (_averages(curve, best, scale) if curve.average_of else [])


def all_points(
    rows: Sequence[Row], labels: Sequence[str], curves: Sequence[Curve]
) -> list[list[Point]]:
    """`points` of each curve; curves that are ranked together are means over the same seeds."""
    seeds: dict[int, set[Any]] = {}
    for group in groups(curves):
        measures = list(dict.fromkeys(measure for curve in group for measure in curve.measures))
        members = [row for row in rows if any(_includes(curve, row) for curve in group)]
        shared = shared_seeds(members, labels, measures)
        seeds |= {id(curve): shared for curve in group}
    return [points(rows, labels, curve, seeds[id(curve)] or None) for curve in curves]


def _includes(curve: Curve, row: Row) -> bool:
    """Whether the cell of a row is among those of the curve."""
    return all(row[key] == value for key, value in curve.where.items())


def best_rows(
    rows: Sequence[Row], labels: Sequence[str], curve: Curve
) -> dict[tuple[Any, Any], Row]:
    """The row behind each point of a curve, of its first seed: (x, series) -> row."""
    out = {}
    for position, setting in _best(rows, labels, curve).items():
        kept = [label for label in labels if label != SEED]
        out[position] = next(
            row for row in rows if all(row[label] == setting[label] for label in kept)
        )
    return out


def _best(
    rows: Sequence[Row], labels: Sequence[str], curve: Curve, seeds: Collection[Any] | None = None
) -> dict[tuple[Any, Any], dict[str, Any]]:
    """The selected setting at each (x, series): its labels and, under "", (mean, std, count).

    Raises:
      UserError: settings of one point differ in a label that the curve does not name.
    """
    rows = [row for row in rows if _includes(curve, row)]
    by = curve.chosen_by or curve.measure
    if curve.columns:
        return {
            (x, row[curve.series] if curve.series else None): {**row, curve.x: x}
            for x, column in curve.columns.items()
            for row in _best(rows, labels, dataclasses.replace(
                curve, measure=column, x=_ONLY_POINT, columns={}
            ), seeds).values()
        }  # fmt: skip
    rows = [{_ONLY_POINT: None, **row} for row in rows]
    measured = [
        {**row, "": row.get(curve.measure.format(**row)), _BY: row.get(by.format(**row))}
        for row in rows
    ]
    best: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in average_over_seeds(measured, (*labels, _ONLY_POINT), ("", _BY), seeds):
        if "" not in row:
            continue
        position = row[curve.x], row[curve.series] if curve.series else None
        if position in best:
            other = best[position]
            unnamed = [label for label in row if label not in ("", _BY, *curve.labels)]
            differing = [label for label in unnamed if row[label] != other[label]]
            if differing:
                raise UserError(
                    f"a curve over {curve.x} has several cells at {position[0]!r}, which differ in "
                    f"{differing[0]}: name it in where, series or best_over"
                )
            if other.get(_BY, _LOWEST)[0] >= row.get(_BY, _LOWEST)[0]:
                continue
        best[position] = row
    return best


def _averages(curve: Curve, best: Mapping[tuple[Any, Any], Row], scale: float) -> list[Point]:
    """The mean over `curve.average_of` of each series that has all of these positions."""
    averages = []
    for series in dict.fromkeys(series for _, series in best):
        members = [best.get((x, series)) for x in curve.average_of]
        present = [row for row in members if row is not None]
        if len(present) == len(members):
            mean = scale * statistics.fmean(row[""][0] for row in present)
            labels = {**present[0], curve.x: AVERAGE}
            averages.append(Point(AVERAGE, series, mean, None, _published_value(curve, labels)))
    return averages


def _published_value(curve: Curve, ours: Row) -> float | None:
    """The published value that corresponds to our row; None if there is none."""
    table = table_of(curve)
    if table is None:
        return None
    published_labels = {
        label: curve.stands_for.get(label, {}).get(ours[label], ours[label])
        for label in dict.fromkeys((*curve.labels, curve.x))
    }
    for row in table.rows:
        is_same = all(row.get(label, value) == value for label, value in published_labels.items())
        if is_same and curve.published_measure in row:
            return row[curve.published_measure]
    return None


def published_points(curve: Curve) -> list[Point]:
    """All published points of a curve, in the paper's order."""
    table = table_of(curve)
    if table is None:
        return []
    where = {
        key: curve.stands_for.get(key, {}).get(value, value) for key, value in curve.where.items()
    }
    return [
        Point(row[curve.x], row.get(curve.series), row.get(curve.published_measure), row.get("std"),
              note=row.get("note", ""))
        for row in table.rows
        if curve.x in row and all(row.get(key, value) == value for key, value in where.items())
    ]  # fmt: skip


def groups(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Groups the curves with the same measure and published column, which are ranked together."""
    members: dict[tuple, list[Curve]] = {}
    for curve in curves:
        key = curve.measure, curve.published, curve.published_measure
        members.setdefault(key, []).append(curve)
    return list(members.values())


def correlation(points: Sequence[Point]) -> Correlation | None:
    """The correlation of our means and their published values.

    Returns:
      None for fewer than three pairs, or if all values of one side are equal.
    """
    pairs = [(point.mean, point.published) for point in points if point.published is not None]
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr

    return Correlation(float(spearmanr(*zip(*pairs, strict=True)).statistic), len(pairs))


def summary(rows: Sequence[Row], labels: Sequence[str], curves: Sequence[Curve]) -> list[str]:
    """A line for each group of curves with a published table: its rank correlation."""
    lines = []
    for group in groups(curves):
        table = table_of(group[0])
        if table is None:
            continue
        value = correlation([point for own in all_points(rows, labels, group) for point in own])
        result = "too few settings in common to rank" if value is None else f"Spearman {value}"
        lines.append(f"{group[0].measure_label} beside {table.paper}, {table.place}: {result}")
    return lines
