"""Small labelled texts for the shared tests: what is to be learned of them can be."""

from __future__ import annotations

import json
import os
import pathlib
import random
import tempfile

FOLDER = os.path.join(tempfile.gettempdir(), "ssl_jax_test_labelled_texts")
_WORDS = (
    "the", "a", "old", "new", "red", "small", "tall", "quiet", "ship", "river", "garden", "stone",
    "letter", "bridge", "winter",
)  # fmt: skip
_GOOD, _BAD = ("good", "fine", "great"), ("bad", "poor", "awful")
_NAMES = {"PER": ("anna", "bruno", "clara"), "LOC": ("oslo", "lima", "kyoto")}


def _sentence(rng: random.Random, *more: str) -> list[str]:
    words = rng.choices(_WORDS, k=rng.randint(4, 12)) + list(more)
    rng.shuffle(words)
    return words


def reviews(rng: random.Random) -> str:
    """A table whose class is told by one word."""
    lines = ["text,label"]
    for i in range(64):
        label, words = (("yes", _GOOD), ("no", _BAD))[i % 2]
        lines.append(f"{' '.join(_sentence(rng, rng.choice(words)))},{label}")
    return "\n".join(lines) + "\n"


def pairs(rng: random.Random) -> str:
    """A table of two sentences and the share of words of the first that the second has."""
    lines = ["first\tsecond\tlabel"]
    for i in range(64):
        words = _sentence(rng)
        kept = words[: len(words) * (i % 5) // 4]
        second = " ".join(kept) or "nothing"
        label = "" if i % 9 == 8 else f"{len(kept) / len(words):.3f}"  # some have none
        lines.append(f"{' '.join(words)}\t{second}\t{label}")
    return "\n".join(lines) + "\n"


def entities(rng: random.Random) -> str:
    """Sentences with names of people and places."""
    lines = []
    for i in range(64):
        kind = ("PER", "LOC")[i % 2]
        for word in _sentence(rng, rng.choice(_NAMES[kind])):
            lines.append(f"{word} {f'B-{kind}' if word in _NAMES[kind] else 'O'}")
        lines.append("")
    return "\n".join(lines)


def questions(rng: random.Random) -> str:
    """SQuAD: whoever is named in the text; every fourth question has no answer."""
    paragraphs = []
    for i in range(64):
        name = "" if i % 4 == 3 else rng.choice(_NAMES["PER"])
        context = " ".join(_sentence(rng, *([name] if name else [])))
        answers = [{"text": name, "answer_start": context.index(name)}] if name else []
        one = {
            "id": str(i), "question": "who is named?", "answers": answers,
            "is_impossible": not name,
        }  # fmt: skip
        paragraphs.append({"context": context, "qas": [one]})
    return json.dumps({"version": "v2.0", "data": [{"title": "x", "paragraphs": paragraphs}]})


FILES = {
    "reviews.csv": reviews,
    "pairs.tsv": pairs,
    "names.txt": entities,
    "questions.json": questions,
}


def path(name: str) -> str:
    """The path of one of FILES, made if it is not there."""
    found = pathlib.Path(FOLDER, name)
    text = FILES[name](random.Random(0))
    if not found.exists() or found.read_text(encoding="utf-8") != text:
        found.parent.mkdir(exist_ok=True)
        made = found.with_name(f"{name}.{os.getpid()}")
        made.write_text(text, encoding="utf-8")
        made.replace(found)  # other processes of the suite read it
    return str(found)
