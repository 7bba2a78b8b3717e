"""`mappings`: generated texts of small mappings, which a model can learn to apply from examples.

    cat -> red          a document: one pair of a word and its answer a line
    plum -> gold
    owl -> red          words of one group have the same answer
    saw -> blue

The words are of four groups (animals, plants, tools, clothes). A mapping gives every group an
answer of its own out of eight colours: 8 * 7 * 6 * 5 = 1,680 mappings. Each document draws a
mapping and words. A word's group is never said: a model has to find out that words of a group go
together, and to read from the lines before which answer the group has in this document. A tenth of
the mappings are in `test` only.

Documents use from one to all words of a group. Half of them use one: there a model can learn to
copy the answer of the same word, from which the step to other words of its group is short. Without
these documents a small model does not learn it in some thousand steps.

With task=classify the examples are single pairs of mappings of `test`, which have the class `red`
and so on. Each mapping is a group of examples: three words of four are its `train`, the others its
`test`. They are for prompts (`ssl_jax.evals.prompting`); a class says nothing without its mapping.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from ssl_jax.config.fields import between, not_negative, positive
from ssl_jax.data import counter
from ssl_jax.data.labelled.examples import Examples, Text
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.text_kind import TextKind

SPLITS = ("train", "test")
GROUPS = {
    "animals": "cat dog cow hen pig fox owl bee",
    "plants": "pea nut fig oat rice corn plum pear",
    "tools": "saw axe pen key hook nail pump rope",
    "clothes": "hat cap boot belt coat sock ring veil",
}
WORDS = tuple(tuple(words.split()) for words in GROUPS.values())
ANSWERS = ("red", "blue", "green", "black", "white", "pink", "grey", "gold")
_HELD_OUT = 10  # one mapping in so many is in `test`
_TEST_WORDS = 4  # one word in so many is in `test` of an example's mapping

Mapping = tuple[int, ...]  # the answer of each group


def line(word: str, answer: str) -> str:
    """A line of a document."""
    return f"{word} -> {answer}"


def mappings(split: str, seed: int) -> list[Mapping]:
    """The mappings of a split, in an order that the seed draws."""
    every = list(itertools.permutations(range(len(ANSWERS)), len(WORDS)))
    stream = counter.key(seed, counter.Stream.MAPPINGS)
    order = np.argsort(counter.bits(stream, np.arange(len(every))))
    count = len(every) // _HELD_OUT
    chosen = order[:count] if split == "test" else order[count:]
    return [every[number] for number in chosen]


def corpus(
    location: str,
    *,
    documents: Annotated[int, positive, "Documents of train; test has a tenth."] = 32_000,
    lines: Annotated[int, between(1, 10_000), "Lines of a document."] = 12,
    mapping_seed: Annotated[int, not_negative, "Decides mappings and documents."] = 0,
) -> Mappings:
    """Documents; `location` is empty."""
    del location
    return Mappings(documents, lines, mapping_seed)


def examples(
    location: str,
    task: str,
    *,
    mapping_seed: Annotated[int, not_negative, "Decides mappings and documents."] = 0,
    num_mappings: Annotated[
        int, between(1, 168), "Mappings of `test` whose pairs are the examples."
    ] = 64,
) -> MappingPairs:
    """Pairs of mappings that no document of train has; `location` is empty."""
    del location
    return MappingPairs(task, mapping_seed, num_mappings)


class Mappings(corpus_lib.Corpus):
    """Documents about one mapping each; a function of the seed and the document's number."""

    splits = SPLITS

    def __init__(self, documents: int, lines: int, seed: int):
        self.description = {
            "kind": "mappings", "documents": documents, "lines": lines, "seed": seed,
            "words": corpus_lib.hash_of([GROUPS, ANSWERS]),
        }  # fmt: skip

    def parts(self, split: str) -> Iterator[corpus_lib.Part]:
        count, lines, seed = (self.description[key] for key in ("documents", "lines", "seed"))
        known = mappings(split, seed)
        if split == "test":
            count = max(1, count // 10)
        for number in range(count):
            text = document(known, lines, seed, SPLITS.index(split), number)
            yield from corpus_lib.documents(f"{split}/{number}", text)


def document(known: Sequence[Mapping], lines: int, seed: int, split: int, number: int) -> str:
    """A document about one of the known mappings, drawn from (seed, split, number)."""
    rng = np.random.default_rng([seed, split, number])
    mapping = known[rng.integers(len(known))]
    most = 1 if rng.random() < 0.5 else len(WORDS[0])
    used = [rng.permutation(len(words))[: rng.integers(1, most + 1)] for words in WORDS]
    pairs = []
    for group, number in zip(rng.integers(len(WORDS), size=lines), rng.random(lines), strict=True):
        word = used[group][int(number * len(used[group]))]
        pairs.append(line(WORDS[group][word], ANSWERS[mapping[group]]))
    return "\n".join(pairs)


class MappingPairs(Examples):
    """Single pairs of mappings."""

    splits = SPLITS
    class_names = ANSWERS

    def __init__(self, task: str, seed: int, num_mappings: int):
        self.name, self.task = "mappings", task
        self._mappings = mappings("test", seed)[:num_mappings]

    def read(self, split: str) -> Iterator[Text]:
        for number, mapping in enumerate(self._mappings):
            for group, words in enumerate(WORDS):
                for place, word in enumerate(words):
                    # Other words are left out of every mapping's train.
                    is_test = (place + number + group) % _TEST_WORDS == 0
                    if is_test == (split == "test"):
                        where = f"mapping {number}, {word!r}"
                        yield Text(where, word, None, ANSWERS[mapping[group]], f"{number}")


KIND = TextKind(name="mappings", corpus=corpus, examples=examples, example_tasks=("classify",))
