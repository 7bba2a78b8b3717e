"""Words a second of word2vec beside gensim: python -m benchmarks.word2vec

Skip-gram and CBOW with exact and with shared negatives, and gensim's, on the documentation that
comes with Python: the same words in rows of 256, window 5, 5 negatives, 100 dimensions,
sub-sampling 1e-3, rate 0.025. Every side runs in a process of its own with two threads; all take
turns, and a call is one part of the epochs. Words are those of the corpus, before sub-sampling. The
scores are those of the vectors after all epochs: the share of right analogies among the embedded
questions, and with --similarity (a tab-separated file) Spearman's correlation.

gensim's rows need gensim. Goal: shared negatives at least as fast as gensim.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import turns

MODELS = ("skip_gram", "cbow")
SIDES = tuple(f"{model} {kind}" for model in MODELS for kind in ("shared", "exact", "gensim"))
RATE = 0.025
BLOCKS = {"skip_gram": (32, 32), "cbow": (8, 16)}  # words of a block, and its negatives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="parts of the training")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a part")
    parser.add_argument("--similarity", default="", help="file of pairs of words")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments)
        return
    from rich.console import Console

    from benchmarks import machine

    command = ["-m", "benchmarks.word2vec", "--rounds", str(arguments.rounds)]
    command += ["--epochs", str(arguments.epochs), "--similarity", arguments.similarity]
    sides = {name: turns.Side([*command, "--serve", name], warm_up=1) for name in arguments.sides}
    counts = {name: side.value for name, side in sides.items()}  # words of a part
    rounds = turns.rounds(sides, arguments.rounds)
    table = machine.table(
        f"pydoc, {arguments.rounds} rounds of {arguments.epochs} epochs",
        *("side", "words/s", "times gensim", "analogies, %", "similarity"),
        packages=("gensim",),
    )
    for name, side in sides.items():
        gensim = f"{name.split()[0]} gensim"
        rates = [counts[name] / now[name] for now in rounds]
        ratio = "-"
        if gensim in sides:
            ratios = [counts[name] / now[name] / (counts[gensim] / now[gensim]) for now in rounds]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        side.call()  # after the last part: the scores
        analogies, similarity = divmod(side.value, 10)
        table.add_row(
            name, f"{statistics.median(rates):,.0f}", ratio, f"{analogies / 10:.1f}",
            f"{similarity - 1:.3f}" if arguments.similarity else "-",
        )  # fmt: skip
    Console(width=100).print(table)


def _serve(arguments: argparse.Namespace) -> None:
    """Answers with the words of a part at first, then trains, then answers with the scores."""
    os.environ["OMP_NUM_THREADS"] = "2"
    make = _gensim if arguments.serve.endswith("gensim") else _ours
    words, train, space = make(arguments)
    calls = iter(range(arguments.rounds + 2))

    def call() -> float:
        number = next(calls)
        if number == 0:
            return words
        if number <= arguments.rounds:
            train(number - 1)
            return 0.0
        return _scores(space(), arguments.similarity)

    turns.serve(call)


def _scores(space: Any, similarity: str) -> float:
    """Analogies in tenths of a percent, and similarity + 1 in [0, 2], as one number."""
    from ssl_jax.evals import analogies, word_similarity

    right = analogies.score(space, analogies.questions(None))["accuracy"]
    pairs = word_similarity.pairs(similarity) if similarity else ()
    spearman = word_similarity.score(space, pairs)["spearman"] if pairs else 0.0
    return 10 * round(1000 * right) + 1 + spearman


def _corpus() -> tuple[Any, Any]:
    """The config of the embedded corpus, and its source."""
    from ssl_jax import config as config_lib
    from ssl_jax import data

    config = config_lib.resolve(config_lib.load("word2vec:pydoc"))
    return config, data.from_config(config.data, seed=0)


def _sentences(source: Any) -> list[list[str]]:
    """The words of the rows; rare ones are left out, as in training."""
    texts, special = source.token_texts(), source.spec.vocabulary.special
    rows = source.batch(np.arange(len(source)))["tokens"]
    return [[texts[token].strip() for token in row if token not in special] for row in rows]


def _space(words: list[str], vectors: np.ndarray, sentences: list[list[str]]) -> Any:
    from collections import Counter

    from ssl_jax.evals.word_space import WordSpace

    counts = Counter(word for sentence in sentences for word in sentence)
    numbers = np.array([counts[word] for word in words])
    return WordSpace.of(vectors, [f" {word}" for word in words], numbers, 30_000)


def _gensim(arguments: argparse.Namespace) -> tuple[float, Callable, Callable]:
    from gensim.models import Word2Vec

    _, source = _corpus()
    sentences = _sentences(source)
    model = Word2Vec(
        vector_size=100, window=5, min_count=1, negative=5, sample=1e-3, workers=2, seed=1,
        sg=int(arguments.serve.startswith("skip_gram")),
    )  # fmt: skip
    model.build_vocab(sentences)
    total = arguments.rounds * arguments.epochs

    def train(part: int) -> None:
        rates = [
            RATE * max(1e-4, 1 - epoch * arguments.epochs / total) for epoch in (part, part + 1)
        ]
        model.train(
            sentences, total_examples=len(sentences), epochs=arguments.epochs,
            start_alpha=rates[0], end_alpha=rates[1],
        )  # fmt: skip

    words = float(arguments.epochs * sum(map(len, sentences)))
    return words, train, lambda: _space(model.wv.index_to_key, model.wv.vectors, sentences)


def _ours(arguments: argparse.Namespace) -> tuple[float, Callable, Callable]:
    import jax
    import jax.numpy as jnp

    from ssl_jax.core.length import Length
    from ssl_jax.core.method import Weights
    from ssl_jax.core.named_methods import load

    config, source = _corpus()
    kind, how = arguments.serve.split()
    config.method.update(
        architecture=kind,
        loss="shared_negatives" if how == "shared" else "negative_sampling",
        kept_share=0.85,
        block_size=BLOCKS[kind][0],
        block_negatives=BLOCKS[kind][1],
    )
    size, rows = config.batch_size, source.batch(np.arange(len(source)))
    steps = len(source) // size
    total = arguments.rounds * arguments.epochs * steps
    method = load(config, source.spec, Length.of(config, steps))
    batch = {name: jnp.asarray(rows[name][:size]) for name in ("tokens", "segment")}
    params, buffers = method.init(jax.random.key(0), batch)

    def count(function: Callable, *, total: bool) -> dict[str, Any]:
        del total
        return {"counts": function(None, None, rows)["counts"].sum(axis=0)}

    buffers |= method.refresh(None, count, key=None, step=0)

    def update(params: Any, batch: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(1), step)
        keys = jax.random.split(key, size)
        rate = RATE * jnp.maximum(1e-4, 1 - step / total)

        def loss(params: Any) -> Any:
            w = Weights(params, buffers)
            views = method.views(keys, batch, key=key, step=step)
            encoded, _ = method.encode(w, views, key=key, step=step)
            return method.objective(w, encoded, key=key, step=step)[0]

        return jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))

    update = jax.jit(update, donate_argnums=0).lower(params, batch, jnp.asarray(0)).compile()
    state = {"params": params}

    def train(part: int) -> None:
        for epoch in range(part * arguments.epochs, (part + 1) * arguments.epochs):
            order = np.random.default_rng(epoch).permutation(len(source))
            for number in range(steps):
                chosen = order[number * size : (number + 1) * size]
                batch = {name: jnp.asarray(rows[name][chosen]) for name in ("tokens", "segment")}
                step = jnp.asarray(epoch * steps + number)
                state["params"] = update(state["params"], batch, step)
        jax.block_until_ready(state["params"])

    special = source.spec.vocabulary.special
    known = ~np.isin(rows["tokens"], special) & (rows["segment"] > 0)
    words = float(arguments.epochs * known.sum() * steps * size / len(source))
    texts = [text.strip() for text in source.token_texts()]
    return (
        words,
        train,
        lambda: _space(
            texts, np.asarray(method.token_vectors(state["params"])), _sentences(source)
        ),
    )


if __name__ == "__main__":
    main()
