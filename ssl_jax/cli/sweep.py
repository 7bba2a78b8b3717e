"""Runs a grid of configs: ssl_jax sweep --config=sweeps/methods --workdir=DIR

Sweeps are in configs/sweeps; those that reproduce a published curve are in configs/ablations. Each
cell is a normal run in its own folder, DIR/<cell>. If the command is interrupted, the same command
continues it: finished cells are skipped, interrupted cells resume. If a cell fails, this is
reported and the other cells run. A cell that another sweep of the folder is running is left to it.

    --dry_run   lists the cells, their cost in examples, and which are finished; runs nothing
    --cell=3    runs one cell, by number or name, e.g. from a job array of a cluster
    --collect   only collects the results of the finished cells
    --set=NAME=VALUE  gives a parameter of the sweep, e.g. --set=pretrained=runs/x
    --set=KEY=VALUE   sets a config key in every cell, e.g. --set=init_from=runs/x; may be repeated

At the end DIR/results.csv holds the results of all finished cells, one row per cell: its labels,
its steps and its scores. Means over seeds are printed. An ablation is drawn beside its published
curve in DIR/results.png, and its agreement with the published order is printed. Matrices are tables
in DIR/results.md, and DIR/significance.csv compares their rows by permutation tests. Desiderata of
all cells (`eval.properties`) stand side by side in DIR/properties.html. A sweep that selects
something prints the best cell. Exit codes: 0 all requested cells are finished, 1 a cell failed or
runs elsewhere, 143 and 130 after SIGTERM and SIGINT (the running cell saves its state). With --cell
the exit code is that of the cell, 128 + n if signal n killed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl import flags
from etils import epath
from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax import data, evals, report
from ssl_jax.config import Length
from ssl_jax.core import storage
from ssl_jax.core.console import make_console
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.evals import Metric
from ssl_jax.run import workdir_lock
from ssl_jax.sweeps import ablation, grid, results, runner, significance, tables
from ssl_jax.sweeps.grid import Cell, Curve, Sweep

RESULTS = "results.csv"
FIGURE = "results.png"
PROPERTIES = "properties.html"
TABLES = "results.md"
SIGNIFICANCE = "significance.csv"


def define_flags() -> None:
    flags.DEFINE_string("config", None, "Sweep: NAME or FILE.py, optionally with :VARIANT.")
    flags.DEFINE_string("workdir", None, "Folder of the cells and the results.")
    flags.DEFINE_bool("dry_run", False, "List the cells and run nothing.")
    flags.DEFINE_string("cell", None, "Run this cell only, by number or name.")
    flags.DEFINE_bool("collect", False, "Gather the results of finished cells, run nothing.")
    flags.DEFINE_multi_string("set", [], "KEY=VALUE: a config key of every cell; may be repeated.")


def main() -> int:
    options = flags.FLAGS
    for name, example in (("config", "sweeps/methods"), ("workdir", "runs/methods")):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    sweep = grid.load(options.config).with_overrides(grid.parse_settings(options.set))
    storage.check_path(options.workdir)
    workdir = epath.Path(options.workdir)
    if sweep.skips_absent_data:
        sweep = _with_present_data(sweep)
    cells = sweep.cells if options.cell is None else (_find(sweep, options.cell),)
    for cell in cells:
        # Finds mistakes in all cells before the first cell runs for hours.
        cell.load()
        results.results_of(cell, workdir)
    if options.dry_run:
        _list(sweep, cells, workdir)
        return 0
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be written: {error}") from error
    failed, stopped = ({}, 0) if options.collect else runner.run(cells, workdir)
    if stopped:
        return stopped
    if options.cell is None:
        collect(sweep, workdir)
    for name in failed:
        state = "runs elsewhere" if workdir_lock.is_held(workdir / name) else "failed"
        print(f"{state}: {name}, see {workdir / name / runner.LOG}")
    if options.cell is not None and failed:
        return failed[cells[0].name]
    return 1 if failed else 0


def _find(sweep: Sweep, name: str) -> Cell:
    """The cell with a name or number."""
    names = [cell.name for cell in sweep.cells]
    if name in names:
        return sweep.cells[names.index(name)]
    if name.isdecimal() and int(name) < len(names):
        return sweep.cells[int(name)]
    raise UserError(
        f"there is no cell {name!r}; cells are 0 to {len(names) - 1}, or by name."
        f"{nearest(name, names)}"
    )


def _with_present_data(sweep: Sweep) -> Sweep:
    """The cells whose data set is on this machine; names the other sets, with the reason.

    Raises:
      UserError: no set is here.
    """
    reasons: dict[str, str] = {}
    present = []
    for cell in sweep.cells:
        name = cell.load().data.name
        if name not in reasons:
            reasons[name] = _reason_of_absence(cell)
            if reasons[name]:
                print(f"left out: {name}: {reasons[name]}", flush=True)
        if not reasons[name]:
            present.append(cell)
    if not present:
        raise UserError(f"none of the {len(reasons)} data sets of this sweep is on this machine")
    return dataclasses.replace(sweep, cells=tuple(present))


def _reason_of_absence(cell: Cell) -> str:
    """Why the data set of a cell cannot be read; "" if it can."""
    section = cell.load().data
    try:
        data.missing_splits(section, [section.split])
    except UserError as error:
        return str(error)
    return ""


def collect(sweep: Sweep, workdir: epath.Path) -> list[dict[str, Any]]:
    """Writes DIR/results.csv, and DIR/results.png if the sweep has curves; prints the means.

    Returns:
      The rows of `ssl_jax.sweeps.results.rows_of`.
    """
    rows = results.rows_of(sweep, workdir)
    if not rows:
        print("no cell is finished: nothing to collect")
        return rows
    results.write_csv(workdir / RESULTS, rows)
    print(f"{len(rows)} of {len(sweep.cells)} cells: {workdir / RESULTS}", flush=True)
    sections: dict[str, Any] = {}
    for cell in sweep.cells:
        sections |= cell.load().eval.to_dict()
    means = _means(sweep, rows, sections)
    if len(means.columns) > 1:
        make_console().print(means)
    if sweep.curves:
        _draw(sweep, rows, workdir)
    compared = results.representations_of(sweep, workdir)
    if report.write_comparison(workdir / PROPERTIES, sweep.title, compared):
        make_console().print(report.properties_table(compared))
        print(f"desiderata side by side: {workdir / PROPERTIES}", flush=True)
    if any(curve.matrix for curve in sweep.curves):
        text = tables.text(sweep.title, rows, sweep.labels, sweep.curves)
        storage.write_whole(workdir / TABLES, text)
        print(f"tables: {workdir / TABLES}", flush=True)
    if sweep.compares is not None:
        tests = significance.compare(sweep, rows, workdir)
        if tests:
            results.write_csv(workdir / SIGNIFICANCE, tests)
            print(f"permutation tests: {workdir / SIGNIFICANCE}", flush=True)
    scored = [row for row in rows if sweep.metric in row]
    if sweep.metric and scored:
        metric = evals.describe(sweep.metric, sections) or Metric(sweep.metric)
        choose = min if metric.better == "lower" else max
        best = choose(scored, key=lambda row: row[sweep.metric])
        labels = ", ".join(f"{key} {best[key]}" for key in sweep.cells[0].labels)
        value = metric.with_unit(best[sweep.metric])
        print(f"best {sweep.metric}: {value} with {labels}", flush=True)
    return rows


def _means(sweep: Sweep, rows: list[dict[str, Any]], sections: Mapping[str, Any]) -> Table:
    """A table of the means over seeds, ± standard deviation, for the console.

    Its columns are the metrics of the curves; without curves, the metrics of the trained encoder
    that reports show.

    Args:
      sweep: the sweep.
      rows: of the finished cells.
      sections: the eval sections of the cells' configs, merged; they may add evaluations.
    """
    metrics = {name: _metric_of(curve, name) for curve in sweep.curves for name in curve.measures}
    if not metrics:
        rows_by_name = {str(number): _numbers(row) for number, row in enumerate(rows)}
        metrics = dict(report.summarise(rows_by_name, sections).columns)
    columns = list(metrics)
    named = [{**row, **{name: row.get(name.format(**row)) for name in columns}} for row in rows]
    averaged = ablation.average_over_seeds(named, sweep.labels, columns)
    seeds = ablation.seeds_said(rows, sweep.labels)
    note = f", {seeds}" if seeds else ""
    table = Table(title=Text(f"{sweep.title}{note}", "bold"), box=box.SIMPLE_HEAD,
                  title_justify="left", show_edge=False, pad_edge=False)  # fmt: skip
    labels = [label for label in sweep.labels if label != ablation.SEED]
    for label in labels:
        table.add_column(label)
    for column in columns:
        unit = metrics[column].unit
        table.add_column(f"{column}, {unit}" if unit else column, justify="right")
    best = {
        column: metrics[column].best(row[column][0] for row in averaged if column in row)
        for column in columns
    }
    for row in averaged:
        cells = [Text(str(row[label])) for label in labels]
        for column in columns:
            if column not in row:
                cells.append(Text("–"))
                continue
            mean, std, _ = row[column]
            text = metrics[column].format(mean, std)
            cells.append(Text(text, "bold" if mean == best[column] else ""))
        table.add_row(*cells)
    return table


def _metric_of(curve: Curve, measure: str) -> Metric:
    return Metric(measure, unit="%" if curve.percent else "")


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, (int, float))}


def _draw(sweep: Sweep, rows: list[dict[str, Any]], workdir: epath.Path) -> None:
    """Draws the figure of an ablation, and prints how it agrees with the published results."""
    from ssl_jax.sweeps import ablation_figure  # imports matplotlib, which is slow

    if not any(ablation.all_points(rows, sweep.labels, sweep.curves)):
        print("no finished cell has the metrics of the figure")
        return
    for line in ablation.summary(rows, sweep.labels, sweep.curves):
        print(line)
    setting, missing = sweep.setting, len(sweep.cells) - len(rows)
    if seeds := ablation.seeds_said(rows, sweep.labels):
        setting += f"; {seeds}"
    if missing:
        setting += f"; {missing} of {len(sweep.cells)} cells not finished"
    path = workdir / FIGURE
    ablation_figure.save(path, sweep.title, setting, rows, sweep.labels, sweep.curves)
    print(f"figure: {path}", flush=True)


def _list(sweep: Sweep, cells: tuple[Cell, ...], workdir: epath.Path) -> None:
    numbers = {cell.name: number for number, cell in enumerate(sweep.cells)}
    table = Table(title=sweep.title)
    for column in ("cell", "name", "steps", "batch", "examples", "state"):
        table.add_column(column, justify="left" if column in ("name", "state") else "right")
    total, left, states = 0, 0, []
    for cell in cells:
        config = cell.load()
        steps = Length.of(config, data.steps_per_epoch(config.data, config.batch_size)).total_steps
        examples = steps * config.batch_size
        done = results.results_of(cell, workdir) is not None
        begun = (workdir / cell.name / "metrics.jsonl").exists()
        states.append("finished" if done else "begun" if begun else "to run")
        total += examples
        left += 0 if done else examples
        table.add_row(
            str(numbers[cell.name]), cell.name, f"{steps:,}", f"{config.batch_size:,}",
            f"{examples:,}", states[-1] if states[-1] != "to run" else "",
        )  # fmt: skip
    make_console().print(table)
    counts = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("finished", "begun", "to run")
        if state in states
    )
    print(f"{len(cells)} cells: {counts}")
    print(f"{total:,} examples in all (steps x batch); {left:,} examples to go, at most")
