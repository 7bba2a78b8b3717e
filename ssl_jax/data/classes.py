"""Keeps the examples of some classes: a run learns these, and is evaluated on classes it never saw.

    data.classes = "train half"    the first half of the classes; "test half" is the other one
    data.classes = "0-4,7"         classes by number; those with names also by name: "cat,dog"
    data.classes = "not 0-4,7"     all others

Class-disjoint splits are the protocol of metric learning: a representation is judged by classes
that no loss has seen (Song et al. 2016, Sec. 5). CUB-200's classes 0-99 of 200, CARS196's 0-97 of
196 and the first five digits are all "train half"; of an odd number the first half is the smaller
one. The chosen classes are numbered anew, in their order. Examples without a label are left out, as
their class may be any. `eval.classes` says which classes evaluations see, by default the others.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.class_names import shown
from ssl_jax.data.source import Source

TRAIN_HALF, TEST_HALF = "train half", "test half"
UNSEEN, SEEN, ALL = "unseen", "seen", "all"
_FORMS = "write 'train half', '0-4,7', 'cat,dog' or 'not 0-4,7'"
_KEY = "data.classes"


def evaluated(classes: str | None, which: str) -> str | None:
    """The classes that evaluations of a run see; None: all.

    Args:
      classes: `data.classes` of the run.
      which: `eval.classes`: UNSEEN, SEEN, ALL, or classes written as those of the run.
    """
    if classes is None or which == ALL:
        return None
    if which not in (UNSEEN, SEEN):
        return which
    return classes if which == SEEN else _others(classes)


def _others(classes: str) -> str:
    text = classes.strip()
    halves = {TRAIN_HALF: TEST_HALF, TEST_HALF: TRAIN_HALF}
    if text in halves:
        return halves[text]
    return text.removeprefix("not ") if text.startswith("not ") else f"not {text}"


def chosen(classes: str, num_classes: int, names: tuple[str, ...] | None = None) -> np.ndarray:
    """Numbers of the chosen classes, int [k] ascending.

    Args:
      classes: as `data.classes`.
      num_classes: of the data.
      names: of the classes, where known.

    Raises:
      UserError: a class does not exist, or none is chosen, or none is left out.
    """
    text = classes.strip()
    half = num_classes // 2
    if text in (TRAIN_HALF, TEST_HALF):
        kept = np.arange(num_classes) < half
        kept = kept if text == TRAIN_HALF else ~kept
    else:
        listed = text.removeprefix("not ")
        kept = np.zeros(num_classes, bool)
        for item in listed.split(","):
            kept[_numbers(item.strip(), classes, num_classes, names)] = True
        kept = ~kept if listed != text else kept
    if not kept.any() or kept.all():
        which = "all" if kept.all() else "none"
        raise UserError(
            f"{_KEY} is {classes!r}, which is {which} of the {num_classes} classes; {_FORMS}"
        )
    return np.flatnonzero(kept)


def _numbers(
    item: str, classes: str, num_classes: int, names: tuple[str, ...] | None
) -> range | int:
    """The classes of one item of a list."""
    match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", item)
    if match:
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UserError(f"{_KEY} is {classes!r}, and {item} runs backwards; {_FORMS}")
        if last >= num_classes:
            raise UserError(
                f"{_KEY} is {classes!r}, but the classes are 0 to {num_classes - 1}; {_FORMS}"
            )
        return range(first, last + 1)
    if names is not None and item in names:
        return names.index(item)
    known = "" if names is None else f": {shown(names)}"
    raise UserError(
        f"{_KEY} is {classes!r}, and {item!r} is no class of the {num_classes}{known}; "
        f"{_FORMS}.{nearest(item, names or ())}"
    )


def select(source: Source, classes: str) -> Source:
    """The examples of some classes of a source, numbered anew.

    Raises:
      UserError: it has no labels of classes, or see `chosen`, or no example is left.
    """
    if source.spec.task is not None or not source.examples_are_labelled:
        raise UserError(f"{_KEY} is for images, and {source.name} is text; leave it out")
    labels = source.read_labels()
    if labels is None or not source.num_classes:
        raise UserError(
            f"{_KEY} is {classes!r}, but {source.name} has no labels, so its classes cannot be "
            "told apart; leave it out"
        )
    names = source.class_names
    kept = chosen(classes, source.num_classes, None if names is None else tuple(names))
    number = np.full(source.num_classes + 1, -1, np.int32)  # the last entry is that of label -1
    number[kept] = np.arange(len(kept))
    rows = np.flatnonzero(number[labels] >= 0)
    if not len(rows):
        raise UserError(f"{_KEY} is {classes!r}, but {source.name} has no example of these classes")
    part = source.take(rows).relabelled(number[labels[rows]])
    return dataclasses.replace(
        part,
        name=f"{source.name} (classes: {classes})",
        num_classes=len(kept),
        class_names=None if names is None else tuple(names[i] for i in kept),
    )
