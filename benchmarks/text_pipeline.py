"""Measures text on the host: tokenizers against their library, packed rows against padding.

    python -m benchmarks.text_pipeline [--megabytes 24] [--rounds 5] [--workers 2]

Tokenizing: megabytes a second from text files to a finished token cache and its packed rows
(reading, cutting into sentences, ids, shards on disk, plan), against `encode_batch` of the
`tokenizers` library on the same documents in memory, on all cores, which discards the encodings.
Both take turns. The text is the source code of Python's standard library without repetition, which
is harder than prose, because every identifier is a new word.

Rows: the fraction of tokens in a row that are not padding, the time of the plan, and tokens per
second of batches, for documents with a distribution of lengths like Wikipedia's articles.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console

from benchmarks import machine
from ssl_jax.data.kinds import text
from ssl_jax.data.text import (
    prepare,
    rows,
    text_source,
    token_cache,
    tokenizer,
    tokenizer_families,
    tokenizer_training,
)
from ssl_jax.data.text.token_cache import Shard, TokenCache
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

VOCAB_SIZE = 8000
DOCUMENTS_AT_ONCE = 256  # per call of encode_batch; more need more memory and are not faster
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare")
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the rows")
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        console.print(tokenizing(root, arguments.megabytes, arguments.rounds, arguments.workers))
        console.print(measure_rows(root, arguments.documents))


def tokenizing(root: pathlib.Path, megabytes: float, rounds: int, workers: int) -> object:
    """The table of tokenizing."""
    documents = write_text(root / "text", megabytes)
    size = sum(map(len, documents)) / 1e6
    title = f"MB/s of {size:.1f} MB, median of {rounds}"
    columns = ("tokenizer", "made by", "text to rows", "encode_batch", "ratio", "min", "max")
    table = machine.table(title, *columns, packages=("tokenizers",))
    for family in tokenizer_families.FAMILIES:
        trained = tokenizer_training.train(lambda: documents[::10], family, VOCAB_SIZE)
        path = root / family / "tokenizer.json"
        path.parent.mkdir()
        path.write_text(trained.to_json())
        encode(trained, documents[:500])  # warms up both
        for count in dict.fromkeys((0, workers)):
            pairs = []
            for _ in range(rounds):
                ours = size / cache(root, str(path), count)
                pairs.append((ours, size / encode(trained, documents)))
            ratios = [ours / library for ours, library in pairs]
            table.add_row(
                family, f"{count} processes" if count else "one process",
                *(f"{statistics.median(side):.2f}" for side in zip(*pairs, strict=True)),
                *(f"{f(ratios):.2f}" for f in (statistics.median, min, max)),
            )  # fmt: skip
    return table


def write_text(root: pathlib.Path, megabytes: float) -> list[str]:
    """Documents in text files of about a megabyte; returns them."""
    root.mkdir()
    library = sysconfig.get_paths()["stdlib"]
    documents: list[str] = []
    size = 0
    for path in sorted(pathlib.Path(library).rglob("*.py")):
        if size >= 1e6 * megabytes:
            break
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if "site-packages" in path.parts or "encodings" in path.parts:  # tables of numbers
            continue
        paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", content)]
        documents += filter(None, paragraphs)
        size += len(content)
    for number, start in enumerate(range(0, len(documents), 4000)):
        (root / f"{number:04}.txt").write_text("\n\n".join(documents[start : start + 4000]))
    return documents


def encode(trained: tokenizer.Tokenizer, documents: Sequence[str]) -> float:
    """Seconds of the library's `encode_batch`."""
    began = time.perf_counter()
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        trained.backend.encode_batch(documents[start : start + DOCUMENTS_AT_ONCE])
    return time.perf_counter() - began


def cache(root: pathlib.Path, path: str, workers: int) -> float:
    """Seconds from text files to packed rows."""
    directory = root / "cache"
    began = time.perf_counter()
    prepared = prepare.prepare(
        text.corpus(f"{root}/text/*.txt"), TokenizerOptions(path), str(directory),
        workers=workers, shard_characters=1 << 22, say=lambda line: None,
    )  # fmt: skip
    len(source(prepared, "packed", 512))
    seconds = time.perf_counter() - began
    shutil.rmtree(directory)
    return seconds


def source(tokens: TokenCache, kind: str, length: int) -> text_source.TextSource:
    return text_source.TextSource(
        name="benchmark", cache=tokens, chosen=np.array(tokens.documents.splits["train"]),
        options=rows.RowOptions(kind, length),
    )  # fmt: skip


def measure_rows(root: pathlib.Path, num_documents: int) -> object:
    """The table of rows."""
    corpus = synthetic_cache(root / "synthetic", num_documents)
    tokens = int(corpus.documents.num_tokens.sum())
    title = f"Rows of {num_documents:,} documents, {tokens:,} tokens"
    columns = ("rows", "length", "number", "real tokens a row", "share", "plan s", "Mtokens/s read")
    table = machine.table(title, *columns)
    for length in (128, 512):
        for kind in rows.KINDS:
            began = time.perf_counter()
            text_rows = source(corpus, kind, length)
            count = len(text_rows)
            planned = time.perf_counter() - began
            share = 1 - text_rows.padding_share
            table.add_row(
                kind, str(length), f"{count:,}", f"{share * length:.1f}", f"{share:.1%}",
                f"{planned:.1f}", f"{length * rate(text_rows) / 1e6:.0f}",
            )  # fmt: skip
    return table


def synthetic_cache(
    root: pathlib.Path, num_documents: int, median: float = 270, deviation: float = 1.1
) -> TokenCache:
    """A cache of random tokens in documents of log-normal length.

    Args:
      root: where to; it must not be there yet.
      num_documents: so many.
      median: tokens of a document.
      deviation: standard deviation of the logarithm of their number.
    """
    root.mkdir()
    mean_sentence = 24.5
    rng = np.random.default_rng(0)
    trained = tokenizer_training.train(lambda: ["a few words"] * 4, "wordpiece", 60)
    (root / "tokenizer.json").write_text(trained.to_json())
    shards = []
    for number, chosen in enumerate(np.array_split(np.arange(num_documents), 8)):
        sentences = np.maximum(
            np.exp(rng.normal(np.log(median / mean_sentence), deviation, len(chosen))).astype(
                np.int64
            ),
            1,
        )
        sizes = rng.integers(5, 45, sentences.sum()).astype(np.uint32)
        shard = Shard(
            tokens=rng.integers(5, trained.vocabulary.size, sizes.sum()).astype(np.uint16),
            sentence_tokens=sizes, document_sentences=sentences.astype(np.uint32),
            label=np.full(len(chosen), -1, np.int32), names=np.zeros(0, np.uint8),
            name_ends=np.zeros(len(chosen), np.int64),
        )  # fmt: skip
        path = os.path.join(root, token_cache.shard_name("train", number))
        shards.append(token_cache.write_shard(path, shard, {"continues": False}))
    token_cache.write_manifest(str(root), trained, {"train": {"shards": shards}}, identity={})
    return TokenCache(str(root))


def rate(text_rows: text_source.TextSource) -> float:
    """Rows per second of random batches."""
    order = np.random.default_rng(0).permutation(len(text_rows))
    batches = [order[start : start + BATCH] for start in range(0, min(len(order), 50_000), BATCH)]
    for rows_of in batches[:20]:
        text_rows.batch(rows_of)
    began = time.perf_counter()
    for rows_of in batches:
        text_rows.batch(rows_of)
    return sum(map(len, batches)) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
