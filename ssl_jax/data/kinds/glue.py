"""`glue:NAME`: the tasks of GLUE (Wang et al. 2019), as TensorFlow Datasets prepares them.

    glue:mrpc    glue:mnli    glue:mnli_mismatched

The labels of the test splits are not public; those splits have none here. Of `mnli`, `validation`
is the matched one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ssl_jax.data.kinds import tfds as tfds_lib
from ssl_jax.data.kinds import tfds_text
from ssl_jax.data.labelled import glue_tasks, tables
from ssl_jax.data.labelled.tables import Keys
from ssl_jax.data.labelled.tasks import Examples, Text, Words


def examples(location: str, task: str, *, data_dir: str | None = None) -> Glue:
    """The GLUE task `location`.

    Args:
      location: its name.
      task: what it is, classify or regress.
      data_dir: where TFDS has prepared it; default TFDS's own (`~/tensorflow_datasets`).

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
        _, self._builder = tfds_lib.open_builder(self._location, data_dir)

    def read(self, split: str) -> Iterator[Text | Words]:
        # The hidden labels of a test split are -1 in the files, of STS-B too.
        label = None if split.startswith("test") else "label"
        keys = Keys(self.about.fields[0], (*self.about.fields, None)[1], label)
        there = self.about.splits.get(split, split)
        names = None if self.class_names is None else {"label": self.class_names}
        records = tfds_text.records(self._location, self._builder, there, names)
        return tables.examples(records, self.task, keys)
