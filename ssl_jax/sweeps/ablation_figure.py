"""Draws the figure of an ablation: the measured curves above or beside the published ones.

The settings are equally spaced and in the paper's order. Each line has its name at its end. Curves
can also be matrices.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from ssl_jax.core import storage
from ssl_jax.sweeps import ablation
from ssl_jax.sweeps.ablation import Curve, Point

# The colours of Okabe and Ito, distinguishable with any colour vision; the dark ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, MUTED, RULE = "#1a1a1a", "#5f5f5f", "#dddddd"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "text.parse_math": False,  # names may contain a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_PANEL, _WIDE_PANEL, _MATRIX = (3.4, 2.5), (4.4, 2.7), (4.6, 3.9)  # inches
_HEADING = 0.62  # height in inches of the heading above a row of panels
_BREAK = re.compile("[ _]")  # where the name of a setting goes on in a second line
_HALO = [patheffects.withStroke(linewidth=3, foreground="white")]


def save(
    path: epath.PathLike,
    title: str,
    setting: str,
    rows: Sequence[ablation.Row],
    labels: Sequence[str],
    curves: Sequence[Curve],
) -> None:
    """Draws `figure` and writes it as a PNG with 200 dots per inch."""
    with rc_context(_STYLE):
        drawn = figure(title, setting, rows, labels, curves)
        file = io.BytesIO()
        drawn.savefig(file, format="png", dpi=200, facecolor="white")
    storage.write_whole(epath.Path(path), file.getvalue())


def figure(
    title: str,
    setting: str,
    rows: Sequence[ablation.Row],
    labels: Sequence[str],
    curves: Sequence[Curve],
) -> Figure:
    """Draws the measured curves side by side, with the published curves below them.

    A single published curve is drawn to the right of the measured one.

    Args:
      title: the title of the sweep.
      setting: data, net and budget of the cells, in a few words.
      rows: one row per finished cell.
      labels: the labels of the cells.
      curves: the curves to draw.

    Raises:
      ValueError: no finished cell has a point of the curves.
    """
    ours = ablation.all_points(rows, labels, curves)
    if not any(ours):
        raise ValueError("no finished cell has a point of the curves")
    theirs = [ablation.published_points(curve) for curve in curves]
    has_published = any(point.mean is not None for points in theirs for point in points)
    beside = has_published and len(curves) == 1
    width, height = _WIDE_PANEL if len(curves) == 1 else _PANEL
    if any(curve.matrix for curve in curves):
        width, height = _MATRIX
    if all(curve.matrix for curve in curves):
        width, height = _size_of_matrices([*ours, *theirs])
    across, down = (2, 1) if beside else (len(curves), 1 + has_published)
    size = max(across * width, 5.4), down * (height + _HEADING) + 0.45
    drawn = Figure(figsize=size, layout="constrained")
    drawn.suptitle(
        textwrap.fill(title, int(size[0] * 8.2)), x=0.012, ha="left", fontsize=13, fontweight="bold"
    )
    halves = np.ravel(drawn.subfigures(*((1, 2) if beside else (down, 1)), squeeze=False))
    heading_width = size[0] / (1 + beside)
    _heading(halves[0], f"Measured: {setting}", heading_width)
    order = _colour_order(curves, ours, theirs)
    titles = [
        curve.measure_label + (f", {curve.panel}" if curve.panel else _restriction(curve))
        for curve in curves
    ]
    _panels(halves[0], curves, ours, order, titles, _correlations(curves, ours))
    tables = list({curve.published: ablation.table_of(curve) for curve in curves}.values())
    tables = [table for table in tables if table is not None]
    if has_published:
        sources = [f"{table.paper}, {table.place}: {table.setting}" for table in tables]
        _heading(halves[1], f"Published: {'; '.join(sources)}", heading_width)
        titles = [curve.published_label + _published_restriction(curve) for curve in curves]
        _panels(halves[1], curves, theirs, order, titles)
    claims = [f"Published: {t.paper}, {t.place}: {t.claim}." for t in tables if t.claim]
    if claims:
        text = textwrap.fill(" ".join(claims), int(size[0] * 14))
        drawn.supxlabel(text, x=0.012, ha="left", fontsize=9.5, color=MUTED)
    return drawn


def _size_of_matrices(matrices: Sequence[Sequence[Point]]) -> tuple[float, float]:
    """Width and height of each panel in inches; matrices with few rows are less high."""
    columns = max(len(_levels(points, "x")) for points in matrices)
    rows = max(len(_levels(points, "series")) for points in matrices)
    if 2 * rows > columns:
        return _MATRIX
    return max(_MATRIX[0], 0.45 * columns + 1.7), 0.45 * rows + 2.1


def _heading(part: SubFigure, text: str, width: float) -> None:
    text = "\n".join(textwrap.wrap(text, int(width * 13)))
    part.suptitle(text, x=0.012, ha="left", fontsize=10, color=MUTED)


def _colour_order(
    curves: Sequence[Curve], ours: Sequence[Sequence[Point]], theirs: Sequence[Sequence[Point]]
) -> list[Any]:
    """The series in the order of their colours; corresponding series have the same colour."""
    published = [point.series for points in theirs for point in points]
    measured = [
        _stands_for(curve, point.series)
        for curve, points in zip(curves, ours, strict=True)
        for point in points
    ]
    return list(dict.fromkeys(published + measured))


def _stands_for(curve: Curve, series: Any) -> Any:
    """The published series that corresponds to ours."""
    return curve.stands_for.get(curve.series, {}).get(series, series)


def _correlations(
    curves: Sequence[Curve], ours: Sequence[Sequence[Point]]
) -> dict[int, ablation.Correlation]:
    """Index of the first curve of a group -> the correlation of the group, if it has one."""
    correlations = {}
    for group in ablation.groups(curves):
        numbers = [i for i, curve in enumerate(curves) if any(curve is member for member in group)]
        value = ablation.correlation([point for i in numbers for point in ours[i]])
        if value is not None:
            correlations[numbers[0]] = value
    return correlations


def _panels(
    part: SubFigure,
    curves: Sequence[Curve],
    points: Sequence[Sequence[Point]],
    colours: Sequence[Any],
    titles: Sequence[str],
    correlations: Mapping[int, ablation.Correlation] = MappingProxyType({}),
) -> None:
    """Draws a row of panels; panels with the same measure share the vertical range."""
    all_axes = np.ravel(part.subplots(1, len(curves), squeeze=False))
    ends: list[tuple[Axes, list[_End]]] = []
    for number, (axes, curve, own) in enumerate(zip(all_axes, curves, points, strict=True)):
        heading = textwrap.fill(titles[number], 42)
        if number in correlations:
            heading += f"\nrank correlation {correlations[number]}"
        axes.set_title(heading, loc="left", fontsize=10, color=INK)
        if not any(point.mean is not None for point in own):
            axes.set_axis_off()
            axes.set_title("", loc="left")
            axes.text(0.5, 0.5, "no published value", ha="center", color=MUTED,
                      transform=axes.transAxes)  # fmt: skip
        elif curve.matrix:
            _matrix(axes, curve, own)
        else:
            ends.append((axes, _lines(axes, curve, own, colours)))
    for group in ablation.groups(curves):
        members = [
            axes
            for axes, curve in zip(all_axes, curves, strict=True)
            if any(curve is member for member in group) and not curve.matrix and axes.axison
        ]
        limits = [axes.get_ylim() for axes in members]
        for axes in members:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for axes, line_ends in ends:  # the distances of names depend on the range of the axis
        _name_ends(axes, line_ends)


def _restriction(curve: Curve) -> str:
    """The part of the curve's `where` as text that distinguishes panels of the same measure."""
    return "".join(f", {key} {value}" for key, value in curve.where.items())


