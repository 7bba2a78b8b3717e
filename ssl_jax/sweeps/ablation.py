"""Compares the results of a sweep with the published curve that it reproduces.

What another data set, net and budget can show of a published curve is its order: which setting is
better than which. So that is what is compared, by Spearman's rank correlation between our means
over seeds and the published values. Published values stand in `published.json`, in the papers' own
units (%); what a paper draws without printing a number is not in it, only what its text claims.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ssl_jax.core.errors import UserError, nearest

SEED = "seed"  # the label over which means are taken
Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of a sweep: which results, over which label of the cells.

    Attributes:
      measure: the column of the results, e.g. "few_shot/1" or "train/entropy". Labels in braces are
        filled in: "{task}/mlp/top1".
      measure_label: what a reader calls it.
      x: the label of the cells along the horizontal axis.
      x_label: what a reader calls that.
      series: the label by which lines, or the rows of a matrix, differ; None for one line.
      names: value of `series` -> what a reader calls it.
      where: label -> value, of the cells that belong to it; default all.
      best_over: labels of which the value with the best mean over seeds counts, as papers do that
        tune each setting.
      percent: whether the measure is a fraction, shown in %.
      matrix: whether it is drawn as a matrix, `series` down and `x` across.
      published: the table of `published.json` that it stands beside.
      published_measure: the column there, in % where `percent`. A column "order" holds places, 1
        the worst, where a paper prints an order and no values.
      published_label: what a reader calls that.
      stands_for: label -> our value -> the published value that it stands for; values that are not
        named stand for themselves.
    """

    measure: str
    measure_label: str
    x: str
    x_label: str
    series: str | None = None
    names: Mapping[Hashable, str] = dataclasses.field(default_factory=dict)
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    best_over: tuple[str, ...] = ()
    percent: bool = True
    matrix: bool = False
    published: str | None = None
    published_measure: str = "top1"
    published_label: str = "top-1, %"
    stands_for: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels of cells that it speaks of."""
        own = (self.x, *([self.series] if self.series else ()), *self.where, *self.best_over)
        return tuple(dict.fromkeys(own))


@dataclasses.dataclass(frozen=True)
class Point:
    """A setting's score: ours in the measure's unit or in %, or a published one.

    Attributes:
      x, series: the values of these labels; None for no series.
      mean: over seeds.
      std: standard deviation over seeds (n - 1), None of a single one.
      published: the value that it stands for, None where there is none.
      note: what stands in place of a value, e.g. "fails".
    """

    x: Any
    series: Any
    mean: float | None
    std: float | None = None
    published: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over `count` settings that both sides have."""

    rho: float
    count: int

    def __str__(self) -> str:
        return f"{self.rho:.2f}".replace("-", "\N{MINUS SIGN}") + f" over {self.count} settings"


@dataclasses.dataclass(frozen=True)
class Published:
    """One table of `published.json`; see there."""

    paper: str
    place: str
    url: str
    setting: str
    rows: tuple[Row, ...]
    claim: str = ""


@functools.cache
def published() -> dict[str, Published]:
    """All published tables, name -> table."""
    text = (importlib.resources.files("ssl_jax.sweeps") / "published.json").read_text("utf-8")
    return {
        name: Published(**{**table, "rows": tuple(table["rows"])})
        for name, table in json.loads(text).items()
    }


def table_of(curve: Curve) -> Published | None:
    """The published table beside which a curve stands.

    Raises:
      UserError: there is no table of that name.
    """
    if curve.published is None:
        return None
    if curve.published not in published():
        raise UserError(
            f"there is no published table {curve.published!r}; tables: {', '.join(published())}."
            f"{nearest(curve.published, published())}"
        )
    return published()[curve.published]


