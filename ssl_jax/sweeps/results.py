"""Reads the results of a sweep's finished cells, and writes them as one table."""

from __future__ import annotations

import csv
import io
from typing import Any

from etils import epath

from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.config import Length
from ssl_jax.core import storage
from ssl_jax.core.errors import UserError
from ssl_jax.run import metrics, results_file
from ssl_jax.sweeps.grid import Cell, Sweep

Row = dict[str, Any]


def results_of(cell: Cell, workdir: epath.Path) -> dict[str, Any] | None:
    """The `results.json` of a finished cell; None if the cell is not finished.

    A cell is finished if it reached the last step of its config, or stopped early. If the config
    now has more epochs, the cell is not finished and continues.

    Args:
      cell: the cell.
      workdir: folder of the sweep.

    Raises:
      UserError: the folder of the cell contains a run with other overrides.
    """
    try:
        results = results_file.read(workdir / cell.name)
    except UserError:  # the file is damaged; the run computes the results again
        return None
    if not results:
        return None
    config = cell.load()
    config_path = workdir / cell.name / "config.json"
    saved = config_lib.from_json(storage.read_text(config_path), str(config_path))
    changes = config_lib.difference(saved, config)
    changed_overrides = [line for line in changes if line.partition(":")[0] in cell.overrides]
    if changed_overrides:
        raise UserError(
            f"{workdir / cell.name} contains a run of another config "
            f"({'; '.join(changed_overrides)}); choose another --workdir"
        )
    total = Length.of(config, data.steps_per_epoch(saved.data, config.batch_size)).total_steps
    early = results.get("stopped_early") and saved.early_stopping == config.early_stopping
    return results if early or results["step"] >= total else None


def rows_of(sweep: Sweep, workdir: epath.Path) -> list[Row]:
    """One row per finished cell.

    A row contains the labels of the cell, `step`, `trained_parameters`, `state_bytes`, and scores:
    `knn/top1` of the trained encoder, `z/knn/top1` of another output, and `raw pixels/knn/top1` and
    `untrained encoder/knn/top1` of baselines, if the cell has them. A training metric "train/..."
    that a curve needs is the mean over the rows logged in the last tenth of the steps. Of
    "eval/..." metrics that select a setting (`Curve.chosen_by`) it has the last logged value.
    """
    chosen_by = {curve.chosen_by for curve in sweep.curves if curve.chosen_by}
    logged = {m for curve in sweep.curves if (m := curve.measure).startswith("train/")}
    rows = []
    for cell in sweep.cells:
        results = results_of(cell, workdir)
        if results is None:
            continue
        row = {**cell.labels, "step": results["step"], **results.get("sizes", {})}
        *baselines, trained = results["results"] or {"": {}}
        row |= results["results"].get(trained, {})
        for name in baselines:
            prefix = name.removeprefix(f"{trained}, ")  # "SimCLR, z" is "z" for any method
            row |= {f"{prefix}/{key}": value for key, value in results["results"][name].items()}
        row |= _means_at_the_end(workdir / cell.name, results["step"], logged)
        named = {name.format(**row) for name in chosen_by}
        row |= _last_logged(workdir / cell.name, {n for n in named if n.startswith("eval/")})
        rows.append(row)
    return rows


def _last_logged(folder: epath.Path, names: set[str]) -> dict[str, float]:
    """The last logged values of a run."""
    values: dict[str, float] = {}
    for row in metrics.read_metrics(folder) if names else ():
        values |= {name: row[name] for name in sorted(names) if name in row}
    return values


def representations_of(sweep: Sweep, workdir: epath.Path) -> dict[str, dict[str, float]]:
    """The representations of all finished cells and their metrics, baselines first.

    A baseline that is the same in all cells, such as raw pixels, is taken from the first cell that
    has it. Other names get the method, and the labels of the cell if cells share a method.
    """
    finished = [(cell, results_of(cell, workdir)) for cell in sweep.cells]
    finished = [(cell, saved["results"]) for cell, saved in finished if saved and saved["results"]]
    titles = [list(rows)[-1] for _, rows in finished]
    shared: dict[str, dict[str, float]] = {}
    untrained: dict[str, dict[str, float]] = {}
    trained: dict[str, dict[str, float]] = {}
    for (cell, rows), title in zip(finished, titles, strict=True):
        labels = ", ".join(map(str, cell.labels.values()))
        name = title if titles.count(title) == 1 else f"{title}, {labels}"
        for row, values in rows.items():
            if row == title or row.startswith(f"{title}, "):
                trained[name + row.removeprefix(title)] = values
            elif row.startswith("untrained encoder"):
                untrained[f"untrained {name}" + row.removeprefix("untrained encoder")] = values
            else:
                shared.setdefault(row, values)
    return {**shared, **untrained, **trained}


def write_csv(path: epath.Path, rows: list[Row]) -> None:
    """Writes the rows as a CSV file; the columns are all keys, in the order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_whole(path, text.getvalue())


def _means_at_the_end(folder: epath.Path, step: int, names: set[str]) -> dict[str, float]:
    """Means of logged values over the last tenth of a run."""
    if not names:
        return {}
    last_rows = [row for row in metrics.read_metrics(folder) if row["step"] > 0.9 * step]
    values = {name: [row[name] for row in last_rows if name in row] for name in sorted(names)}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items() if numbers}
