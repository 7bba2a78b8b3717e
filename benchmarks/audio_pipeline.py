"""The pipeline of audio against a bare loop over soundfile: the same windows of the same files

    python -m benchmarks.audio_pipeline [--rounds 15]

Both sides decode random windows of 1.28 s of the same files of 12 s (16 bits, 16 kHz) on one core,
and take turns. The pipeline also draws order and starts, fills batches and labels, and hands
them over; each of its calls starts a stream. Figures are windows a second of CPU time, of all
threads, so that other work on the machine counts less; the ratio is that of a round, its median and
quartiles over the rounds, beside the median ratio by the clock. Goal: at least 0.9.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import tempfile
import time

import numpy as np

from benchmarks import machine, turns
from ssl_jax import data
from ssl_jax.data.audio.audio_source import AudioSource

WINDOW, RATE, BATCH = 20_480, 16_000, 16
FORMATS = ("flac", "wav")


def write(root: pathlib.Path, suffix: str) -> None:
    """240 recordings of 12 s of four speakers: noise whose spectrum falls, like that of speech."""
    import soundfile

    rng = np.random.default_rng(0)
    for number in range(240):
        folder = root / f"speaker{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.fft.rfft(rng.standard_normal(12 * RATE))
        noise /= np.maximum(np.arange(len(noise)), 100)
        wave = np.fft.irfft(noise)
        soundfile.write(folder / f"{number}.{suffix}", 0.3 * wave / np.abs(wave).max(), RATE)


def load(root: str) -> AudioSource:
    return data.load(f"folder:{root}", folders="speakers", window=WINDOW)


def pipeline(root: str, count: int) -> None:
    """Serves `turns`: batches of the pipeline."""
    source = load(root)

    seeds = itertools.count()

    def call() -> float:
        began, steps = time.process_time(), count // BATCH
        with data.batches(source, batch_size=BATCH, seed=next(seeds), num_steps=steps) as batches:
            for _ in batches:
                pass
        return time.process_time() - began

    turns.serve(call)


def bare(root: str, count: int) -> None:
    """Serves `turns`: a loop that seeks and reads."""
    import soundfile

    recordings = load(root).recordings
    paths = [recordings.name(number) for number in range(len(recordings))]
    rng = np.random.default_rng(0)

    def call() -> float:
        began = time.process_time()
        for _ in range(count):
            with soundfile.SoundFile(paths[rng.integers(len(paths))]) as file:
                file.seek(rng.integers(file.frames - WINDOW))
                file.read(WINDOW, dtype="int16")
        return time.process_time() - began

    turns.serve(call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--windows", type=int, default=1_920, help="of a call")
    parser.add_argument("--side", choices=("pipeline", "bare"))
    parser.add_argument("--root")
    arguments = parser.parse_args()
    if arguments.side:
        if hasattr(os, "sched_setaffinity"):  # one core each: the pipeline decodes on every core
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        {"pipeline": pipeline, "bare": bare}[arguments.side](arguments.root, arguments.windows)
        return
    from rich.console import Console

    title = f"Windows of {WINDOW / RATE} s a second of CPU time, {arguments.rounds} rounds"
    columns = ("files", "pipeline", "bare loop", "ratio", "quartiles", "by the clock")
    table = machine.table(title, *columns, packages=("soundfile",))
    for suffix in FORMATS:
        with tempfile.TemporaryDirectory() as root:
            write(pathlib.Path(root), suffix)
            command = ["-m", "benchmarks.audio_pipeline", f"--windows={arguments.windows}"]
            sides = {
                side: turns.Side([*command, f"--side={side}", f"--root={root}"])
                for side in ("pipeline", "bare")
            }
            clock: dict[str, list[float]] = {name: [] for name in sides}
            speeds: dict[str, list[float]] = {name: [] for name in sides}
            for _ in range(arguments.rounds):
                for name, side in sides.items():
                    clock[name].append(arguments.windows / side.call())
                    speeds[name].append(arguments.windows / side.value)
            for side in sides.values():
                side.end()
        ratios, by_clock = (
            np.array(figures["pipeline"]) / figures["bare"] for figures in (speeds, clock)
        )
        low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        table.add_row(
            suffix, *(f"{np.median(speeds[side]):,.0f}" for side in ("pipeline", "bare")),
            f"{middle:.2f}", f"{low:.2f} to {high:.2f}", f"{np.median(by_clock):.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
