"""Kinds of data sets of text, with labels for a task or without."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec
from ssl_jax.data.kind import WHERE, DataSet, Facts, Kind
from ssl_jax.data.labelled import examples as examples_lib
from ssl_jax.data.labelled import labelled_text
from ssl_jax.data.request import Request
from ssl_jax.data.text import text_source
from ssl_jax.data.text.corpus import Corpus
from ssl_jax.data.text.token_cache import TokenCache
from ssl_jax.modalities.text import TEXT


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextKind(Kind):
    """A kind of text.

    The keyword parameters of `corpus`, `cache` and `examples` are options of the kind.

    Attributes:
      corpus: opens text without labels for a task: (location, **options) -> Corpus.
      cache: opens tokens that are prepared: (location, **options) -> TokenCache.
      examples: opens text with labels for a task: (location, task, **options); an `Examples`, or a
        `Corpus` whose documents have labels.
      example_tasks: the tasks of those examples.
      task: the task where no option says it.
      known: facts from a location, None if nothing is known.
    """

    corpus: Callable[..., Corpus] | None = None
    cache: Callable[..., TokenCache] | None = None
    examples: Callable[..., examples_lib.Examples | Corpus] | None = None
    example_tasks: tuple[str, ...] = ()
    task: str | None = None
    known: Callable[[str], Facts | None] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return (TEXT.name,)

    @property
    def tasks(self) -> tuple[str, ...]:
        return self.example_tasks

    def task_of(self, location: str, values: Mapping[str, Any]) -> str | None:
        """The task of a data set, None where it has no labels for one.

        Raises:
          UserError: the options name another task than the data set has.
        """
        del location
        return values.get("task") or self.task

    def _is_labelled(self, values: Mapping[str, Any]) -> bool:
        without_labels = self.corpus or self.cache
        return without_labels is None or values.get("task") is not None

    def options(self, values: Mapping[str, Any]) -> fields.Section:
        if self._is_labelled(values):
            keys = {**fields.section(self.examples).keys, **examples_lib.OPTIONS.keys}
        else:
            own = fields.section(self.corpus or self.cache)
            keys = {**own.keys, **text_source.OPTIONS.keys}
        if self.example_tasks:
            doc = "What is learned from the labels."
            kind = Literal[self.example_tasks]
            if self.task is None:
                kind = kind | None
            keys["task"] = fields.Key(Annotated[kind, doc], self.task, doc)
        return fields.Section(keys)

    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> DataSet:
        request.refuse_image_options(self.name)
        options = fields.read(self.options(values), values, WHERE)
        if not self._is_labelled(values):
            make = self.corpus or self.cache
            corpus = make(location, **_own(make, options))
            read = text_source.TextOptions.of(options)
            return text_source.Text(corpus, read, request.seed, values)
        task = self.task_of(location, options)
        read = examples_lib.TaskOptions.of(task, options)
        examples = self.examples(location, task, **_own(self.examples, options))
        labelled = (
            labelled_text.Passages if isinstance(examples, Corpus) else labelled_text.Labelled
        )
        return labelled(examples, read)

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        return self.known(location) if self.known else None

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        request.refuse_image_options(self.name)
        options = fields.read(self.options(values), values, WHERE)
        if self._is_labelled(values):
            read = examples_lib.TaskOptions.of(self.task_of(location, options), options)
            vocabulary = read.vocabulary or read.tokenizer.vocabulary()
            if num_classes is None and read.class_names is not None:
                num_classes = len(read.class_names)
            return examples_lib.task_spec(read, vocabulary, num_examples, num_classes)
        read = text_source.TextOptions.of(options)
        vocabulary = read.preparation.vocabulary
        if vocabulary is None and self.cache and read.tokenizer.unknown_size:
            vocabulary = _cached_vocabulary(location)
        return text_source.text_spec(
            read.rows, vocabulary or read.tokenizer.vocabulary(), num_examples, num_classes
        )


def _own(make: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in fields.section(make).keys}


def _cached_vocabulary(location: str) -> Any:
    directory = os.path.expanduser(location)
    if not os.path.isdir(directory):
        raise UserError(
            f"tokens:{location} is not there to say what its tokens are; set "
            "data.options.vocab_size and data.options.tokenizer (wordpiece, bpe or a path)"
        )
    return TokenCache(directory).vocabulary
