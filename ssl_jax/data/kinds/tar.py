"""`tar:PATTERN`: WebDataset-style shards, read at random.

    tar:/data/imagenet-train-{0000..0146}.tar
    tar:/data/imagenet-{split}-*.tar            {split} becomes the split's name

An example is the files of one shard that share a name up to its first dot: an image (`n01.jpg`) or,
if an option of audio is set, such as `window`, a recording (`n01.flac`); and perhaps its label,
`n01.cls` (an integer as text) or `n01.json` with a key "label". Every process scans the headers of
the shards once and then reads straight at the members' offsets. Examples come in the order of the
shards, which their writers have usually shuffled.

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
from ssl_jax.data.audio import files as audio_files
from ssl_jax.data.audio.audio_kind import AudioKind
from ssl_jax.data.audio.audio_source import AudioOptions, AudioSource, chosen_targets
from ssl_jax.data.audio.file_recordings import scan_headers
from ssl_jax.data.audio.tar_recordings import Part, TarRecordings
from ssl_jax.data.image import EXTENSIONS, Canvas
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.image_or_audio_kind import ImageOrAudioKind
from ssl_jax.data.image_source import EncodedSource
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request

_IMAGES = frozenset(extension[1:] for extension in EXTENSIONS)
_RECORDINGS = frozenset(extension[1:] for extension in audio_files.EXTENSIONS)
_BLOCK = 512
_LARGEST_LABEL = 2**31 - 2  # so that an int32 holds the number of classes


def dataset(location: str, request: Request) -> Shards:
    """The shards whose paths match `location`: a path with {a,b}, {000..010}, *, ? or {split}."""
    return Shards(_pattern(location), request.canvas(), request.strict)


def _pattern(location: str) -> str:
    if "://" in location:
        raise UserError(f"tar:{location} is not a local path; mount the bucket (gcsfuse)")
    return os.path.expanduser(location)


class _Scanned(NamedTuple):
    """The examples of a split.

    Attributes:
      shards: paths of the tar files.
      members: in the order of the shards.
      labels: int32 [n]; None without any label.
      num_classes: None without any label.
      problems: broken shards, and what is wrong with them.
      bad_labels: the members whose label is no number from -1, with what they hold.
    """

    shards: tuple[str, ...]
    members: list[Member]
    labels: np.ndarray | None
    num_classes: int | None
    problems: dict[str, str]
    bad_labels: tuple[str, ...]


def _scan_split(
    pattern: str, split: str, strict: bool, extensions: frozenset[str], noun: str
) -> _Scanned:
    """Scans the shards of a split for files with these extensions.

    Raises:
      UserError: there are none, or no such files in them, or one cannot be read at random.
    """
    shards = patterns.files("tar", pattern, split)
    members: list[Member] = []
    problems: dict[str, str] = {}
    unreadable: list[str] = []
    for number, shard in enumerate(shards):
        in_shard, error, bad_labels = scan(shard, number, extensions)
        members += in_shard
        unreadable += bad_labels
        if error and strict:
            raise UserError(f"{shard}: {error}; data.strict=False would use the rest")
        if error:
            problems[shard] = f"{error}; of its {noun}, {len(in_shard)} are used"
    if not members:
        raise UserError(f"no {noun} ({', '.join(sorted(extensions))}) in tar:{pattern}")
    labels = np.array([member.label for member in members], np.int32)
    labelled = bool((labels >= 0).any())
    return _Scanned(
        tuple(shards),
        members,
        labels if labelled else None,
        int(labels.max()) + 1 if labelled else None,
        problems,
        tuple(unreadable),
    )


class Shards:
    """Shards of images by pattern. Without `{split}` in it they are all `train`."""

    def __init__(self, pattern: str, canvas: Canvas, strict: bool):
        self._pattern, self._canvas, self._strict = pattern, canvas, strict

    @functools.cached_property
    def splits(self) -> tuple[str, ...]:
        return patterns.splits("tar", self._pattern)

    def source(self, split: str) -> TarSource:
        """Scans the shards of a split; errors as of `_scan_split`."""
        scanned = _scan_split(self._pattern, split, self._strict, _IMAGES, "images")
        return TarSource(
            name=f"tar:{self._pattern}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            shards=scanned.shards,
            places=np.array([member[:3] for member in scanned.members], np.int64),
            names=Names(member.name for member in scanned.members),
            labels=scanned.labels,
            num_classes=scanned.num_classes,
            problems=scanned.problems,
            bad_labels=scanned.bad_labels,
        )


def audio_dataset(location: str, request: Request, read: AudioOptions) -> AudioShards:
    """The recordings in the shards whose paths match `location`."""
    return AudioShards(_pattern(location), read, request.strict)


class AudioShards:
    """Shards of recordings by pattern. Without `{split}` in it they are all `train`."""

    def __init__(self, pattern: str, read: AudioOptions, strict: bool):
        self._pattern, self._read, self._strict = pattern, read, strict

    @functools.cached_property
    def splits(self) -> tuple[str, ...]:
        return patterns.splits("tar", self._pattern)

    def source(self, split: str) -> AudioSource:
        """Scans the shards of a split, and reads the headers of the recordings.

        Raises:
          UserError: as of `_scan_split`, or no recording can be read.
        """
        scanned = _scan_split(self._pattern, split, self._strict, _RECORDINGS, "recordings")
        places = np.array([member[:3] for member in scanned.members], np.int64)
        names = [f"{scanned.shards[member.shard]}:{member.name}" for member in scanned.members]
        kept, lengths, problems = scan_headers(
            f"tar:{self._pattern}",
            names,
            lambda number: Part(scanned.shards[places[number, 0]], *places[number, 1:].tolist()),
            rate=self._read.sample_rate,
            strict=self._strict,
        )
        recordings = TarRecordings(
            shards=scanned.shards,
            places=places[kept],
            names=Names(names[number] for number in kept.tolist()),
            lengths=lengths,
            labels=None if scanned.labels is None else scanned.labels[kept],
            rate=self._read.sample_rate,
        )
        return AudioSource(
            name=f"tar:{self._pattern}[{split}]",
            recordings=recordings,
            options=self._read,
            targets=chosen_targets({}, self._read, f"tar:{self._pattern}"),
            strict=self._strict,
            num_classes=scanned.num_classes,
            problems=scanned.problems | problems,
            earlier_notes=_of_bad_labels(scanned.bad_labels, f"tar:{self._pattern}", "recordings"),
        )


def _of_bad_labels(bad_labels: tuple[str, ...], name: str, noun: str) -> tuple[str, ...]:
    """A line on labels that cannot be read; none without any."""
    if not bad_labels:
        return ()
    count, plural = len(bad_labels), "s" if len(bad_labels) > 1 else ""
    return (
        f"{count:,} label{plural} of {name} cannot be read, and their {noun} have none; "
        f"first: {bad_labels[0]}, no number from 0",
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
        return [*super().notes(), *_of_bad_labels(self.bad_labels, self.name, "images")]

    def _rows(self, rows: slice | np.ndarray) -> dict[str, Any]:
        return super()._rows(rows) | {"places": self.places[rows]}


class Member(NamedTuple):
    """An image or a recording in a shard: where its bytes are, its name, its label (-1 = none)."""

    shard: int
    offset: int
    length: int
    name: str
    label: int


def scan(
    path: str, shard: int, extensions: frozenset[str] = _IMAGES
) -> tuple[list[Member], str | None, list[str]]:
    """The images or recordings of one tar file.

    Args:
      path: the tar file.
      shard: number to give it in the result.
      extensions: of the images or recordings.

    Returns:
      (members, error, bad labels): what is wrong with the file, None if nothing is; and the members
      with a label that cannot be read, with what they hold.

    Raises:
      UserError: it is compressed, or not a tar file at all.
    """
    examples: dict[str, Member] = {}
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
                if extension in extensions:
                    examples[key] = Member(shard, info.offset_data, info.size, info.name, -1)
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
    members = [member._replace(label=labels.get(key, -1)) for key, member in examples.items()]
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


KIND = ImageOrAudioKind(
    name="tar",
    location="PATTERN",
    images=ImageKind(name="tar", location="PATTERN", dataset=dataset),
    recordings=AudioKind(
        name="tar", location="PATTERN", dataset=audio_dataset, targets=lambda options: ()
    ),
)
