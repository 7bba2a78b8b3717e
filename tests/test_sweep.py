"""Sweeps as a user runs them: a grid, a failing cell, an interruption, the collected results."""

import csv
import json
import pathlib
import signal
import subprocess
import sys

import pytest

from ssl_jax import grid
from ssl_jax.errors import UserError
from tests.test_end_to_end import ROOT, TINY, environment, wait_for_step

OVERRIDES = dict(flag.removeprefix("--config.").split("=", 1) for flag in TINY[1:])
SWEEP = f"""
from ssl_jax.grid import Cell, Sweep, product

OVERRIDES = {{key: eval(value) if value[0] in "(0123456789TF" else value
              for key, value in {OVERRIDES!r}.items()}}
OVERRIDES |= {{"eval.baselines": True}}

def get_sweep(variant="good"):
    cells = [
        Cell(labels, "configs/simclr.py:digits",
             {{**OVERRIDES, "steps": 4, "method.temperature": labels["t"], "seed": labels["seed"]}})
        for labels in product(t=(0.1, 0.5), seed=(0,))
    ]
    if variant == "broken":
        more = {{"data.name": "folder:/nowhere/at/all"}}
        cells.insert(0, Cell({{"t": 0.0, "seed": 0}}, "configs/simclr.py:digits", more))
    if variant == "long":
        cells = [Cell({{"t": 0.1, "seed": 0}}, "configs/simclr.py:digits",
                      {{**OVERRIDES, "steps": 4000}})]
    if variant == "wrong":
        cells = [Cell({{"t": 0.1, "seed": 0}}, "configs/simclr.py:digits", {{"batch_sise": 4}})]
    return Sweep("temperatures", tuple(cells))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "temperatures.py"
    path.write_text(SWEEP)
    return path


def command(config, workdir, *arguments):
    return [
        sys.executable, "-m", "ssl_jax.sweep", f"--config={config}", f"--workdir={workdir}",
        *arguments,
    ]  # fmt: skip


def run(config, workdir, *arguments):
    return subprocess.run(
        command(config, workdir, *arguments), env=environment(), cwd=ROOT, capture_output=True,
        text=True, timeout=240,
    )  # fmt: skip


def test_a_grid_with_a_failing_cell(file, tmp_path):
    listed = run(f"{file}:broken", tmp_path, "--dry_run")
    assert listed.returncode == 1 and "nowhere" in listed.stderr  # no data, no length
    done = run(f"{file}:broken", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "[1/3] t=0.0,seed=0: FAILED with exit code 1" in done.stdout
    assert f"failed: t=0.0,seed=0, see {tmp_path}/t=0.0,seed=0/log.txt" in done.stdout
    assert "/nowhere/at/all" in (tmp_path / "t=0.0,seed=0" / "log.txt").read_text()
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["t"], row["seed"], row["step"]) for row in rows] == [
        ("0.1", "0", "4"),
        ("0.5", "0", "4"),
    ]
    for row in rows:
        found = json.loads((tmp_path / f"t={row['t']},seed=0" / "results.json").read_text())
        assert float(row["knn/top1"]) == found["results"]["SimCLR"]["knn/top1"]
        raw = found["results"]["raw pixels"]["knn/top1"]
        assert float(row["raw pixels/knn/top1"]) == raw

    # Again: the finished ones are skipped, and one cell may be asked for.
    before = (tmp_path / "t=0.1,seed=0" / "metrics.jsonl").stat().st_mtime_ns
    again = run(file, tmp_path)
    assert again.returncode == 0 and again.stdout.count("finished") == 2
    assert (tmp_path / "t=0.1,seed=0" / "metrics.jsonl").stat().st_mtime_ns == before
    listed = run(file, tmp_path, "--dry_run")
    assert listed.returncode == 0 and listed.stdout.count("finished") == 2
    assert "0 examples to go" in listed.stdout
    other = tmp_path / "other"
    one = run(file, other, "--cell=1")
    assert one.returncode == 0, one.stderr
    assert [p.name for p in other.iterdir()] == ["t=0.5,seed=0"]
    collected = run(file, other, "--collect")
    assert "1 of 2 cells" in collected.stdout and (other / "results.csv").exists()


@pytest.mark.slow
def test_an_interrupted_sweep_continues(file, tmp_path):
    process = subprocess.Popen(
        command(f"{file}:long", tmp_path), env=environment(), cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    cell = tmp_path / "t=0.1,seed=0"
    wait_for_step(process, cell, 6)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "the same command continues" in out
    assert list((cell / "checkpoints").iterdir())
    assert not (tmp_path / "results.csv").exists()
    assert "begun" in run(f"{file}:long", tmp_path, "--dry_run").stdout


def test_what_is_wrong_is_said_before_anything_runs(file, tmp_path):
    for arguments, message in (
        ((f"{file}:wrong", tmp_path), "batch_sise"),
        ((file, tmp_path, "--cell=7"), "there is no cell '7'; cells are 0 to 1"),
        (("configs/simclr.py", tmp_path), "holds no sweep"),
        (("nowhere.py", tmp_path), "file 'nowhere.py' does not exist"),
        (("configs/sweeps/methods.py:digit", tmp_path), "Did you mean 'digits'"),
    ):
        done = run(*arguments)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_cells_have_names_of_their_own():
    cell = grid.Cell({"m": "a/b c", "seed": 1}, "x.py")
    assert cell.name == "m=a_b_c,seed=1"
    with pytest.raises(UserError, match="share a name: m=a_b_c,seed=1"):
        grid.Sweep("", (cell, cell))
    with pytest.raises(UserError, match="different labels"):
        grid.Sweep("", (cell, grid.Cell({"m": "a"}, "x.py")))
    assert grid.product(a=(1, 2), b="xy")[1] == {"a": 1, "b": "y"}


def test_every_cell_of_the_projects_sweeps_loads():
    for path in (ROOT / "configs" / "sweeps").glob("*.py"):
        for cell in grid.load(str(path)).cells:
            if pathlib.Path(ROOT / cell.config.partition(":")[0]).exists():
                cell.load()
