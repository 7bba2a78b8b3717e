"""Measures the gain of packing texts into rows: python -m benchmarks.packing

Real tokens a second (padding not counted) of the train step with packed rows, against the same step
with one text in a row. Both sides read the same documents in rows of the same length, batch for
batch through the pipeline, and take turns; the ratio is the median over rounds. Goal: 1.7.

The corpora: `pydoc`, Python's own documentation; and documents whose numbers of tokens are drawn
from log-normal distributions, of a median and a deviation of the logarithm that are stated. Texts
longer than a row are cut, and what is cut off fills rows of its own: these are full on either side.

The last column says by how much the mean loss of a batch's texts, packed, differs from that of the
same texts, padded: that packing changes nothing but the speed.
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

# Of the synthetic corpora: tokens in the median, and the standard deviation of the logarithm.
# Wikipedia's articles are about as long as the first, paragraphs of prose as the second.
LOG_NORMAL = {"articles": (270, 1.1), "paragraphs": (80, 0.8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, padding included")
    parser.add_argument("--model", default="bert_tiny")
    parser.add_argument("--documents", type=int, default=20_000, help="of a synthetic corpus")
    parser.add_argument("--steps", type=int, default=4, help="of a round")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    table = machine.table(
        f"{given.model}, batches of {given.tokens:,} places, {given.rounds} rounds",
        *("corpus", "length", "packed, real", "bound", "padded, real", "packed tokens/s"),
        *("padded", "ratio", "min", "max", "loss differs by"),
    )
    with tempfile.TemporaryDirectory() as temporary:
        for corpus, cache in corpora(pathlib.Path(temporary), given.documents):
            for length in given.lengths:
                table.add_row(corpus, str(length), *compare(cache, length, given))
    Console(width=140).print(table)


def corpora(root: pathlib.Path, documents: int) -> Iterator[tuple[str, TokenCache]]:
    options = {"vocab_size": 4096, "cache_dir": str(root / "pydoc")}
    yield "pydoc", data.load("pydoc", **options).cache
    for name, (median, deviation) in LOG_NORMAL.items():
        cache = synthetic_cache(root / name, documents, median, deviation)
        yield f"{name}: {median} tokens, {deviation}", cache


def compare(cache: TokenCache, length: int, given: argparse.Namespace) -> list[str]:
    """The cells of a corpus at a length."""
    count = given.tokens // length
    sources = {kind: source(cache, kind, length) for kind in ("packed", "padded")}
    experiment = build(sources["packed"], count, given.model)
    changed = difference(experiment, sources)
    step = experiment.compiled_train_step  # of the shapes, which are the same on both sides
    with contextlib.ExitStack() as stack, jax.set_mesh(experiment.mesh):
        run = {
            kind: stack.enter_context(training(experiment, step, one, given.steps))
            for kind, one in sources.items()
        }
        for one in run.values():  # not counted
            one()
        rounds = [{kind: one() for kind, one in run.items()} for _ in range(given.rounds)]
    ratios = [now["packed"] / now["padded"] for now in rounds]
    speeds = [statistics.median(now[kind] for now in rounds) for kind in sources]
    shares = {kind: 1 - one.padding_share for kind, one in sources.items()}
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
    """The share of real tokens if the same texts filled the fewest rows that could hold them."""
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
    experiment: Experiment, step: Any, one: text_source.TextSource, steps: int
) -> Iterator[Callable[[], float]]:
    """A function that makes some updates and returns the real tokens a second."""
    state = experiment.init_state()
    shardings = {name: array.sharding for name, array in experiment.abstract_batch().items()}
    count = experiment.config.batch_size
    with data.batches(one, batch_size=count, seed=0) as batches:

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
    """How far the mean loss of a batch's texts packed is from that of the same texts padded.

    Relative; with nothing hidden, and every token predicted from all of its text.
    """
    count, params = experiment.config.batch_size, experiment.init_state().params
    hyper = dataclasses.replace(experiment.method.hyper, gather=False)
    method = dataclasses.replace(experiment.method, hyper=hyper)

    @jax.jit
    def losses(params: Any, batch: Any, real: jax.Array) -> tuple[jax.Array, jax.Array]:
        text = {name: batch[name] for name in ("tokens", "segment", "position", "type")}
        views = {"text": text, "targets": batch["tokens"], "weights": real}
        found, _ = method.encode(
            Weights(params, {}), views, key=jax.random.key(0), step=jnp.zeros((), jnp.int32)
        )
        return found["loss"].sum(), found["count"].sum()

    def mean(one: text_source.TextSource, chosen: np.ndarray) -> tuple[float, float]:
        total = np.zeros(2)
        for start in range(0, len(chosen), count):
            part = chosen[start : start + count]
            batch = one.batch(np.resize(part, count))
            real = (batch["segment"] > 0) & (np.arange(count) < len(part))[:, None]
            batch["type"] = np.zeros_like(batch["tokens"])
            total += jax.device_get(losses(params, batch, real.astype(np.float32)))
        return total[0] / total[1], total[1]

    packed, padded = (sources[kind] for kind in ("packed", "padded"))
    chosen = np.random.default_rng(0).permutation(len(packed))[:count]
    runs = np.concatenate([np.arange(*packed.plan.first[i : i + 2]) for i in chosen])
    same = np.searchsorted(padded.plan.start, packed.plan.start[runs])
    (one, tokens), (other, as_many) = mean(packed, chosen), mean(padded, same)
    if tokens != as_many:
        raise SystemExit(f"{tokens} tokens packed are {as_many} padded")
    return abs(one / other - 1)


if __name__ == "__main__":
    main()