def _published_restriction(curve: Curve) -> str:
    """`_restriction` of the published curve, whose rows may lack some of the labels."""
    if curve.published_panel:
        return f", {curve.published_panel}"
    table = ablation.table_of(curve)
    known = set().union(*table.rows) if table else set()
    return "".join(f", {key} {value}" for key, value in curve.where.items() if key in known)


def _levels(points: Sequence[Point], name: str) -> list[Any]:
    """The distinct values of an axis: numbers sorted, others in the order of the points."""
    values = list(dict.fromkeys(getattr(point, name) for point in points))
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return sorted(values) if numbers else values


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class _End(NamedTuple):
    """The last point of a line, with the line's name and colour."""

    x: float
    y: float
    name: str
    colour: str


def _lines(axes: Axes, curve: Curve, points: Sequence[Point], colours: Sequence[Any]) -> list[_End]:
    """Draws the lines of a panel. Returns the ends of lines that reach the last setting."""
    levels = _levels(points, "x")
    position = {level: i for i, level in enumerate(levels)}
    ends, last = [], max(position[p.x] for p in points if p.mean is not None)
    all_series = _levels(points, "series")
    spacing = 0.08 if any(point.std for point in points) else 0.0
    for number, series in enumerate(all_series):
        shift = spacing * (number - (len(all_series) - 1) / 2)  # error bars beside each other
        own = sorted((p for p in points if p.series == series), key=lambda p: position[p.x])
        valued = [p for p in own if p.mean is not None]
        colour = COLOURS[list(colours).index(_stands_for(curve, series)) % len(COLOURS)]
        x, y = [position[p.x] + shift for p in valued], [p.mean for p in valued]
        axes.errorbar(x, y, yerr=[p.std or 0 for p in valued], color=colour, marker="o",
                      lw=1.8 if curve.joined else 0, markersize=5, capsize=0,
                      elinewidth=1.4)  # fmt: skip
        if valued and series is not None:
            name = curve.names.get(series, _text(series))
            if position[valued[-1].x] == last:
                ends.append(_End(x[-1], y[-1], name, colour))
            else:  # other lines may be to its right
                end, std = (x[-1], y[-1]), valued[-1].std or 0
                here = [p.mean for p in points if p.x == valued[-1].x and p.mean is not None]
                is_below = max(here) > y[-1]
                falls = len(y) > 1 and y[-1] < y[-2]
                if len(valued) == 1:
                    _name(axes, name, end, colour, xytext=(7, -15 if is_below else 0))
                elif falls and is_below:
                    _name(axes, name, end, colour, xytext=(7, -2), ha="left")
                else:
                    side = {"xytext": (6, 10), "ha": "right"}
                    if falls:
                        side = {"xytext": (-4, 10), "ha": "left"}
                    _name(axes, name, (end[0], end[1] + std), colour, **side)
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    names = [_text(level) for level in levels]
    long = max(map(len, names)) * len(names) > 34
    axes.set_xticks(
        range(len(levels)), [_BREAK.sub("\n", n, count=1) if long else n for n in names]
    )
    axes.set_xlim(-0.35, len(levels) - 0.65 + 0.16 * len(levels) * bool(ends))
    axes.set_xlabel(curve.x_label)
    axes.margins(y=0.15)
    _pad_flat(axes)
    low, high = axes.get_ylim()
    for point in points:
        if point.mean is None and point.note:
            axes.text(position[point.x], low + 0.03 * (high - low), point.note, ha="center",
                      color=MUTED, fontsize=9.5)  # fmt: skip
    return ends


