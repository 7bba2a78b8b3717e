"""Labelled examples as tokens in memory, and rows made of them.

A row is cls A sep, or cls A sep B sep (RoBERTa's tokenizers have two sep between A and B).

- A text that is too long is cut at its end; of a pair, the longer text first.
- A sentence of words that is too long continues in the next row.
- Of a question, A is the question and B is a window of the text.

Rows have the framing and the windows of the `tokenizers` library. Its truncation and overflowing
are not used: of two texts that are both too long it gives an odd token to the other text than BERT
does, and it tokenizes and stores a text again for every question and window, which took 4 times as
long and 9 times the memory on texts of 700 words with 5 questions each.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Vocabulary
from ssl_jax.data.labelled import windows
from ssl_jax.data.labelled.examples import Question, TaskOptions, Text, Words
from ssl_jax.data.names import Names
from ssl_jax.data.ragged import ragged_arange
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.data.text.tokenizer_families import FAMILIES
from ssl_jax.tasks.registry import TASKS

_AT_ONCE = 1024  # examples that are tokenized at a time
_CHARACTERS = 256  # of a text that can matter, for each token of a row

ClassOf = Callable[[Any, str], int]  # (a class's name or None, where) -> its number or -1


@dataclasses.dataclass(frozen=True)
class Encoded:
    """The examples of a split.

    Attributes:
      tokens: uint32 [t], runs of them one after the other.
      start, length: int64 [n 2], the runs that are A and B of each row; B has length -1 where there
        is none.
      group: int64 [n], the document that each row is a part of.
      names: [n], of the rows.
      item: int64 [n], the example that each row is a part of.
      label: int32 [n], of classify: the class, -1 for none.
      target: float32 [n], of regress: nan for none.
      tags: int32 [t], of tags: the class of the word that a token begins, else -1.
      span: int32 [n 2], of span: the answer's first and last token in the row; 0 and 0 where the
        answer is not in the window, or there is none.
      questions: of span, the examples; what `item` counts.
      offsets: int32 [t 2], of span: where a token begins and ends in the text, in characters.
    """

    tokens: np.ndarray
    start: np.ndarray
    length: np.ndarray
    group: np.ndarray
    names: Names
    item: np.ndarray
    label: np.ndarray | None = None
    target: np.ndarray | None = None
    tags: np.ndarray | None = None
    span: np.ndarray | None = None
    questions: tuple[Question, ...] = ()
    offsets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: np.ndarray) -> Encoded:
        """The rows, int [m] ascending; the tokens stay where they are."""
        cut = {
            name: array[rows]
            for name in ("start", "length", "group", "names", "item", "label", "target", "span")
            if (array := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, **cut)

    def followed_by(self, other: Encoded) -> Encoded:
        """The rows of this and then those of another of the same task."""
        moved = dataclasses.replace(
            other,
            start=other.start + len(self.tokens),
            group=other.group + (self.group.max() + 1),
            item=other.item + (len(self.questions) or self.item.max() + 1),
        )
        joined: dict[str, Any] = {
            "names": Names(itertools.chain(self.names, other.names)),
            "questions": self.questions + other.questions,
        }
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(moved, field.name)
            if isinstance(mine, np.ndarray):
                joined[field.name] = np.concatenate([mine, theirs])
        return Encoded(**joined)


class Frame(NamedTuple):
    """The special tokens around the texts of a row.

    Attributes:
      vocabulary: the ids of cls, sep and pad.
      between: sep tokens between A and B.
    """

    vocabulary: Vocabulary
    between: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Frame:
        vocabulary = tokenizer.vocabulary
        roberta = tokenizer.backend.id_to_token(vocabulary.cls) == FAMILIES["bpe"]["cls"]
        return cls(vocabulary, 2 if roberta else 1)

    def special(self, pair: bool) -> int:
        """Special tokens of a row."""
        return 2 + self.between if pair else 2

    def arrays(self, encoded: Encoded, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """`tokens`, `segment`, `position` and `type` of rows; see `task_source`.

        Args:
          encoded: the examples.
          rows: int [n].
          length: of a row.
        """
        count = len(rows)
        a, b = encoded.length[rows].T
        pair = b >= 0
        second = 1 + a + self.between  # where B begins
        used = np.where(pair, second + b + 1, a + 2)
        tokens = np.full((count, length), self.vocabulary.pad, np.int32)
        tokens[:, 0] = self.vocabulary.cls
        place = np.arange(length)
        after_a = (place >= 1 + a[:, None]) & (place < np.where(pair, second, used)[:, None])
        tokens[after_a] = self.vocabulary.sep
        tokens[pair, (used - 1)[pair]] = self.vocabulary.sep
        for runs, at, sizes in ((0, np.ones(count, np.int64), a), (1, second, np.maximum(b, 0))):
            inside = ragged_arange(sizes)
            into = np.repeat(np.arange(count) * length + at, sizes) + inside
            out_of = np.repeat(encoded.start[rows, runs], sizes) + inside
            tokens.reshape(-1)[into] = encoded.tokens[out_of]
        real = place < used[:, None]  # [n l]
        return {
            "tokens": tokens,
            "segment": real.astype(np.int32),
            "position": np.where(real, place, 0).astype(np.int32),
            "type": (real & pair[:, None] & (place >= second[:, None])).astype(np.int32),
        }

    def spread(
        self, encoded: Encoded, values: np.ndarray, rows: np.ndarray, length: int
    ) -> np.ndarray:
        """Values of the tokens of A, int32 [t], at their places in rows [n l]; -1 elsewhere."""
        out = np.full((len(rows), length), -1, np.int32)
        sizes = encoded.length[rows, 0]
        inside = ragged_arange(sizes)
        into = np.repeat(np.arange(len(rows)) * length + 1, sizes) + inside
        out.reshape(-1)[into] = values[np.repeat(encoded.start[rows, 0], sizes) + inside]
        return out

    def second(self, encoded: Encoded, rows: np.ndarray, length: int) -> np.ndarray:
        """The tokens of B, without its sep, bool [n l]."""
        begin = self.begins(encoded, rows)[:, None]
        place = np.arange(length)
        return (place >= begin) & (place < begin + encoded.length[rows, 1:])

    def begins(self, encoded: Encoded, rows: np.ndarray) -> np.ndarray:
        """Where B begins in rows, int64 [n]."""
        return 1 + encoded.length[rows, 0] + self.between


def encode(
    examples: Iterable[Any],
    tokenizer: Tokenizer,
    options: TaskOptions,
    class_of: ClassOf,
    title: str,
) -> Encoded:
    """Tokenizes examples.

    Args:
      examples: `Text`, `Words` or `Question`, as the task has them.
      tokenizer: of the texts.
      options: what rows are like.
      class_of: numbers the classes.
      title: what to call the examples in messages.

    Raises:
      UserError: a class that is not known, an answer that is not in its text, or no example.
    """
    frame, builder = Frame.of(tokenizer), _Builder()
    read = _READ[TASKS[options.task].example]
    for block in _blocks(examples):
        read(builder, block, tokenizer, frame, options, class_of)
    if not builder.names:
        raise UserError(f"{title} has no examples")
    return builder.built()


def framed_texts(
    tokenizer: Tokenizer, length: int, texts: Sequence[str], second: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Texts, or pairs of them, as rows of tokens: `tokens`, `segment`, `position` and `type`.

    Args:
      tokenizer: of the texts.
      length: of a row.
      texts: what stands in a row each.
      second: as many texts that stand behind them, or None.
    """
    pairs = second if second is not None else [None] * len(texts)
    examples = [
        Text(f"text {i}", first, other, None)
        for i, (first, other) in enumerate(zip(texts, pairs, strict=True))
    ]
    options = TaskOptions("classify", sequence_length=length)
    encoded = encode(examples, tokenizer, options, lambda name, where: -1, "texts")
    return Frame.of(tokenizer).arrays(encoded, np.arange(len(texts)), length)


