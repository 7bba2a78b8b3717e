"""Counter-based random numbers: each is computed on its own, on any machine, in any order.

The generator is SplitMix64 (Steele, Lea and Flood 2014): the n-th output of the stream `key` is
`mix(key + n * GOLDEN)`. It needs no state and does not depend on the version of NumPy, so a batch
is a pure function of (seed, step) and an example of (seed, index).
"""

from __future__ import annotations

import enum

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stream(enum.IntEnum):
    """What random numbers are for. It is a word of the key, so that draws of one seed for different
    purposes are independent."""

    SHUFFLE = 1  # the order of an epoch
    CROPS = 2  # host crops
    LABELS = 3  # which examples keep their label
    TOKENIZER = 4  # documents that a tokenizer is trained on
    PAIRS = 5  # pairs of texts
    DOCUMENTS = 6  # the documents of a sub-split
    CLASSES = 7  # the classes and examples of `pk`
    MAPPINGS = 8  # the splits of `mappings`
    WINDOWS = 9  # where windows of recordings begin
    SPEECH = 10  # synthetic speech
    LESIONS = 11  # drawn discs with small marks
    MARGINALS = 12  # values of the columns of a table


def _mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser, a bijection of uint64."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def key(*words: int) -> int:
    """A stream's key from any integers, e.g. `key(seed, epoch)`; their order matters."""
    state = 0
    for word in words:
        state = int(_mix(np.array([(state + _GOLDEN + word) & _MASK], np.uint64))[0])
    return state


def keys(*words: int | np.ndarray) -> np.ndarray:
    """`key` of arrays of words, which broadcast: uint64 of their shape."""
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = _mix(state + np.uint64(_GOLDEN) + np.asarray(word).astype(np.uint64))
    return state


def bits(stream: int | np.ndarray, counters: np.ndarray) -> np.ndarray:
    """uint64 of the stream at `counters` (any non-negative integers); distinct where they are.

    Args:
      stream: a key, or an array of keys that broadcasts against `counters`.
      counters: the counters.
    """
    counters = np.asarray(counters).astype(np.uint64)
    with np.errstate(over="ignore"):
        return _mix(np.asarray(stream, np.uint64) + (counters + np.uint64(1)) * np.uint64(_GOLDEN))


def uniform(stream: int, counters: np.ndarray) -> np.ndarray:
    """float64 in [0, 1) of the stream at `counters`, 53 bits each."""
    return (bits(stream, counters) >> np.uint64(11)) * 2.0**-53
