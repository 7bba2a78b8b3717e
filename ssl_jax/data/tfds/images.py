"""Sets of images that TensorFlow Datasets has prepared.

Images are decoded here, not by TFDS, so that the host can crop from the original.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.image_source import EncodedSource
from ssl_jax.data.request import Request
from ssl_jax.data.tfds import records as records_lib
from ssl_jax.data.tfds.facts import FACTORS, FACTS, SEVERAL_LABELS

_LABELS_AT_ONCE = 256  # records that a thread reads before it takes up others


class TfdsDataset:
    """A prepared TFDS data set."""

    def __init__(
        self,
        tfds: Any,
        location: str,
        builder: Any,
        request: Request,
        image_key: str | None,
        label_key: str | None,
    ):
        self._tfds, self._location, self._builder = tfds, location, builder
        features = builder.info.features
        self._factor_keys, factor = FACTORS.get(builder.name, ((), None))
        label_key = label_key or factor
        self._image_key = records_lib.key(
            location, features, "image_key", image_key, tfds.features.Image
        )
        self._label_key = records_lib.key(
            location, features, "label_key", label_key, tfds.features.ClassLabel
        )
        if self._image_key is None:
            raise UserError(
                f"tfds:{location} has no image feature; features: {', '.join(features)}"
            )
        height, width, channels = features[self._image_key].shape
        self._canvas = request.canvas(
            height if height is not None and height == width else None, 1 if channels == 1 else 3
        )
        self._strict = request.strict

    @property
    def splits(self) -> tuple[str, ...]:
        """Raises UserError if the data set is not prepared and so does not say."""
        known = getattr(FACTS.get(self._location), "splits", ())
        return records_lib.splits(self._location, self._builder, known)

    def source(self, split: str) -> TfdsSource:
        """Opens a split.

        Raises:
          UserError: the data set is not prepared, or not in a format that can be read at random.
        """
        records = records_lib.open_records(self._location, self._builder, split)
        # Set afterwards, because TFDS's mock would encode its images, which takes TensorFlow.
        records.decoders = {self._image_key: self._tfds.decode.SkipDecoding()}
        label = self._label_key and self._builder.info.features[self._label_key]
        several = SEVERAL_LABELS.get(self._builder.name)
        matrix = {} if several is None else self._label_matrix(records, split, several)
        return TfdsSource(
            **matrix,
            name=f"tfds:{self._location}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            num_classes=label.num_classes if label else None,
            class_names=_class_names(label) if label else None,
            records=records,
            rows=range(len(records)),
            image_key=self._image_key,
            label_key=self._label_key,
            factor_names=tuple(key.removeprefix("label_") for key in self._factor_keys) or None,
            factor_keys=self._factor_keys,
        )

    def _label_matrix(
        self, records: Any, split: str, several: tuple[str, str, int]
    ) -> dict[str, Any]:
        """`label_matrix` and `label_names`, from all records; no image is decoded.

        Raises:
          UserError: a record cannot be read.
        """
        every, clear, count = several
        matrix = np.zeros((len(records), count), np.int8)

        def fill(row: int) -> None:
            record = records_lib.read_record(self._location, split, records, row)
            matrix[row, np.asarray(record[every], int)] = -1
            matrix[row, np.asarray(record[clear], int)] = 1

        with futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            list(pool.map(fill, range(len(records))))
        names = self._builder.info.features[every].feature.names
        return {"label_matrix": matrix, "label_names": tuple(names)}


def _class_names(label: Any) -> tuple[str, ...] | None:
    """The names of a label's classes; None if TFDS has numbers in their place."""
    names = tuple(label.names or ())
    return None if names == tuple(map(str, range(len(names)))) else names


@dataclasses.dataclass
class TfdsSource(EncodedSource):
    """Records of one split.

    Attributes:
      records: TFDS's data source, which leaves images encoded.
      rows: the records this source consists of.
      image_key, label_key: features of a record.
      factor_keys: features of a record that are its factors.
    """

    records: Any = dataclasses.field(kw_only=True)
    rows: Sequence[int] = dataclasses.field(kw_only=True)
    image_key: str = dataclasses.field(kw_only=True)
    label_key: str | None = dataclasses.field(kw_only=True)
    factor_keys: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.rows)

    def _example(self, index: int) -> tuple[bytes | np.ndarray, int]:
        record = self.records[self.rows[index]]
        if self.labels is not None:
            label = self.labels[index]
        else:
            label = -1 if self.label_key is None else record[self.label_key]
        return record[self.image_key], int(label)

    def read_labels(self) -> np.ndarray | None:
        """Reads all records once, because a label is stored beside its image and not in an index.

        No image is decoded, so it takes as long as reading the files: 140 GB for ImageNet.

        Raises:
          UserError: a record cannot be read.
        """
        if self.labels is None and self.label_key is not None:
            self.labels = self._read_numbers((self.label_key,), "labels")[:, 0]
        return self.labels

    def read_factors(self) -> np.ndarray | None:
        """As `read_labels`, for the factors.

        Raises:
          UserError: a record cannot be read.
        """
        if self.factors is None and self.factor_keys:
            self.factors = self._read_numbers(self.factor_keys, "factors").astype(np.float32)
        return self.factors

    def _read_numbers(self, keys: tuple[str, ...], noun: str) -> np.ndarray:
        """Features of all records that are whole numbers, int32 [len k]."""

        def numbers(start: int) -> list[list[int]]:
            rows = self.rows[start : start + _LABELS_AT_ONCE]
            records = (self.records[row] for row in rows)
            return [[int(record[key]) for key in keys] for record in records]

        try:
            with futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
                parts = list(pool.map(numbers, range(0, len(self), _LABELS_AT_ONCE)))
        except Exception as error:  # readers of records raise all kinds on broken files
            raise UserError(
                f"the {noun} of {self.name} cannot be read: {type(error).__name__}: {error}"
            ) from error
        return np.array([row for part in parts for row in part], np.int32).reshape(-1, len(keys))

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        own = np.asarray(self.rows) if isinstance(rows, np.ndarray) else self.rows
        return super()._rows(rows) | {"rows": own[rows]}
