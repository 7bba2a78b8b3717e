"""The section of the desiderata: one table, a radar, and curves over strength and over depth."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax.core.items import Images
from ssl_jax.evals.properties import units
from ssl_jax.evals.properties.metrics import PROPERTIES, Property
from ssl_jax.report import figures
from ssl_jax.report.curves import Chart, KeyEntry
from ssl_jax.report.figures import Level, Line, Outline
from ssl_jax.report.inputs import ReportInputs, Results

PREFIX = "properties/"
_UNTRAINED = "untrained"
_PIXELS = "raw pixels"
_FEATURES = "features"
_ARROWS = {"higher": "↑", "lower": "↓", None: ""}
_UNITS_SHOWN, _IMAGES_OF_UNIT = 8, 9
_SMALL = (270, 170)
_COLUMNS_WITH_RANGES = 4

Values = Mapping[str, Mapping[str, float]]  # representation -> metric -> value


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value as text, and whether it is the best of its row."""

    text: str
    is_best: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """A desideratum.

    Attributes:
      property: what it measures.
      arrow: the better direction; "" for none.
      cells: by representation; None without a value.
      begins_group: whether the row before is of another group.
    """

    property: Property
    arrow: str
    cells: tuple[Cell | None, ...]
    begins_group: bool


@dataclasses.dataclass(frozen=True)
class Desiderata:
    """The section.

    Attributes:
      names: the representations, in columns.
      trained: the column of the trained model; "" if several are compared.
      rows: those with a value.
      key: the colours of the representations.
      radar: None with fewer than three axes.
      strengths: cosine over the strength of each perturbation.
      depths: linear maps over depth, one chart for each factor.
      depth_note: how to read them.
    """

    names: tuple[str, ...]
    trained: str
    rows: tuple[Row, ...]
    key: tuple[KeyEntry, ...]
    radar: Chart | None
    strengths: tuple[Chart, ...]
    depths: tuple[Chart, ...]
    depth_note: str

    @property
    def has_ranges(self) -> bool:
        """Whether there is room for a column with the range of each row."""
        return len(self.names) <= _COLUMNS_WITH_RANGES

    @classmethod
    def from_results(cls, results: Results, *, of_run: bool = True) -> Desiderata | None:
        """The section of these results; None if no desideratum has been measured.

        Args:
          results: representation -> its metrics.
          of_run: whether the last representation is the trained model of a run.
        """
        values = select(results)
        if not values:
            return None
        names = tuple(values)
        slots = _slots(names)
        depths, note = _depth_charts(values, slots)
        return cls(
            names,
            names[-1] if of_run and len(names) > 1 else "",
            _rows(values),
            tuple(KeyEntry(name, slots[name]) for name in names),
            _radar(values, slots, filled=of_run),
            _strength_charts(values, slots),
            depths,
            note,
        )


def select(results: Results) -> Values:
    """The metrics of the desiderata by representation, without prefix."""
    selected = {
        name: {
            key.removeprefix("eval/").removeprefix(PREFIX): float(value)
            for key, value in values.items()
            if key.removeprefix("eval/").startswith(PREFIX) and np.isfinite(value)
        }
        for name, values in results.items()
    }
    return {name: values for name, values in selected.items() if values}


def table(results: Results, *, title: str | None = "Desiderata") -> Table | None:
    """The desiderata for the console, one a row; None if none has been measured."""
    values = select(results)
    if not values:
        return None
    out = Table(
        title=None if title is None else Text(title, "bold"),
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
        title_justify="left",
    )
    out.add_column("")
    for name in values:
        out.add_column(Text(name), justify="right")
    for row in _rows(values):
        heading = f"{row.property.heading} {row.arrow}".strip()
        cells = [
            Text("–") if cell is None else Text(cell.text, "bold" if cell.is_best else "")
            for cell in row.cells
        ]
        out.add_row(Text(heading), *cells)
    return out


