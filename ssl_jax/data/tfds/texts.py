"""Sets of text that TensorFlow Datasets has prepared, such as wikipedia, c4 and lm1b."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from ssl_jax.core.errors import UserError
from ssl_jax.data.labelled import tables
from ssl_jax.data.labelled.examples import Examples, Text, Words
from ssl_jax.data.labelled.tables import Keys, Record
from ssl_jax.data.text import corpus as corpus_lib
from ssl_jax.data.text.option_types import DataDir, TextPairKey
from ssl_jax.data.tfds import records as records_lib
from ssl_jax.tasks.registry import TASKS

# Of sets without their configs, as TFDS divides them; those that are prepared say so themselves.
_SPLITS = {
    "ag_news_subset": ("train", "test"),
    "c4": ("train", "validation"),
    "imdb_reviews": ("train", "test", "unsupervised"),
    "lm1b": ("train", "test"),
    "wiki40b": ("train", "validation", "test"),
    "wikipedia": ("train",),
}


def corpus(
    location: str,
    *,
    data_dir: DataDir = None,
    text_key: Annotated[
        str | None, "Feature that is the text; None: the only one that can be, or `text`."
    ] = None,
    label_key: Annotated[
        str | None, "Feature that is the label; None: the only one that can be, if any."
    ] = None,
) -> TfdsCorpus:
    """The data set `location`, e.g. "wikipedia/20230601.en".

    Raises:
      UserError: there is no such data set, it is not prepared or not in a format that can be read
        at random, or its features do not say which is the text.
    """
    tfds, builder = records_lib.open_builder(location, data_dir)
    return TfdsCorpus(tfds, location, builder, text_key, label_key)


def examples(
    location: str,
    task: str,
    *,
    data_dir: DataDir = None,
    text_key: Annotated[
        str | None, "Feature that is the text; None: the only one that can be, or `text`."
    ] = None,
    text_pair_key: TextPairKey = None,
    label_key: Annotated[str | None, "Feature that is the label; None: `label`."] = None,
) -> TfdsExamples:
    """The labelled examples of the data set `location`, e.g. "imdb_reviews".

    Raises:
      UserError: as `corpus`.
    """
    return TfdsExamples(location, task, data_dir, text_key, text_pair_key, label_key or "label")


class TfdsExamples(Examples):
    """A prepared TFDS data set of labelled text."""

    def __init__(
        self, location: str, task: str, data_dir: str | None, text_key: str | None,
        text_pair_key: str | None, label_key: str,
    ):  # fmt: skip
        tfds, self._builder = records_lib.open_builder(location, data_dir)
        features, text = self._builder.info.features, tfds.features.Text
        key = records_lib.key(location, features, "text_key", text_key, text)
        if key is None:
            raise UserError(f"tfds:{location} has no text feature; features: {', '.join(features)}")
        if text_pair_key is not None:
            records_lib.key(location, features, "text_pair_key", text_pair_key, text)
        self.name, self.task, self._location = f"tfds:{location}", task, location
        known = _SPLITS.get(self._builder.name, ())
        self.splits = records_lib.splits(location, self._builder, known)
        self._keys = Keys(key, text_pair_key, label_key)
        label = dict(features.items()).get(label_key)
        if TASKS[task].labels_examples and isinstance(label, tfds.features.ClassLabel):
            self.class_names = tuple(label.names)

    def read(self, split: str) -> Iterator[Text | Words]:
        names = None if self.class_names is None else {self._keys.label: self.class_names}
        return tables.examples(
            records(self._location, self._builder, split, names), self.task, self._keys
        )


def records(
    location: str,
    builder: Any,
    split: str,
    class_names: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Record]:
    """The records of a split, texts as str.

    Args:
      location: the data set, for messages.
      builder: TFDS's.
      split: the split.
      class_names: of features that are numbers of classes; the names then stand for the numbers,
        and -1 stays.

    Raises:
      UserError: the data set is not prepared, or a record cannot be read.
    """
    source = records_lib.open_records(location, builder, split)
    for number in range(len(source)):
        fields = {
            key: records_lib.plain(value)
            for key, value in records_lib.read_record(location, split, source, number).items()
        }
        for key, names in (class_names or {}).items():
            if fields[key] >= 0:
                fields[key] = names[fields[key]]
        yield Record(f"tfds:{location}[{split}], example {number}", fields)


class TfdsCorpus(corpus_lib.Corpus):
    """A prepared TFDS data set of text."""

    def __init__(
        self, tfds: Any, location: str, builder: Any, text_key: str | None, label_key: str | None
    ):
        features = builder.info.features
        self._text_key = records_lib.key(
            location, features, "text_key", text_key, tfds.features.Text
        )
        self._label_key = records_lib.key(
            location, features, "label_key", label_key, tfds.features.ClassLabel
        )
        if self._text_key is None:
            raise UserError(f"tfds:{location} has no text feature; features: {', '.join(features)}")
        self._location, self._builder = location, builder
        self.splits = records_lib.splits(location, builder, _SPLITS.get(builder.name, ()))
        if self._label_key is not None:
            self.class_names = tuple(features[self._label_key].names)
        self.description = {
            "kind": "tfds",
            "location": location,
            "name": builder.info.full_name,
            "options": {"text_key": self._text_key, "label_key": self._label_key},
            "examples": {split: len(self._records(split)) for split in self.splits},
        }

    def _records(self, split: str) -> Any:
        return records_lib.open_records(self._location, self._builder, split)

    def parts(self, split: str) -> Iterator[corpus_lib.Part]:
        records = self._records(split)
        for number in range(len(records)):
            record = records_lib.read_record(self._location, split, records, number)
            text = records_lib.plain(record[self._text_key])
            label = None if self._label_key is None else int(record[self._label_key])
            yield from corpus_lib.documents(f"{split}:{number}", str(text), label)
