"""Renders and writes the report page of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath
from rich.table import Table

from ssl_jax.core.storage import write_whole
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.tables import summarise, summary_table

PAGE_NAME = "report.html"


def render(inputs: ReportInputs) -> str:
    """The page as one HTML document that loads nothing from anywhere."""
    from ssl_jax.report import page  # matplotlib and scikit-learn load only where a page is made

    return page.render(inputs)


def write(workdir: epath.PathLike, inputs: ReportInputs) -> epath.Path:
    """Writes `<workdir>/report.html` and returns its path.

    Sections whose data are missing are left out. Takes seconds on two cores: the maps are drawn of
    1500 points at most.
    """
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / PAGE_NAME
    write_whole(path, render(inputs.named(workdir.name)))
    return path


def write_comparison(
    path: epath.PathLike, name: str, results: Mapping[str, Mapping[str, float]]
) -> bool:
    """Writes a page with the desiderata of several representations side by side.

    Args:
      path: of the file.
      name: heading of the page.
      results: representation -> its metrics.

    Returns:
      Whether desiderata have been measured; without any, nothing is written.
    """
    if not _has_properties(results):
        return False
    from ssl_jax.report import page

    write_whole(epath.Path(path), page.render_comparison(name, results))
    return True


def properties_table(results: Mapping[str, Mapping[str, float]]) -> Table | None:
    """The desiderata of representations for the console; None if none has been measured."""
    if not _has_properties(results):
        return None
    from ssl_jax.report import properties  # loads matplotlib

    return properties.table(results)


def _has_properties(results: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether a representation has a finite value of the evaluation `properties`."""
    return any(
        key.removeprefix("eval/").startswith("properties/") and math.isfinite(value)
        for values in results.values()
        for key, value in values.items()
    )


def tables_of(
    results: Mapping[str, Mapping[str, float]], config: Mapping[str, Any] | None = None
) -> list[Table]:
    """The tables of a run's results for the console: scores, further families, and desiderata.

    Args:
      results: representation -> its metrics.
      config: the eval section, where it names evaluations of its own.
    """
    further = list(summarise(results, config).families())[1:]

    def only(keep: Callable[[str], bool]) -> dict[str, dict[str, float]]:
        rows = {
            row: {key: x for key, x in scores.items() if keep(_evaluation(key))}
            for row, scores in results.items()
        }
        return {row: scores for row, scores in rows.items() if scores}

    scores = summary_table(only(lambda name: name not in further), config=config)
    tables = [scores] if len(scores.columns) > 1 else []
    for family in further:
        own = only(lambda name, family=family: name == family)
        tables.append(summary_table(own, config=config))
    if (properties := properties_table(results)) is not None:
        tables.append(properties)
    return tables or [scores]


def _evaluation(key: str) -> str:
    """The evaluation of a key of results, which may begin with "eval/"."""
    return key.removeprefix("eval/").partition("/")[0]