def _rows(values: Values) -> tuple[Row, ...]:
    rows: list[Row] = []
    for one in PROPERTIES:
        numbers = [row.get(one.name) for row in values.values()]
        present = [number for number in numbers if number is not None]
        if not present:
            continue
        best = one.metric.best(present)
        cells = tuple(
            None if number is None else Cell(one.metric.with_unit(number), number == best)
            for number in numbers
        )
        begins = not rows or rows[-1].property.group != one.group
        rows.append(Row(one, _ARROWS[one.better], cells, begins))
    return tuple(rows)


def _slots(names: Sequence[str]) -> dict[str, int]:
    """Colours: greys for raw pixels and untrained encoders, the others for the rest."""
    last = figures.NUM_SERIES - 1
    slots, free = {}, 0
    for name in reversed(names):  # a trained model is the last one and has the first colour
        if name == _PIXELS or name.startswith(_UNTRAINED):
            slots[name] = last if name == _PIXELS else last - 1
        else:
            slots[name] = free % (last - 1)
            free += 1
    return slots


def _radar(values: Values, slots: Mapping[str, int], *, filled: bool) -> Chart | None:
    axes = [
        one for one in PROPERTIES
        if one.on_axis is not None and any(one.name in row for row in values.values())
    ]  # fmt: skip
    if len(axes) < 3:
        return None
    shown = {name: row for name, row in values.items() if _is_in_radar(name, values)}
    outlines = [
        Outline(
            name,
            np.array([one.on_axis(row[one.name]) if one.name in row else np.nan for one in axes]),
            slot=slots[name],
            filled=filled and slots[name] == 0,
        )
        for name, row in shown.items()
    ]
    title = "Desiderata, each from 0 in the middle to 1"
    svg = figures.radar("desiderata-radar", title, [_axis_name(one) for one in axes], outlines)
    return Chart(
        title, svg, tuple(KeyEntry(outline.label, outline.slot) for outline in outlines),
        note="Smoothness is 1 / (1 + quotient), so raw pixels are at 0.5. Axes have no common "
        "unit: the area is no score.",
    )  # fmt: skip


def _is_in_radar(name: str, values: Values) -> bool:
    untrained = [other for other in values if other.startswith(_UNTRAINED)]
    return name not in untrained or len(untrained) == 1


def _axis_name(one: Property) -> str:
    return {"lipschitz": "smoothness", "invariance": "invariance", "nmi": "clusters (NMI)",
            "knn_purity": "neighbours", "hoyer": "sparsity", "rank_share": "rank",
            "mig": "MIG", "linear": "linear factors", "unit_purity": "pure units"}.get(
        one.name, one.heading)  # fmt: skip


def _strength_charts(values: Values, slots: Mapping[str, int]) -> tuple[Chart, ...]:
    """Cosine over strength; at strength 0 it is 1."""
    curves: dict[str, dict[str, dict[float, float]]] = {}
    for name, row in values.items():
        for key, value in row.items():
            match = re.fullmatch(r"cosine_(\w+)_(\d+)", key)
            if match:
                curve = curves.setdefault(match[1], {}).setdefault(name, {0.0: 1.0})
                curve[int(match[2]) / 100] = value
    charts = []
    low = min((v for rows in curves.values() for c in rows.values() for v in c.values()), default=0)
    for change, rows in curves.items():
        lines = [
            Line(name, np.array(sorted(curve)), np.array([curve[x] for x in sorted(curve)]),
                 slot=slots[name])
            for name, curve in rows.items()
        ]  # fmt: skip
        svg = figures.line_chart(
            f"cosine-{_slug(change)}", f"cosine under {change}", lines,
            x_label="strength", y_limits=(min(0.0, low) - 0.03, 1.03), size=_SMALL,
            number_x=True,
        )  # fmt: skip
        charts.append(Chart(change.capitalize(), svg))
    return tuple(charts)


