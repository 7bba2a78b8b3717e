"""Types of the items that `Method.show` returns for the report page.

They are pytrees, so `show` can be compiled: arrays are leaves, texts are static.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

Array = Any


def _static(default: Any) -> Any:
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
    """A table of images: augmented views, reconstructions, latent traversals, attention maps.

    Attributes:
      pixels: [rows columns h w c], c = 1 or 3, uint8 or floating in [0, 1]. For images of several
        sizes, a tuple of such arrays with the same number of rows, from left to right.
      inputs: [rows h w c], the original image of each row, shown in front of it; or None.
      row_values: [rows k], numbers for the captions of rows; or None.
      rows: a caption for each row; may be empty. With `row_values`, format strings for them, such
        as "latent {:.0f}, KL {:.2f}".
      columns: a caption for each column; may be empty.
      note: a sentence above the images.
    """

    pixels: Array | tuple[Array, ...]
    inputs: Array | None = None
    row_values: Array | None = None
    rows: tuple[str, ...] = _static(())
    columns: tuple[str, ...] = _static(())
    note: str = _static("")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Passages:
    """Rows of tokens; some are hidden from the model, or the last ones are written by it.

    Attributes:
      tokens: int32 [n l].
      lengths: int32 [n], number of tokens in each row that are not padding.
      positions: int32 [n p], the positions of the hidden tokens; or None if none are hidden.
      weights: [n p], 1 for hidden tokens, 0 for unused positions of rows with fewer.
      guesses: int32 [n p k], the model's most likely tokens, the most likely first.
      shares: float [n p k], the probabilities of the guesses.
      prompt_lengths: int32 [n], tokens of each row that the model has continued; or None.
      note: a sentence above the text.
    """

    tokens: Array
    lengths: Array
    positions: Array | None = None
    weights: Array | None = None
    guesses: Array | None = None
    shares: Array | None = None
    prompt_lengths: Array | None = None
    note: str = _static("")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenVectors:
    """The vectors of all tokens; the page shows the nearest neighbours of frequent words.

    Attributes:
      vectors: float [v d], one row per token of the vocabulary.
    """

    vectors: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WordMap:
    """The vectors of all tokens; the page shows frequent words in the plane, near ones together.

    Attributes:
      vectors: float [v d], one row per token of the vocabulary.
    """

    vectors: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """A table of numbers with captions.

    Attributes:
      values: float [rows columns].
      rows, columns: captions.
      form: the format string of a value.
      note: a sentence above the table.
    """

    values: Array
    rows: tuple[str, ...] = _static(())
    columns: tuple[str, ...] = _static(())
    form: str = _static("{:.3g}")
    note: str = _static("")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Audio:
    """Recordings to listen to.

    Attributes:
      samples: float [n s] in [-1, 1].
      captions: a caption for each recording; may be empty.
      rate: samples per second.
      note: a sentence above the recordings.
    """

    samples: Array
    captions: tuple[str, ...] = _static(())
    rate: int = _static(16_000)
    note: str = _static("")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spectrograms:
    """Recordings as spectrograms, with the class of each frame.

    Attributes:
      samples: float [n s] in [-1, 1].
      classes: name of a kind of classes -> int [n t], the class of each of t equal frames, -1 for
        none. Runs of equal classes have a colour and their number.
      note: a sentence above the drawings.
    """

    samples: Array
    classes: dict[str, Array]
    note: str = _static("")


Item = Images | Passages | TokenVectors | WordMap | Table | Audio | Spectrograms


def augmented_views(views: Array, batch: Any) -> dict[str, Images]:
    """The item for methods that learn from augmented images.

    Args:
      views: [n v h w c] in [0, 1], as the encoder sees them.
      batch: contains `image` [n h w c], unless the host has cropped the images.
    """
    note = "Training views, as the encoder sees them."
    return {"Augmented views": Images(views, inputs=batch.get("image"), note=note)}
