"""Measures images per second of the host's data pipeline: python benchmarks/pipeline.py

Every line is measured beside its own bound, in turns, so that what else runs on the machine meets
both. The bound is the least that could do the work: for arrays in memory NumPy's indexing, for JPEG
files a bare loop of Pillow's decoding and resizing over bytes in memory, in as many threads or
processes as the pipeline uses.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import importlib.metadata
import io
import itertools
import multiprocessing
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from ssl_jax import data
from ssl_jax.data.crops import HostCrops
from ssl_jax.data.image import Canvas

NUM_FILES = 256
CANVAS = 224
BATCH = 128
# Random crops by family, as `config.data.host_crops`; without any, the whole image.
WHOLE: dict[str, dict[str, Any]] = {}
TWO = {"global": dict(count=2)}
# DINO's and SwAV's multi-crop: all ten from one decoded image.
MULTI = {
    "global": dict(count=2, scale=(0.4, 1.0)),
    "local": dict(count=8, size=96, scale=(0.05, 0.4)),
}

TFDS_BUILDER = """
import pathlib
import tensorflow_datasets as tfds

class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=4),
        }))

    def _split_generators(self, download_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, path in enumerate(sorted(pathlib.Path(FOLDER).rglob("*.jpg"))):
            yield i, {"image": str(path), "label": i % 4}
"""


def write_folder(root: pathlib.Path) -> list[bytes]:
    """256 JPEG files of about 400x300 with the detail of a photograph; returns their bytes."""
    rng = np.random.default_rng(0)
    encoded = []
    root.mkdir(parents=True)
    for i in range(NUM_FILES):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        size = tuple(int(side * rng.uniform(0.9, 1.1)) for side in (400, 300))
        photo = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
        grain = rng.normal(0, 12, photo.shape)
        image = Image.fromarray(np.clip(photo + grain, 0, 255).astype(np.uint8))
        file = io.BytesIO()
        image.save(file, "jpeg", quality=85)
        (root / f"{i}.jpg").write_bytes(file.getvalue())
        encoded.append(file.getvalue())
    return encoded


def prepare_tfds(root: pathlib.Path, folder: pathlib.Path) -> None:
    """The same files as the TFDS data set `bench_photos` in ArrayRecord format, below `root`."""
    package = root / "code" / "bench_package" / "bench_photos"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py"):
        path.touch()
    for name in ("README.md", "CITATIONS.bib", "TAGS.txt"):
        (package / name).touch()
    text = TFDS_BUILDER.replace("FOLDER", repr(str(folder)))
    (package / "bench_photos_dataset_builder.py").write_text(text)
    sys.path.insert(0, str(root / "code"))
    module = importlib.import_module("bench_package.bench_photos.bench_photos_dataset_builder")
    module.Builder(data_dir=root, file_format="array_record").download_and_prepare()


def rate(steps: Iterator[int], seconds: float) -> float:
    """Images per second of an iterator that yields numbers of images."""
    start, count = time.perf_counter(), 0
    for num_images in steps:
        count += num_images
        elapsed = time.perf_counter() - start
        if elapsed > seconds:
            return count / elapsed
    raise RuntimeError("the stream has ended")


def steps(stream: Iterator[dict[str, np.ndarray]]) -> Iterator[int]:
    """Batch sizes of a stream, past its start and its first full buffers."""
    for _ in range(5):
        next(stream)
    return (len(batch["label"]) for batch in stream)


def take(images: np.ndarray, batch_size: int) -> Iterator[int]:
    """Bound of arrays in memory: rows in a random order known beforehand."""
    order = np.random.default_rng(0).permutation(len(images))
    batches = [order[i : i + batch_size] for i in range(0, len(order) - batch_size, batch_size)]
    for rows in itertools.cycle(batches):
        images[rows]
        yield batch_size


def decode_loop(encoded: list[bytes], families: Mapping[str, Any], seconds: float) -> float:
    """Bound of JPEG files: one thread that decodes and resizes."""
    crops = {name: HostCrops(**options) for name, options in families.items()}
    canvas = Canvas(CANVAS, crops=crops)
    sides = [CANVAS]
    if crops:
        sides = [family.size or CANVAS for family in crops.values() for _ in range(family.count)]
    sizes = [Image.open(io.BytesIO(content)).size for content in encoded]
    boxes = [canvas.boxes(0, 0, row)(*size) for row, size in enumerate(sizes)]

    def loop() -> Iterator[int]:
        for content, cut in itertools.cycle(zip(encoded, boxes, strict=True)):
            image = Image.open(io.BytesIO(content)).convert("RGB")
            for box, side in zip(cut, sides, strict=True):
                np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))
            yield 1

    return rate(loop(), seconds)


def decode_bound(
    encoded: list[bytes], families: Mapping[str, Any], workers: int, seconds: float
) -> float:
    """The sum over as many loops as the pipeline has threads (workers 0) or processes."""
    if workers:
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(workers, context)
        list(pool.map(decode_loop, [encoded] * workers, [families] * workers, [0.2] * workers))
    else:
        pool = concurrent.futures.ThreadPoolExecutor(cores())
    count = workers or cores()
    with pool:
        return sum(pool.map(decode_loop, [encoded] * count, [families] * count, [seconds] * count))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def measure(
    pipeline: Callable[[], data.pipeline.Batches],
    bound: Callable[[float], float],
    args: argparse.Namespace,
) -> tuple[float, float, float]:
    """Medians over rounds of the pipeline's rate, the bound's, and their ratio."""
    pairs = []
    for _ in range(args.rounds):
        with pipeline() as stream:  # closed before the bound runs, because it works ahead
            ours = rate(steps(stream), args.seconds)
        pairs.append((ours, bound(args.seconds)))
    return (
        statistics.median(ours for ours, _ in pairs),
        statistics.median(theirs for _, theirs in pairs),
        statistics.median(ours / theirs for ours, theirs in pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of every single measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="decoding processes")
    parser.add_argument("--only", default="", help="lines that contain this text, such as '2 + 8'")
    args = parser.parse_args()

    versions = {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "grain")}
    print(
        f"{platform.processor() or platform.machine()}, {cores()} cores, load "
        f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    print(f"{'source':<40}{'workers':>8}{'img/s':>12}{'bound img/s':>14}{'ratio':>8}")

    def line(
        name: str,
        workers: int | str,
        pipeline: Callable[[], data.pipeline.Batches],
        bound: Callable[[float], float],
    ) -> None:
        if args.only not in name:
            return
        ours, theirs, ratio = measure(pipeline, bound, args)
        print(f"{name:<40}{workers:>8}{ours:>12,.0f}{theirs:>14,.0f}{ratio:>8.2f}", flush=True)

    for source, size in ((data.load("digits"), 256), (data.load("shapes"), 1024)):
        name = f"{source.name} {source.canvas.size}x{source.canvas.size}, batch {size}"
        line(
            name,
            "-",
            lambda source=source, size=size: data.batches(source, batch_size=size, seed=0),
            lambda seconds, source=source, size=size: rate(take(source.images, size), seconds),
        )

    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        encoded = write_folder(root / "photos")
        if args.only in "tfds":
            prepare_tfds(root, root / "photos")
        for name, families, options in (
            (f"folder:{root}/photos", WHOLE, {}),
            (f"folder:{root}/photos", TWO, {}),
            (f"folder:{root}/photos", MULTI, {}),
            ("tfds:bench_photos", WHOLE, {"data_dir": str(root)}),
        ):
            sides = [crops.get("size", CANVAS) for crops in families.values()]
            counts = " + ".join(str(crops["count"]) for crops in families.values())
            kind = name.partition(":")[0] + (f", {counts} random crops" if families else "")
            label = f"{kind}, to {' and '.join(map(str, sides or [CANVAS]))}"
            if args.only not in label:
                continue
            source = data.load(name, image_size=CANVAS, host_crops=families, **options)
            for workers in (0, args.workers):
                line(
                    label,
                    workers,
                    lambda source=source, workers=workers: data.batches(
                        source, batch_size=BATCH, seed=0, workers=workers
                    ),
                    lambda seconds, families=families, workers=workers: decode_bound(
                        encoded, families, workers, seconds
                    ),
                )


if __name__ == "__main__":
    main()
