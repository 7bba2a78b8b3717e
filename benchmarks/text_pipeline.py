"""Measures text on the host: tokenizers against their library, packed rows against padding.

    python -m benchmarks.text_pipeline [--megabytes 24] [--rounds 5] [--workers 2]

Tokenizing: megabytes a second from text files to a finished token cache and its packed rows
(reading, cutting into sentences, ids, shards on disk, plan), against `encode_batch` of the
`tokenizers` library on the same documents in memory, on all cores, whose encodings are thrown away.
In turns. The text is the source of Python's standard library, nothing twice: harder than
prose, since every name is a new word.

Rows: how many of a row's tokens are no padding, how long the plan takes, and tokens a second of
batches, of documents whose lengths are spread as those of Wikipedia's articles.
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
from ssl_jax.data.text import prepare, rows, text_source, token_cache, tokenizer
from ssl_jax.data.text.token_cache import Shard, TokenCache
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

VOCAB_SIZE = 8000
DOCUMENTS_AT_ONCE = 256  # given to encode_batch; more take more memory and no less time
BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare")
    parser.add_argument("--documents", type=int, default=1_000_000, help="of the rows")
    given = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        console.print(tokenizing(root, given.megabytes, given.rounds, given.workers))
        console.print(of_rows(root, given.documents))


def tokenizing(root: pathlib.Path, megabytes: float, rounds: int, workers: int) -> object:
    """The table of the first part."""
    documents = write_text(root / "text", megabytes)
    size = sum(map(len, documents)) / 1e6
    title = f"MB/s of {size:.1f} MB, median of {rounds}"
    columns = ("tokenizer", "made by", "text to rows", "encode_batch", "ratio", "min", "max")
    table = machine.table(title, *columns, packages=("tokenizers",))
    for family in tokenizer.FAMILIES:
        made = tokenizer.train(lambda: documents[::10], family, VOCAB_SIZE)
        path = root / family / "tokenizer.json"
        path.parent.mkdir()
        path.write_text(made.to_json())
        encode(made, documents[:500])  # warms up both
        for count in dict.fromkeys((0, workers)):
            pairs = []
            for _ in range(rounds):
                ours = size / cache(root, str(path), count)
                pairs.append((ours, size / encode(made, documents)))
            ratios = [one / two for one, two in pairs]
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


def encode(made: tokenizer.Tokenizer, documents: Sequence[str]) -> float:
    """Seconds of the library alone."""
    began = time.perf_counter()
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        made.backend.encode_batch(documents[start : start + DOCUMENTS_AT_ONCE])
    return time.perf_counter() - began


def cache(root: pathlib.Path, path: str, workers: int) -> float:
    """Seconds from text files to packed rows."""
    directory = root / "cache"
    began = time.perf_counter()
    made = prepare.prepare(
        text.corpus(f"{root}/text/*.txt"), TokenizerOptions(path), str(directory),
        workers=workers, shard_characters=1 << 22, say=lambda line: None,
    )  # fmt: skip
    len(source(made, "packed", 512))
    seconds = time.perf_counter() - began
    shutil.rmtree(directory)
    return seconds


def source(made: TokenCache, kind: str, length: int) -> text_source.TextSource:
    return text_source.TextSource(
        name="benchmark", cache=made, chosen=np.array(made.documents.splits["train"]),
        options=rows.RowOptions(kind, length),
    )  # fmt: skip


def of_rows(root: pathlib.Path, num_documents: int) -> object:
    """The table of the second part."""
    made = synthetic_cache(root / "synthetic", num_documents)
    tokens = int(made.documents.num_tokens.sum())
    title = f"Rows of {num_documents:,} documents, {tokens:,} tokens"
    columns = ("rows", "length", "number", "real tokens a row", "share", "plan s", "Mtokens/s read")
    table = machine.table(title, *columns)
    for length in (128, 512):
        for kind in rows.KINDS:
            began = time.perf_counter()
            one = source(made, kind, length)
            count = len(one)
            planned = time.perf_counter() - began
            share = 1 - one.padding_share
            table.add_row(
                kind, str(length), f"{count:,}", f"{share * length:.1f}", f"{share:.1%}",
                f"{planned:.1f}", f"{length * rate(one) / 1e6:.0f}",
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
    made = tokenizer.train(lambda: ["a few words"] * 4, "wordpiece", 60)
    (root / "tokenizer.json").write_text(made.to_json())
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
            tokens=rng.integers(5, made.vocabulary.size, sizes.sum()).astype(np.uint16),
            sentence_tokens=sizes, document_sentences=sentences.astype(np.uint32),
            label=np.full(len(chosen), -1, np.int32), names=np.zeros(0, np.uint8),
            name_ends=np.zeros(len(chosen), np.int64),
        )  # fmt: skip
        path = os.path.join(root, token_cache.shard_name("train", number))
        shards.append(token_cache.write_shard(path, shard, {"continues": False}))
    token_cache.write_manifest(str(root), made, {"train": {"shards": shards}}, identity={})
    return TokenCache(str(root))


def rate(one: text_source.TextSource) -> float:
    """Rows a second of random batches."""
    order = np.random.default_rng(0).permutation(len(one))
    batches = [order[start : start + BATCH] for start in range(0, min(len(order), 50_000), BATCH)]
    for rows_of in batches[:20]:
        one.batch(rows_of)
    began = time.perf_counter()
    for rows_of in batches:
        one.batch(rows_of)
    return sum(map(len, batches)) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
