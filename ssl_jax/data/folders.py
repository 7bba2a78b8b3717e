"""Files in nested folders: splits, classes, and an order that is random and stays the same.

    PATH/train/cat/1.jpg  PATH/val/cat/2.jpg     splits by folder
    PATH/cat/1.jpg        PATH/dog/2.jpg         classes; a fifth of the files is held out as `test`
    PATH/1.jpg            PATH/2019/2.jpg        no classes (or one): everything is `train`

The files of a split are ordered by a hash of their path, so that a slice such as `train[:10%]` is a
random sample and not the first classes, and a file added later moves no other one to another split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names

# A split's name -> the folders it may be in. `test` falls back on the validation files, as the
# test files of several public sets have no labels.
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_HELD_OUT = 5  # of undivided class folders, one file in so many is in `test`


class Files(NamedTuple):
    """The files of a split.

    Attributes:
      top: the folder that they are in.
      paths: relative to it, `/` between folders.
      labels: int32 [n], -1 for files outside of class folders.
    """

    top: str
    paths: list[str]
    labels: np.ndarray


class Layout:
    """The splits and classes of the folders below `root`.

    Attributes:
      splits: names of the splits.
      aliases: further names of splits.
      classes: names of the classes in their order; empty without classes.

    Args:
      location: the folder, as the user wrote it.
      extensions: what the names of files end with, lower case.
      noun: what the files are, plural, for messages.

    Raises:
      UserError: no such folder, it is in a bucket, or no file below it ends so.
    """

    def __init__(self, location: str, extensions: Sequence[str], noun: str):
        self.root = folder_at("folder", location)
        self._extensions, self._noun = tuple(extensions), noun
        if not has_file(self.root, extensions):
            raise UserError(f"no {noun} ({', '.join(extensions)}) below {self.root}")
        present = {entry.name for entry in _folders(self.root)}
        folders = {
            split: next((name for name in names if name in present), None)
            for split, names in _SPLIT_FOLDERS.items()
        }
        # `train` beside `car` and `bus` is a class, not a split.
        others = present - {folders["train"]}
        other_splits = folders["validation"] or folders["test"]
        self._divided = bool(folders["train"] and (other_splits or not others))
        if self._divided:
            self._tops = {split: name for split, name in folders.items() if name}
            self.aliases = {name: split for split, name in self._tops.items()}
            if "test" not in self._tops and "validation" in self._tops:
                self.aliases["test"] = "validation"
            tops = [os.path.join(self.root, name) for name in self._tops.values()]
            classes = {entry.name for top in tops for entry in _folders(top)}
        else:
            classes, self.aliases = present, {}
            self._tops = dict.fromkeys(("train", "test") if len(classes) > 1 else ("train",), "")
        self.classes = class_names.in_order(classes) if len(classes) > 1 else ()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._tops)

    def files(self, split: str) -> Files:
        """Lists the files of a split.

        Raises:
          UserError: there are none.
        """
        top = os.path.join(self.root, self._tops[split])
        hashed = hashed_files(top, self._extensions)
        if not self._divided and self.classes:
            held_out = split == "test"
            hashed = [item for item in hashed if (item[0][0] % _HELD_OUT == 0) == held_out]
        if not hashed:
            raise UserError(
                f"no {self._noun} ({', '.join(self._extensions)}) for split {split!r} below {top}"
            )
        paths = [path for _, path in hashed]
        class_of = {name: label for label, name in enumerate(self.classes)}
        return Files(top, paths, np.array([_label(path, class_of) for path in paths], np.int32))


def folder_at(kind: str, location: str) -> str:
    """The folder that a data set is in.

    Raises:
      UserError: no such folder, or it is in a bucket.
    """
    if "://" in location:
        raise UserError(f"{kind}:{location} is not a local path; mount the bucket (gcsfuse)")
    root = os.path.expanduser(location)
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"{kind}:{location}: {root or 'the empty path'} {what}")
    return root


def path_hash(path: str) -> bytes:
    """Orders paths at random, once and for all."""
    return hashlib.blake2b(os.fsencode(path), digest_size=8).digest()


def hashed_files(top: str, extensions: Sequence[str]) -> list[tuple[bytes, str]]:
    """The files below `top` with the hash of their path, sorted by it."""
    return sorted((path_hash(path), path) for path in files_below(top, extensions))


def has_file(top: str, extensions: Sequence[str]) -> bool:
    """Whether there is a file below `top` whose name ends so; stops at the first."""
    return next(files_below(top, extensions), None) is not None


def _folders(path: str) -> list[os.DirEntry[str]]:
    """The folders in `path` that are not hidden."""
    with os.scandir(path) as entries:
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def files_below(root: str, extensions: Sequence[str]) -> Iterator[str]:
    """Paths of the files below `root` whose names end so, relative to it, `/` between folders."""
    extensions = tuple(extensions)
    seen = set()  # links to folders are followed, but not in circles
    pending = [""]
    while pending:
        folder = pending.pop()
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):  # .DS_Store, and ._1.jpg beside 1.jpg
                    continue
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir():
                    pending.append(path)
                elif entry.name.lower().endswith(extensions):
                    yield path


def _label(path: str, class_of: Mapping[str, int]) -> int:
    """The class of the topmost folder; files outside of class folders have none."""
    top, slash, _ = path.partition("/")
    return class_of[top] if slash and class_of else -1
