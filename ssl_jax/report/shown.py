"""The sections of what a method shows of itself: images, text, word neighbours, tables, sound."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import re
import wave
from typing import Any

import numpy as np
from absl import logging

from ssl_jax.core.items import (
    Audio,
    Images,
    Item,
    Passages,
    Spectrograms,
    Table,
    TokenVectors,
    WordMap,
)
from ssl_jax.report import spectrograms, texts, word_map
from ssl_jax.report.images import Picture
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.plain_text import short
from ssl_jax.report.templating import Section

MAX_ROWS, MAX_COLUMNS = 12, 16
VIEW_SIDE = 96  # pixels stored of a picture at most


def sections(inputs: ReportInputs) -> list[Section]:
    """A section for each item; one that cannot be drawn is left out, with a warning."""
    out = []
    for number, (title, item) in enumerate(inputs.shown.items()):
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        try:
            template, item_content = content(item, inputs)
            out.append(Section(f"shown{number}-{slug}", title, template, item_content))
        except Exception as error:
            logging.warning("warning: %r cannot be drawn: %s", title, error)
    return out


@functools.singledispatch
def content(item: Item, inputs: ReportInputs) -> tuple[str, Any]:
    """The template of an item and its content, which is None where there is nothing to show."""
    raise TypeError(f"a report cannot show {type(item).__name__}")


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """The images of an example; a caption and the image that enters where the grid has them."""

    caption: str
    original: Picture | None
    pictures: tuple[Picture, ...]


@dataclasses.dataclass(frozen=True)
class ImageGrid:
    """Rows of images.

    Attributes:
      note: a line above.
      captions: of the columns, or empty.
      rows: the images.
      has_row_captions, has_originals: whether rows have a caption, and an image that enters.
      columns: how many rows stand beside each other, as a CSS grid.
      row_columns: the columns of every row, as a CSS grid.
    """

    note: str
    captions: tuple[str, ...]
    rows: tuple[ImageRow, ...]
    has_row_captions: bool
    has_originals: bool
    columns: str
    row_columns: str


@content.register
def _images(item: Images, inputs: ReportInputs) -> tuple[str, ImageGrid | None]:
    del inputs
    blocks = item.pixels if isinstance(item.pixels, (tuple, list)) else (item.pixels,)
    blocks = [np.asarray(block)[:MAX_ROWS, :MAX_COLUMNS] for block in blocks]
    if not len(blocks[0]):
        return "images.html", None
    originals = None if item.inputs is None else np.asarray(item.inputs)
    num_images = sum(block.shape[1] for block in blocks)
    framed = "" if originals is None else " Framed: the image that enters."
    grid = ImageGrid(
        note=f"{item.note}{framed}",
        captions=tuple(short(name, 24) for name in item.columns[:num_images]),
        rows=tuple(_image_row(item, blocks, originals, row) for row in range(len(blocks[0]))),
        has_row_captions=bool(item.rows),
        has_originals=originals is not None,
        columns=_grid_columns(item, num_images, originals is not None),
        row_columns=_row_columns(item, blocks, originals is not None),
    )
    return "images.html", grid


def _image_row(
    item: Images, blocks: list[np.ndarray], originals: np.ndarray | None, row: int
) -> ImageRow:
    images = [image for block in blocks for image in block[row]]
    names = [*item.columns, *(f"{column + 1}" for column in range(len(item.columns), len(images)))]
    return ImageRow(
        row_caption(item, row),
        None if originals is None else Picture.from_array(originals[row], "input", VIEW_SIDE),
        tuple(
            Picture.from_array(image, name, VIEW_SIDE)
            for image, name in zip(images, names, strict=False)
        ),
    )  # fmt: skip


def _grid_columns(item: Images, num_images: int, has_originals: bool) -> str:
    """Rows of few images stand beside each other, unless their columns have captions."""
    if item.columns:
        return "1fr"
    cells = num_images + has_originals + bool(item.rows)
    return f"repeat(auto-fill, minmax(min(100%, {100 * cells}px), 1fr))"


def _row_columns(item: Images, blocks: list[np.ndarray], has_originals: bool) -> str:
    """The same in every row, which is a grid of its own."""
    widths = ["minmax(0, 112px)"] if item.rows else []
    if has_originals:
        widths += ["minmax(0, 96px)", "4px"]
    largest = max(block.shape[2] for block in blocks)
    for block in blocks:  # smaller images are shown smaller
        side = max(32, round(VIEW_SIDE * block.shape[2] / largest))
        widths.append(f"repeat({block.shape[1]}, minmax(0, {side}px))")
    return " ".join(widths)


def row_caption(item: Images, row: int) -> str:
    """The caption of a row with its values; "" if it has none."""
    if row >= len(item.rows):
        return ""
    if item.row_values is None:
        return item.rows[row]
    return item.rows[row].format(*np.atleast_1d(np.asarray(item.row_values)[row]).tolist())


@content.register
def _passages(item: Passages, inputs: ReportInputs) -> tuple[str, texts.Passages | None]:
    return "passages.html", texts.passages(item, inputs.pieces)


@content.register
def _vectors(item: TokenVectors, inputs: ReportInputs) -> tuple[str, tuple[texts.WordRow, ...]]:
    if inputs.token_counts is None:
        return "word_neighbours.html", ()
    vectors = np.asarray(item.vectors)
    nearest = texts.word_neighbours(vectors, inputs.token_counts, inputs.pieces)
    return "word_neighbours.html", texts.neighbour_rows(nearest)


@content.register
def _word_map(item: WordMap, inputs: ReportInputs) -> tuple[str, word_map.Map | None]:
    if inputs.token_counts is None:
        return "word_map.html", None
    vectors = np.asarray(item.vectors)
    return "word_map.html", word_map.draw(
        vectors, inputs.token_counts, inputs.pieces, seed=inputs.seed
    )


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of a table: its heading and its values as text."""

    caption: str
    cells: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of numbers under a note; `columns` are the headings."""

    note: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]


@content.register
def _table(item: Table, inputs: ReportInputs) -> tuple[str, Grid]:
    del inputs
    rows = tuple(
        TableRow(
            item.rows[row] if row < len(item.rows) else "",
            tuple(item.form.format(value) for value in values),
        )
        for row, values in enumerate(np.asarray(item.values).tolist())
    )
    return "table.html", Grid(item.note, tuple(item.columns), rows)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A sound file in a data URI, and its caption."""

    caption: str
    uri: str


@dataclasses.dataclass(frozen=True)
class Clips:
    """Sounds under a note."""

    note: str
    clips: tuple[Clip, ...]


@content.register
def _audio(item: Audio, inputs: ReportInputs) -> tuple[str, Clips | None]:
    del inputs
    clips = tuple(
        Clip(
            item.captions[number] if number < len(item.captions) else f"{number + 1}",
            wav_uri(samples, item.rate),
        )
        for number, samples in enumerate(np.asarray(item.samples))
    )
    return "audio.html", Clips(item.note, clips) if clips else None


@content.register
def _spectrograms(
    item: Spectrograms, inputs: ReportInputs
) -> tuple[str, spectrograms.Drawings | None]:
    del inputs
    return "spectrograms.html", spectrograms.draw(item)


def wav_uri(samples: np.ndarray, rate: int) -> str:
    """Samples [s] in [-1, 1] as a 16-bit WAV file in a data URI."""
    finite = np.nan_to_num(np.asarray(samples, np.float32))
    pcm = np.round(np.clip(finite, -1, 1) * 32767).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm.tobytes())
    return f"data:audio/wav;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
