"""Figures as inline SVG that takes its fonts and colours from the page.

Matplotlib draws with stand-in colours, which are then replaced by the page's CSS variables: one
figure serves the light and the dark scheme. Text stays text, set in the page's own font.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ssl_jax.report.plain_text import plain, short

# Stand-in -> CSS variable. Slots 0.. are the series of a chart, classes 0.. those of a map.
INK, MUTED, RULE, PAPER, ALERT = "#010101", "#010102", "#010103", "#010104", "#010105"
_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "paper", ALERT: "alert"}
NUM_SERIES, NUM_CLASS_COLOURS = 6, 10
GREY = 4  # the slot of lines without a colour of their own
_VARIABLES |= {f"#0102{i:02x}": f"s{i}" for i in range(NUM_SERIES)}
_VARIABLES |= {f"#0103{i:02x}": f"c{i}" for i in range(NUM_CLASS_COLOURS)}

_STYLE = {
    "svg.fonttype": "none",
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "text.parse_math": False,  # names may hold a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


def series_colour(slot: int) -> str:
    return f"#0102{slot % NUM_SERIES:02x}"


def class_colour(slot: int) -> str:
    return f"#0103{slot % NUM_CLASS_COLOURS:02x}"


def class_marker(slot: int) -> str:
    """Discs for the first ten classes; triangles for the next ten, whose colours repeat."""
    return "o" if slot < NUM_CLASS_COLOURS else "^"


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
      label: its name in the key.
      x, y: float [n]; nan leaves a gap.
      spread: float [n] or None: a band of y ± spread.
      slot: its colour.
      dots: a dot at each value; sparse lines have them anyway.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None
    slot: int = 0
    dots: bool = False


@dataclasses.dataclass(frozen=True)
class Level:
    """A horizontal line for comparison, e.g. the score of raw pixels."""

    label: str
    y: float
    slot: int = 0


def line_chart(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    levels: Sequence[Level] = (),
    alerts: Sequence[float] = (),
    percent: bool = False,
    from_zero: bool = False,
    log: bool = False,
    x_label: str = "step",
    x_ticks: Mapping[float, str] | None = None,
    x_names: Sequence[str] | None = None,
    y_limits: tuple[float, float] | None = None,
    number_x: bool = False,
    error_bars: bool = False,
    size: tuple[float, float] = (360, 210),
) -> Markup:
    """An SVG chart of lines over steps, or over the places `x_ticks` on a log2 axis.

    Args:
      name: unique on the page; prefixes the ids within the SVG.
      title: what a screen reader says.
      alerts: x of vertical marks.
      percent: y is a fraction and is shown in %.
      x_ticks: place -> its name.
      x_names: of the places x = 0, 1, 2, ..., instead of numbers.
      y_limits: ends of the y axis, so that several charts can be compared.
      number_x: x takes fractions; else it counts steps.
      from_zero: the y axis starts at 0.
      log: the y axis is logarithmic, if all values are positive.
      error_bars: draw `spread` as bars rather than a band.
      size: in pixels, as the page shows it unscaled.
    """

    def draw(axes: Axes) -> None:
        for level in levels:
            axes.axhline(level.y, color=series_colour(level.slot), lw=1.1, ls=(0, (4, 3)))
        for alert in alerts:
            axes.axvline(alert, color=ALERT, lw=1, alpha=0.5)
        # Sparse lines and those with a colour of their own are on top.
        for line in sorted(lines, key=lambda line: (line.slot != GREY, -len(line.x))):
            _draw_line(axes, line, error_bars)
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(x_label, fontsize=11)
        _limit_x(axes, lines)
        _limit_y(axes, lines, levels, percent)
        if log:
            _log_y(axes, lines)
        top = axes.dataLim.y1
        if from_zero and np.isfinite(top) and top > 0:
            axes.set_ylim(min(0.0, axes.dataLim.y0), 1.06 * top)
        if y_limits is not None:
            axes.set_ylim(*y_limits)
        if number_x:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        if x_names is not None:
            axes.set_xticks(range(len(x_names)), list(x_names))
        if x_ticks is not None:
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(x_ticks), list(x_ticks.values()))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.margins(x=0.06)

    return svg_figure(name, title, draw, size)


def _draw_line(axes: Axes, line: Line, error_bars: bool) -> None:
    colour = series_colour(line.slot)
    finite = np.isfinite(line.y)
    if line.spread is not None and error_bars:
        axes.errorbar(line.x, line.y, yerr=line.spread, fmt="none", ecolor=colour, elinewidth=1.1,
                      capsize=3, capthick=1.1)  # fmt: skip
    elif line.spread is not None:
        low, high = line.y - line.spread, line.y + line.spread
        axes.fill_between(line.x, low, high, color=colour, alpha=0.16, linewidth=0)
    dots = line.dots or finite.sum() <= 30
    marker = {"marker": "o", "markersize": 3.6, "markeredgewidth": 0} if dots else {}
    axes.plot(line.x, line.y, color=colour, lw=1.7, **marker)


def _limit_x(axes: Axes, lines: Sequence[Line]) -> None:
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    if all(len(line.x) < 2 for line in lines):  # one value: no axis of fractions of a step
        axes.set_xticks(sorted({float(x) for line in lines for x in line.x}))


def _limit_y(axes: Axes, lines: Sequence[Line], levels: Sequence[Level], percent: bool) -> None:
    if percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short_number(100 * y) + "%"))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: short_number(y)))
    axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3))
    values = np.concatenate([line.y for line in lines] + [[level.y for level in levels]])
    values = values[np.isfinite(values)]
    if not len(values):
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_locator(NullLocator())
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=MUTED)
    elif values.max() - values.min() <= 1e-9 * abs(values.max()):  # flat: no magnified rounding
        pad = 0.1 * abs(values.max()) or 1.0
        axes.set_ylim(values.min() - pad, values.max() + pad)


def _log_y(axes: Axes, lines: Sequence[Line]) -> None:
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in lines])
    if not len(values) or values.min() <= 0 or values.max() <= 1.05 * values.min():
        return
    formatter = axes.yaxis.get_major_formatter()
    axes.set_yscale("log")
    few = values.max() < 30 * values.min()  # then powers of ten are too far apart
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=6))
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_locator(NullLocator())


@dataclasses.dataclass(frozen=True)
class Outline:
    """One polygon of a radar.

    Attributes:
      label: its name in the key.
      values: float [a] in [0, 1], one for each axis; nan where it has no value.
      slot: its colour.
      filled: whether its area is tinted.
    """

    label: str
    values: np.ndarray
    slot: int = 0
    filled: bool = False


def radar(
    name: str,
    title: str,
    axis_names: Sequence[str],
    outlines: Sequence[Outline],
    *,
    size: tuple[float, float] = (470, 380),
) -> Markup:
    """An SVG chart with one axis from the middle for each name; values run from 0 to 1.

    Args:
      name: unique on the page.
      title: what a screen reader says.
      axis_names: clockwise from the top.
      outlines: the polygons; a missing value leaves a gap.
      size: in pixels.
    """
    inner = 0.12  # the radius of 0, so that zeros on neighbouring axes do not meet
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(axis_names)) / len(axis_names)
    x, y = np.cos(angle), np.sin(angle)
    closed = np.append(np.arange(len(axis_names)), 0)

    def draw(axes: Axes) -> None:
        for level in (0.0, 0.25, 0.5, 0.75, 1.0):
            radius = inner + (1 - inner) * level
            axes.plot(radius * x[closed], radius * y[closed], color=RULE, lw=0.8)
        for to_x, to_y, label in zip(x, y, axis_names, strict=True):
            axes.plot([inner * to_x, to_x], [inner * to_y, to_y], color=RULE, lw=0.8)
            side = "center" if abs(to_x) < 0.1 else "left" if to_x > 0 else "right"
            axes.text(1.07 * to_x, 1.09 * to_y, label, ha=side, va="center", color=INK)
        for outline in outlines:
            colour = series_colour(outline.slot)
            radius = inner + (1 - inner) * outline.values
            on_x, on_y = radius * x, radius * y
            if outline.filled and np.isfinite(outline.values).all():
                axes.fill(on_x, on_y, color=colour, alpha=0.12, lw=0)
            axes.plot(on_x[closed], on_y[closed], color=colour, lw=1.8, marker="o",
                      markersize=3.6, markeredgewidth=0)  # fmt: skip
        axes.set_aspect("equal")
        axes.set_xlim(-1.6, 1.6)
        axes.set_ylim(-1.15, 1.15)
        axes.set_axis_off()

    return svg_figure(name, title, draw, size)


def scatter_map(
    name: str,
    title: str,
    points: np.ndarray,
    classes: Sequence[tuple[str, np.ndarray]],
    *,
    centres: Sequence[np.ndarray] = (),
    side: float = 470,
) -> Markup:
    """An SVG map.

    Args:
      name: unique on the page.
      title: what a screen reader says.
      points: float [n 2].
      classes: (name, bool [n]) of each class that has a colour, in the order of its slot; the other
        points are grey. The points of a class are a group with the id `<name>-class-<slot>`, its
        name stands in their middle where there is room.
      centres: float [2] of each of these classes, drawn as diamonds.
      side: in pixels.
    """

    def draw(axes: Axes) -> None:
        area = float(np.clip(16_000 / max(len(points), 1), 9, 40))
        is_grey = np.ones(len(points), bool)
        for _, members in classes:
            is_grey &= ~members
        colour, alpha = (series_colour(4), 0.4) if classes else (series_colour(0), 0.6)
        axes.scatter(*points[is_grey].T, s=area, c=colour, alpha=alpha, lw=0)
        for slot, (_, members) in enumerate(classes):
            group = axes.scatter(*points[members].T, s=area, c=class_colour(slot), lw=0,
                                 marker=class_marker(slot), alpha=0.85)  # fmt: skip
            group.set_gid(f"class-{slot}")
        for slot, centre in enumerate(centres):
            axes.scatter(*centre, s=90, c=class_colour(slot), marker="D", lw=1.6, edgecolors=INK,
                         zorder=3)  # fmt: skip
        _label_classes(axes, points, classes, above=bool(len(centres)))
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.03)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)

    return svg_figure(name, title, draw, (side, side))


def _label_classes(
    axes: Axes, points: np.ndarray, classes: Sequence[tuple[str, np.ndarray]], *, above: bool
) -> None:
    """Writes the names of compact classes in their middle, or above it: `above`, or small ones."""
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    taken: list[tuple[float, float, float]] = []  # x, y and half the width of each name
    for label, members in classes:
        if not members.any():
            continue
        own = points[members]
        distance = np.abs(own - np.median(own, axis=0)).sum(axis=1) / extent
        if np.median(distance) > 0.2:
            continue
        # At the member nearest to the median: the median itself may lie between two clusters.
        x, y = own[np.argmin(distance)]
        y += 0.035 * extent * (above or np.median(distance) < 0.03)
        text = short(label, 14)
        width = extent * (0.006 + 0.009 * len(text))
        if any(abs(x - x2) < width + w2 and abs(y - y2) < 0.04 * extent for x2, y2, w2 in taken):
            continue
        taken.append((x, y, width))
        axes.text(x, y, text, ha="center", va="center_baseline", fontsize=13, fontweight="bold",
                  gid="halo")  # fmt: skip


def svg_figure(
    name: str, title: str, draw: Callable[[Axes], None], size: tuple[float, float]
) -> Markup:
    """An SVG figure for the page.

    Args:
      name: unique on the page.
      title: what a screen reader says.
      draw: draws on the axes.
      size: in pixels.
    """
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        # One SVG unit is one pixel of the page: figures are 72 units an inch.
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
        draw(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(
            ("Date", "Creator", "Format", "Type")))  # fmt: skip
    return _for_page(out.getvalue(), name, title)


def _for_page(svg: str, name: str, title: str) -> Markup:
    """Converts a stand-alone SVG to one inside the page: its fonts and colours, unique ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # would apply to the whole page
    used = set(re.findall(r"(?:href=\"#|url\(#)([^)\"]+)", svg))
    # Only tags are rewritten: the text between them is the user's.
    svg = re.sub(r"<[^>]*>", lambda match: _tag_for_page(match[0], name, used), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg).replace("> <", "><")
    opening = Markup('<svg role="img" aria-label="{}" ').format(plain(title))
    return Markup(svg.replace("<svg ", opening, 1))


def _tag_for_page(tag: str, name: str, used: set[str]) -> str:
    def rename(match: re.Match[str]) -> str:
        old = match[1]
        if old == "halo":
            return ' class="halo"'
        return f' id="{name}-{old}"' if old in used or old.startswith("class-") else ""

    if tag.startswith("<svg"):
        tag = re.sub(r" (width|height|version|xmlns:xlink)=\"[^\"]*\"", "", tag)
    tag = re.sub(r"font-family:[^;\"]*(; )?", "", tag)
    tag = re.sub(r"font: (?:(bold|\d+) )?([\d.]+px)[^;\"]*", _plain_font, tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a pixel is enough
    tag = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", tag)
    tag = re.sub(r" id=\"([^\"]*)\"", rename, tag)
    return re.sub(r"(?:xlink:)?(href=\"#|url\(#)", rf"\g<1>{name}-", tag)


def _plain_font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"


def short_number(value: float) -> str:
    """1234567 -> 1.235M, 12000 -> 12k, 0.000031 -> 3.1e-5, with a true minus sign."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            text = f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
            break
    else:
        text = f"{value:.4g}"
        if "e" in text:
            digits, power = text.split("e")
            text = f"{digits}e{int(power)}"
    return text.replace("-", "−")
