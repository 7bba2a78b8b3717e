"""Labelled text: what its labels are, and where examples come from before they are tokens.

The option `task` of a data set says what is to be learned of a text:

    classify   its class
    regress    a number
    tags       a class for each word
    span       where in a text the answer to a question stands

Kinds of data set are modules with a function `examples(location, task, **options)`.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import DataSpec, Vocabulary
from ssl_jax.data import patterns
from ssl_jax.data.text.tokenizer_options import TokenizerOptions

# Task -> scores that it has where a data set names none, the first the one that counts most; see
# `ssl_jax.evals.text_metrics`.
TASKS = {
    "classify": ("accuracy", "macro_f1"),
    "regress": ("pearson", "spearman", "rmse"),
    "tags": ("entity_f1", "entity_precision", "entity_recall", "accuracy"),
    "span": ("exact_match", "f1"),
}
_LENGTHS = {"span": 384}  # of rows, as in the code of BERT
_LENGTH = 128
CACHE = "~/.cache/ssl_jax/text"
# Where in an entity a word stands, and the entity's type: B-PER, I-PER; also of BIOES and BILOU.
ENTITY_TAG = re.compile(r"O|([BIESLU])-(.+)")
_ERRORS = ("strict", "replace")


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
        if errors not in _ERRORS:
            raise UserError(
                f"errors {errors!r} is not one of {', '.join(_ERRORS)}.{nearest(errors, _ERRORS)}"
            )
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

    Attributes:
      task: one of TASKS.
      tokenizer: which one; that of the pretrained model, if one is fine-tuned.
      sequence_length: tokens of a row, special tokens and padding included; default 384 for span
        and 128 for all else.
      class_names: the classes in the order of their numbers; default those of the train split,
        numbers by size, all else by the alphabet.
      stride: of span, tokens of the text from one window to the next.
      query_length: of span, tokens of the question at most.
      vocabulary: what the tokens must be, where it is known from elsewhere (a run's config).
      cache_dir, prepare_workers: of `pydoc`, as for every corpus.

    Raises:
      UserError: a value out of range.
    """

    task: str
    tokenizer: TokenizerOptions = dataclasses.field(default_factory=TokenizerOptions)
    sequence_length: int | None = None
    class_names: tuple[str, ...] | None = None
    stride: int = 128
    query_length: int = 64
    vocabulary: Vocabulary | None = None
    cache_dir: str = CACHE
    prepare_workers: int = 0

    def __post_init__(self) -> None:
        check_task(self.task)
        least = 16 if self.task == "span" else 8
        if self.length < least:
            raise UserError(f"sequence_length is {self.length}; it must be at least {least}")
        if self.class_names is not None and self.task in ("regress", "span"):
            raise UserError(f"class_names is for classes, and task={self.task} has none")
        if self.class_names is not None and len(set(self.class_names)) != len(self.class_names):
            raise UserError("class_names has a name twice; each class needs one of its own")
        if self.task != "span":
            return
        if self.query_length < 1 or self.stride < 1:
            raise UserError(
                f"query_length is {self.query_length} and stride is {self.stride}; both must be at "
                "least 1"
            )
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
        return _LENGTHS.get(self.task, _LENGTH)

    def room(self, special: int) -> int:
        """Of span, tokens of the text in a row beside `special` tokens and the longest question."""
        return self.length - self.query_length - special

    @classmethod
    def of(cls, task: str, values: Mapping[str, Any]) -> TaskOptions:
        """Reads them from keyword arguments, of which it takes those in `OPTIONS`.

        Raises:
          UserError: a bad value.
        """
        if values.get("rows", "padded") != "padded":
            raise UserError(
                f"rows is {values['rows']!r}, but task={task} has a text in each row; leave "
                "data.options.rows out"
            )
        names = {field.name for field in dataclasses.fields(TokenizerOptions)}
        tokenizer = TokenizerOptions(**{k: v for k, v in values.items() if k in names})
        own = {field.name for field in dataclasses.fields(cls)} - {"task", "tokenizer"}
        taken = {name: value for name, value in values.items() if name in own}
        if taken.get("vocabulary") is not None:
            facts = dict(taken["vocabulary"])
            taken["vocabulary"] = Vocabulary(**facts | {"special": tuple(facts["special"])})
        if taken.get("class_names") is not None:
            taken["class_names"] = tuple(str(name) for name in taken["class_names"])
        return cls(task, tokenizer, **taken)


def scores_of(task: str, class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The scores of a task; tags that mark no entities, such as parts of speech, have no F1."""
    if task == "tags" and not all(ENTITY_TAG.fullmatch(name) for name in class_names or ()):
        return ("accuracy", "macro_f1")
    return TASKS[task]


OPTIONS = frozenset(
    field.name for kind in (TokenizerOptions, TaskOptions) for field in dataclasses.fields(kind)
) | {"rows"}


def check_task(task: Any, allowed: Sequence[str] = tuple(TASKS)) -> None:
    """Raises UserError unless `task` is one of those."""
    if task not in allowed:
        raise UserError(
            f"data.options.task is {task!r}; it is one of {', '.join(allowed)}."
            f"{nearest(str(task), allowed)}"
        )


def check_pairs(task: str, text_pair_key: str | None) -> None:
    """Raises UserError if a second text is named and examples of the task have one only."""
    if task == "tags" and text_pair_key is not None:
        raise UserError("text_pair_key is for pairs of texts, and task=tags has none; leave it out")


def task_spec(
    options: TaskOptions, vocabulary: Vocabulary, num_examples: int, num_classes: int | None
) -> DataSpec:
    """The DataSpec of labelled text; the arrays are described in `task_source`."""
    row, one = (options.length,), ()
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "tokens": (row, np.int32), "segment": (row, np.int32), "position": (row, np.int32),
        "type": (row, np.int32), "label": (one, np.int32), "index": (one, np.int32),
    }  # fmt: skip
    if options.task == "regress":
        shapes["target"] = (one, np.float32)
    elif options.task == "tags":
        shapes["tags"] = (row, np.int32)
    elif options.task == "span":
        shapes |= {"span": ((2,), np.int32), "context": (row, np.bool_)}
    return DataSpec(
        arrays={name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()},
        num_examples=num_examples,
        num_classes=num_classes if options.task in ("classify", "tags") else None,
        modality="text",
        vocabulary=vocabulary,
        task=options.task,
    )
