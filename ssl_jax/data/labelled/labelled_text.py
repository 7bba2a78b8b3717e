"""Data sets of labelled text: opened by name, with their tokenizer and their classes."""

from __future__ import annotations

import abc
import collections
import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data import class_names
from ssl_jax.data.labelled.encoded import Encoded, encode
from ssl_jax.data.labelled.examples import Examples, Question, TaskOptions, Words
from ssl_jax.data.labelled.task_source import TaskSource
from ssl_jax.data.names import Names
from ssl_jax.data.ragged import ragged_arange
from ssl_jax.data.text import prepare, tokenizer_training
from ssl_jax.data.text.corpus import Corpus
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.tasks.labels import NO_CLASS
from ssl_jax.tasks.registry import TASKS


class Task(abc.ABC):
    """A data set of labelled text, in all its splits.

    Attributes:
      splits: their names.
      aliases: further names of splits.
      name: of the data set.
      metrics: names of its scores, None for those of its task.
    """

    name: str
    splits: tuple[str, ...]
    aliases: Mapping[str, str] = MappingProxyType({})
    metrics: tuple[str, ...] | None = None

    def __init__(self, options: TaskOptions):
        self.options = options

    @abc.abstractmethod
    def make_tokenizer(self) -> Tokenizer:
        """Reads the tokenizer from files, or trains it on the train split."""

    @abc.abstractmethod
    def find_classes(self) -> tuple[str, ...]:
        """The names of the classes by number, where the options do not say them."""

    @abc.abstractmethod
    def encode(self, split: str) -> Encoded:
        """The examples of a split."""

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the tokens.

        Raises:
          UserError: it cannot be read, or is another one than `options.vocabulary` says.
        """
        tokenizer, asked = self.make_tokenizer(), self.options.vocabulary
        if asked not in (None, tokenizer.vocabulary):
            raise UserError(
                f"tokenizer {self.options.tokenizer.tokenizer} has {tokenizer.vocabulary}, not "
                f"{asked} (data.options.vocabulary); use the tokenizer the run began with"
            )
        return tokenizer

    @functools.cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by number; None of tasks without classes."""
        if not TASKS[self.options.task].has_classes:
            return None
        return self.options.class_names or self.find_classes()

    def source(self, split: str) -> TaskSource:
        """The rows of a split.

        Raises:
          UserError: something in it cannot be read, or is of no class that is known.
        """
        return TaskSource(
            name=f"{self.name}[{split}]",
            num_classes=None if self.class_names is None else len(self.class_names),
            class_names=self.class_names,
            encoded=self.encode(split),
            options=self.options,
            tokenizer=self.tokenizer,
            metrics=self.metrics or TASKS[self.options.task].scores_of(self.class_names),
        )


class Labelled(Task):
    """Examples of files or records, each encoded on its own."""

    def __init__(self, examples: Examples, options: TaskOptions):
        super().__init__(options)
        self._examples = examples
        self.name, self.splits, self.aliases = examples.name, examples.splits, examples.aliases
        self.metrics = examples.metrics

    def make_tokenizer(self) -> Tokenizer:
        options = self.options.tokenizer
        options.identity()  # checks them
        if not options.trained:
            return options.load()
        return tokenizer_training.train(
            lambda: _texts(self._examples), options.tokenizer, options.vocab_size,
            lowercase=options.lowercase is not False, min_count=options.min_count,
            sentinels=options.sentinels,
        )  # fmt: skip

    def find_classes(self) -> tuple[str, ...]:
        return self._examples.class_names or _found_classes(self._examples)

    def encode(self, split: str) -> Encoded:
        number_of = {name: number for number, name in enumerate(self.class_names or ())}

        def class_of(name: Any, where: str) -> int:
            if name is None or (name == NO_CLASS and name not in number_of):
                return -1
            if name not in number_of:
                known = ", ".join(list(number_of)[:12]) + (", ..." if len(number_of) > 12 else "")
                raise UserError(
                    f"{where}: {name!r:.40} is no class; classes: {known}."
                    f"{nearest(str(name), number_of)} data.options.class_names names them all"
                )
            return number_of[name]

        examples = self._examples.read(split)
        return encode(examples, self.tokenizer, self.options, class_of, f"{self.name}[{split}]")


