"""Runs a grid of configs: ssl_jax sweep --config=sweeps/methods --workdir=DIR

Sweeps are in configs/sweeps, and those that redraw a published curve in configs/ablations. Each
cell is a normal run in a folder of its own, DIR/<cell>. The command may be interrupted and given
again: finished cells are skipped, broken ones continue where they were. A cell that fails is
reported, and the others run.

    --dry_run   lists the cells, what they cost in examples, and which are finished; runs nothing
    --cell=3    runs one cell, by its number or name: so that a cluster's job array is the engine
    --collect   only gathers the results of the finished cells
    --set=KEY=VALUE   sets a config key in every cell, e.g. --set=init_from=runs/x; may be repeated

At the end the results of all finished cells stand in DIR/results.csv, a row a cell: its labels, its
steps, and what its probes found; their means over seeds are printed. An ablation is drawn beside
its published curve in DIR/results.png, and how the orders of the two agree is printed. A sweep that
chooses something says which cell was the best. Exit codes: 0 all cells asked for are finished, 1 a
cell failed, 143 and 130 after SIGTERM and SIGINT, which the running cell survives saved. With
--cell the exit code is the cell's own, 128 + n of one that signal n has killed.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags
from etils import epath
from rich import box
from rich.table import Table
from rich.text import Text

from ssl_jax import config as config_lib
from ssl_jax import data, report
from ssl_jax.config import Length
from ssl_jax.core.console import make_console
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.evals import Metric
from ssl_jax.run import metrics
from ssl_jax.sweeps import ablation, grid
from ssl_jax.sweeps.grid import Cell, Curve, Sweep

RESULTS = "results.csv"
FIGURE = "results.png"
LOG = "log.txt"


def define_flags() -> None:
    flags.DEFINE_string("config", None, "Sweep: NAME or FILE.py, with :VARIANT if wanted.")
    flags.DEFINE_string("workdir", None, "Where the cells' folders and the results go.")
    flags.DEFINE_bool("dry_run", False, "List the cells and run nothing.")
    flags.DEFINE_string("cell", None, "Run this cell only, by number or name.")
    flags.DEFINE_bool("collect", False, "Gather the results of finished cells, run nothing.")
    flags.DEFINE_multi_string("set", [], "KEY=VALUE: a config key of every cell; may be repeated.")


def main() -> int:
    given = flags.FLAGS
    for name, example in (("config", "sweeps/methods"), ("workdir", "runs/methods")):
        if not getattr(given, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    sweep = grid.load(given.config).with_overrides(grid.parse_settings(given.set))
    workdir = epath.Path(given.workdir)
    cells = sweep.cells if given.cell is None else (_find(sweep, given.cell),)
    for cell in cells:
        # What is wrong with a cell is found before the first one has run for hours.
        cell.load()
        results_of(cell, workdir)
    if given.dry_run:
        _list(sweep, cells, workdir)
        return 0
    failed, stopped = ({}, 0) if given.collect else _run(cells, workdir)
    if stopped:
        return stopped
    if given.cell is None:
        collect(sweep, workdir)
    for name in failed:
        print(f"failed: {name}, see {workdir / name / LOG}")
    if given.cell is not None and failed:
        return failed[cells[0].name]
    return 1 if failed else 0


def _find(sweep: Sweep, wanted: str) -> Cell:
    names = [cell.name for cell in sweep.cells]
    if wanted in names:
        return sweep.cells[names.index(wanted)]
    if wanted.isdecimal() and int(wanted) < len(names):
        return sweep.cells[int(wanted)]
    raise UserError(
        f"there is no cell {wanted!r}; cells are 0 to {len(names) - 1}, or by name."
        f"{nearest(wanted, names)}"
    )


def _run(cells: tuple[Cell, ...], workdir: epath.Path) -> tuple[dict[str, int], int]:
    """Runs the cells that are not finished.

    Returns:
      Names of those that failed, each with its exit code, and the exit code where a signal stopped
      the sweep (else 0).
    """
    failed = {}
    with _Forwarded() as signals:
        for number, cell in enumerate(cells, 1):
            at = f"[{number}/{len(cells)}] {cell.name}"
            if results_of(cell, workdir) is not None:
                print(f"{at}: finished", flush=True)
                continue
            print(f"{at}: runs", flush=True)
            try:
                code = _train(cell, workdir, signals)
            except OSError as error:  # no process, or no room for its log
                print(f"{at}: FAILED: {error}", flush=True)
                failed[cell.name] = 1
                continue
            # Before it can save, a cell dies of the signal itself.
            stopped = 128 + signals.received if signals.received else code
            if stopped in (130, 143):
                print("stopped; the same command continues", flush=True)
                return failed, stopped
            if code:
                print(f"{at}: FAILED with exit code {code}", flush=True)
                failed[cell.name] = code
    return failed, 0


class _Forwarded:
    """Hands SIGTERM and SIGINT on to the cell that runs.

    Attributes:
      received: the last one, 0 before there is any.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process: subprocess.Popen | None = None

    def start(self, arguments: list[str]) -> subprocess.Popen:
        """Starts a cell, which also gets a signal that came while none ran."""
        # In a session of its own, so that Ctrl-C reaches it once: from here.
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        if self.received:
            self._process.send_signal(self.received)
        return self._process

    def _forward(self, number: int, frame: Any) -> None:
        del frame
        self.received = number
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> _Forwarded:
        signals = (signal.SIGTERM, signal.SIGINT)
        self._previous = {number: signal.signal(number, self._forward) for number in signals}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _train(cell: Cell, workdir: epath.Path, signals: _Forwarded) -> int:
    """The training command in a process of its own, so that nothing of it reaches the next cell.

    Returns:
      Its exit code; 128 + n if signal n killed it.
    """
    folder = workdir / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-m", "ssl_jax", "train", *cell.flags, f"--workdir={folder}"]
    with signals.start(arguments) as process, (folder / LOG).open("wb") as log:
        for line in process.stdout:
            log.write(line)
            log.flush()
    code = process.wait()
    return code if code >= 0 else 128 - code


