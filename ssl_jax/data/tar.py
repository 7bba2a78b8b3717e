"""`tar:PATTERN`: WebDataset-style shards, read at random.

    tar:/data/imagenet-train-{0000..0146}.tar
    tar:/data/imagenet-{split}-*.tar            {split} becomes the split's name

An example is the files of one shard that share a name up to its first dot: an image (`n01.jpg`) and
perhaps its label, `n01.cls` (an integer as text) or `n01.json` with a key "label". Every process
scans the headers of the shards once and then reads straight at the members' offsets. Examples come
in the order of the shards, which their writers have usually shuffled.
"""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ssl_jax.data.folder import EXTENSIONS
from ssl_jax.data.names import Names
from ssl_jax.data.image import Canvas
from ssl_jax.data.request import Request
from ssl_jax.data.source import EncodedSource, Problem
from ssl_jax.errors import UserError

_IMAGES = frozenset(extension[1:] for extension in EXTENSIONS)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_SPLIT = "{split}"


def dataset(location: str, request: Request) -> Shards:
    """The shards whose paths match `location`: a path with {a,b}, {000..010}, *, ? or {split}."""
    if "://" in location:
        raise UserError(f"tar:{location} is not a local path; mount the bucket (gcsfuse)")
    return Shards(os.path.expanduser(location), request.canvas(), request.strict)


class Shards:
    """Shards by pattern. Without `{split}` in it they are all `train`."""

    def __init__(self, pattern: str, canvas: Canvas, strict: bool):
        self._pattern, self._canvas, self._strict = pattern, canvas, strict

    @property
    def splits(self) -> tuple[str, ...]:
        if _SPLIT not in self._pattern:
            return ("train",)
        before, after = self._pattern.split(_SPLIT, 1)
        found = set()
        for path in _matching(f"{before}*{after}"):
            for head, tail in itertools.product(expand_braces(before), expand_braces(after)):
                as_regex = f"{_as_regex(head)}([\\w-]+?){_as_regex(tail)}"
                if match := re.fullmatch(as_regex, path):
                    found.add(match[1])
        return tuple(sorted(found))

    def source(self, split: str) -> TarSource:
        """Scans the shards of a split.

        Raises:
          UserError: there are none, or no images in them, or one cannot be read at random.
        """
        pattern = self._pattern.replace(_SPLIT, split)
        shards = _matching(pattern)
        if not shards:
            raise UserError(f"no file matches tar:{pattern}")
        members: list[Member] = []
        problems: dict[str, str] = {}
        for number, shard in enumerate(shards):
            found, error = scan(shard, number)
            members += found
            if error and self._strict:
                raise UserError(f"{shard} is broken ({error}); data.strict=False takes what is whole")
            if error:
                problems[shard] = f"{error}; the {len(found)} whole images before are used"
        if not members:
            raise UserError(f"no images ({', '.join(sorted(_IMAGES))}) in tar:{pattern}")
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
        )


@dataclasses.dataclass
class TarSource(EncodedSource):
    """Members of tar files; `names` are the members' names.

    Attributes:
      shards: paths of the tar files.
      places: int64 [len 3], of each image its shard, first byte and number of bytes.
    """

    shards: tuple[str, ...] = dataclasses.field(kw_only=True)
    places: np.ndarray = dataclasses.field(kw_only=True)

    def __len__(self) -> int:
        return len(self.places)

    def _example(self, index: int) -> tuple[bytes, int]:
        shard, offset, length = self.places[index].tolist()
        with open(self.shards[shard], "rb", buffering=0) as file:
            encoded = os.pread(file.fileno(), length, offset)
        return encoded, -1 if self.labels is None else int(self.labels[index])

    def _example_name(self, index: int) -> str:
        return f"{self.shards[self.places[index, 0]]}:{self.names[index]}"

    def _rows(self, rows: slice) -> dict:
        return super()._rows(rows) | {"places": self.places[rows]}
