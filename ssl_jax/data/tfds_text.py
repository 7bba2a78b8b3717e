"""`tfds:NAME`: text sets of TensorFlow Datasets, such as wikipedia, c4 and lm1b.

As for images, reading needs a preparation in ArrayRecord files. A data set is taken as text if it
has a text feature and no image, or if an option of text is set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ssl_jax.data import corpus as corpus_lib
from ssl_jax.data import tfds as tfds_lib
from ssl_jax.errors import UserError

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
    data_dir: str | None = None,
    text_key: str | None = None,
    label_key: str | None = None,
) -> TfdsCorpus:
    """The data set `location`, e.g. "wikipedia/20230601.en".

    Args:
      location: what `tfds.builder` takes.
      data_dir: where it is prepared; default TFDS's own (`~/tensorflow_datasets`).
      text_key: the feature that is the text; default the only one that can be, or `text`.
      label_key: the feature that is the label; default the only one that can be, if any.

    Raises:
      UserError: there is no such data set, it is not prepared or not in a format that can be read
        at random, or its features do not say which is the text.
    """
    tfds, builder = tfds_lib.open_builder(location, data_dir)
    return TfdsCorpus(tfds, location, builder, text_key, label_key)


class TfdsCorpus(corpus_lib.Corpus):
    """A prepared TFDS data set of text."""

    def __init__(
        self, tfds: Any, location: str, builder: Any, text_key: str | None, label_key: str | None
    ):
        features = builder.info.features
        self._text_key = tfds_lib.key(location, features, "text_key", text_key, tfds.features.Text)
        self._label_key = tfds_lib.key(
            location, features, "label_key", label_key, tfds.features.ClassLabel
        )
        if self._text_key is None:
            raise UserError(f"tfds:{location} has no text feature; features: {', '.join(features)}")
        self._location, self._builder = location, builder
        self.splits = tfds_lib.splits(location, builder, _SPLITS.get(builder.name, ()))
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
        return tfds_lib.open_records(self._location, self._builder, split)

    def parts(self, split: str) -> Iterator[corpus_lib.Part]:
        records = self._records(split)
        for number in range(len(records)):
            try:
                record = records[number]
            except Exception as error:  # readers of records raise all kinds on broken files
                raise UserError(
                    f"tfds:{self._location}[{split}] cannot be read at {number}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            text = record[self._text_key]
            if isinstance(text, bytes | np.bytes_):  # but str in TFDS's mock
                text = text.decode(errors="replace")
            label = None if self._label_key is None else int(record[self._label_key])
            yield from corpus_lib.documents(f"{split}:{number}", str(text), label)
