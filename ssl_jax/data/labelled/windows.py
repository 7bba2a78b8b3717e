"""Windows of texts that are longer than a row, and where an answer lies in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled.examples import Question
from ssl_jax.data.text.tokenizer import Tokenizer

_ASTRAY = 3  # characters by which an answer may begin elsewhere than is said


def sliding(length: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, length) of windows of a text: one each `stride` tokens until its end is in one.

    BERT, code of SQuAD. A text without tokens has one empty window.
    """
    start = 0
    while True:
        yield start, min(room, length - start)
        if start + room >= length:
            return
        start += min(stride, room)


def whole_words(sizes: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """(start, length) in tokens of runs of whole words, as many in each as fit.

    Args:
      sizes: tokens of each word, none more than `room`.
      room: tokens of a run.
    """
    start = length = 0
    for size in sizes:
        if length + size > room:
            yield start, length
            start, length = start + length, 0
        length += size
    yield start, length


def with_offsets(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a text, uint32 [t], and where they begin and end in it, int32 [t 2].

    Blanks in front of a word are no part of it, whatever the tokenizer says.
    """
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    tokens = np.array(encoding.ids, np.uint32)
    offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    blank = np.fromiter(map(str.isspace, text), bool, len(text))
    places = np.where(blank, len(text), np.arange(len(text)))
    # The first character from each on that is no blank.
    following = np.append(np.minimum.accumulate(places[::-1])[::-1], len(text))
    offsets[:, 0] = np.minimum(following[offsets[:, 0]], offsets[:, 1])
    return tokens, offsets


def answer_tokens(question: Question, offsets: np.ndarray) -> tuple[int, int] | None:
    """The first and last token of the first answer to a question, None where there is none.

    Args:
      question: with the text it is about.
      offsets: int32 [t 2], of the text's tokens.

    Raises:
      UserError: the answer is not where it is said to be.
    """
    if not question.answers:
        return None
    text, said = question.answers[0]
    begin = _found(question, text, said)
    touched = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < begin + len(text)))
    # A tokenizer may leave nothing of an answer, such as one control character.
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def _found(question: Question, text: str, said: int) -> int:
    """Where an answer begins; that is sometimes a character or two beside where it is said to."""
    context = question.context
    shifts = sorted(range(-_ASTRAY, _ASTRAY + 1), key=abs)
    for begin in (said + shift for shift in shifts):
        if begin >= 0 and context.startswith(text, begin) and text:
            return begin
    there = context[max(said, 0) :][: max(len(text), 10)]
    elsewhere = context.find(text) if text else -1
    if elsewhere < 0:
        what = "is nowhere in its text"
    else:
        what = (
            f"is at character {elsewhere:,} of its text, not {said:,}, where {there!r:.60} stands"
        )
    raise UserError(
        f"{question.where}: the answer {text!r:.60} {what}; repair it or leave the question out"
    )


def in_windows(answer: tuple[int, int] | None, runs: np.ndarray, begin: int) -> np.ndarray:
    """Where an answer is in the rows of its windows, int32 [w 2]; 0 and 0 where it is not whole.

    Args:
      answer: its first and last token in the text.
      runs: int [w 2], start and length of the windows.
      begin: where the text begins in the rows.
    """
    out = np.zeros((len(runs), 2), np.int32)
    if answer is not None:
        start, length = runs.T
        whole = (answer[0] >= start) & (answer[1] < start + length)
        out[whole] = np.array(answer) - start[whole, None] + begin
    return out