def results_of(cell: Cell, workdir: epath.Path) -> dict[str, Any] | None:
    """The `results.json` of a finished cell, None while there is none.

    A cell counts as finished only at the step where its config ends, with more epochs it goes on,
    or where it has stopped early.

    Raises:
      UserError: the folder holds a run of other overrides.
    """
    path = workdir / cell.name / "results.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError:  # the machine went down while it was written; the run ends once more
        return None
    config = cell.load()
    saved = config_lib.from_json((workdir / cell.name / "config.json").read_text())
    changed = config_lib.difference(saved, config)
    others = [line for line in changed if line.partition(":")[0] in cell.overrides]
    if others:
        raise UserError(
            f"{workdir / cell.name} holds a run of another config ({'; '.join(others)}); choose "
            "another --workdir"
        )
    total = Length.of(config, data.steps_per_epoch(saved.data, config.batch_size)).total_steps
    early = found.get("stopped_early") and saved.early_stopping == config.early_stopping
    return found if early or found["step"] >= total else None


def collect(sweep: Sweep, workdir: epath.Path) -> list[dict[str, Any]]:
    """Writes DIR/results.csv, and DIR/results.png if the sweep has curves; returns the rows.

    A row holds the cell's labels, `step`, and for the trained encoder `knn/top1`, `few_shot/1` and
    so on, of another of its outputs `z/knn/top1`; of the baselines, where the cell has them, the
    same under `raw pixels/...` and `untrained encoder/...`. What a curve shows of the training
    itself, "train/...", is the mean over the rows logged in the last tenth of the steps.
    """
    watched = {m for curve in sweep.curves if (m := curve.measure).startswith("train/")}
    rows, sections = [], {}
    for cell in sweep.cells:
        found = results_of(cell, workdir)
        if found is None:
            continue
        sections |= cell.load().eval.to_dict()
        row = {**cell.labels, "step": found["step"]}
        *baselines, trained = found["results"] or {"": {}}
        row |= found["results"].get(trained, {})
        for name in baselines:
            prefix = name.removeprefix(f"{trained}, ")  # "SimCLR, z" is "z" of any method
            row |= {f"{prefix}/{key}": value for key, value in found["results"][name].items()}
        row |= _at_the_end(workdir / cell.name, found["step"], watched)
        rows.append(row)
    if not rows:
        print("no cell is finished: nothing to collect")
        return rows
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / RESULTS).write_text(text.getvalue())
    print(f"{len(rows)} of {len(sweep.cells)} cells: {workdir / RESULTS}", flush=True)
    make_console().print(_means(sweep, rows, sections))
    if sweep.curves:
        _draw(sweep, rows, workdir)
    scored = [row for row in rows if sweep.metric in row]
    if scored:
        best = max(scored, key=lambda row: row[sweep.metric])
        labels = ", ".join(f"{key} {best[key]}" for key in sweep.cells[0].labels)
        print(f"best {sweep.metric}: {best[sweep.metric]:.2%} with {labels}", flush=True)
    return rows


