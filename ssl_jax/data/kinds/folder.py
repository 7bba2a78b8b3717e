"""`folder:PATH`: image files in nested folders, with class folders or without.

    PATH/train/cat/1.jpg  PATH/val/cat/2.jpg     splits by folder
    PATH/cat/1.jpg        PATH/dog/2.jpg         classes; a fifth of the files is held out as `test`
    PATH/1.jpg            PATH/2019/2.jpg        no classes (or one): everything is `train`

The examples of a split are ordered by a hash of their path, so that a slice such as `train[:10%]`
is a random sample and not the first classes, and a file added later moves no other one to another
split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data import class_names
from ssl_jax.data.image import EXTENSIONS, Canvas
from ssl_jax.data.image_files import FileSource, folder_at, image_files, path_hash
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request

# A split's name -> the folders it may be in. `test` falls back on the validation images, as the
# test images of several public sets have no labels.
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_HELD_OUT = 5  # of undivided class folders, one file in so many is in `test`


def dataset(location: str, request: Request) -> Folder:
    """The images below the folder `location`.

    Raises:
      UserError: no such folder, or it is in a bucket.
    """
    return Folder(folder_at("folder", location), request.canvas(), request.strict)


class Folder:
    """Image files below `root`; `splits` names what they divide into."""

    def __init__(self, root: str, canvas: Canvas, strict: bool):
        self._root, self._canvas, self._strict = root, canvas, strict
        present = {entry.name for entry in _folders(root)}
        found = {
            split: next((name for name in names if name in present), None)
            for split, names in _SPLIT_FOLDERS.items()
        }
        # `train` beside `car` and `bus` is a class, not a split.
        others = present - {found["train"]}
        other_splits = found["validation"] or found["test"]
        self._divided = bool(found["train"] and (other_splits or not others))
        if self._divided:
            self._tops = {split: name for split, name in found.items() if name}
            self.aliases = {name: split for split, name in self._tops.items()}
            if "test" not in self._tops and "validation" in self._tops:
                self.aliases["test"] = "validation"
            tops = [os.path.join(root, name) for name in self._tops.values()]
            classes = {entry.name for top in tops for entry in _folders(top)}
        else:
            classes, self.aliases = present, {}
            self._tops = dict.fromkeys(("train", "test") if len(classes) > 1 else ("train",), "")
        self._classes = class_names.in_order(classes) if len(classes) > 1 else ()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._tops)

    def source(self, split: str) -> FileSource:
        """Lists the files of a split.

        Raises:
          UserError: there are none.
        """
        top = os.path.join(self._root, self._tops[split])
        hashed = _hashed(top)
        if not self._divided and self._classes:
            held_out = split == "test"
            hashed = [item for item in hashed if (item[0][0] % _HELD_OUT == 0) == held_out]
        if not hashed:
            raise UserError(f"no images ({', '.join(EXTENSIONS)}) for split {split!r} below {top}")
        paths = [path for _, path in hashed]
        class_of = {name: label for label, name in enumerate(self._classes)}
        labels = np.array([_label(path, class_of) for path in paths], np.int32)
        labelled = bool((labels >= 0).any())
        return FileSource(
            name=f"folder:{self._root}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            root=top,
            names=Names(paths),
            labels=labels if labelled else None,
            num_classes=len(self._classes) if labelled else None,
            class_names=self._classes if labelled else None,
        )


def _folders(path: str) -> list[os.DirEntry[str]]:
    """The folders in `path` that are not hidden."""
    with os.scandir(path) as entries:
        return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _hashed(top: str) -> list[tuple[bytes, str]]:
    """The image files below `top` with the hash of their path, sorted by it."""
    return sorted((path_hash(path), path) for path in image_files(top))


def _label(path: str, class_of: Mapping[str, int]) -> int:
    """The class of the topmost folder; files outside of class folders have none."""
    top, slash, _ = path.partition("/")
    return class_of[top] if slash and class_of else -1


KIND = ImageKind(name="folder", location="PATH", dataset=dataset)
