"""Measures the gain of packing texts into rows: python -m benchmarks.packing

Real tokens a second (padding not counted) of the train step with packed rows, against the same step
with one text in a row. Both sides read the same documents in rows of the same length, batch for
batch through the pipeline, and take turns; the ratio is the median over rounds. Goal: 1.7.

The corpora are `pydoc`, Python's documentation, and documents whose numbers of tokens are drawn
from log-normal distributions with the given median and deviation of the logarithm. Texts longer
than a row are split over several rows, on both sides.

The last column is the relative difference between the mean losses of the same texts packed and
padded, which shows that packing changes only the speed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks import machine
from benchmarks.text_pipeline import synthetic_cache
from ssl_jax import config as config_lib
from ssl_jax import data
from ssl_jax.core.method import Weights
from ssl_jax.data.text import rows, text_source
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.experiment.build import Experiment

# Synthetic corpora: median number of tokens, and standard deviation of the logarithm. The first
# resembles the articles of Wikipedia, the second paragraphs of prose.
LOG_NORMAL = {"articles": (270, 1.1), "paragraphs": (80, 0.8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding included")
    parser.add_argument("--model", default="bert_tiny")
    parser.add_argument("--documents", type=int, default=20_000, help="of a synthetic corpus")
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    table = machine.table(
        f"{arguments.model}, batches of {arguments.tokens:,} places, {arguments.rounds} rounds",
        *("corpus", "length", "packed, real", "bound", "padded, real", "packed tokens/s"),
        *("padded", "ratio", "min", "max", "loss differs by"),
    )
    with tempfile.TemporaryDirectory() as temporary:
        for corpus, cache in corpora(pathlib.Path(temporary), arguments.documents):
            for length in arguments.lengths:
                table.add_row(corpus, str(length), *compare(cache, length, arguments))
    Console(width=140).print(table)


def corpora(root: pathlib.Path, documents: int) -> Iterator[tuple[str, TokenCache]]:
    options = {"vocab_size": 4096, "cache_dir": str(root / "pydoc")}
    yield "pydoc", data.load("pydoc", **options).cache
    for name, (median, deviation) in LOG_NORMAL.items():
        cache = synthetic_cache(root / name, documents, median, deviation)
        yield f"{name}: {median} tokens, {deviation}", cache


def compare(cache: TokenCache, length: int, arguments: argparse.Namespace) -> list[str]:
    """The table cells of a corpus for rows of `length` tokens."""
    count = arguments.tokens // length
    sources = {kind: source(cache, kind, length) for kind in ("packed", "padded")}
    experiment = build(sources["packed"], count, arguments.model)
    changed = difference(experiment, sources)
    step = experiment.compiled_train_step  # both sides have the same shapes
    with contextlib.ExitStack() as stack, jax.set_mesh(experiment.mesh):
        run = {
            kind: stack.enter_context(training(experiment, step, texts, arguments.steps))
            for kind, texts in sources.items()
        }
        for call in run.values():  # warm-up, not counted
            call()
        rounds = [{kind: call() for kind, call in run.items()} for _ in range(arguments.rounds)]
    ratios = [now["packed"] / now["padded"] for now in rounds]
    speeds = [statistics.median(now[kind] for now in rounds) for kind in sources]
    shares = {kind: 1 - texts.padding_share for kind, texts in sources.items()}
    return [
        f"{shares['packed']:.2%}", f"{bound(sources['packed']):.2%}", f"{shares['padded']:.1%}",
        *(f"{speed:,.0f}" for speed in speeds),
        *(f"{f(ratios):.2f}" for f in (statistics.median, min, max)),
        f"{changed:.0e}",
    ]  # fmt: skip


def source(cache: TokenCache, kind: str, length: int) -> text_source.TextSource:
    chosen = cache.documents.splits["train"]
    return text_source.TextSource(
        name="benchmark", cache=cache, chosen=np.arange(chosen.start, chosen.stop),
        options=rows.RowOptions(kind, length),
    )  # fmt: skip


def bound(packed: text_source.TextSource) -> float:
    """The fraction of real tokens if the texts filled the smallest possible number of rows."""
    length, tokens = packed.options.sequence_length, packed.plan.num_tokens
    return tokens / (length * -(-tokens // length))


def build(packed: text_source.TextSource, count: int, model: str) -> Experiment:
    config = config_lib.load("bert:pydoc")
    config.batch_size, config.steps, config.epochs = count, 1000, None
    config.data.options.sequence_length = packed.options.sequence_length
    config.model.update(name=model)
    return Experiment.build(config_lib.resolve(config), packed.spec)


@contextlib.contextmanager
def training(
    experiment: Experiment, step: Any, texts: text_source.TextSource, steps: int
) -> Iterator[Callable[[], float]]:
    """A function that makes `steps` updates and returns the real tokens per second."""
    state = experiment.init_state()
    shardings = {name: array.sharding for name, array in experiment.abstract_batch().items()}
    count = experiment.config.batch_size
    with data.batches(texts, batch_size=count, seed=0) as batches:

        def run() -> float:
            nonlocal state
            real, began = 0, time.perf_counter()
            for batch in itertools.islice(batches, steps):
                real += int((batch["segment"] > 0).sum())
                state, values, _ = step(state, jax.device_put(batch, shardings))
            jax.block_until_ready(values)
            return real / (time.perf_counter() - began)

        yield run


def difference(experiment: Experiment, sources: dict[str, text_source.TextSource]) -> float:
    """The relative difference between the mean losses of the same texts packed and padded.

    No tokens are hidden, and every token is predicted from its whole text.
    """
    count, params = experiment.config.batch_size, experiment.init_state().params
    hyper = dataclasses.replace(experiment.method.hyper, gather=False)
    method = dataclasses.replace(experiment.method, hyper=hyper)

    @jax.jit
    def losses(params: Any, batch: Any, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        text = {name: batch[name] for name in ("tokens", "segment", "position", "type")}
        views = {"text": text, "targets": batch["tokens"], "weights": real}
        encoded, _ = method.encode(
            Weights(params, {}), views, key=jax.random.key(0), step=jnp.zeros((), jnp.int32)
        )
        return encoded["loss"].sum(), encoded["count"].sum()

    def mean(texts: text_source.TextSource, chosen: np.ndarray) -> tuple[float, float]:
        total = np.zeros(2)
        for start in range(0, len(chosen), count):
            part = chosen[start : start + count]
            batch = texts.batch(np.resize(part, count))
            real = (batch["segment"] > 0) & (np.arange(count) < len(part))[:, None]
            batch["type"] = np.zeros_like(batch["tokens"])
            total += jax.device_get(losses(params, batch, real.astype(np.float32)))
        return total[0] / total[1], total[1]

    packed, padded = (sources[kind] for kind in ("packed", "padded"))
    chosen = np.random.default_rng(0).permutation(len(packed))[:count]
    runs = np.concatenate([np.arange(*packed.plan.first[i : i + 2]) for i in chosen])
    same = np.searchsorted(padded.plan.start, packed.plan.start[runs])
    (packed_mean, tokens), (padded_mean, as_many) = mean(packed, chosen), mean(padded, same)
    if tokens != as_many:
        raise SystemExit(f"{tokens} tokens packed are {as_many} padded")
    return abs(packed_mean / padded_mean - 1)


if __name__ == "__main__":
    main()
