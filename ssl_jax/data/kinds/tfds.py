"""`tfds:NAME[/CONFIG][:VERSION]`: data sets prepared by TensorFlow Datasets.

Reading at random needs a preparation in ArrayRecord files. Preparing most public sets needs
TensorFlow, once; reading does not. Images are decoded here, not by TFDS, so that the host can crop
from the original. Sets of text are read by `tfds_text`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data.known import TFDS
from ssl_jax.data.request import Request
from ssl_jax.data.source import EncodedSource
from ssl_jax.data.text import text_source

_LABELS_AT_ONCE = 256  # records that a thread reads before it takes up others


def dataset(
    location: str,
    request: Request,
    *,
    data_dir: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
) -> TfdsDataset | text_source.Text:
    """The data set `location`, e.g. "cifar10" or "imagenet2012_subset/1pct:5.0.0".

    Args:
      location: what `tfds.builder` takes.
      request: what is asked of every data set.
      data_dir: where it is prepared; default TFDS's own (`~/tensorflow_datasets`).
      image_key: the feature that is the image; default the only one that can be.
      label_key: the feature that is the label; default the only one that can be, if any.

    Raises:
      UserError: there is no such data set, it is not prepared or not in a format that can be read
        at random, or its features do not say which is the image.
    """
    tfds, builder = open_builder(location, data_dir)
    kinds = tuple(type(feature) for feature in builder.info.features.values())
    if image_key is None and tfds.features.Text in kinds and tfds.features.Image not in kinds:
        given = {"data_dir": data_dir, "label_key": label_key}
        options = {name: value for name, value in given.items() if value is not None}
        return text_source.dataset("tfds", location, request, options)
    return TfdsDataset(tfds, location, builder, request, image_key, label_key)


def open_builder(location: str, data_dir: str | None) -> tuple[Any, Any]:
    """TFDS and its builder of a data set.

    Raises:
      UserError: there is no such data set, or TFDS is not installed.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"tfds:{location} needs tensorflow-datasets ({error}); pip install tensorflow-datasets"
        ) from None
    try:
        return tfds, tfds.builder(location, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        hint = nearest(re.split("[/:]", location)[0], known)
        raise UserError(f"TFDS has no data set {location!r}.{hint}") from None
    except (ValueError, AssertionError) as error:  # no such config or version
        raise UserError(f"tfds:{location}: {' '.join(str(error).split())}") from None


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
        self._image_key = key(location, features, "image_key", image_key, tfds.features.Image)
        self._label_key = key(location, features, "label_key", label_key, tfds.features.ClassLabel)
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
        known = getattr(TFDS.get(self._location), "splits", ())
        return splits(self._location, self._builder, known)

    def source(self, split: str) -> TfdsSource:
        """Opens a split.

        Raises:
          UserError: the data set is not prepared, or not in a format that can be read at random.
        """
        records = open_records(self._location, self._builder, split)
        # Set afterwards, because TFDS's mock would encode its images, which takes TensorFlow.
        records.decoders = {self._image_key: self._tfds.decode.SkipDecoding()}
        label = self._label_key and self._builder.info.features[self._label_key]
        return TfdsSource(
            name=f"tfds:{self._location}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            num_classes=label.num_classes if label else None,
            class_names=tuple(label.names) if label and label.names else None,
            records=records,
            rows=range(len(records)),
            image_key=self._image_key,
            label_key=self._label_key,
        )


def splits(location: str, builder: Any, known: Iterable[str]) -> tuple[str, ...]:
    """The splits of a data set, `known` ones where it does not say.

    Raises:
      UserError: it is not prepared and none are known.
    """
    found = builder.info.splits or known
    if not found:
        raise _not_prepared(location, builder)
    return tuple(found)


def open_records(location: str, builder: Any, split: str) -> Any:
    """The records of a split, to be read at random.

    Raises:
      UserError: the data set is not prepared, or not in a format that can be read so.
    """
    try:
        return builder.as_data_source(split=split)
    except (NotImplementedError, ValueError, AssertionError, OSError):
        if not builder.info.splits:
            raise _not_prepared(location, builder) from None
        raise UserError(
            f"tfds:{location} in {builder.data_dir} consists of {builder.info.file_format.value} "
            "files, which cannot be read at random; convert it: tfds convert_format "
            f"--dataset_dir={builder.data_dir} --out_file_format=array_record (needs: pip install "
            "tensorflow)"
        ) from None


def _not_prepared(location: str, builder: Any) -> UserError:
    root = str(builder.data_dir_root)
    return UserError(
        f"tfds:{location} is not prepared in {builder.data_dir}; prepare it: python -c "
        f'"import tensorflow_datasets as tfds; tfds.builder({location!r}, '
        f"data_dir={root!r}, file_format='array_record').download_and_prepare()\" "
        "(needs: pip install tensorflow)"
    )


@dataclasses.dataclass
class TfdsSource(EncodedSource):
    """Records of one split.

    Attributes:
      records: TFDS's data source, which leaves images encoded.
      rows: the records this source consists of.
      image_key, label_key: features of a record.
    """

    records: Any = dataclasses.field(kw_only=True)
    rows: Sequence[int] = dataclasses.field(kw_only=True)
    image_key: str = dataclasses.field(kw_only=True)
    label_key: str | None = dataclasses.field(kw_only=True)

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
        if self.labels is not None or self.label_key is None:
            return self.labels

        def labels(start: int) -> list[int]:
            rows = self.rows[start : start + _LABELS_AT_ONCE]
            return [int(self.records[row][self.label_key]) for row in rows]

        try:
            with futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
                parts = list(pool.map(labels, range(0, len(self), _LABELS_AT_ONCE)))
        except Exception as error:  # readers of records raise all kinds on broken files
            raise UserError(
                f"the labels of {self.name} cannot be read: {type(error).__name__}: {error}"
            ) from error
        self.labels = np.array([label for part in parts for label in part], np.int32)
        return self.labels

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        if isinstance(rows, np.ndarray):
            return super()._rows(rows) | {"rows": np.asarray(self.rows)[rows]}
        return super()._rows(rows) | {"rows": self.rows[rows]}


def key(location: str, features: Any, option: str, asked: str | None, kind: type) -> str | None:
    """The name of the one feature of this kind, or of the one asked for; None if there is none."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if asked is not None:
        if asked not in found:
            raise UserError(
                f"tfds:{location}: {option} {asked!r} is not one of {', '.join(found) or 'none'}."
                f"{nearest(asked, found)}"
            )
        return asked
    usual = option.removesuffix("_key")
    if usual in found or len(found) == 1:
        return usual if usual in found else found[0]
    if found:
        raise UserError(
            f"tfds:{location} has several features that could be it ({', '.join(found)}); set "
            f"data.options.{option}"
        )
    return None
