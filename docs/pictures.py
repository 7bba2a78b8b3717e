"""Draws the pictures of the gallery: python docs/pictures.py runs/methods_fashion

For every finished run of seed 0 of the sweep `sweeps/methods:fashion`, one picture in
`results/gallery/`: left the first test image of each class, beside it the five training images with
the most similar features. A frame marks neighbours of another class.

Methods that predict pixels have another in `results/gallery/predicted/`: the same test images
above, what the method sees of them (if that is not all), and what it makes of that below.

Pictures have the pixels of the images, so that all together stay small; pages show them enlarged.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

NEIGHBOURS = 5
GAP = 2  # pixels between images, of which a frame takes one
GROUND, FRAME = 255, 254  # indices of colours; smaller ones are greys
COLOURS = {GROUND: (255, 255, 255), FRAME: (214, 39, 40)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=pathlib.Path, help="the folder of the sweep")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/gallery"))
    arguments = parser.parse_args()
    for results in sorted(arguments.runs.glob("method=*,seed=0/results.json")):
        name = results.parent.name.removeprefix("method=").removesuffix(",seed=0")
        paths = [arguments.out / f"{name}.png", arguments.out / "predicted" / f"{name}.png"]
        if not paths[0].exists():
            drawn = draw(results.parent, *paths)
            for path in drawn:
                print(f"{path}: {path.stat().st_size / 1024:.0f} KiB", flush=True)


def draw(run: pathlib.Path, similar: pathlib.Path, predicted: pathlib.Path) -> list[pathlib.Path]:
    """Writes the pictures of one run; their paths.

    Args:
      run: folder of the run.
      similar: file of the nearest neighbours.
      predicted: file of predicted pixels, which is not written if the method has none.
    """
    import ssl_jax
    from ssl_jax import data

    trained = ssl_jax.load(str(run))
    section = trained.config
    options = dict(section.data.options)
    train, test = (
        data.load(section.data.name, split, **options)
        for split in (section.eval.train_split, section.eval.test_split)
    )
    shown = np.array([np.flatnonzero(test.labels == label)[0] for label in range(test.num_classes)])
    save(nearest(trained, train, test, shown), similar)
    rows = predictions(trained, test.batch(shown))
    if rows is None:
        return [similar]
    save(rows, predicted)
    return [similar, predicted]


Row = list[tuple[np.ndarray, bool]]  # images uint8 [h w 1], and whether each has a frame


def nearest(trained: Any, train: Any, test: Any, shown: np.ndarray) -> list[Row]:
    """Test images [k] by number, each with the training images of the most similar features."""
    from ssl_jax.evals.nearest import neighbours

    queries, bank = pixels(test, shown), pixels(train, np.arange(len(train)))
    h = [trained.features(images, batch_size=500)["h"] for images in (queries, bank)]
    _, similar = neighbours(*h, NEIGHBOURS)
    return [
        [(query, False)] + [(bank[j], train.labels[j] != test.labels[i]) for j in found]
        for query, i, found in zip(queries, shown, similar, strict=True)
    ]


def predictions(trained: Any, batch: Mapping[str, np.ndarray]) -> list[Row] | None:
    """Rows of images: the originals, what the method sees, its output; None: no such method.

    Args:
      trained: the run.
      batch: the images [n ...].
    """
    import jax

    from ssl_jax.experiment.build import held_out_keys

    def item(w: Any, keys: Any, batch: Any) -> Any:
        items = trained.experiment.method.show(w, keys, batch)
        return items.get("Reconstructions", items.get("Filled holes"))

    found = jax.jit(item)(trained.weights, held_out_keys(batch["index"]), batch)
    return None if found is None else rows_of(jax.device_get(found))


def rows_of(item: Any) -> list[Row]:
    """The rows of `predictions`, from a table of images in [0, 1] with a row for each example."""
    columns = list(item.pixels.swapaxes(0, 1))  # of images [n h w c]
    if item.inputs is None:  # the last column is the truth
        columns = [columns[-1], *columns[:-1]]
    else:
        columns = [item.inputs, *columns]
    return [
        [(np.rint(255 * np.asarray(image)).astype(np.uint8), False) for image in column]
        for column in columns
    ]


def pixels(source: object, indices: np.ndarray) -> np.ndarray:
    """Images uint8 [n h w 1]."""
    return source.read(indices, indices, 0, 0)[0]["image"]


def save(rows: list[Row], path: pathlib.Path) -> None:
    """Writes rows of images as a PNG with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side + GAP for side in rows[0][0][0].shape[:2])
    page = np.full((len(rows) * height + GAP, len(rows[0]) * width + GAP), GROUND, np.uint8)
    for i, row in enumerate(rows):
        for j, (image, framed) in enumerate(row):
            top, left = i * height + GAP, j * width + GAP
            if framed:
                page[top - 1 : top + height - 1, left - 1 : left + width - 1] = FRAME
            page[top : top + height - GAP, left : left + width - GAP] = np.minimum(
                image[..., 0], FRAME - 1
            )
    picture = Image.fromarray(page, mode="P")
    palette = [COLOURS.get(index, (index,) * 3) for index in range(256)]
    picture.putpalette([value for colour in palette for value in colour])
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
