"""The text input of a classifier, with the same interface as `OneView` for images."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax import modalities
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.items import Item
from ssl_jax.core.method import Array, Batch, DataSpec
from ssl_jax.models import Net, TextEncoder, make_encoder
from ssl_jax.models.text_models import TEXT_DECODERS, TEXT_ENCODERS
from ssl_jax.models.transformer import text_inputs


@dataclasses.dataclass(frozen=True)
class OneText:
    """Selects the arrays of a batch that an encoder takes; there is no augmentation.

    Attributes:
      module: the encoder.
      extract: of decoders, the token that takes the place of a text's last one, see
        `with_extract_token`.
    """

    module: TextEncoder
    extract: int | None = None

    def train(self, keys: Array, batch: Batch) -> dict[str, Array]:
        """`tokens`, `segment`, `position` and, with several types, `type`: int32 [n l]."""
        del keys
        return self.evaluate(batch)

    def evaluate(self, batch: Batch) -> dict[str, Array]:
        """The same arrays as `train`."""
        text = text_inputs(self.module, batch)
        return text if self.extract is None else with_extract_token(text, self.extract)

    def show(self, keys: Array, batch: Batch) -> dict[str, Item]:
        """Returns {}: texts are not augmented."""
        del keys, batch
        return {}


def with_extract_token(text: dict[str, Any], extract: int) -> dict[str, Array]:
    """A text whose last token is another one: that of GPT-1 on which a text is classified.

    Rows are cls A sep, and pairs cls A sep B sep. GPT-1 has three new tokens: start, delimiter and
    extract (Radford et al. 2018, Sec. 3.3). Here cls is the start, the sep between A and B is the
    delimiter, and the last sep becomes the token `extract`, which is in no other text.

    Args:
      text: `tokens` and `segment`, int32 [n l], one text a row, padded at the end.
      extract: the token.
    """
    last = jnp.maximum((text["segment"] > 0).sum(axis=1) - 1, 0)
    rows = jnp.arange(len(last))
    return {**text, "tokens": text["tokens"].at[rows, last].set(extract)}


def make_one_text(config: Any, spec: DataSpec) -> tuple[OneText, Net, dict[str, Any]]:
    """Makes an encoder for the texts of a data set, and its input.

    With `model.pool` "pooler" the encoder has a pooler, and h is BERT's pooled first token.

    Returns:
      (view, encoder, inputs): `inputs` are the shapes of the encoder's inputs for one row.

    Raises:
      UserError: the model does not read text, or its max_length is smaller than the rows; or a
        decoder's h is not its last token.
    """
    is_decoder = config.model.name in TEXT_DECODERS
    if is_decoder:
        check_text_decoder(config, spec)
        if config.model.pool != "last":
            raise UserError(
                f"model.pool is {config.model.pool!r}, and a decoder is fine-tuned on the last "
                "token of a text, which has seen all of it; set model.pool=last"
            )
        more = {}
    else:
        check_text_model(config, spec)
        more = {"pooler": config.model.pool == "pooler"}
    encoder = make_encoder(
        **config.model, vocab_size=spec.vocabulary.size, dtype=config.dtype, **more
    )
    check_length(spec, encoder.module)
    view = OneText(encoder.module, spec.vocabulary.mask if is_decoder else None)
    row = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in spec.batch(1).items()}
    return view, encoder, text_inputs(encoder.module, row)


def check_text_model(config: Any, spec: DataSpec) -> None:
    """Raises `UserError` unless the data are text and the model is a text encoder."""
    modalities.require(config, spec, "text")
    if config.model.name not in TEXT_ENCODERS:
        raise UserError(
            f"model {config.model.name!r} does not read text; use a text encoder such as bert_base "
            "or roberta_base"
        )


def check_text_decoder(config: Any, spec: DataSpec) -> None:
    """Raises `UserError` unless the data are text and the model predicts the next token."""
    modalities.require(config, spec, "text")
    name = config.model.name
    if name not in TEXT_DECODERS:
        raise UserError(
            f"model {name!r} does not predict the next token; use a decoder: "
            f"{', '.join(TEXT_DECODERS)}.{nearest(name or '', TEXT_DECODERS)}"
        )


def check_length(spec: DataSpec, module: TextEncoder) -> None:
    """Raises `UserError` if rows are longer than the encoder has positions."""
    length = spec.arrays["tokens"].shape[0]
    if length > module.max_length:
        raise UserError(
            f"rows have {length} tokens but model.max_length is {module.max_length}; make the rows "
            "shorter or max_length larger"
        )
