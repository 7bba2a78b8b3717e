"""The inputs of an encoder of images or of rows of a table, for methods of either.

A method with views of examples takes `examples` of a batch, and the views, the evaluation view and
the encoder of `encoder_and_views`. So it is written once for both.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import modalities
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, augmented_views
from ssl_jax.core.method import Array, Batch, DataSpec
from ssl_jax.modalities.table import DRAWS, TABLE
from ssl_jax.models import Net, make_encoder
from ssl_jax.views import main_images, to_show, train_and_eval
from ssl_jax.views.image import TrainAndEval
from ssl_jax.views.ops import fold_in
from ssl_jax.views.recipe import Recipe, read_recipes
from ssl_jax.views.table import COLUMN_OPS, check_ops

_TABLE = TABLE.name  # also the name of its array in a batch


def examples(batch: Batch) -> Any:
    """What training views are made of: images [n h w c] or [n v h w c], or rows [n 1+v c]."""
    return batch[_TABLE] if _TABLE in batch else main_images(batch)


def whole_examples(batch: Batch) -> Any:
    """What evaluation views are made of: images [n h w c], or rows [n 1+v c]."""
    return batch[_TABLE] if _TABLE in batch else batch["image"]


def shown_views(
    views: Array, normalization: tuple[Any, Any] | None, batch: Batch
) -> dict[str, Item]:
    """The training views [n v ...] for the report page; nothing of rows of a table."""
    return {} if _TABLE in batch else augmented_views(to_show(views, normalization), batch)


def encoder_and_views(config: Any, spec: DataSpec, *, num_views: int) -> dict[str, Any]:
    """`encoder`, `recipe`, `eval_view` and `normalization` by the sections model and views.

    Raises:
      UserError: the data are neither images nor a table, or the model does not take them, or a
        section has a bad value.
    """
    if spec.modality == _TABLE:
        views = table_views(config.views, num_views=num_views)
        return dict(encoder=make_table_encoder(config, spec), **views._asdict())
    modalities.require(config, spec, "image")
    image = main_images(spec.batch(1))
    views = train_and_eval(config.views, image, num_views=num_views, dtype=config.dtype)
    return dict(encoder=make_encoder(**config.model, dtype=config.dtype), **views._asdict())


def make_table_encoder(config: Any, spec: DataSpec) -> Net:
    """The encoder of the rows of a table.

    Raises:
      UserError: the model does not read tables.
    """
    if config.model.name != "table_encoder":
        raise UserError(
            f"model {config.model.name!r} does not read tables; use model.name=table_encoder"
        )
    return make_encoder(**config.model, dtype=config.dtype, columns=spec.columns)


def table_views(views_config: Mapping[str, Any], *, num_views: int) -> TrainAndEval:
    """Views of rows by the config section views, see `ssl_jax.views.table`.

    View v gets the draws v of its row, so that draws of two views are independent.

    Raises:
      UserError: an op is for images, or there are more views than draws.
    """
    recipes = read_recipes(views_config, num_views)
    for steps in recipes:
        check_ops([step.op for step in steps], table=True)
    if num_views > DRAWS:
        raise UserError(f"rows of a table have at most {DRAWS} views, not {num_views}")

    def recipe(keys: Array, rows: Array) -> Array:
        views = [
            _changed(steps, fold_in(keys, view), rows[:, 0], rows[:, 1 + view])
            for view, steps in enumerate(recipes)
        ]
        return jnp.stack(views, axis=1)  # (n, v, c)

    return TrainAndEval(recipe, _values, None)


def _values(rows: Array) -> Array:
    return rows[:, 0]


def _changed(steps: Recipe, keys: Array, rows: Array, draws: Array) -> Array:
    for step in steps:
        tag = zlib.crc32(f"{step.op}/{step.occurrence}".encode())
        op = COLUMN_OPS[step.op]
        rows = op(fold_in(keys, np.uint32(tag)), rows, draws, **step.parameters)
    return rows


@dataclasses.dataclass(frozen=True)
class OneRow:
    """The rows of a batch, with the same interface as `OneView` for images.

    Attributes:
      views: the training views, of which there is one.
    """

    views: TrainAndEval

    def train(self, keys: Array, batch: Batch) -> Array:
        """A view of each row, float32 [n c]; `keys` [n] has one key per row."""
        return self.views.recipe(keys, examples(batch))[:, 0]

    def evaluate(self, batch: Batch) -> Array:
        """The rows, float32 [n c]."""
        return self.views.eval_view(whole_examples(batch))

    def show(self, keys: Array, batch: Batch) -> dict[str, Item]:
        """Returns {}: there are no pictures."""
        del keys, batch
        return {}


def make_one_row(config: Any, spec: DataSpec) -> tuple[OneRow, Net, Any]:
    """Makes an encoder for the rows of a table, and its input.

    Returns:
      (view, encoder, inputs): `inputs` is the shape of the encoder's input for one row.

    Raises:
      UserError: the data are no table, the model does not read tables, or an op is for images.
    """
    modalities.require(config, spec, _TABLE)
    encoder = make_table_encoder(config, spec)
    view = OneRow(table_views(config.views, num_views=1))
    return view, encoder, jax.ShapeDtypeStruct((1, len(spec.columns)), jnp.float32)
