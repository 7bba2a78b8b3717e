"""Finds strings in the bytes of a sequence of tokens, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stop_automata(
    contents: Sequence[bytes], strings: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Automata (Knuth, Morris & Pratt 1977) that read tokens and find strings.

    A string may begin and end within tokens.

    Args:
      contents: the bytes of each token, v of them.
      strings: k strings, none of them empty.

    Returns:
      (table, last): int32 [k s v], the state after a token, from the state before it; state 0 is
      the first one. And int32 [k], the state of each automaton once its string has been found,
      which it keeps.
    """
    patterns = [string.encode("utf-8") for string in strings]
    longest = max(map(len, contents), default=0)
    letters = np.full((longest, len(contents)), 256, np.int64)  # 256 is no byte
    for token, content in enumerate(contents):
        letters[: len(content), token] = list(content)
    states = max(map(len, patterns)) + 1
    table = np.zeros((len(patterns), states, len(contents)), np.int32)
    for number, pattern in enumerate(patterns):
        step = _byte_automaton(pattern)
        state = np.repeat(np.arange(len(step))[:, None], len(contents), axis=1)
        for row in letters:
            state = step[state, row]
        table[number, : len(step)] = state
    return table, np.array([len(pattern) for pattern in patterns], np.int32)


def _byte_automaton(pattern: bytes) -> np.ndarray:
    """The state after a byte, int64 [len + 1, 257]; a state is the number of bytes that match."""
    step = np.zeros((len(pattern) + 1, 257), np.int64)
    step[:, 256] = np.arange(len(pattern) + 1)  # no byte
    fallback = 0  # the state after the pattern without its first byte
    for state, byte in enumerate(pattern):
        step[state, :256] = step[fallback, :256]
        step[state, byte] = state + 1
        if state:
            fallback = step[fallback, byte]
    step[len(pattern), :256] = len(pattern)
    return step
