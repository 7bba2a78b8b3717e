"""Runs a grid of configs: python -m ssl_jax.sweep --config=configs/sweeps/methods.py --workdir=DIR

Each cell is a normal run in a folder of its own, DIR/<cell>. The command may be interrupted and
given again: finished cells are skipped, broken ones continue where they were. A cell that fails is
reported, and the others run.

    --dry_run   lists the cells, their steps and whether they are finished; runs nothing
    --cell=3    runs one cell, by its number or name: so that a cluster's job array is the engine
    --collect   only gathers the results of the finished cells
    --set=KEY=VALUE   sets a config key in every cell, e.g. --set=init_from=runs/x; may be repeated

At the end the results of all finished cells stand in DIR/results.csv, a row a cell: its labels, its
steps, and what its probes found. A sweep that chooses something says which cell was the best. Exit
codes: 0 all cells asked for are finished, 1 a cell failed, 143 and 130 after SIGTERM and SIGINT,
which the running cell survives saved.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from typing import Any

from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table

from ssl_jax import command, data, grid
from ssl_jax import config as config_lib
from ssl_jax.config import Length
from ssl_jax.errors import UserError, nearest
from ssl_jax.grid import Cell, Sweep

RESULTS = "results.csv"
LOG = "log.txt"


def define_flags() -> None:
    flags.DEFINE_string("config", None, "Sweep file, FILE.py or FILE.py:VARIANT.")
    flags.DEFINE_string("workdir", None, "Where the cells' folders and the results go.")
    flags.DEFINE_bool("dry_run", False, "List the cells and run nothing.")
    flags.DEFINE_string("cell", None, "Run this cell only, by number or name.")
    flags.DEFINE_bool("collect", False, "Gather the results of finished cells, run nothing.")
    flags.DEFINE_multi_string("set", [], "KEY=VALUE: a config key of every cell; may be repeated.")


def main() -> int:
    given = flags.FLAGS
    for name, example in (("config", "configs/sweeps/methods.py"), ("workdir", "runs/methods")):
        if not getattr(given, name):
            raise UserError(f"--{name} is missing, e.g. --{name}={example}")
    sweep = grid.load(given.config).with_overrides(grid.parse_settings(given.set))
    workdir = epath.Path(given.workdir)
    cells = sweep.cells if given.cell is None else (_find(sweep, given.cell),)
    for cell in cells:
        cell.load()  # a wrong cell is found before the first one has run for hours
    if given.dry_run:
        _list(sweep, cells, workdir)
        return 0
    failed, stopped = ([], 0) if given.collect else _run(cells, workdir)
    if stopped:
        return stopped
    if given.cell is None:
        collect(sweep, workdir)
    for cell in failed:
        print(f"failed: {cell.name}, see {workdir / cell.name / LOG}")
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


def _run(cells: tuple[Cell, ...], workdir: epath.Path) -> tuple[list[Cell], int]:
    """Runs the cells that are not finished.

    Returns:
      Those that failed, and the exit code where a signal stopped the sweep (else 0).
    """
    failed = []
    for number, cell in enumerate(cells, 1):
        at = f"[{number}/{len(cells)}] {cell.name}"
        if results_of(cell, workdir) is not None:
            print(f"{at}: finished", flush=True)
            continue
        print(f"{at}: runs", flush=True)
        code = _train(cell, workdir)
        if code in (130, 143):
            print("stopped; the same command continues", flush=True)
            return failed, code
        if code:
            print(f"{at}: FAILED with exit code {code}", flush=True)
            failed.append(cell)
    return failed, 0


def _train(cell: Cell, workdir: epath.Path) -> int:
    """The training command in a process of its own, so that nothing of it reaches the next cell."""
    folder = workdir / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [sys.executable, "-m", "ssl_jax.train", *cell.flags, f"--workdir={folder}"]
    # In a session of its own, so that Ctrl-C reaches it once: from here.
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )

    def forward(number: int, frame: Any) -> None:
        del frame
        process.send_signal(number)

    previous = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with (folder / LOG).open("wb") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def results_of(cell: Cell, workdir: epath.Path) -> dict[str, Any] | None:
    """The `results.json` of a finished cell, None while there is none.

    A cell counts as finished only at the step where its config ends: with more epochs it goes on.

    Raises:
      UserError: the folder holds a run of other overrides.
    """
    path = workdir / cell.name / "results.json"
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    config = cell.load()
    saved = config_lib.from_json((workdir / cell.name / "config.json").read_text())
    changed = config_lib.difference(saved, config)
    others = [line for line in changed if line.partition(":")[0] in cell.overrides]
    if others:
        raise UserError(
            f"{workdir / cell.name} holds a run of another config ({'; '.join(others)}); choose "
            "another --workdir"
        )
    total = Length.of(config, data.spec_from_config(saved.data).num_examples).total_steps
    return found if found["step"] >= total else None


def collect(sweep: Sweep, workdir: epath.Path) -> list[dict[str, Any]]:
    """Writes DIR/results.csv, and returns its rows.

    A row holds the cell's labels, `step`, and for the trained encoder `knn/top1`, `few_shot/1` and
    so on, of another of its outputs `z/knn/top1`; of the baselines, where the cell has them, the
    same under `raw pixels/...` and `untrained encoder/...`.
    """
    rows = []
    for cell in sweep.cells:
        found = results_of(cell, workdir)
        if found is None:
            continue
        row = {**cell.labels, "step": found["step"]}
        *baselines, trained = found["results"] or {"": {}}
        row |= found["results"].get(trained, {})
        for name in baselines:
            prefix = name.removeprefix(f"{trained}, ")  # "SimCLR, z" is "z" of any method
            row |= {f"{prefix}/{key}": value for key, value in found["results"][name].items()}
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
    scored = [row for row in rows if sweep.metric in row]
    if scored:
        best = max(scored, key=lambda row: row[sweep.metric])
        labels = ", ".join(f"{key} {best[key]}" for key in sweep.cells[0].labels)
        print(f"best {sweep.metric}: {best[sweep.metric]:.2%} with {labels}", flush=True)
    return rows


def _list(sweep: Sweep, cells: tuple[Cell, ...], workdir: epath.Path) -> None:
    numbers = {cell.name: number for number, cell in enumerate(sweep.cells)}
    table = Table(title=sweep.title)
    for column in ("cell", "name", "steps", "batch", "state"):
        table.add_column(column, justify="left" if column in ("name", "state") else "right")
    total = 0
    for cell in cells:
        config = cell.load()
        steps = Length.of(config, data.spec_from_config(config.data).num_examples).total_steps
        done = results_of(cell, workdir) is not None
        begun = (workdir / cell.name / "metrics.jsonl").exists()
        total += 0 if done else steps * config.batch_size
        state = "finished" if done else "begun" if begun else ""
        table.add_row(
            str(numbers[cell.name]), cell.name, f"{steps:,}", f"{config.batch_size:,}", state
        )
    Console().print(table)
    print(f"{len(cells)} cells; {total:,} examples to go, at most")


if __name__ == "__main__":
    command.run(main, define_flags)