def _at_the_end(folder: epath.Path, step: int, names: set[str]) -> dict[str, float]:
    """Means of logged values over the last tenth of a run."""
    if not names:
        return {}
    logged = [row for row in metrics.read_metrics(folder) if row["step"] > 0.9 * step]
    values = {name: [row[name] for row in logged if name in row] for name in sorted(names)}
    return {name: sum(found) / len(found) for name, found in values.items() if found}


def _means(sweep: Sweep, rows: list[dict[str, Any]], sections: Mapping[str, Any]) -> Table:
    """The means over seeds, ± their standard deviation, as a table for the console.

    It shows what the curves show; of a sweep without curves, the metrics of the trained encoder
    that reports show.

    Args:
      sweep: the sweep.
      rows: of the finished cells.
      sections: of the eval section of their configs, which may name evaluations of their own.
    """
    metrics = {curve.measure: _metric_of(curve) for curve in sweep.curves}
    if not metrics:
        rows_by_name = {str(number): _numbers(row) for number, row in enumerate(rows)}
        metrics = dict(report.summarise(rows_by_name, sections).columns)
    columns = list(metrics)
    named = [{**row, **{name: row.get(name.format(**row)) for name in columns}} for row in rows]
    averaged = ablation.over_seeds(named, sweep.labels, columns)
    note = f", mean ± std over {sweep.seeds} seeds" if sweep.seeds else ""
    table = Table(title=Text(f"{sweep.title}{note}", "bold"), box=box.SIMPLE_HEAD,
                  title_justify="left", show_edge=False, pad_edge=False)  # fmt: skip
    kept = [label for label in sweep.labels if label != ablation.SEED]
    for label in kept:
        table.add_column(label)
    for column in columns:
        unit = metrics[column].unit
        table.add_column(f"{column}, {unit}" if unit else column, justify="right")
    best = {
        column: metrics[column].best(row[column][0] for row in averaged if column in row)
        for column in columns
    }
    for row in averaged:
        cells = [Text(str(row[label])) for label in kept]
        for column in columns:
            if column not in row:
                cells.append(Text("–"))
                continue
            mean, std, _ = row[column]
            text = metrics[column].format(mean, std)
            cells.append(Text(text, "bold" if mean == best[column] else ""))
        table.add_row(*cells)
    return table


def _metric_of(curve: Curve) -> Metric:
    return Metric(curve.measure, unit="%" if curve.percent else "")


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, (int, float))}


def _draw(sweep: Sweep, rows: list[dict[str, Any]], workdir: epath.Path) -> None:
    """The figure of an ablation, and in words how its orders agree with the published ones."""
    from ssl_jax.sweeps import ablation_figure  # matplotlib loads only where a figure is made

    if not any(ablation.points(rows, sweep.labels, curve) for curve in sweep.curves):
        print("no finished cell has what the figure shows")
        return
    for line in ablation.summary(rows, sweep.labels, sweep.curves):
        print(line)
    setting, missing = sweep.setting, len(sweep.cells) - len(rows)
    if seeds := sweep.seeds:
        setting += f"; mean ± std over {seeds} seeds"
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
        done = results_of(cell, workdir) is not None
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
