"""Tokenises text into a cache on disk: ssl_jax prepare_text --data=text:/path/*.txt --output=DIR

Reads a corpus (pydoc, text:PATTERN, jsonl:PATTERN, parquet:PATTERN or tfds:NAME), trains a
tokenizer or uses a published one (--tokenizer=bert/vocab.txt), and writes the tokens as
memory-mapped shards. Runs read them with --config.data.name=tokens:DIR. After an interruption the
same command continues; the result is equal to the byte.

    --tokenizer=wordpiece   BERT's; bpe: RoBERTa's and GPT-2's; words: all that occur --min_count=5
                            times (word2vec); or the path of vocab.txt, vocab.json (with
                            merges.txt) or tokenizer.json, or their folder
    --vocab_size=30522      of a tokenizer to be trained; 50265 by default for bpe
    --document=paragraph    what a document of a text file is: between blank lines, line or file
    --sequence_length=512   says how many rows there are of each kind, and how much of them pads
"""

from __future__ import annotations

import os

import numpy as np
from absl import flags

from ssl_jax import data
from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.data import workers
from ssl_jax.data.text import prepare, rows, text_source
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

# Flags that are options of some kinds of corpus; set ones are passed to the corpus.
CORPUS_FLAGS = ("document", "errors", "text_key", "label_key", "data_dir")


def define_flags() -> None:
    flags.DEFINE_string("data", None, "The corpus, e.g. text:/path/*.txt.")
    flags.DEFINE_string("output", None, "Folder of the cache.")
    flags.DEFINE_string("tokenizer", "wordpiece", "wordpiece, bpe, words, or a path.")
    flags.DEFINE_integer("sentinels", 0, "Tokens for missing spans of a text; T5 has 100.")
    flags.DEFINE_integer("min_count", 5, "Of words: how often a word must occur.")
    flags.DEFINE_integer("vocab_size", None, "Tokens of a tokenizer to be trained.")
    flags.DEFINE_bool("lowercase", None, "Of WordPiece and words: lower case.")
    flags.DEFINE_float("tokenizer_fraction", 1.0, "Share of the documents it is trained on.")
    flags.DEFINE_integer("workers", None, "Processes; 0: this one alone; default one a core.")
    flags.DEFINE_integer("shard_characters", prepare.SHARD, "Characters of a shard, at least.")
    flags.DEFINE_integer("sequence_length", None, "Report rows of so many tokens.")
    flags.DEFINE_string("document", None, "Of text:, what a document is: paragraph, line or file.")
    flags.DEFINE_string("errors", None, "Bytes that are no UTF-8: strict or replace.")
    flags.DEFINE_string("text_key", None, "Key, column or feature of the text.")
    flags.DEFINE_string("label_key", None, "Key, column or feature of the label.")
    flags.DEFINE_string("data_dir", None, "Of tfds:, where data sets are prepared.")


def main() -> int:
    options = flags.FLAGS
    for name in ("data", "output"):
        if not options[name].value:
            raise UserError(f"--{name} is missing")
    kind, location = data.kind_of(options.data)
    if kind.corpus is None:
        corpora = ", ".join(kind.usage for kind in data.kinds().values() if kind.corpus)
        raise UserError(f"--data={options.data} is not a corpus; corpora: {corpora}")
    count = workers.cores() if options.workers is None else options.workers
    if count < 0 or options.shard_characters < 1:
        raise UserError(
            f"--workers={count} and --shard_characters={options.shard_characters} must be at least "
            "0 and 1"
        )
    corpus_options = {
        name: options[name].value for name in CORPUS_FLAGS if options[name].value is not None
    }
    known = fields.section(kind.corpus).keys
    for name in corpus_options:
        if name not in known:
            raise UserError(
                f"--{name} is not an option of {kind.usage}; options: {', '.join(known) or 'none'}"
            )
    names = ("tokenizer", "vocab_size", "min_count", "lowercase", "tokenizer_fraction", "sentinels")
    tokenizer = fields.read(TokenizerOptions, {name: options[name].value for name in names}, "")
    directory = os.path.expanduser(options.output)
    try:
        corpus = kind.corpus(location, **fields.read(kind.corpus, corpus_options, ""))
        cache = prepare.prepare(
            corpus, tokenizer, directory, workers=count,
            shard_characters=options.shard_characters, say=_say,
        )  # fmt: skip
        if options.sequence_length is not None:
            _report(cache, options.sequence_length)
    except KeyboardInterrupt:
        _say("stopped; the same command continues")
        return 130
    return 0


def _report(cache: TokenCache, length: int) -> None:
    """Prints the number of rows of this length of each kind, and their padding."""
    for split in cache.splits:
        chosen = np.array(cache.documents.splits[split])
        for kind in rows.KINDS:
            if kind == "pairs" and len(chosen) < 2:
                continue
            source = text_source.TextSource(
                name=split, cache=cache, chosen=chosen, options=rows.RowOptions(kind, length)
            )
            _say(f"{split}: {len(source):,} rows {kind}, {source.padding_share:.1%} padding")


def _say(line: str) -> None:
    print(line, flush=True)
