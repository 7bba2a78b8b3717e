"""Options that several kinds of text have."""

from __future__ import annotations

from typing import Annotated, Literal

Errors = Annotated[
    Literal["strict", "replace"],
    "Bytes that are not UTF-8: strict stops at them, replace reads U+FFFD.",
]
TextKey = Annotated[str, "Name of the field that is the text."]
TextPairKey = Annotated[str | None, "Name of the field that is the second text of a pair."]
LabelKey = Annotated[str | None, "Name of the field that is the label; None: no labels."]
DataDir = Annotated[
    str | None, "Where TFDS has prepared its data sets; None: ~/tensorflow_datasets."
]
