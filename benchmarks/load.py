"""Time and peak memory of reading large data sets: python -m benchmarks.load [--scale 0.01]

    folder    50,000 PNG images of 16x16 pixels in 200 class folders
    jsonl     300 MB of JSON objects with a text and a label, read as labelled examples
    corpus    the same file, read as documents for pretraining, with a tokenizer trained on it
    line      one text file of 200 MB without a line end, read as a document
    csv       1,000,000 rows of a text and a label

Each data set is read in a process of its own by the functions that a training run calls: `open` is
`ssl_jax.data.load`, `epoch` one pass over its batches of 256 in order. Peak memory is the largest
resident size of the process. What the process takes after its imports is printed
beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks import machine
from ssl_jax import data

BATCH = 256
CLASSES = 200
_BLOCK = 4096  # words written at a time
# Of all texts: the tokenizer of labelled ones is trained on them too.
_TOKENIZER = dict(tokenizer="wordpiece", vocab_size=2000, sequence_length=128)


def write_folder(root: pathlib.Path, scale: float) -> int:
    """Writes the image folders and returns their size in bytes."""
    rng = np.random.default_rng(0)
    size = 0
    for label in range(CLASSES):
        folder = root / f"class_{label}"
        folder.mkdir()
        for number in range(max(1, round(50_000 / CLASSES * scale))):
            path = folder / f"{number}.png"
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(path)
            size += path.stat().st_size
    return size


def write_jsonl(root: pathlib.Path, scale: float) -> int:
    """Writes the JSON objects, one a line, and returns their size in bytes."""
    size = 0
    with open(root / "texts.jsonl", "w", encoding="utf-8") as file:
        for number, text in enumerate(_texts(words=100)):
            size += file.write(json.dumps({"text": text, "label": f"class {number % 4}"}) + "\n")
            if size > 300e6 * scale:
                return size
    return size


def write_line(root: pathlib.Path, scale: float) -> int:
    """Writes the text without line ends and returns its size in bytes."""
    size = 0
    with open(root / "line.txt", "w", encoding="utf-8") as file:
        for text in _texts(words=_BLOCK):
            size += file.write(f"{text} ")
            if size > 200e6 * scale:
                return size
    return size


def write_csv(root: pathlib.Path, scale: float) -> int:
    """Writes the table and returns its size in bytes."""
    path = root / "rows.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        for number, text in zip(range(round(1e6 * scale)), _texts(words=10), strict=False):
            table.writerow((text, f"class {number % 4}"))
    return path.stat().st_size


def _texts(words: int) -> Iterator[str]:
    """Texts of so many words, whose frequencies fall like 1 / rank."""
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(
        ["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(20_000)]
    )
    share = 1 / np.arange(1, len(vocabulary) + 1)
    cumulative = np.cumsum(share / share.sum())
    while True:
        drawn = vocabulary[np.searchsorted(cumulative, rng.random(_BLOCK * 16))]
        for start in range(0, len(drawn) - words + 1, words):
            yield " ".join(drawn[start : start + words])


def open_folder(root: pathlib.Path) -> data.Source:
    return data.load(f"folder:{root}", image_size=16)


def open_jsonl(root: pathlib.Path) -> data.Source:
    return data.load(f"jsonl:{root}/texts.jsonl", task="classify", label_key="label", **_TOKENIZER)


def open_corpus(root: pathlib.Path) -> data.Source:
    return data.load(f"jsonl:{root}/texts.jsonl", cache_dir=f"{root}/tokens", **_TOKENIZER)


def open_line(root: pathlib.Path) -> data.Source:
    return data.load(f"text:{root}/line.txt", cache_dir=f"{root}/tokens", **_TOKENIZER)


def open_csv(root: pathlib.Path) -> data.Source:
    return data.load(f"csv:{root}/rows.csv", **_TOKENIZER)


# Name -> (writes the files, reads them).
CASES: dict[str, tuple[Callable, Callable]] = {
    "folder": (write_folder, open_folder),
    "jsonl": (write_jsonl, open_jsonl),
    "corpus": (write_jsonl, open_corpus),
    "line": (write_line, open_line),
    "csv": (write_csv, open_csv),
}


def read(name: str, root: pathlib.Path) -> dict[str, float]:
    """Opens and reads a data set in this process: seconds, examples and bytes of memory."""
    imports = _peak()
    started, started_cpu = time.perf_counter(), time.process_time()
    source = CASES[name][1](root)
    opened, opened_cpu = time.perf_counter(), time.process_time()
    peak_open = _peak()
    rows = 0
    with data.epoch_batches(source, BATCH) as batches:
        for batch in batches:
            rows += int(batch["mask"].sum())
    return {
        "open": opened - started,
        "open_cpu": opened_cpu - started_cpu,
        "epoch": time.perf_counter() - opened,
        "epoch_cpu": time.process_time() - opened_cpu,
        "rows": rows,
        "imports": imports,
        "peak_open": peak_open,
        "peak": _peak(),
    }


def _peak() -> int:
    """Largest resident size of this process so far, bytes.

    Linux's `ru_maxrss` of a process is at least the size of the one that started it, so `/proc` is
    read where there is one.
    """
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="size of the data; 1: as above")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--read", nargs=2, metavar=("CASE", "FOLDER"), help="read here; prints JSON"
    )
    options = parser.parse_args()
    if options.read:
        name, folder = options.read
        print(json.dumps(read(name, pathlib.Path(folder))))
        return
    columns = (
        "data",
        "MB",
        "examples",
        "open, s",
        "epoch, s",
        "imports, MB",
        "open, MB",
        "peak, MB",
    )
    table = machine.table("Reading large data sets", *columns, packages=("tokenizers", "pillow"))
    for name in options.cases:
        with tempfile.TemporaryDirectory() as folder:
            size = CASES[name][0](pathlib.Path(folder), options.scale)
            command = [sys.executable, "-m", "benchmarks.load", "--read", name, folder]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured = json.loads(output.splitlines()[-1])
        table.add_row(
            name, f"{size / 1e6:.1f}", f"{measured['rows']:,}",
            *(f"{measured[key]:.1f}" for key in ("open", "open_cpu", "epoch", "epoch_cpu")),
            *(f"{measured[key] / 1e6:.0f}" for key in ("imports", "peak_open", "peak")),
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
