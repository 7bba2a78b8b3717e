"""The pictures of the gallery: greys as they are, frames around neighbours of another class."""

import pathlib
import runpy
import types

import numpy as np
from PIL import Image

PICTURES = runpy.run_path(str(pathlib.Path(__file__).parents[2] / "docs" / "pictures.py"))


def test_a_picture_has_the_images_and_frames(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 250, (2, 3, 4, 5, 1), dtype=np.uint8)  # rows, columns, h w c
    framed = np.array([[False, True, False], [False, False, True]])
    rows = [list(zip(*row, strict=True)) for row in zip(images, framed, strict=True)]
    PICTURES["save"](rows, tmp_path / "picture.png")
    page = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB"))
    gap = PICTURES["GAP"]
    assert page.shape == (2 * (4 + gap) + gap, 3 * (5 + gap) + gap, 3)
    red = PICTURES["COLOURS"][PICTURES["FRAME"]]
    for i in range(2):
        for j in range(3):
            top, left = i * (4 + gap) + gap, j * (5 + gap) + gap
            shown = page[top : top + 4, left : left + 5]
            np.testing.assert_array_equal(shown, np.repeat(images[i, j], 3, axis=2))
            around = page[top - 1 : top + 5, left - 1 : left + 6].copy()
            around[1:-1, 1:-1] = red
            expected = red if framed[i, j] else (255, 255, 255)
            assert (around[0] == expected).all() and (around[:, 0] == expected).all()
            assert (around[-1] == expected).all() and (around[:, -1] == expected).all()


def test_predicted_pixels_are_below_the_originals():
    rng = np.random.default_rng(0)
    truth, seen, output = images = rng.random((3, 2, 4, 4, 1))  # of two examples
    item = types.SimpleNamespace
    found = PICTURES["rows_of"](item(inputs=None, pixels=np.stack([seen, output, truth], axis=1)))
    again = PICTURES["rows_of"](item(inputs=truth, pixels=np.stack([seen, output], axis=1)))
    for rows in (found, again):
        assert not any(framed for row in rows for _, framed in row)
        pixels = np.array([[image for image, _ in row] for row in rows])
        np.testing.assert_array_equal(pixels, np.rint(255 * images))
