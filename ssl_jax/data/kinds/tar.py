"""`tar:PATTERN`: WebDataset-style shards, read at random.

    tar:/data/imagenet-train-{0000..0146}.tar
    tar:/data/imagenet-{split}-*.tar            {split} becomes the split's name

An example is the files of one shard that share a name up to its first dot: an image (`n01.jpg`) and
perhaps its label, `n01.cls` (an integer as text) or `n01.json` with a key "label". Every process
scans the headers of the shards once and then reads straight at the members' offsets. Examples come
in the order of the shards, which their writers have usually shuffled.

A label is a whole number from 0. -1, null, an empty .cls and a .json without the key are no label;
what is neither is counted, and the first is named.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tarfile
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import patterns
from ssl_jax.data.image import EXTENSIONS, Canvas
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request
from ssl_jax.data.source import EncodedSource

_IMAGES = frozenset(extension[1:] for extension in EXTENSIONS)
_BLOCK = 512
_LARGEST_LABEL = 2**31 - 2  # so that an int32 holds the number of classes


def dataset(location: str, request: Request) -> Shards:
    """The shards whose paths match `location`: a path with {a,b}, {000..010}, *, ? or {split}."""
    if "://" in location:
        raise UserError(f"tar:{location} is not a local path; mount the bucket (gcsfuse)")
    return Shards(os.path.expanduser(location), request.canvas(), request.strict)


class Shards:
    """Shards by pattern. Without `{split}` in it they are all `train`."""

    def __init__(self, pattern: str, canvas: Canvas, strict: bool):
        self._pattern, self._canvas, self._strict = pattern, canvas, strict

    @functools.cached_property
    def splits(self) -> tuple[str, ...]:
        return patterns.splits("tar", self._pattern)

    def source(self, split: str) -> TarSource:
        """Scans the shards of a split.

        Raises:
          UserError: there are none, or no images in them, or one cannot be read at random.
        """
        shards = patterns.files("tar", self._pattern, split)
        members: list[Member] = []
        problems: dict[str, str] = {}
        unreadable: list[str] = []
        for number, shard in enumerate(shards):
            found, error, bad_labels = scan(shard, number)
            members += found
            unreadable += bad_labels
            if error and self._strict:
                raise UserError(f"{shard}: {error}; data.strict=False would use the rest")
            if error:
                problems[shard] = f"{error}; of its images, {len(found)} are used"
        if not members:
            raise UserError(f"no images ({', '.join(sorted(_IMAGES))}) in tar:{self._pattern}")
        labels = np.array([member.label for member in members], np.int32)
        labelled = bool((labels >= 0).any())
        return TarSource(
            name=f"tar:{self._pattern}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            shards=tuple(shards),
            places=np.array([member[:3] for member in members], np.int64),
            names=Names(member.name for member in members),
            labels=labels if labelled else None,
            num_classes=int(labels.max()) + 1 if labelled else None,
            problems=problems,
            bad_labels=tuple(unreadable),
        )


@dataclasses.dataclass
class TarSource(EncodedSource):
    """Members of tar files; `names` are the members' names.

    Attributes:
      shards: paths of the tar files.
      places: int64 [len 3], of each image its shard, first byte and number of bytes.
      bad_labels: the members whose label is no number from -1, with what they hold.
    """

    shards: tuple[str, ...] = dataclasses.field(kw_only=True)
    places: np.ndarray = dataclasses.field(kw_only=True)
    bad_labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.places)

    def _example(self, index: int) -> tuple[bytes, int]:
        shard, offset, length = self.places[index].tolist()
        with open(self.shards[shard], "rb", buffering=0) as file:
            encoded = os.pread(file.fileno(), length, offset)
        return encoded, -1 if self.labels is None else int(self.labels[index])

    def example_name(self, index: int) -> str:
        return f"{self.shards[self.places[index, 0]]}:{self.names[index]}"

    def notes(self) -> list[str]:
        if not self.bad_labels:
            return []
        count, plural = len(self.bad_labels), "s" if len(self.bad_labels) > 1 else ""
        return [
            *super().notes(),
            f"{count:,} label{plural} of {self.name} cannot be read, and their images have none; "
            f"first: {self.bad_labels[0]}, no number from 0",
        ]

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        return super()._rows(rows) | {"places": self.places[rows]}


class Member(NamedTuple):
    """An image in a shard: where its bytes are, what it is called, its label (-1 = none)."""

    shard: int
    offset: int
    length: int
    name: str
    label: int


def scan(path: str, shard: int) -> tuple[list[Member], str | None, list[str]]:
    """The images of one tar file.

    Args:
      path: the tar file.
      shard: number to give it in the result.

    Returns:
      (images, error, bad labels): what is wrong with the file, None if nothing is; and the members
      with a label that cannot be read, with what they hold.

    Raises:
      UserError: it is compressed, or not a tar file at all.
    """
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    bad_labels: list[str] = []
    end = 0
    error = None
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = os.fstat(file.fileno()).st_size
            while (info := tar.next()) is not None:
                tar.members = []  # or it keeps every header it has seen
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                if not info.isfile():
                    continue
                if info.offset_data + info.size > size:
                    break
                key, extension = _key(info.name)
                if extension in _IMAGES:
                    images[key] = Member(shard, info.offset_data, info.size, info.name, -1)
                elif extension in ("cls", "json"):
                    content = tar.extractfile(info).read()
                    try:
                        label = _label(content, extension)
                    except ValueError as problem:
                        bad_labels.append(f"{path}:{info.name} ({problem})")
                    else:
                        if label is not None:
                            labels[key] = label
            if os.pread(file.fileno(), _BLOCK, end) != bytes(_BLOCK):  # what a tar file ends with
                error = f"truncated: {size:,} bytes, and no end of archive"
    except tarfile.ReadError as problem:
        if end == 0:
            raise UserError(
                f"{path} is not an uncompressed tar file ({problem}); decompress it, members of "
                "compressed ones cannot be read at random"
            ) from None
        error = f"broken at byte {end:,}"
    members = [image._replace(label=labels.get(key, -1)) for key, image in images.items()]
    return members, error, bad_labels


def _key(name: str) -> tuple[str, str]:
    """What the files of one example share, and the extension: `a/b.seg.png` is a/b and seg.png."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _label(content: bytes, extension: str) -> int | None:
    """The label in a .cls or .json member; None for no label.

    Raises:
      ValueError: it is no whole number from -1; the message says what it is.
    """
    try:
        if extension == "cls":
            label = int(content) if content.strip() else None
        else:
            parsed = json.loads(content)
            label = parsed.get("label") if isinstance(parsed, dict) else None
    except ValueError:
        raise ValueError(_shown(content)) from None
    if label is None or (type(label) is int and label == -1):
        return None
    if type(label) is not int or not 0 <= label <= _LARGEST_LABEL:
        raise ValueError(f"{label!r:.40}")
    return label


def _shown(content: bytes) -> str:
    return f"{content[:40].decode(errors='replace')!r}"


KIND = ImageKind(name="tar", location="PATTERN", dataset=dataset)