class Passages(Task):
    """The documents of a corpus cut into rows; each row has the class of its document.

    Every token of the corpus is in one row. They are those of a token cache, prepared when it is
    first needed.
    """

    def __init__(self, corpus: Corpus, options: TaskOptions):
        super().__init__(options)
        if options.class_names not in (None, corpus.class_names):
            raise UserError(
                f"the classes of {corpus.description['kind']} are {', '.join(corpus.class_names)}, "
                f"not {', '.join(options.class_names)}; leave data.options.class_names out"
            )
        self._corpus = corpus
        self.name, self.splits = corpus.description["kind"], tuple(corpus.splits)

    @functools.cached_property
    def _cache(self) -> TokenCache:
        folder, workers = self.options.cache_dir, self.options.prepare_workers
        return prepare.cached(self._corpus, self.options.tokenizer, folder, workers=workers)

    def make_tokenizer(self) -> Tokenizer:
        return self._cache.tokenizer

    def find_classes(self) -> tuple[str, ...]:
        return self._corpus.class_names

    def encode(self, split: str) -> Encoded:
        documents = self._cache.documents
        chosen = np.asarray(documents.splits[split], np.int64)
        sizes, room = documents.num_tokens[chosen], self.options.length - 2
        tokens = np.empty(int(sizes.sum()), np.uint32)
        begins = np.cumsum(sizes) - sizes
        self._cache.read(documents.token_start[chosen], sizes, tokens, begins)
        rows = -(-sizes // room)
        inside = ragged_arange(rows) * room
        start = np.repeat(begins, rows) + inside
        length = np.minimum(np.repeat(sizes, rows) - inside, room)
        return Encoded(
            tokens=tokens,
            start=np.stack([start, start], axis=1),
            length=np.stack([length, np.full_like(length, -1)], axis=1),
            group=np.repeat(np.arange(len(chosen)), rows),
            names=Names(self._cache.names[document] for document in np.repeat(chosen, rows)),
            item=np.arange(len(start)),
            label=np.repeat(documents.label[chosen], rows),
        )


def _texts(examples: Examples) -> Iterator[str]:
    """The texts of the split that a tokenizer is trained on."""
    for example in examples.read(examples.label_source()):
        if isinstance(example, Words):
            yield " ".join(example.words)
        elif isinstance(example, Question):
            yield from (example.question, example.context)
        else:
            yield from (text for text in (example.first, example.second) if text is not None)


def _found_classes(examples: Examples) -> tuple[str, ...]:
    """The classes that the labels of a split name, in the order of `class_names`, O before all."""
    split = examples.label_source()
    counts: collections.Counter[str] = collections.Counter()
    number = 0
    for example in examples.read(split):
        number += 1
        labels = example.tags or () if isinstance(example, Words) else (example.label,)
        counts.update(label for label in labels if label not in (None, NO_CLASS))
    if len(counts) < 2:
        has = f"only the class {next(iter(counts))!r}" if counts else "no labels"
        raise UserError(
            f"{examples.name}[{split}] has {has}, and classes are learned from at least two; check "
            "data.options.label_key, or name the classes by data.options.class_names"
        )
    if TASKS[examples.task].labels_examples and len(counts) > max(number // 2, 20):
        raise UserError(
            f"{examples.name}[{split}] has {len(counts):,} different labels on {number:,} texts, "
            f"such as {next(iter(counts))!r:.40}; set data.options.label_key to what is the class"
        )
    return tuple(sorted(class_names.in_order(counts), key=lambda name: name != "O"))
