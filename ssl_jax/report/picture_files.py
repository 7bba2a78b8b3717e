"""Tables of images as one PNG picture, with the captions that they have on the page."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssl_jax.core.items import Images
from ssl_jax.report.images import as_uint8
from ssl_jax.report.shown import row_caption

_LEAST_SIDE = 64  # smaller images are enlarged, by a whole factor
_GAP, _MARGIN, _TEXT = 4, 12, 13  # pixels between images, around the picture, height of the letters
_LINE = _TEXT + 6
_INK, _PAPER, _FRAME = (30, 30, 30), (255, 255, 255), (120, 120, 120)


def png(tables: Sequence[tuple[str, Images]]) -> bytes:
    """A PNG file with tables of images below each other.

    Args:
      tables: (title, table of images [rows columns h w c]) each.
    """
    blocks = [_block(title, table) for title, table in tables]
    width = max(block.width for block in blocks) + 2 * _MARGIN
    height = sum(block.height for block in blocks) + _MARGIN * (len(blocks) + 1)
    canvas = Image.new("RGB", (width, height), _PAPER)
    top = _MARGIN
    for block in blocks:
        canvas.paste(block, (_MARGIN, top))
        top += block.height + _MARGIN
    out = io.BytesIO()
    canvas.save(out, "png", optimize=True)
    return out.getvalue()


def _block(title: str, table: Images) -> Image.Image:
    """A table below its title."""
    font = ImageFont.load_default(_TEXT)
    pixels = as_uint8(np.asarray(table.pixels))
    rows, columns, height, width = pixels.shape[:4]
    factor = max(1, -(-_LEAST_SIDE // max(height, width)))
    across, down = factor * width + _GAP, factor * height + _GAP
    captions = [row_caption(table, row) for row in range(rows)]
    left = max((int(font.getlength(text)) + 2 * _GAP for text in captions if text), default=0)
    first = left + (0 if table.inputs is None else across + _GAP)
    top = _LINE * (bool(title) + bool(table.columns))
    size = max(first + columns * across, int(font.getlength(title))), top + rows * down
    block = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(block)
    draw.text((0, 0), title, _INK, font)
    for column, text in enumerate(table.columns):
        middle = first + column * across + factor * width / 2
        draw.text((middle, top - 4), text, _INK, font, anchor="ms")
    for row in range(rows):
        y = top + row * down
        draw.text((0, y + factor * height / 2), captions[row], _INK, font, anchor="lm")
        if table.inputs is not None:
            original = as_uint8(np.asarray(table.inputs[row]))
            block.paste(_enlarged(original, factor), (left, y))
            frame = (left - 1, y - 1, left + factor * width, y + factor * height)
            draw.rectangle(frame, outline=_FRAME)
        for column in range(columns):
            block.paste(_enlarged(pixels[row, column], factor), (first + column * across, y))
    return block


def _enlarged(image: np.ndarray, factor: int) -> Image.Image:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    size = picture.width * factor, picture.height * factor
    return picture.resize(size, Image.Resampling.NEAREST)
