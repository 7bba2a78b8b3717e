"""`image_csv:FILE`: image files that a csv file lists, with one class or several labels each.

    image_csv:/data/chexpert/{split}.csv        train.csv, valid.csv
    image_csv:/data/retina/trainLabels.csv      no splits: a fifth of the rows is held out as `test`

The first line names the columns. `image_key` is the column of the paths. `label_key` is a column of
classes, names or numbers; `label_keys` are columns of labels that an image can have together, each
1 (has it), 0 (has it not), -1 (uncertain) or blank. Without either there are no labels.

The images of a split are ordered by a hash of their path, as in `folder:PATH`; the hash also
chooses which ones are held out, so another row moves no image to another split.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np

from ssl_jax.config.fields import each, not_empty
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.data import class_names
from ssl_jax.data.folders import path_hash
from ssl_jax.data.image_files import FileSource, check_exists
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request
from ssl_jax.tasks.labels import class_name

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}
_HELD_OUT = 5  # without splits, one image in so many is in `test`
_SPLIT = "{split}"
_LABELS = {"1": 1, "0": 0, "-1": -1}


def dataset(
    location: str,
    request: Request,
    *,
    root: Annotated[str, "Folder of the paths, relative to that of the file."] = ".",
    image_key: Annotated[str, "Column of the paths of the images."] = "image",
    suffix: Annotated[str, "End of the files' names that the column leaves out: .jpeg"] = "",
    label_key: Annotated[str | None, "Column of the classes; None: no classes."] = None,
    label_keys: Annotated[
        tuple[str, ...] | None,
        each(not_empty),
        not_empty,
        "Columns of the labels that an image can have together; None: none.",
    ] = None,
    uncertain: Annotated[
        Literal["unknown", "absent", "present"],
        "What the label -1 means: unknown labels do not count in losses and scores.",
    ] = "unknown",
    blank: Annotated[Literal["absent", "unknown"], "What a blank label means."] = "absent",
) -> ImageTable:
    """The images that the file `location` lists.

    Raises:
      UserError: there is no such file, a column is missing, or both kinds of labels are named.
    """
    if label_key is not None and label_keys is not None:
        raise UserError(
            f"data.options.label_key is {label_key!r} and data.options.label_keys "
            f"{list(label_keys)}; set one of them"
        )
    meaning = {
        -1: {"unknown": -1, "absent": 0, "present": 1}[uncertain],
        None: {"unknown": -1, "absent": 0}[blank],
        0: 0,
        1: 1,
    }
    return ImageTable(location, request, root, image_key, suffix, label_key, label_keys, meaning)


class ImageTable:
    """The files; `splits` names what they divide into."""

    def __init__(
        self,
        location: str,
        request: Request,
        root: str,
        image_key: str,
        suffix: str,
        label_key: str | None,
        label_keys: Sequence[str] | None,
        meaning: Mapping[int | None, int],
    ):
        self._location, self._name = location, f"image_csv:{location}"
        self._paths = _files_of(location)
        folder = os.path.dirname(os.path.expanduser(location))
        self._root = os.path.normpath(os.path.join(folder, root))
        self._image_key, self._suffix = image_key, suffix
        self._label_key, self._label_keys = label_key, label_keys
        self._meaning = meaning
        self._canvas, self._strict = request.canvas(), request.strict
        self.splits = tuple(self._paths) if _SPLIT in location else ("train", "test")
        has_test = "test" in self.splits or "validation" not in self.splits
        self.aliases = {} if has_test else {"test": "validation"}

    def source(self, split: str) -> FileSource:
        """The images of a split.

        Raises:
          UserError: the file cannot be read, lacks a column, or has a bad label.
        """
        rows = self._rows(split)
        order = sorted(range(len(rows)), key=lambda i: path_hash(rows[i][self._image_key]))
        if _SPLIT not in self._location:
            is_test = split == "test"
            order = [i for i in order if self._held_out(rows[i]) == is_test]
        rows = [rows[i] for i in order]
        if not rows:
            raise UserError(f"{self._name} has no images for split {split!r}")
        paths = [row[self._image_key] + self._suffix for row in rows]
        check_exists(self._name, self._root, paths[0])
        labels: dict[str, Any] = {}
        if self._label_key is not None:
            classes, numbers = self._classes(rows)
            labels = {"labels": numbers, "num_classes": len(classes), "class_names": classes}
        elif self._label_keys is not None:
            labels = {"label_matrix": self._matrix(rows), "label_names": tuple(self._label_keys)}
        return FileSource(
            name=f"{self._name}[{split}]",
            canvas=self._canvas,
            strict=self._strict,
            root=self._root,
            names=Names(paths),
            **labels,
        )

    def _held_out(self, row: Mapping[str, str]) -> bool:
        return path_hash(row[self._image_key])[0] % _HELD_OUT == 0

    def _rows(self, split: str) -> list[dict[str, str]]:
        path = self._paths[split] if _SPLIT in self._location else self._paths["train"]
        needed = [self._image_key, *([self._label_key] if self._label_key else [])]
        needed += self._label_keys or ()
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, strict=True)
                header = reader.fieldnames or []
                for column in needed:
                    if column not in header:
                        raise UserError(
                            f"{path} has no column {column!r}; columns: {', '.join(header)}."
                            f"{nearest(column, header)}"
                        )
                rows = []
                for row in reader:
                    if None in row or None in row.values():
                        raise UserError(
                            f"{path}, line {reader.line_num} does not have the {len(header)} "
                            "columns that the first line names"
                        )
                    rows.append(row | {"": f"{path}, line {reader.line_num}"})
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        return rows

    def _classes(self, rows: Sequence[Mapping[str, str]]) -> tuple[tuple[str, ...], np.ndarray]:
        """The names of the classes of all splits, and the classes of these rows."""
        every = [row for split in self._paths for row in self._rows(split)]
        names = [class_name(row[self._label_key], row[""]) for row in every]
        classes = class_names.in_order({name for name in names if name not in (None, "-1")})
        if not classes:
            raise UserError(f"{self._name} has no label in the column {self._label_key!r}")
        number_of = {name: number for number, name in enumerate(classes)}
        own = [class_name(row[self._label_key], row[""]) for row in rows]
        return classes, np.array([number_of.get(name, -1) for name in own], np.int32)

    def _matrix(self, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
        """int8 [n k]."""
        out = np.empty((len(rows), len(self._label_keys)), np.int8)
        for i, row in enumerate(rows):
            for j, key in enumerate(self._label_keys):
                out[i, j] = self._meaning[_label(row[key], f"{row['']}: {key!r}")]
        return out


def _label(text: str, where: str) -> int | None:
    """1, 0, -1, or None for a blank."""
    text = text.strip()
    if not text:
        return None
    whole, point, zeros = text.partition(".")
    if whole not in _LABELS or (point and zeros.strip("0")):
        raise UserError(f"{where} is {text!r:.40}; write 1, 0, -1 (uncertain) or nothing")
    return _LABELS[whole]


def _files_of(location: str) -> dict[str, str]:
    """Split -> path; of a file without splits only `train`.

    Raises:
      UserError: there is no such file.
    """
    if "://" in location:
        raise UserError(f"image_csv:{location} is not a local path; mount the bucket (gcsfuse)")
    path = os.path.expanduser(location)
    if _SPLIT not in path:
        if not os.path.isfile(path):
            raise UserError(f"image_csv:{location}: {path} is not a file")
        return {"train": path}
    files = {}
    for split, names in _SPLIT_NAMES.items():
        paths = [path.replace(_SPLIT, name) for name in names]
        present = [candidate for candidate in paths if os.path.isfile(candidate)]
        if present:
            files[split] = present[0]
    if "train" not in files:
        raise UserError(f"image_csv:{location}: {path.replace(_SPLIT, 'train')} is not a file")
    return files


KIND = ImageKind(
    name="image_csv",
    location="FILE",
    dataset=dataset,
    num_labels=lambda location, options: len(options["label_keys"] or ()),
)