def truncated(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of two texts are kept so that both fit: the longer loses its last one first.

    Args:
      a, b: int [n], tokens of each; of texts of equal length the second loses.
      room: for both.

    Returns:
      int64 [n] each.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    excess = np.maximum(a + b - room, 0)
    uneven = np.minimum(excess, np.abs(a - b))
    shared = excess - uneven  # from both in turn
    return (
        a - np.where(a > b, uneven, 0) - shared // 2,
        b - np.where(b > a, uneven, 0) - (shared + 1) // 2,
    )


class _Builder:
    """Gathers the arrays of an `Encoded`."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Any]] = {}
        self.groups: dict[str, int] = {}
        self.num_tokens = self.num_groups = self.num_items = 0
        self.names: list[str] = []
        self.questions: list[Question] = []

    def add(self, **arrays: Any) -> None:
        for name, array in arrays.items():
            self.parts.setdefault(name, []).append(array)

    def add_tokens(self, tokens: np.ndarray) -> int:
        """Returns where they begin."""
        start = self.num_tokens
        self.add(tokens=tokens.astype(np.uint32))
        self.num_tokens += len(tokens)
        return start

    def group_of(self, name: str | None) -> int:
        """The number of a document; a new one where an example stands alone."""
        if name is not None and name in self.groups:
            return self.groups[name]
        self.num_groups += 1
        if name is not None:
            self.groups[name] = self.num_groups - 1
        return self.num_groups - 1

    def built(self) -> Encoded:
        arrays = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        return Encoded(**arrays, names=Names(self.names), questions=tuple(self.questions))


def _blocks(examples: Iterable[Any]) -> Iterator[list[Any]]:
    stream = iter(examples)
    while block := list(itertools.islice(stream, _AT_ONCE)):
        yield block


def _texts(
    builder: _Builder, block: list[Text], tokenizer: Tokenizer, frame: Frame, options: TaskOptions,
    class_of: ClassOf,
) -> None:  # fmt: skip
    pair = block[0].second is not None
    most = _CHARACTERS * options.length
    sides = [[text.first[:most] for text in block]]
    if pair:
        sides.append([(text.second or "")[:most] for text in block])
    encoded = [tokenizer.encode(side) for side in sides]
    room = options.length - frame.special(pair)
    (_, a), kept_b = encoded[0], np.full(len(block), -1)
    if pair:
        kept_a, kept_b = truncated(a, encoded[1][1], room)
    else:
        kept_a = np.minimum(a, room)
    starts = []
    for (ids, sizes), kept in zip(encoded, (kept_a, kept_b), strict=False):
        inside = ragged_arange(sizes) < np.repeat(kept, sizes)
        starts.append(builder.add_tokens(ids[inside]) + np.cumsum(kept) - kept)
    first = starts[0]
    builder.add(
        start=np.stack([first, starts[1] if pair else first], axis=1),
        length=np.stack([kept_a, kept_b], axis=1),
        group=np.array([builder.group_of(text.group) for text in block], np.int64),
        item=np.arange(len(block)) + len(builder.names),
    )
    builder.names += [text.where for text in block]
    if TASKS[options.task].has_classes:
        builder.add(label=np.array([class_of(t.label, t.where) for t in block], np.int32))
    else:
        values = [np.nan if text.label is None else text.label for text in block]
        builder.add(target=np.array(values, np.float32))


def _words(
    builder: _Builder, block: list[Words], tokenizer: Tokenizer, frame: Frame, options: TaskOptions,
    class_of: ClassOf,
) -> None:  # fmt: skip
    room = options.length - frame.special(False)
    # Byte-level tokenizers tell the beginning of a word by the blank in front of it.
    blank = " " if list(tokenizer.encode([" a"])[0]) != list(tokenizer.encode(["a"])[0]) else ""
    words = [f"{blank}{word[: _CHARACTERS * room]}" for text in block for word in text.words]
    ids, sizes = tokenizer.encode(words)
    ids, sizes = _never_empty(ids, sizes, frame.vocabulary.unk)
    inside = ragged_arange(sizes)
    ids, first = ids[inside < room], (inside == 0)[inside < room]
    sizes = np.minimum(sizes, room)
    classes = [
        class_of(tag, f"{text.where}, word {number}")
        for text in block
        for number, tag in enumerate(text.tags or [None] * len(text.words), 1)
    ]
    tags = np.full(len(ids), -1, np.int32)
    tags[first] = classes
    begin = builder.add_tokens(ids)
    builder.add(tags=tags)
    at = 0
    for text in block:
        own = sizes[at : at + len(text.words)].tolist()
        at += len(text.words)
        runs = list(windows.whole_words(own, room))
        group = builder.group_of(text.group)
        builder.add(
            start=np.array([[begin + done, begin + done] for done, _ in runs]),
            length=np.array([[size, -1] for _, size in runs]),
            group=np.full(len(runs), group),
            item=np.full(len(runs), builder.num_items),
        )
        builder.num_items += 1
        builder.names += [text.where] * len(runs)
        begin += sum(own)


def _never_empty(ids: np.ndarray, sizes: np.ndarray, unk: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives words without tokens one unknown token."""
    if sizes.all():
        return ids, sizes
    out = np.full(int(np.maximum(sizes, 1).sum()), unk, ids.dtype)
    starts = np.cumsum(np.maximum(sizes, 1)) - np.maximum(sizes, 1)
    out[np.repeat(starts, sizes) + ragged_arange(sizes)] = ids
    return out, np.maximum(sizes, 1)


def _questions(
    builder: _Builder, block: list[Question], tokenizer: Tokenizer, frame: Frame,
    options: TaskOptions, class_of: ClassOf,
) -> None:  # fmt: skip
    del class_of
    ids, sizes = tokenizer.encode([question.question for question in block])
    kept = np.minimum(sizes, options.query_length)
    inside = ragged_arange(sizes) < np.repeat(kept, sizes)
    begin = builder.add_tokens(ids[inside])
    builder.add(offsets=np.zeros((int(kept.sum()), 2), np.int32))
    queries = begin + np.cumsum(kept) - kept
    texts: dict[str, tuple[int, np.ndarray]] = {}  # context -> where it begins, offsets
    for question, query, size in zip(block, queries.tolist(), kept.tolist(), strict=True):
        if question.context not in texts:
            tokens, offsets = windows.with_offsets(tokenizer, question.context)
            texts[question.context] = builder.add_tokens(tokens), offsets
            builder.add(offsets=offsets)
        text, offsets = texts[question.context]
        room = options.length - size - frame.special(True)
        runs = np.array(list(windows.sliding(len(offsets), room, options.stride)))  # [w 2]
        inside_text = windows.answer_tokens(question, offsets)
        builder.add(
            start=np.stack([np.full(len(runs), query), text + runs[:, 0]], axis=1),
            length=np.stack([np.full(len(runs), size), runs[:, 1]], axis=1),
            group=np.full(len(runs), builder.group_of(question.group)),
            item=np.full(len(runs), len(builder.questions)),
            span=windows.in_windows(inside_text, runs, 1 + size + frame.between),
        )
        builder.questions.append(question)
        builder.names += [question.where] * len(runs)


# What an example consists of -> what tokenizes a block of them.
_READ = {"text": _texts, "words": _words, "question": _questions}