def _pad_flat(axes: Axes) -> None:
    """Widens the range of an almost flat line, so that rounding errors are not magnified."""
    low, high = axes.get_ylim()
    if high - low < 1e-9 + 0.002 * abs(high):
        axes.set_ylim(low - 0.5, high + 0.5)


def _name_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Writes names to the right of the lines' ends, at a minimum distance from each other."""
    low, high = axes.get_ylim()
    distance = 0.085 * (high - low)
    right = max((x for x, *_ in ends), default=0.0)  # to the right of all error bars
    heights: list[float] = []
    for _, y, name, colour in sorted(ends, key=lambda end: end[1]):
        y = max([y, *(other + distance for other in heights)])
        heights.append(y)
        _name(axes, name, (right, y), colour, xytext=(7, 0))


def _name(axes: Axes, name: str, xy: tuple[float, float], colour: str, **where: Any) -> None:
    axes.annotate(
        name, xy, textcoords="offset points", va="center", color=colour, fontsize=10,
        fontweight="bold", annotation_clip=False, path_effects=_HALO, **where,
    )  # fmt: skip


def _matrix(axes: Axes, curve: Curve, points: Sequence[Point]) -> None:
    across, down = _levels(points, "x"), _levels(points, "series")
    values = np.full((len(down), len(across)), np.nan)
    for point in points:
        if point.mean is not None:
            values[down.index(point.series), across.index(point.x)] = point.mean
    shown = axes.imshow(values, cmap="cividis", aspect="equal")
    digits = 1 if np.nanmax(values) - np.nanmin(values) < 10 else 0
    for i, j in np.ndindex(values.shape):
        if np.isfinite(values[i, j]):
            light = shown.norm(values[i, j]) > 0.55
            axes.text(j, i, f"{values[i, j]:.{digits}f}", ha="center", va="center", fontsize=9.5,
                      color="black" if light else "white")  # fmt: skip
    names = [curve.names.get(value, _text(value)) for value in down]
    labels = [curve.names.get(value, _text(value)) for value in across]
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(across)), labels, **(turned if max(map(len, labels)) > 6 else {}))
    axes.set_yticks(range(len(down)), names)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(curve.x_label)
    axes.set_ylabel(curve.series)
