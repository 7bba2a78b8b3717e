"""Labelled text as a source: rows of tokens with their labels.

A batch has `tokens` int32 [n l]; `segment` int32 [n l], 1, and 0 for padding; `position` int32 [n
l]; `type` int32 [n l], 0 of the first text and 1 of the second; `index` int32 [n]; and by task

    classify   `label` int32 [n], -1 for none
    regress    `target` float32 [n], nan for none
    tags       `tags` int32 [n l], the class of a word at its first token, -1 elsewhere
    span       `span` int32 [n 2], the answer's first and last token, 0 and 0 where there is none in
               this window; `context` bool [n l], where it may lie

with a `label` of -1 except for classify. Everything is read and tokenized at opening and kept in
memory. A sub-split such as `train[:90%]` cuts between documents, drawn at random: no document is
on both sides. A document is a text, unless a kind of data set says otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ssl_jax.core.method import DataSpec
from ssl_jax.data import counter
from ssl_jax.data.labelled.encoded import Encoded, Frame
from ssl_jax.data.labelled.examples import TaskOptions, task_spec
from ssl_jax.data.source import Arrays, Problem, Source
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.tasks.registry import TASKS


@dataclasses.dataclass
class TaskSource(Source):
    """Rows of labelled text.

    Attributes:
      encoded: the examples, a row each or several.
      options: what rows are like.
      tokenizer: what made the tokens.
      metrics: names of the scores that count; see `ssl_jax.tasks`.
    """

    encoded: Encoded = dataclasses.field(kw_only=True)
    options: TaskOptions = dataclasses.field(kw_only=True)
    tokenizer: Tokenizer = dataclasses.field(kw_only=True)
    metrics: tuple[str, ...] = dataclasses.field(kw_only=True)

    in_memory: ClassVar[bool] = True
    unit: ClassVar[str] = "row"
    examples_are_labelled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.names, self.labels = self.encoded.names, self.encoded.label

    def __len__(self) -> int:
        return len(self.encoded)

    @property
    def task(self) -> str:
        return self.options.task

    @property
    def spec(self) -> DataSpec:
        spec = task_spec(self.options, self.tokenizer.vocabulary, len(self), self.num_classes)
        return dataclasses.replace(spec, class_tokens=self._class_tokens)

    @functools.cached_property
    def _class_tokens(self) -> tuple[tuple[int, ...], ...] | None:
        if self.class_names is None:
            return None
        ids, lengths = self.tokenizer.encode(self.class_names)
        ends = np.cumsum(lengths)
        return tuple(
            tuple(ids[end - length : end].tolist())
            for end, length in zip(ends, lengths, strict=True)
        )

    @functools.cached_property
    def _frame(self) -> Frame:
        return Frame.of(self.tokenizer)

    @functools.cached_property
    def _groups(self) -> np.ndarray:
        """The documents there are, int64 ascending."""
        return np.unique(self.encoded.group)

    @property
    def extent(self) -> int:
        return len(self._groups)

    def select(self, start: int, stop: int) -> TaskSource:
        order = np.argsort(counter.bits(counter.key(0, counter.Stream.DOCUMENTS), self._groups))
        chosen = self._groups[order[start:stop]]
        return self.take(np.flatnonzero(np.isin(self.encoded.group, chosen)))

    def take(self, rows: np.ndarray) -> TaskSource:
        """The rows, int [m] ascending, as a source of their own."""
        return dataclasses.replace(self, encoded=self.encoded.take(rows))

    def joined(self, others: Sequence[TaskSource]) -> TaskSource:
        encoded = functools.reduce(
            Encoded.followed_by, (other.encoded for other in others), self.encoded
        )
        return dataclasses.replace(self, encoded=encoded)

    def read_labels(self) -> np.ndarray | None:
        """The classes of the rows, int32 [len]; None of tasks that are not classify."""
        return self.labels

    def relabelled(self, labels: np.ndarray) -> TaskSource:
        """The same rows with these classes, int32 [len], -1 for none."""
        return dataclasses.replace(self, encoded=dataclasses.replace(self.encoded, label=labels))

    def notes(self) -> list[str]:
        missing = np.flatnonzero(~TASKS[self.task].has_label(self.encoded))
        if not len(missing):
            return []
        have = "has" if len(missing) == 1 else "have"
        blank = ", null or -1" if TASKS[self.task].has_classes else " or null"
        return [
            f"{len(missing):,} of {len(self):,} rows of {self.name} {have} no label (blank{blank}; "
            f"first: {self.names[missing[0]]}): nothing is learned from what has none, and it is "
            "not scored"
        ]

    def tokenizer_json(self) -> str:
        return self.tokenizer.to_json()

    def token_texts(self) -> list[str]:
        return self.tokenizer.token_texts()

    @property
    def units_per_example(self) -> float:
        pairs = self.encoded.length[:, 1] >= 0
        special = np.where(pairs, self._frame.special(True), self._frame.special(False))
        return float((np.maximum(self.encoded.length, 0).sum(axis=1) + special).mean())

    @property
    def padding_share(self) -> float:
        """Share of padding among the tokens of all rows, in [0, 1)."""
        return 1 - self.units_per_example / self.options.length

    def padding(self, key: str) -> float:
        if key == "tokens":
            return self.tokenizer.vocabulary.pad
        return TASKS[self.task].padding.get(key, super().padding(key))

    def read(
        self, indices: np.ndarray, positions: np.ndarray, seed: int, step: int
    ) -> tuple[Arrays, list[Problem]]:
        del positions, seed, step  # nothing random
        arrays = self._frame.arrays(self.encoded, indices, self.options.length)
        arrays["label"] = np.full(len(indices), -1, np.int32)
        arrays |= TASKS[self.task].targets(self, indices)
        return arrays | {"index": indices.astype(np.int32)}, []

    def spread(self, values: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Values of the tokens of the first text, int32 [t], at their places in rows: [n l]."""
        return self._frame.spread(self.encoded, values, indices, self.options.length)

    def second(self, indices: np.ndarray) -> np.ndarray:
        """Where the second text stands in rows, without its sep, bool [n l]."""
        return self._frame.second(self.encoded, indices, self.options.length)

    def second_begins(self) -> np.ndarray:
        """Of span, where the text begins in each row, int64 [n]."""
        return self._frame.begins(self.encoded, np.arange(len(self)))

    def texts(self) -> list[str]:
        """The text of each row as its tokens have it, both of a pair after each other."""
        tokens, start, length = self.encoded.tokens, self.encoded.start, self.encoded.length
        return self.tokenizer.backend.decode_batch(
            [
                np.concatenate(
                    [tokens[at : at + max(size, 0)] for at, size in zip(*row, strict=True)]
                ).tolist()
                for row in zip(start, length, strict=True)
            ]
        )
