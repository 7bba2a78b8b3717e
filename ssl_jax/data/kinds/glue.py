"""`glue:NAME`: the tasks of GLUE (Wang et al. 2019), as TensorFlow Datasets prepares them.

    glue:mrpc    glue:mnli    glue:mnli_mismatched

The labels of the test splits are not public; those splits have none here. Of `mnli`, `validation`
is the matched one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ssl_jax.core.errors import UserError
from ssl_jax.data.kind import Facts
from ssl_jax.data.labelled import glue_tasks, tables
from ssl_jax.data.labelled.examples import Examples, Text, Words
from ssl_jax.data.labelled.tables import Keys
from ssl_jax.data.text.option_types import DataDir
from ssl_jax.data.text.text_kind import TextKind
from ssl_jax.data.tfds import records, texts


def examples(location: str, task: str, *, data_dir: DataDir = None) -> Glue:
    """The GLUE task `location`; `task` is classify or regress.

    Raises:
      UserError: there is no such task.
    """
    return Glue(location, task, data_dir)


class Glue(Examples):
    """One task of GLUE."""

    def __init__(self, location: str, task: str, data_dir: str | None):
        self.about = glue_tasks.task(location)
        self.name, self.task = f"glue:{location}", task
        self.splits = tuple(self.about.sizes)
        self.aliases = self.about.aliases
        self.class_names, self.metrics = self.about.class_names, self.about.metrics
        self._location = f"glue/{self.about.prepared}"
        with contextlib.suppress(ImportError):  # without it, the next line says so
            import tensorflow_datasets.text  # noqa: F401  TFDS does not know glue before
        _, self._builder = records.open_builder(self._location, data_dir)

    def read(self, split: str) -> Iterator[Text | Words]:
        # The hidden labels of a test split are -1 in the files, of STS-B too.
        label = None if split.startswith("test") else "label"
        keys = Keys(self.about.fields[0], (*self.about.fields, None)[1], label)
        there = self.about.splits.get(split, split)
        names = None if self.class_names is None else {"label": self.class_names}
        read = texts.records(self._location, self._builder, there, names)
        return tables.examples(read, self.task, keys)


def known(location: str) -> Facts:
    """The facts of a task."""
    about = glue_tasks.task(location)
    names = about.class_names
    return Facts(about.sizes, None if names is None else len(names), aliases=about.aliases)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlueKind(TextKind):
    """A data set's name says what its labels are for."""

    def task_of(self, location: str, values: Mapping[str, Any]) -> str:
        asked, task = values.get("task"), glue_tasks.task(location).task
        if asked not in (None, task):
            raise UserError(f"data.options.task is {asked!r}, but glue:{location} is {task}")
        return task


KIND = GlueKind(
    name="glue",
    location="NAME",
    examples=examples,
    example_tasks=("classify", "regress"),
    known=known,
)
