"""Labelled text before it is tokenized: its examples, and the options that all kinds share.

The option `task` says what is learned from the labels, see `ssl_jax.tasks`. A kind of labelled text
has a function `examples(location, task, **options)`, see `ssl_jax.data.text.text_kind`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from ssl_jax.config.fields import Key, Section, at_least, between, positive, section
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Vocabulary
from ssl_jax.data import patterns
from ssl_jax.data.text.tokenizer_options import TokenizerOptions
from ssl_jax.modalities.text import TEXT
from ssl_jax.tasks.registry import TASKS

CACHE = "~/.cache/ssl_jax/text"


class Text(NamedTuple):
    """A text or a pair of texts.

    Attributes:
      where: names it in messages, e.g. "reviews.csv, line 3".
      first, second: the texts; the second may be missing.
      label: of `classify` the class as it is called, of `regress` a number, None for none.
      group: what it is a part of, which sub-splits do not cut; None: it stands alone.
    """

    where: str
    first: str
    second: str | None
    label: Any
    group: str | None = None


class Words(NamedTuple):
    """A sentence whose words have classes.

    Attributes:
      where, group: as of `Text`.
      words: the words.
      tags: as many names of classes, or None.
    """

    where: str
    words: Sequence[str]
    tags: Sequence[str] | None
    group: str | None = None


class Question(NamedTuple):
    """A question to a text.

    Attributes:
      where, group: as of `Text`.
      name: its id.
      question, context: the question, and the text in which the answer stands.
      answers: right answers, each with the character at which it begins in the context; none where
        there is no answer, and None where it is not known.
    """

    where: str
    name: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None
    group: str | None = None


Example = Text | Words | Question


class Examples(abc.ABC):
    """The labelled examples of a data set, as they are read.

    Attributes:
      name: e.g. "csv:reviews.csv".
      task: one of TASKS.
      splits: names of its splits.
      aliases: further names of splits.
      class_names: names of the classes, None where the labels have to say.
      metrics: names of its scores, None for those of its task.
    """

    name: str
    task: str
    splits: Sequence[str]
    aliases: Mapping[str, str] = MappingProxyType({})
    class_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None

    @abc.abstractmethod
    def read(self, split: str) -> Iterator[Example]:
        """The examples of a split, the same ones in the same order at every call.

        Raises:
          UserError: something cannot be read.
        """

    def label_source(self) -> str:
        """The split that says which classes there are."""
        return "train" if "train" in self.splits else self.splits[0]


class FileExamples(Examples):
    """Examples in files that a pattern names; see `patterns`.

    Args:
      kind: e.g. "csv".
      location: the pattern.
      task: one of TASKS.
      errors: what to do about bytes that are no UTF-8: "strict" or "replace".

    Raises:
      UserError: no file matches, or a bad value.
    """

    def __init__(self, kind: str, location: str, task: str, errors: str = "strict"):
        pattern = patterns.local(kind, location)
        self.name, self.task, self.errors = f"{kind}:{location}", task, errors
        self.splits = patterns.splits(kind, pattern)
        self.files = {split: patterns.files(kind, pattern, split) for split in self.splits}

    @abc.abstractmethod
    def read_file(self, path: str) -> Iterator[Example]:
        """The examples of one file."""

    def read(self, split: str) -> Iterator[Example]:
        for path in self.files[split]:
            yield from self.read_file(path)


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """The options of every data set of labelled text, beside those of its own kind.

    Raises:
      UserError: values that do not fit each other.
    """

    task: str
    tokenizer: TokenizerOptions = dataclasses.field(default_factory=TokenizerOptions)
    sequence_length: Annotated[
        int | None,
        at_least(8),
        "Tokens of a row, special tokens and padding included; None: 384 for span, else 128.",
    ] = None
    class_names: Annotated[
        tuple[str, ...] | None,
        "Classes in the order of their numbers; None: those of the train split as 0, 2, 10, a, B.",
    ] = None
    stride: Annotated[int, positive, "Of span: tokens of the text between two windows."] = 128
    query_length: Annotated[int, positive, "Of span: tokens of the question at most."] = 64
    vocabulary: Annotated[
        Vocabulary | None, "What the tokens must be; a run fills it in. None: not checked."
    ] = None
    cache_dir: Annotated[str, "Folder below which corpora are prepared as tokens."] = CACHE
    prepare_workers: Annotated[
        int, between(0, 1_024), "Processes that prepare a corpus; 0: this process alone."
    ] = 0

    def __post_init__(self) -> None:
        task = TASKS[self.task]
        if self.length < task.shortest_row:
            raise UserError(
                f"sequence_length is {self.length}; it must be at least {task.shortest_row}"
            )
        if self.class_names is not None and not task.has_classes:
            raise UserError(f"class_names is for classes, and task={self.task} has none")
        if self.class_names is not None and len(set(self.class_names)) != len(self.class_names):
            raise UserError("class_names has a name twice; each class needs one of its own")
        if task.example != "question":
            return
        if self.stride > self.room(4):
            raise UserError(
                f"stride {self.stride} would skip tokens: a row of {self.length} has room for "
                f"{max(self.room(4), 0)} of the text behind a question of query_length "
                f"{self.query_length}; use a smaller stride or query_length, or longer rows"
            )

    @property
    def length(self) -> int:
        """`sequence_length`, or its default."""
        if self.sequence_length is not None:
            return self.sequence_length
        return TASKS[self.task].row_length

    def room(self, special: int) -> int:
        """Of span, tokens of the text in a row beside `special` tokens and the longest question."""
        return self.length - self.query_length - special

    @classmethod
    def of(cls, task: str, options: Mapping[str, Any]) -> TaskOptions:
        """Reads them from the values of all keys of `OPTIONS`.

        Raises:
          UserError: values that do not fit each other.
        """
        tokenizer = TokenizerOptions(**{name: options[name] for name in _TOKENIZER})
        return cls(task, tokenizer, **{name: options[name] for name in _OWN})


_TOKENIZER = section(TokenizerOptions).keys
_OWN = {
    name: key
    for name, key in section(TaskOptions).keys.items()
    if name not in ("task", "tokenizer")
}
_ROWS = Annotated[Literal["padded"], "Each row has a text of its own."]
OPTIONS = Section({**_TOKENIZER, **_OWN, "rows": Key(_ROWS, "padded")})


def check_pairs(task: str, text_pair_key: str | None) -> None:
    """Raises UserError if a second text is named and examples of the task have one only."""
    if TASKS[task].example != "text" and text_pair_key is not None:
        raise UserError(
            f"text_pair_key is for pairs of texts, and task={task} has none; leave it out"
        )


def task_spec(
    options: TaskOptions, vocabulary: Vocabulary, num_examples: int, num_classes: int | None
) -> DataSpec:
    """The DataSpec of labelled text; the arrays are described in `task_source`."""
    task = TASKS[options.task]
    more = {"type": ((options.length,), np.int32), **task.target_shapes(options.length)}
    classes = num_classes if task.has_classes else None
    return TEXT.spec(options.length, vocabulary, num_examples, classes, more, task.name)
