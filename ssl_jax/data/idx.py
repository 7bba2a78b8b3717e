"""Images and labels in the IDX format of MNIST: raw arrays behind a short header.

    ...train-images-idx3-ubyte   ...t10k-images-idx3-ubyte (or ...test-images...)
    ...train-labels-idx1-ubyte   ...t10k-labels-idx1-ubyte (or ...test-labels...)

Each file may end in `.gz`. A header is big-endian: two zero bytes, the type (8: uint8), the number
of dimensions, and the dimensions as uint32 (LeCun et al., the MNIST database).
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import os
import re
import zlib
from collections.abc import Iterator
from typing import IO

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.image import Canvas, on_canvas
from ssl_jax.data.image_source import ArraySource

_FILE = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_TYPES = {
    0x08: "uint8", 0x09: "int8", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64",
}  # fmt: skip


def files_of(location: str, kind: str) -> dict[tuple[str, str], str]:
    """The files of a data set: (split, "images" or "labels") -> path.

    Args:
      location: their folder, or the folder and how their names begin, such as
        `emnist/emnist-letters` of a folder that holds several data sets.
      kind: of the data set, for messages.

    Raises:
      UserError: there is no such folder, or it has not one pair of files for each split.
    """
    where = f"{kind}:{location}" if location else kind
    if "://" in location:
        raise UserError(f"{where} is not a local path; mount the bucket (gcsfuse)")
    folder, prefix = os.path.expanduser(location), ""
    if not os.path.isdir(folder):
        folder, prefix = os.path.split(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{where}: {folder or 'the empty path'} is not a folder")
    files: dict[tuple[str, str], list[str]] = {}
    beginnings = set()
    for name in sorted(os.listdir(folder)):
        match = _FILE.fullmatch(name)
        if match and name.startswith(prefix):
            beginnings.add(match[1])
            files.setdefault((_SPLITS[match[2]], match[3]), []).append(name)
    if len(beginnings) > 1:
        choices = ", ".join(f"{kind}:{folder}/{start.rstrip('-')}" for start in sorted(beginnings))
        raise UserError(f"{where} holds several data sets; use one of {choices}")
    for (split, part), names in files.items():
        if len(names) > 1:
            raise UserError(f"{where}: {' and '.join(names)} are both the {part} of {split}")
        other = "labels" if part == "images" else "images"
        if (split, other) not in files:
            raise UserError(f"{where}: {names[0]} is there, but no {split}-{other} file beside it")
    if not files:
        raise UserError(
            f"{where}: no IDX files; they are called train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte and so on, perhaps with .gz"
        )
    return {key: os.path.join(folder, names[0]) for key, names in files.items()}


def read(path: str, num_dimensions: int) -> np.ndarray:
    """The array of an IDX file, uint8.

    Raises:
      UserError: it cannot be read, is damaged, or holds something else.
    """
    size = 4 + 4 * num_dimensions
    with _opened(path) as file:
        shape = _shape(path, file.read(size), num_dimensions)
        expected = int(np.prod(shape, dtype=object))
        # One byte more, to see whether the file goes on; never more than the header says.
        content = _read_up_to(file, expected + 1)
    if len(content) != expected:
        has = f"it ends after {len(content):,}" if len(content) < expected else "it has more"
        raise UserError(
            f"{path}: the header promises {' x '.join(map(str, shape))} = {expected:,} bytes, but "
            f"{has}; fetch the file again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """The content of a file, unpacked; what goes wrong while it is read is a UserError."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _shape(path: str, header: bytes, num_dimensions: int) -> tuple[int, ...]:
    if len(header) < 4 or header[:2] != b"\0\0" or header[2] not in _TYPES:
        raise UserError(f"{path} is not an IDX file: it begins with {header[:4].hex(' ')!r}")
    if header[2] != 0x08 or header[3] != num_dimensions:
        raise UserError(
            f"{path} holds {_TYPES[header[2]]} in {header[3]} dimensions; "
            f"expected uint8 in {num_dimensions}"
        )
    if len(header) < 4 + 4 * num_dimensions:
        raise UserError(f"{path} ends within its header; fetch the file again")
    return tuple(np.frombuffer(header, ">u4", num_dimensions, offset=4).tolist())


def _read_up_to(file: IO[bytes], size: int) -> bytes:
    """At most `size` bytes; memory grows with what is there, not with what a header says."""
    parts, missing = [], size
    while missing and (part := file.read(min(missing, 1 << 24))):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


class IdxImages:
    """The images and labels of IDX files.

    Args:
      where: the data set's name in messages.
      files: from `files_of`.
      canvas: what every image is put on.
      transpose: whether rows and columns are swapped.
      class_names: by label, None where they are not known.
    """

    def __init__(
        self,
        where: str,
        files: dict[tuple[str, str], str],
        canvas: Canvas,
        *,
        transpose: bool = False,
        class_names: tuple[str, ...] | None = None,
    ):
        self._where, self._files, self._canvas = where, files, canvas
        self._transpose, self._class_names = transpose, class_names
        self.splits = tuple(split for split in ("train", "test") if (split, "images") in files)

    def source(self, split: str) -> ArraySource:
        """A split, in memory.

        Raises:
          UserError: a file is damaged, or images and labels differ in number.
        """
        images = read(self._files[split, "images"], 3)
        labels = self._labels[split]
        if len(images) != len(labels):
            raise UserError(
                f"{self._files[split, 'images']} holds {len(images):,} images, but "
                f"{self._files[split, 'labels']} {len(labels):,} labels"
            )
        if not images.size:
            raise UserError(f"{self._files[split, 'images']} holds no images")
        if self._transpose:
            images = images.swapaxes(1, 2)
        return ArraySource(
            name=f"{self._where}[{split}]",
            canvas=self._canvas,
            images=on_canvas(images[..., None], self._canvas),
            labels=labels.astype(np.int32),
            num_classes=self._num_classes,
            class_names=self._class_names,
        )

    @functools.cached_property
    def _labels(self) -> dict[str, np.ndarray]:
        return {split: read(self._files[split, "labels"], 1) for split in self.splits}

    @property
    def _num_classes(self) -> int | None:
        """Of all splits: the largest label and those below it."""
        largest = max((int(x.max()) for x in self._labels.values() if x.size), default=-1)
        named = len(self._class_names or ())
        if named and largest >= named:
            raise UserError(f"{self._where} has label {largest}, but {named} classes")
        return named or largest + 1 or None


def image_size(path: str) -> int | None:
    """The side of the images of a file, pixels; None where they are not square.

    Raises:
      UserError: it is no IDX file of images.
    """
    with _opened(path) as file:
        _, height, width = _shape(path, file.read(16), 3)
    return height if height == width else None