def _depth_charts(values: Values, slots: Mapping[str, int]) -> tuple[tuple[Chart, ...], str]:
    """Skills of linear maps over the layers, one chart for each factor."""
    skills: dict[str, dict[str, dict[str, float]]] = {}  # factor -> row -> place -> skill
    for name, row in values.items():
        for key, value in row.items():
            match = re.fullmatch(r"depth_([^_]+)_(\w+)", key)
            if match:
                skills.setdefault(match[2], {}).setdefault(name, {})[match[1]] = value
    layered = {
        factor: {name: curve for name, curve in rows.items() if len(curve) > 1}
        for factor, rows in skills.items()
    }
    layered = {factor: rows for factor, rows in layered.items() if rows}
    if not layered:
        return (), ""
    places = {tuple(curve) for rows in layered.values() for curve in rows.values()}
    common = next(iter(places)) if len(places) == 1 else None
    charts = []
    for factor, rows in layered.items():
        lines = []
        for name, curve in rows.items():
            x = np.arange(len(curve), dtype=float)
            x = x if common is not None else x / (len(curve) - 1)
            y = np.maximum(np.array(list(curve.values())), 0.0)
            lines.append(Line(name, x, y, slot=slots[name], dots=True))
        levels = [
            Level(name, max(curve[_FEATURES], 0.0), slots[name])
            for name, curve in skills[factor].items()
            if name not in rows and name == _PIXELS
        ]
        named = None if common is None else [_short_place(place) for place in common]
        svg = figures.line_chart(
            f"depth-{_slug(factor)}", f"{factor} over depth", lines, levels=levels, percent=True,
            x_label="layer" if named else "share of the depth", x_names=named,
            y_limits=(-0.03, 1.03), size=_SMALL, number_x=named is None,
        )  # fmt: skip
        charts.append(Chart(factor.replace("_", " ").capitalize(), svg))
    note = (
        "How much of each factor a linear map reads from the layers, from the first one on, and "
        "from h at the end: 0% as a constant prediction, 100% perfect. Maps are averaged over a "
        "few cells, h as it is. Dashed: raw pixels."
    )
    return tuple(charts), note


def _short_place(place: str) -> str:
    return "h" if place == _FEATURES else re.sub(r"\D", "", place)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def gallery(inputs: ReportInputs) -> Images | None:
    """The images that excite a few units most; None if the desiderata have not been measured."""
    if inputs.pixels is None or inputs.embedding is None or not select(inputs.results):
        return None
    codes = np.asarray(inputs.embedding, np.float64)
    finite = np.isfinite(codes).all(axis=1)
    codes, pixels = codes[finite], np.asarray(inputs.pixels)[finite]
    if len(codes) < _IMAGES_OF_UNIT:
        return None
    chosen = units.choose(codes, _UNITS_SHOWN, _IMAGES_OF_UNIT)
    if not len(chosen):
        return None
    top = units.top_examples(codes[:, chosen], _IMAGES_OF_UNIT)  # [units images]
    captions = tuple(f"unit {unit}" for unit in chosen.tolist())
    if inputs.labels is not None:
        labels = np.asarray(inputs.labels)[finite]
        captions = tuple(
            f"{caption}: {_common(inputs, labels[of_unit])}"
            for caption, of_unit in zip(captions, top, strict=True)
        )
    note = (
        f"Of {inputs.split or f'{len(codes)} examples'}, those with the largest values of a unit, "
        "the largest first. Shown are the units whose largest values stand out most from the "
        "rest, without those that are correlated with a shown one."
    )
    return Images(pixels[top], rows=captions, note=note)


def _common(inputs: ReportInputs, labels: np.ndarray) -> str:
    """How many of these labels are the most frequent one: "7/9 disc"."""
    values, counts = np.unique(labels, return_counts=True)
    most = int(np.argmax(counts))
    return f"{counts[most]}/{len(labels)} {inputs.class_name(int(values[most]))}"