def over_seeds(
    rows: Sequence[Row], labels: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """One row a setting: its labels but the seed, and for each column (mean, std, count).

    Args:
      rows: of a sweep, one a cell.
      labels: of the cells; `seed` is what is averaged over.
      columns: of the results; a cell without one, or where it is not finite, does not count in it.

    Returns:
      In the order of first appearance. The standard deviation divides by n - 1, and is None of a
      single value; columns without any value are left out.
    """
    kept = [label for label in labels if label != SEED]
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[label] for label in kept), []).append(row)
    out = []
    for values, members in groups.items():
        averaged = dict(zip(kept, values, strict=True))
        for column in columns:
            found = [v for row in members if (v := _number(row.get(column))) is not None]
            if found:
                std = statistics.stdev(found) if len(found) > 1 else None
                averaged[column] = (statistics.fmean(found), std, len(found))
        out.append(averaged)
    return out


def _number(value: Any) -> float | None:
    return float(value) if value not in (None, "") and math.isfinite(float(value)) else None


def points(rows: Sequence[Row], labels: Sequence[str], curve: Curve) -> list[Point]:
    """Our points of a curve, means over seeds, each with the published value it stands for.

    Raises:
      UserError: settings of the sweep differ in a label of which the curve says nothing.
    """
    rows = [row for row in rows if all(row[key] == value for key, value in curve.where.items())]
    measured = [{**row, "": row.get(curve.measure.format(**row))} for row in rows]
    best: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in over_seeds(measured, labels, ("",)):
        if "" not in row:
            continue
        place = row[curve.x], row[curve.series] if curve.series else None
        if place in best:
            other = best[place]
            more = [key for key in row if key not in ("", *curve.labels) and row[key] != other[key]]
            if more:
                raise UserError(
                    f"a curve over {curve.x} has several cells at {place[0]!r}, which differ in "
                    f"{more[0]}: name it in where, series or best_over"
                )
            if other[""][0] >= row[""][0]:
                continue
        best[place] = row
    scale = 100 if curve.percent else 1
    return [
        Point(x, series, scale * mean, None if std is None else scale * std,
              _published_value(curve, row))
        for (x, series), row in best.items()
        for mean, std, _ in [row[""]]
    ]  # fmt: skip


def _published_value(curve: Curve, ours: Row) -> float | None:
    """The value of the published row all of whose labels are those of `ours`, translated."""
    table = table_of(curve)
    if table is None:
        return None
    wanted = {
        label: curve.stands_for.get(label, {}).get(ours[label], ours[label])
        for label in curve.labels
    }
    for row in table.rows:
        if curve.published_measure in row and all(row.get(k, v) == v for k, v in wanted.items()):
            return row[curve.published_measure]
    return None


def published_points(curve: Curve) -> list[Point]:
    """The published points of a curve, all of them, in the paper's order."""
    table = table_of(curve)
    if table is None:
        return []
    where = {
        key: curve.stands_for.get(key, {}).get(value, value) for key, value in curve.where.items()
    }
    return [
        Point(row[curve.x], row.get(curve.series), row.get(curve.published_measure),
              note=row.get("note", ""))
        for row in table.rows
        if curve.x in row and all(row.get(key, value) == value for key, value in where.items())
    ]  # fmt: skip


def groups(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Curves of one measure beside one column of one table belong together, and rank together."""
    together: dict[tuple, list[Curve]] = {}
    for curve in curves:
        key = curve.measure, curve.published, curve.published_measure
        together.setdefault(key, []).append(curve)
    return list(together.values())


def correlation(points: Sequence[Point]) -> Correlation | None:
    """Between our means and what they stand for; None of fewer than three, or of equal ones."""
    pairs = [(point.mean, point.published) for point in points if point.published is not None]
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr

    return Correlation(float(spearmanr(*zip(*pairs, strict=True)).statistic), len(pairs))


def summary(rows: Sequence[Row], labels: Sequence[str], curves: Sequence[Curve]) -> list[str]:
    """A line for each group of curves that stands beside a published table."""
    lines = []
    for group in groups(curves):
        table = table_of(group[0])
        if table is None:
            continue
        found = correlation([point for curve in group for point in points(rows, labels, curve)])
        said = "too few settings in common to rank" if found is None else f"Spearman {found}"
        lines.append(f"{group[0].measure_label} beside {table.paper}, {table.place}: {said}")
    return lines
