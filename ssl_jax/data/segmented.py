"""Folders of images with a PNG for each that has the class of every pixel.

The layouts of PASCAL VOC, ADE20K and any folders of the same names are kinds of
`ssl_jax.data.kinds`; what they share is here. A mask is one channel of 8 bits: a class, or 255 for
pixels that do not count. The colours of a palette are not looked at. A mask is cut and resized
like its image, to the label of the nearest pixel.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ssl_jax.core.errors import UserError
from ssl_jax.data.folders import files_below, path_hash
from ssl_jax.data.image import EXTENSIONS, Canvas
from ssl_jax.data.image_files import FileSource, check_exists
from ssl_jax.data.image_source import ImageSource
from ssl_jax.data.masks import IGNORED, Masks
from ssl_jax.data.names import Names
from ssl_jax.data.request import Request

_MASK_MODES = ("L", "P")


@dataclasses.dataclass(frozen=True)
class Segmented:
    """A data set of images with masks, listed when it is opened.

    The examples of a split are ordered by a hash of their path, as in `folder:PATH`.

    Attributes:
      name: of the data set, for messages.
      root: folder of the paths.
      request: options of every data set.
      classes: names of the classes by label.
      parts: for each split, image -> mask, paths relative to the root.
      first: the value of the first class in the files. 1: value 0 does not count, as in ADE20K.
      aliases: further names of splits.
    """

    name: str
    root: str
    request: Request
    classes: tuple[str, ...]
    parts: Mapping[str, Mapping[str, str]]
    first: int = 0
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def source(self, split: str) -> ImageSource:
        """The examples of a split.

        Raises:
          UserError: there are none, or the first image or mask does not exist.
        """
        mask_of = self.parts[split]
        if not mask_of:
            raise UserError(f"{self.name} has no images for split {split!r}")
        images = sorted(mask_of, key=path_hash)
        for path in (images[0], mask_of[images[0]]):
            check_exists(self.name, self.root, path)
        canvas = self.request.canvas()
        load = functools.partial(
            load_masks, root=self.root, canvas=canvas.whole, num_classes=len(self.classes),
            first=self.first,
        )  # fmt: skip
        # An image and its mask on one line: both are cut together where a split is divided.
        pairs = Names(f"{image}\n{mask_of[image]}" for image in images)
        return FileSource(
            name=f"{self.name}[{split}]",
            canvas=canvas,
            strict=self.request.strict,
            root=self.root,
            names=Names(images),
            masks=Masks(self.classes, pairs, load),
        )


def load_masks(
    pairs: Sequence[str], *, root: str, canvas: Canvas, num_classes: int, first: int
) -> np.ndarray:
    """Reads masks onto the canvas of their images: uint8 [n s s].

    Args:
      pairs: "image\\nmask", paths relative to `root`.
      root: the folder.
      canvas: of the whole images.
      num_classes: values outside of `num_classes` classes are errors.
      first: the value of the first class.

    Raises:
      UserError: a mask cannot be read, is no image of one channel with 8 bits, has another size
        than its image, or has a value that is no class.
    """
    out = np.empty((len(pairs), canvas.size, canvas.size), np.uint8)
    for row, pair in enumerate(pairs):
        image, mask = (os.path.join(root, path) for path in pair.split("\n"))
        out[row] = _relabelled(_on_canvas(image, mask, canvas), mask, num_classes, first)
    return out


def _on_canvas(image: str, mask: str, canvas: Canvas) -> np.ndarray:
    try:
        with Image.open(mask) as opened:
            if opened.mode not in _MASK_MODES:
                raise UserError(
                    f"mask {mask} has mode {opened.mode}; save the classes as one channel of 8 "
                    "bits (L, or P with a palette)"
                )
            values = Image.fromarray(np.asarray(opened))
        with Image.open(image) as opened:
            size = opened.size
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise all kinds on broken files
        raise UserError(
            f"mask {mask} or its image cannot be read ({type(error).__name__}: {error}); mend it, "
            "or remove both"
        ) from error
    if values.size != size:
        raise UserError(
            f"mask {mask} has {values.width}x{values.height} pixels, and its image "
            f"{size[0]}x{size[1]}"
        )
    (box,) = canvas.boxes(0, 0, 0)(*values.size)
    side = (canvas.size, canvas.size)
    return np.asarray(values.resize(side, Image.Resampling.NEAREST, box))


def _relabelled(values: np.ndarray, mask: str, num_classes: int, first: int) -> np.ndarray:
    """Labels from 0; values below `first` and 255 do not count.

    Raises:
      UserError: a value is no class.
    """
    counts = (values >= first) & (values != IGNORED)
    labels = np.where(counts, values.astype(np.int32) - first, IGNORED)
    if (labels[counts] >= num_classes).any():
        raise UserError(
            f"mask {mask} has the value {values[counts].max()}, but there are {num_classes} "
            f"classes, {first} to {first + num_classes - 1}, and 255 for pixels that do not count"
        )
    return labels.astype(np.uint8)


def paired(name: str, root: str, images: str, masks: str) -> dict[str, str]:
    """The images below a folder, each with the mask of the same name.

    Args:
      name: of the data set, for messages.
      root: folder of the data set.
      images, masks: folders in it; a mask has the path of its image and ends with ".png".

    Raises:
      UserError: a folder is missing, or an image has no mask.
    """
    for folder in (images, masks):
        if not os.path.isdir(os.path.join(root, folder)):
            raise UserError(f"{name} has no folder {folder}")
    below = sorted(files_below(os.path.join(root, images), EXTENSIONS))
    present = set(files_below(os.path.join(root, masks), (".png",)))
    mask_of = {path: f"{os.path.splitext(path)[0]}.png" for path in below}
    missing = [path for path, mask in mask_of.items() if mask not in present]
    if missing:
        raise UserError(
            f"{name}: {len(missing)} of {len(below)} images below {images} have no mask below "
            f"{masks}; first: {missing[0]}"
        )
    return {f"{images}/{path}": f"{masks}/{mask}" for path, mask in mask_of.items()}
