"""Whole runs beside lightly's: python -m benchmarks.peers --methods simclr byol barlow_twins

Every method trains twice on the images of `METHOD:fashion`: once with `ssl_jax train`, once with
lightly's losses, heads and transforms on PyTorch (`benchmarks/peers_lightly.py`), with the same
encoder, batch, epochs, optimizer and strengths of the views. Runs take turns, each in a process of
its own, and the same probes score the features of both: `knn` and `linear` of ssl_jax, on the test
images, in other processes, which are not measured. Images per second are the median over steps
after the first ten, with views and loading. Processor time is of the whole process, with its start
and, here, compilation; where other programs run it says more than the clock. Memory is the largest
resident size of the process and its workers, shared pages counted once.

Needs torch, torchvision, timm and lightly.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

METHODS = (
    "simclr", "moco_v2", "byol", "simsiam", "barlow_twins", "vicreg", "swav", "dino", "nnclr",
    "mae",
)  # fmt: skip
# Of all epochs: twenty batches of 256, and what is left over of two epochs.
FEWEST_IMAGES = 22 * 256


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run took and scored.

    Attributes:
      seconds: from start to end of the process.
      cpu_seconds: of the process and its workers.
      mib: largest resident size, workers included.
      images_per_s: median over the logged steps after the first ten.
      scores: "knn/top1" and "linear/top1", fractions.
    """

    seconds: float
    cpu_seconds: float
    mib: float
    images_per_s: float
    scores: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=METHODS[:1], choices=METHODS)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--examples", type=int, default=10_000, help="the first of the train images"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--cached", action="store_true", help="run ours again, with its compiled programs"
    )
    parser.add_argument(
        "--rest", type=float, default=60.0,
        help="seconds to wait at most before a run, until the machine has little to do",
    )  # fmt: skip
    parser.add_argument("--folder", default="", help="of the IDX files; empty: Debian's")
    parser.add_argument("--csv", help="a file that gets a row for every run")
    parser.add_argument("--write", help=argparse.SUPPRESS)  # these two keep JAX out of this process
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.epochs < 2:
        parser.error(f"--epochs={arguments.epochs}: the first one is warm-up; use at least 2")
    if arguments.epochs * arguments.examples < FEWEST_IMAGES:
        parser.error(
            f"--epochs={arguments.epochs} of --examples={arguments.examples} are too few images: "
            f"speed is a median after ten steps; use {FEWEST_IMAGES:,} in all at least"
        )
    if arguments.probe:
        print(json.dumps(scores_of(arguments.probe)))
        return
    if arguments.write:
        write_images(arguments.write, arguments.folder, arguments.examples)
        return
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        again = [sys.executable, "-m", "benchmarks.peers", f"--folder={arguments.folder}"]
        again += [f"--examples={arguments.examples}", f"--write={folder}/images.npz"]
        subprocess.run(again, check=True)
        for method in arguments.methods:
            for seed in arguments.seeds:
                place = pathlib.Path(folder, f"{method}_{seed}")
                place.mkdir()
                for side in (ours, theirs, *[ours_cached] * arguments.cached):
                    rest(arguments.rest)
                    run = side(method, seed, arguments, place)
                    runs.setdefault((method, side.__name__), []).append(run)
                    print(method, seed, side.__name__, run, flush=True)
                    if arguments.csv:
                        write_row(arguments.csv, method, seed, side.__name__, arguments, run)
    show(runs, arguments)


