"""The records of data sets that TensorFlow Datasets has prepared, and their features."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ssl_jax.core.errors import UserError, nearest


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
    except ModuleNotFoundError as error:
        raise UserError(
            f"tfds:{location} needs a package that is not installed, also for reading "
            f"({' '.join(str(error).split())}); features of audio need: pip install tensorflow"
        ) from None
    except (ValueError, AssertionError) as error:  # no such config or version
        raise UserError(f"tfds:{location}: {' '.join(str(error).split())}") from None


def splits(location: str, builder: Any, known: Iterable[str]) -> tuple[str, ...]:
    """The splits of a data set, `known` ones where it does not say.

    Raises:
      UserError: it is not prepared and none are known.
    """
    names = builder.info.splits or known
    if not names:
        raise _not_prepared(location, builder)
    return tuple(names)


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


def key(location: str, features: Any, option: str, asked: str | None, kind: type) -> str | None:
    """The name of the one feature of this kind, or of the one asked for; None if there is none."""
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    if asked is not None:
        if asked not in names:
            raise UserError(
                f"tfds:{location}: {option} {asked!r} is not one of {', '.join(names) or 'none'}."
                f"{nearest(asked, names)}"
            )
        return asked
    usual = option.removesuffix("_key")
    if usual in names or len(names) == 1:
        return usual if usual in names else names[0]
    if names:
        raise UserError(
            f"tfds:{location} has several features that could be it ({', '.join(names)}); set "
            f"data.options.{option}"
        )
    return None


def read_record(location: str, split: str, source: Any, number: int) -> dict[str, Any]:
    """One record of a split.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return source[number]
    except Exception as error:  # readers of records raise all kinds on broken files
        raise UserError(
            f"tfds:{location}[{split}] cannot be read at {number}: {type(error).__name__}: {error}"
        ) from error


def plain(value: Any) -> Any:
    """A feature's value as Python has it."""
    if isinstance(value, bytes | np.bytes_):  # but str in TFDS's mock
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.ndarray | np.generic) and not value.ndim else value
