"""The sections of what a method shows of itself: images, text, word neighbours, tables, sound."""

from __future__ import annotations

import base64
import functools
import io
import re
import wave

import numpy as np
from absl import logging

from ssl_jax.core.items import Audio, Images, Item, Passages, Table, TokenVectors
from ssl_jax.report import images, texts
from ssl_jax.report.inputs import ReportInputs
from ssl_jax.report.markup import esc, short

MAX_ROWS, MAX_COLUMNS = 12, 16
VIEW_SIDE = 96  # pixels stored of a picture at most


def sections(inputs: ReportInputs) -> list[tuple[str, str, str]]:
    """(id, title, content) of each item; one that cannot be drawn is left out, with a warning."""
    out = []
    for number, (title, item) in enumerate(inputs.shown.items()):
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        try:
            out.append((f"shown{number}-{slug}", title, content(item, inputs)))
        except Exception as error:
            logging.warning("warning: %r cannot be drawn: %s", title, error)
    return out


@functools.singledispatch
def content(item: Item, inputs: ReportInputs) -> str:
    """The markup of one item, "" where there is nothing to show."""
    raise TypeError(f"a report cannot show {type(item).__name__}")


@content.register
def _images(item: Images, inputs: ReportInputs) -> str:
    del inputs
    blocks = item.pixels if isinstance(item.pixels, (tuple, list)) else (item.pixels,)
    blocks = [np.asarray(block)[:MAX_ROWS, :MAX_COLUMNS] for block in blocks]
    count = len(blocks[0])
    if not count:
        return ""
    originals = None if item.inputs is None else np.asarray(item.inputs)
    largest = max(block.shape[2] for block in blocks)
    widths = ["minmax(0, 112px)"] if item.rows else []  # the same in every row's own grid
    if originals is not None:
        widths += ["minmax(0, 96px)", "4px"]
    for block in blocks:  # smaller images are shown smaller
        side = max(32, round(VIEW_SIDE * block.shape[2] / largest))
        widths.append(f"repeat({block.shape[1]}, minmax(0, {side}px))")
    style = f'style="grid-template-columns: {" ".join(widths)}"'
    rows = [_captions(item, blocks, originals is not None, style)] if item.columns else []
    for row in range(count):
        cells = []
        if item.rows:
            cells.append(f'<div class="row-caption">{esc(_row_caption(item, row))}</div>')
        if originals is not None:
            cells.append(f'<div class="original">{_img(originals[row], "input")}</div><div></div>')
        column = 0
        for block in blocks:
            for image in block[row]:
                name = item.columns[column] if column < len(item.columns) else f"{column + 1}"
                cells.append(f"<div>{_img(image, name)}</div>")
                column += 1
        rows.append(f"<div {style}>{''.join(cells)}</div>")
    # Rows of few images stand beside each other.
    shown = sum(block.shape[1] for block in blocks) + (originals is not None) + bool(item.rows)
    columns = f"repeat(auto-fill, minmax(min(100%, {100 * shown}px), 1fr))"
    if item.columns:
        columns = "1fr"
    framed = " Framed: the image that enters." if originals is not None else ""
    note = f'<p class="note">{esc(item.note)}{framed}</p>' if item.note or framed else ""
    return (
        f'{note}<div class="views" style="grid-template-columns: {columns}">{"".join(rows)}</div>'
    )


def _captions(item: Images, blocks: list[np.ndarray], has_inputs: bool, style: str) -> str:
    shown = sum(block.shape[1] for block in blocks)
    before = (["<div></div>"] if item.rows else []) + ["<div></div>"] * (2 * has_inputs)
    cells = "".join(f"<div>{esc(short(name, 24))}</div>" for name in item.columns[:shown])
    return f'<div class="column-captions" {style}>{"".join(before)}{cells}</div>'


def _row_caption(item: Images, row: int) -> str:
    if row >= len(item.rows):
        return ""
    if item.row_values is None:
        return item.rows[row]
    return item.rows[row].format(*np.atleast_1d(np.asarray(item.row_values)[row]).tolist())


def _img(image: np.ndarray, name: str) -> str:
    small = ' class="small"' if max(image.shape[:2]) <= images.LOSSLESS_SIDE else ""
    uri, alt = images.data_uri(image, VIEW_SIDE), esc(name)
    return f'<img{small} src="{uri}" alt="{alt}" title="{alt}">'


@content.register
def _passages(item: Passages, inputs: ReportInputs) -> str:
    return texts.passages(item, inputs.pieces)


@content.register
def _vectors(item: TokenVectors, inputs: ReportInputs) -> str:
    if inputs.token_counts is None:
        return ""
    return texts.neighbours(
        texts.word_neighbours(np.asarray(item.vectors), inputs.token_counts, inputs.pieces)
    )


@content.register
def _table(item: Table, inputs: ReportInputs) -> str:
    del inputs
    heads = "".join(f'<th scope="col">{esc(name)}</th>' for name in item.columns)
    rows = []
    for row, values in enumerate(np.asarray(item.values)):
        caption = item.rows[row] if row < len(item.rows) else ""
        cells = "".join(f"<td>{esc(item.form.format(value))}</td>" for value in values.tolist())
        rows.append(f'<tr><th scope="row">{esc(caption)}</th>{cells}</tr>')
    note = f'<p class="note">{esc(item.note)}</p>' if item.note else ""
    return (
        f'{note}<div class="scroll"><table class="summary"><thead><tr><th></th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


@content.register
def _audio(item: Audio, inputs: ReportInputs) -> str:
    del inputs
    parts = []
    for number, samples in enumerate(np.asarray(item.samples)):
        caption = item.captions[number] if number < len(item.captions) else f"{number + 1}"
        parts.append(
            f"<figure><figcaption>{esc(caption)}</figcaption>"
            f'<audio controls src="{wav_uri(samples, item.rate)}"></audio></figure>'
        )
    note = f'<p class="note">{esc(item.note)}</p>' if item.note else ""
    return f'{note}<div class="charts">{"".join(parts)}</div>' if parts else ""


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
