"""Types of what a method shows on the report page: the values that `Method.show` returns.

They are pytrees, so that `show` can be compiled: arrays are leaves, texts are not.
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
      pixels: [rows columns h w c], c = 1 or 3, uint8 or floating in [0, 1]. Of several sizes, a
        tuple of such arrays with as many rows, from left to right.
      inputs: [rows h w c], the images that the rows are made from; they stand in front. Or None.
      row_values: [rows k], numbers for the captions of rows. Or None.
      rows: a caption for each row, or none. With `row_values`, a format for them, such as
        "latent {:.0f}, KL {:.2f}".
      columns: a caption for each column, or none.
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
    """Rows of tokens, of which some are hidden from the model, and its guesses.

    Attributes:
      tokens: int32 [n l].
      lengths: int32 [n], tokens of each row that are not padding.
      positions: int32 [n p], the places of hidden tokens. Or None, of text that is only shown.
      weights: [n p], 0 where a row has fewer hidden tokens.
      guesses: int32 [n p k], the likeliest first.
      shares: float [n p k], their probabilities.
      note: a sentence above the text.
    """

    tokens: Array
    lengths: Array
    positions: Array | None = None
    weights: Array | None = None
    guesses: Array | None = None
    shares: Array | None = None
    note: str = _static("")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenVectors:
    """The vectors of all tokens, of which the page shows the neighbours of frequent words.

    Attributes:
      vectors: float [v d].
    """

    vectors: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers with captions.

    Attributes:
      values: float [rows columns].
      rows, columns: captions.
      form: how a value is written.
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
      captions: one a recording, or none.
      rate: samples a second.
      note: a sentence above them.
    """

    samples: Array
    captions: tuple[str, ...] = _static(())
    rate: int = _static(16_000)
    note: str = _static("")


Item = Images | Passages | TokenVectors | Table | Audio


def augmented_views(views: Array, batch: Any) -> dict[str, Images]:
    """The item of methods that learn from augmented images.

    Args:
      views: [n v h w c] in [0, 1], as the encoder sees them.
      batch: with `image` [n h w c] where the host has not cropped it.
    """
    note = "Training views, as the encoder sees them."
    return {"Augmented views": Images(views, inputs=batch.get("image"), note=note)}
