"""Tables of a sweep in Markdown, each beside the published one: rows are series, columns are x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssl_jax.sweeps import ablation
from ssl_jax.sweeps.ablation import Curve, Point


def text(
    title: str,
    rows: Sequence[ablation.Row],
    labels: Sequence[str],
    curves: Sequence[Curve],
) -> str:
    """The measured and the published tables of the curves that are matrices.

    Args:
      title: of the sweep.
      rows: one row per finished cell.
      labels: the labels of the cells.
      curves: the curves; others than matrices are left out.
    """
    parts = [f"# {title}"]
    for curve, ours in zip(curves, ablation.all_points(rows, labels, curves), strict=True):
        if not curve.matrix:
            continue
        if ours:
            parts += [f"## {curve.measure_label}: measured", _table(curve, ours)]
        published = ablation.table_of(curve)
        theirs = ablation.published_points(curve)
        if published is not None and theirs:
            source = f"{published.paper}, {published.place} ({published.url}): {published.setting}."
            parts += [f"## {curve.measure_label}: published", source, _table(curve, theirs)]
    return "\n\n".join(parts) + "\n"


def _table(curve: Curve, points: Sequence[Point]) -> str:
    """One table; the best value of each column is bold."""
    columns = list(dict.fromkeys(point.x for point in points))
    series = list(dict.fromkeys(point.series for point in points))
    at = {(point.series, point.x): point for point in points}
    best = {
        x: max((p.mean for p in points if p.x == x and p.mean is not None), default=None)
        for x in columns
    }
    head = ["", *(curve.names.get(x, str(x)) for x in columns)]
    lines = [head, ["---", *("---:" for _ in columns)]]
    for row in series:
        name = curve.names.get(row, str(row))
        lines.append([name, *(_cell(at.get((row, x)), best[x]) for x in columns)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(point: Point | None, best: Any) -> str:
    if point is None or point.mean is None:
        return (point.note if point else "") or "–"
    value = f"{point.mean:.1f}" if point.std is None else f"{point.mean:.1f} ± {point.std:.1f}"
    return f"**{value}**" if point.mean == best else value
