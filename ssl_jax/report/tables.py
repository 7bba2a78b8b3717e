"""The summary of a run: one row a representation, one column a probe."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax.report.inputs import Results

_PROBES = {
    "knn/top1": "kNN",
    "linear/top1": "linear",
    "mlp/top1": "MLP",
    "accuracy/top1": "own head",
    **{f"{name}/mlp/top1": name for name in ("color", "rotation", "noise", "sobel")},
}
# Scores of labelled text that are shares, or correlations, of which 1 is the best.
TASKS = {
    "task/accuracy": "accuracy",
    "task/f1": "F1",
    "task/macro_f1": "macro F1",
    "task/matthews": "Matthews",
    "task/pearson": "Pearson",
    "task/spearman": "Spearman",
    "task/exact_match": "exact match",
    "task/entity_f1": "entity F1",
    "task/entity_precision": "precision",
    "task/entity_recall": "recall",
}


@dataclasses.dataclass(frozen=True)
class Score:
    """An accuracy in [0, 1], with its standard deviation over draws where it has one."""

    mean: float
    std: float | None = None

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {100 * self.std:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclasses.dataclass(frozen=True)
class Summary:
    """Scores by row and column.

    Attributes:
      columns: (metric key, heading) in the order shown.
      rows: representation -> column key -> its score; scores that are missing are left out.
    """

    columns: tuple[tuple[str, str], ...]
    rows: Mapping[str, Mapping[str, Score]]

    def best(self, key: str) -> float | None:
        """The highest mean of a column, None where there are no two to compare."""
        means = [scores[key].mean for scores in self.rows.values() if key in scores]
        return max(means) if len(means) > 1 else None

    @property
    def heading(self) -> str:
        """What the scores are."""
        return "score, %" if any(key in TASKS for key, _ in self.columns) else "accuracy, %"

    def shots(self) -> list[int]:
        """Labels a class of the few-shot columns."""
        return [shots for key, _ in self.columns if (shots := _shots(key)) is not None]


def summarise(results: Results) -> Summary:
    """Picks the probe scores out of `results`; keys may carry an `eval/` in front."""
    rows: dict[str, dict[str, Score]] = {}
    for name, metrics in results.items():
        metrics = {key.removeprefix("eval/"): value for key, value in metrics.items()}
        rows[name] = {
            key: Score(float(value), _finite(metrics.get(f"{key}_std")))
            for key, value in metrics.items()
            if (key in _PROBES or key in TASKS or _shots(key) is not None)
            and _finite(value) is not None
        }
    present = {key for scores in rows.values() for key in scores}
    few_shot = sorted((key for key in present if _shots(key) is not None), key=_shots)
    columns = [(key, _few_shot_heading(_shots(key))) for key in few_shot]
    fixed = {**TASKS, **_PROBES}
    columns += [(key, heading) for key, heading in fixed.items() if key in present]
    return Summary(tuple(columns), rows)


def _shots(key: str) -> int | None:
    match = re.fullmatch(r"few_shot/(\d+)", key)
    return int(match[1]) if match else None


def _few_shot_heading(shots: int) -> str:
    return f"{shots} label{'s' if shots > 1 else ''}"


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def summary_table(results: Results, *, title: str | None = None) -> Table:
    """`results` as a table for the console: accuracy in %, mean ± std, the best of a column bold.

    Args:
      results: representation -> its scores, as in `ReportInputs.results`.
      title: a line above it.
    """
    summary = summarise(results)
    table = Table(
        title=None if title is None else Text(title, "bold"),
        box=box.SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column(summary.heading, min_width=17)
    for _, heading in summary.columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, scores in summary.rows.items():
        cells = []
        for key, _ in summary.columns:
            score = scores.get(key)
            text = "–" if score is None else str(score).replace(" ", "")  # to fit 80 columns
            best = score is not None and score.mean == summary.best(key)
            cells.append(Text(text, "bold" if best else ""))
        table.add_row(Text(name), *cells)
    if summary.shots():
        table.caption = "labels: few-shot, labels a class; mean ± std over label draws"
    return table
