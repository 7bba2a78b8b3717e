"""Every method under test by its name, one row each; the rows are in `tests/methods/rows/`."""

from __future__ import annotations

from tests.methods.rows import (
    audio,
    labelled_text,
    labels,
    multi_crop,
    pixels,
    pretext,
    text,
    two_views,
)
from tests.methods.rows.row import Row

_TOPICS = (two_views, multi_crop, pretext, pixels, labels, audio, text, labelled_text)
ROWS: dict[str, Row] = {name: row for topic in _TOPICS for name, row in topic.ROWS.items()}
assert len(ROWS) == sum(len(topic.ROWS) for topic in _TOPICS), "two rows have the same name"
