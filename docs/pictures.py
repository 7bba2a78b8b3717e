"""Draws nearest neighbours for the gallery: python docs/pictures.py runs/methods_fashion

For every finished run of seed 0 of the sweep `sweeps/methods:fashion`, one picture in
`results/gallery/`: left the first test image of each class, beside it the five training images with
the most similar features. A frame marks neighbours of another class. Pictures have the pixels of
the images, so that all together stay small; pages show them enlarged.
"""

from __future__ import annotations

import argparse
import pathlib

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
        path = arguments.out / f"{name}.png"
        if not path.exists():
            draw(results.parent, path)
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB", flush=True)


def draw(run: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the picture of one run."""
    import ssl_jax
    from ssl_jax import data
    from ssl_jax.evals.nearest import neighbours

    trained = ssl_jax.load(str(run))
    section = trained.config
    options = dict(section.data.options)
    train, test = (
        data.load(section.data.name, split, **options)
        for split in (section.eval.train_split, section.eval.test_split)
    )
    shown = np.array([np.flatnonzero(test.labels == label)[0] for label in range(test.num_classes)])
    queries, bank = pixels(test, shown), pixels(train, np.arange(len(train)))
    h = [trained.features(images, batch_size=500)["h"] for images in (queries, bank)]
    _, similar = neighbours(*h, NEIGHBOURS)
    rows = [
        [(query, False)] + [(bank[j], train.labels[j] != test.labels[i]) for j in found]
        for query, i, found in zip(queries, shown, similar, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    save(rows, path)


def pixels(source: object, indices: np.ndarray) -> np.ndarray:
    """Images uint8 [n h w 1]."""
    return source.read(indices, indices, 0, 0)[0]["image"]


def save(rows: list[list[tuple[np.ndarray, bool]]], path: pathlib.Path) -> None:
    """Writes rows of (image uint8 [h w 1], whether it has a frame) as a PNG with a palette."""
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
