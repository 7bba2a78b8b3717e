"""Questions for prompts: labelled examples of a data set, and demonstrations for each of them."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax import data
from ssl_jax.config import fields
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data import counter
from ssl_jax.data.class_names import in_order
from ssl_jax.data.labelled import examples as examples_lib
from ssl_jax.data.text.text_kind import TextKind
from ssl_jax.evals.prompts.template import Shown

_MOST_TRAIN = 100_000  # examples of train that demonstrations are drawn from
_CHARACTERS = 20_000  # of a text; no context is that long


@dataclasses.dataclass(frozen=True)
class Question:
    """An example to answer.

    Attributes:
      shown: what a template shows of it.
      gold: right answers.
      group: number of the group it is from, -1 for none.
    """

    shown: Shown
    gold: tuple[str, ...]
    group: int = -1


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of a data set.

    Attributes:
      name: of the data set.
      train: those that demonstrations are drawn from.
      test: those that are asked.
      choices: the answers there are; empty where an answer is any text.
    """

    name: str
    train: Sequence[Question]
    test: Sequence[Question]
    choices: tuple[str, ...]

    def demonstrations(self, count: int, seed: int, *, of_group: bool) -> list[list[Question]]:
        """`count` examples of train for each question of test, drawn at random without repetition.

        The first ones of a larger count are those of a smaller one. An example with the texts of
        the question itself is not drawn.

        Args:
          count: examples for each question.
          seed: of the draws.
          of_group: draw from the question's own group.

        Raises:
          UserError: there are not so many.
        """
        pools = collections.defaultdict(list)
        for question in self.train:
            pools[question.group if of_group else -1].append(question)
        drawn = []
        for number, question in enumerate(self.test):
            pool = pools[question.group if of_group else -1]
            order = np.argsort(counter.bits(counter.key(seed, number), np.arange(len(pool))))
            texts = question.shown.text, question.shown.pair
            some = []
            for place in order if count else ():
                one = pool[place]
                if (one.shown.text, one.shown.pair) != texts:
                    some.append(one)
                if len(some) == count:
                    break
            if len(some) < count:
                where = "its group in train" if of_group else "train"
                raise UserError(
                    f"a question of {self.name} has {len(some)} demonstrations in {where}, fewer "
                    f"than {count}; ask for at most {len(some)} (eval.prompting.shots)"
                )
            drawn.append(some)
        return drawn


def read(
    name: str,
    options: Mapping[str, Any],
    *,
    train_split: str,
    test_split: str,
    answers: Mapping[str, str],
    limit: int,
) -> Questions:
    """Reads the labelled examples of a data set.

    Args:
      name, options: the data set; `task` is classify (the classes are the choices) or span.
      train_split, test_split: whole splits.
      answers: class -> the word that stands for it; others have their names.
      limit: questions of test at most, evenly spaced.

    Raises:
      UserError: the data set has no examples for prompts, no such split, or no labels.
    """
    found = _open(name, options)
    names = {split: found.aliases.get(split, split) for split in (train_split, test_split)}
    for key, split in (("train_split", train_split), ("test_split", test_split)):
        if names[split] not in found.splits:
            raise UserError(
                f"eval.prompting.{key} is {split!r}, but {name} has {', '.join(found.splits)}."
                f"{nearest(split, found.splits)}"
            )
    classes: tuple[str, ...] = ()
    if found.task == "classify":
        classes = found.class_names or in_order(
            {str(one.label) for one in found.read(found.label_source()) if one.label is not None}
        )
        if unknown := set(answers).difference(classes):
            raise UserError(
                f"eval.prompting.answers: {name} has no class {min(unknown)!r}; classes: "
                f"{', '.join(classes)}.{nearest(min(unknown), classes)}"
            )
    words = {one: answers.get(one, one) for one in classes}
    if len(set(words.values())) < len(words):
        raise UserError("eval.prompting.answers has one word for two classes")
    groups: dict[str, int] = {}
    train = _questions(found.read(names[train_split]), words, groups)
    test = _questions(found.read(names[test_split]), words, groups)
    if not train or not test:
        raise UserError(f"{name} has no labelled examples in {train_split if test else test_split}")
    return Questions(
        name,
        [train[i] for i in _evenly(len(train), _MOST_TRAIN)],
        [test[i] for i in _evenly(len(test), limit)],
        tuple(words.values()),
    )


def _open(name: str, options: Mapping[str, Any]) -> examples_lib.Examples:
    kind, location = data.kind_of(name)
    known = (*kind.tasks,)
    task = options.get("task")
    if isinstance(kind, TextKind):
        task = kind.task_of(location, options) or ("classify" if "classify" in known else None)
    if not isinstance(kind, TextKind) or kind.examples is None or task not in ("classify", "span"):
        raise UserError(
            f"eval.prompting.data is {name!r}, task {task}; prompts need texts with classes "
            "(task=classify) or questions with answers (task=span)"
        )
    own = fields.section(kind.examples)
    values = {key: value for key, value in options.items() if key != "task"}
    made = kind.examples(location, task, **fields.read(own, values, "eval.prompting.options"))
    if not isinstance(made, examples_lib.Examples):
        raise UserError(
            f"eval.prompting.data is {name!r}: its documents are too long for prompts; use a data "
            "set of labelled examples, such as csv:FILE"
        )
    return made


def _questions(
    examples: Iterable[examples_lib.Example], words: Mapping[str, str], groups: dict[str, int]
) -> list[Question]:
    out = []
    for example in examples:
        group = -1 if example.group is None else groups.setdefault(example.group, len(groups))
        if isinstance(example, examples_lib.Question):
            gold = tuple(dict.fromkeys(text for text, _ in example.answers or ()))
            shown = Shown(example.context, gold[0] if gold else "", example.question)
            if not gold:
                continue
        elif example.label in words:
            gold = (words[example.label],)
            shown = Shown(example.first, gold[0], example.second or "")
        else:
            continue  # no label
        text, pair = shown.text[:_CHARACTERS].strip(), shown.pair[:_CHARACTERS].strip()
        out.append(Question(shown._replace(text=text, pair=pair), gold, group))
    return out


def _evenly(count: int, limit: int) -> np.ndarray:
    if count <= limit:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).astype(int)
