"""Word vectors in the two formats of word2vec.c, which gensim, fastText and others read.

    text     `V d\\n`, then for each word `word x1 ... xd\\n`
    binary   `V d\\n`, then for each word `word `, d float32 in little-endian order, `\\n`

Readers separate at blanks, so no word has one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from ssl_jax.core.errors import UserError


def write(path: str, words: Sequence[str], vectors: np.ndarray, *, binary: bool) -> None:
    """Writes a file of vectors.

    Args:
      path: of the file.
      words: v different words in UTF-8, the most frequent first, without blanks.
      vectors: float [v d].
      binary: which format. The text has as many digits as float32 needs to be read back equal.

    Raises:
      ValueError: a word has a blank or is empty, or the lengths differ.
    """
    vectors = np.asarray(vectors, "<f4")
    if len(words) != len(vectors):
        raise ValueError(f"{len(words)} words have {len(vectors)} vectors")
    bad = [word for word in words if word.split() != [word]]
    if bad:
        raise ValueError(f"word {bad[0]!r} is empty or has a blank")
    with open(path, "wb") as file:
        file.write(f"{len(words)} {vectors.shape[1]}\n".encode())
        for word, vector in zip(words, vectors, strict=True):
            if binary:
                file.write(word.encode() + b" " + vector.tobytes() + b"\n")
            else:
                numbers = " ".join(np.format_float_scientific(x, unique=True) for x in vector)
                file.write(f"{word} {numbers}\n".encode())


def read(path: str, *, binary: bool) -> tuple[list[str], np.ndarray]:
    """The words and their vectors, float32 [v d].

    Binary files of gensim, without `\\n` behind a vector, are read too.

    Raises:
      UserError: the file cannot be read or is not of this format.
    """
    try:
        with open(path, "rb") as file:
            size, dim = map(int, file.readline().split())
            words, vectors = [], np.empty((size, dim), np.float32)
            content = io.BytesIO(file.read())
            for row in range(size):
                read_one = _binary_row if binary else _text_row
                word, vectors[row] = read_one(content, dim)
                words.append(word)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        kind = "binary" if binary else "text"
        raise UserError(f"{path} has no word vectors in the {kind} format: {error}") from None
    return words, vectors


def _text_row(file: BinaryIO, dim: int) -> tuple[str, np.ndarray]:
    word, *numbers = file.readline().decode().rstrip().split(" ")
    if len(numbers) != dim:
        raise ValueError(f"word {word!r} has {len(numbers)} numbers, not {dim}")
    return word, np.array(numbers, np.float32)


def _binary_row(file: BinaryIO, dim: int) -> tuple[str, np.ndarray]:
    word = bytearray()
    while (character := file.read(1)) != b" ":
        if not character:
            raise ValueError("it ends early")
        word += character
    content = file.read(4 * dim)
    if len(content) != 4 * dim:
        raise ValueError("it ends early")
    return word.lstrip(b"\n").decode(), np.frombuffer(content, "<f4")