def ours(method: str, seed: int, options: argparse.Namespace, place: pathlib.Path) -> Run:
    """`ssl_jax train`; the folder of compiled programs, which is in `place`, is empty at first."""
    workdir, split = place / "run", f"train[:{options.examples}]"
    probe = ["evaluate", f"--workdir={workdir}", "--evals=knn,linear"]
    command = ["-m", "ssl_jax", "train", f"--config={method}:fashion", f"--workdir={workdir}"]
    for option in (
        f"epochs={options.epochs}", f"seed={seed}", f"data.split={split}",
        f"eval.train_split={split}", "eval.final_names=()", "log.report=False",
        f"compilation_cache={place / 'programs'}",
        *([f"data.options.folder={options.folder}"] if options.folder else ()),
    ):  # fmt: skip
        command.append(f"--config.{option}")
    seconds, cpu, mib = measured(command)
    subprocess.run([sys.executable, "-m", "ssl_jax", *probe], check=True, stdout=subprocess.DEVNULL)
    (file,) = (workdir / "evaluations").glob("*.json")
    scores = json.loads(file.read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    speeds = [row["train/images_per_s"] for row in rows if "train/images_per_s" in row]
    scores = {key: scores[key] for key in ("knn/top1", "linear/top1")}
    return Run(seconds, cpu, mib, statistics.median(speeds[1:]), scores)


def ours_cached(method: str, seed: int, options: argparse.Namespace, place: pathlib.Path) -> Run:
    """`ours` once more, with the programs that it has compiled."""
    shutil.rmtree(place / "run")
    return ours(method, seed, options, place)


def theirs(method: str, seed: int, options: argparse.Namespace, place: pathlib.Path) -> Run:
    """`benchmarks.peers_lightly`, and the probes of ssl_jax on its features."""
    command = ["-m", "benchmarks.peers_lightly", "theirs", f"--method={method}", f"--seed={seed}"]
    command += [
        f"--epochs={options.epochs}",
        f"--images={place.parent}/images.npz",
        f"--out={place}",
    ]
    seconds, cpu, mib = measured(command)
    speeds = json.loads((place / "speeds.json").read_text())
    probe = [sys.executable, "-m", "benchmarks.peers", "--probe", str(place)]
    scores = json.loads(subprocess.run(probe, check=True, capture_output=True).stdout)
    return Run(seconds, cpu, mib, statistics.median(speeds[1:]), scores)


def measured(command: Sequence[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds and the largest MiB of a Python process and its workers.

    Raises:
      SystemExit: it failed; its words are above.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    largest = 0.0
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        largest = max(largest, sum(map(mib_of, family(process.pid))))
        time.sleep(1.0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, largest


def rest(at_most: float) -> None:
    """Waits until the load of the last minute is below three quarters of the cores."""
    until = time.monotonic() + at_most
    while os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1) and time.monotonic() < until:
        time.sleep(1.0)


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for path in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, path.read_text().split())
    return found


def mib_of(pid: int) -> float:
    """Resident memory of a process; pages that several share count once for all of them."""
    with contextlib.suppress(OSError):
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss: +(\d+)", text, re.MULTILINE)[1]) / 1024
    return 0.0


def scores_of(place: str) -> dict[str, float]:
    """Scores of the features in `features.npz`, with the options of `simclr:fashion`."""
    import numpy as np

    from ssl_jax import config as config_lib
    from ssl_jax import evals

    options = config_lib.load("simclr:fashion").eval
    with np.load(pathlib.Path(place, "features.npz")) as file:
        train, test = (
            {"h": file[f"{split}_h"], "label": file[f"{split}_label"]}
            for split in ("train", "test")
        )
    scores = evals.evaluate(["knn", "linear"], train, test, num_classes=10, config=options)
    return {key: float(scores[key]) for key in ("knn/top1", "linear/top1")}


def write_images(path: str, folder: str, examples: int) -> None:
    """Writes the images uint8 [n 28 28] and labels of both splits."""
    import numpy as np

    from ssl_jax import data

    arrays = {}
    for name, split in (("train", f"train[:{examples}]"), ("test", "test")):
        source = data.load("fashion_mnist", split, **({"folder": folder} if folder else {}))
        indices = np.arange(len(source))
        batch = source.read(indices, indices, 0, 0)[0]
        arrays |= {f"{name}_image": batch["image"][..., 0], f"{name}_label": source.labels}
    np.savez(path, **arrays)


def write_row(
    path: str, method: str, seed: int, side: str, options: argparse.Namespace, run: Run
) -> None:
    """Appends a run to a CSV file."""
    import csv

    row = {"method": method, "side": side, "seed": seed, "epochs": options.epochs}
    row["examples"] = options.examples
    row |= {f.name: getattr(run, f.name) for f in dataclasses.fields(run) if f.name != "scores"}
    row |= run.scores
    new = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def show(runs: dict[tuple[str, str], list[Run]], options: argparse.Namespace) -> None:
    """Prints a line for each method and each run of ours: ours, lightly's, and the ratio."""
    from rich.console import Console

    from benchmarks import machine

    table = machine.table(
        f"Whole runs of {options.epochs} epochs of {options.examples:,} images, ssl_jax / lightly "
        "(ratio)",
        *("method", "kNN, %", "linear, %", "images/s", "processor s", "MiB"),
        packages=("torch", "lightly"),
    )
    for (method, side), mine in runs.items():
        if side == "theirs":
            continue
        other = runs[method, "theirs"]
        cells = [method if side == "ours" else f"{method}, compiled before"]
        for key in ("knn/top1", "linear/top1"):
            a, b = (statistics.mean(run.scores[key] for run in side) for side in (mine, other))
            cells.append(f"{100 * a:.1f} / {100 * b:.1f}")
        for name in ("images_per_s", "cpu_seconds", "mib"):
            a, b = (statistics.median(getattr(run, name) for run in side) for side in (mine, other))
            cells.append(f"{a:,.0f} / {b:,.0f} ({a / b:.2f})")
        table.add_row(*cells)
    Console(width=140).print(table)
    print("load of the machine:", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
