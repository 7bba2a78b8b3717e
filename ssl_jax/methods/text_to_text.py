"""Fine-tuning an encoder-decoder: the answer to a text is a text (Raffel et al. 2020, Sec. 2.4).

    p(class c | x) ~ p(y_1 ... y_m | x),    y the tokens of the name of c, and an end token
    loss = mean over all tokens y_i of -log p(y_i | x, y_<i)

The net is that of T5, usually pretrained (`config.init_from`). No weight is new: classes are known
by their names. The prediction is the class whose name has the largest probability, not divided by
its length; `logits` are the logarithms. In evaluation `exact_accuracy` is the share of texts for
which greedy decoding over the whole vocabulary writes the name of the right class, T5's exact
match: it does if each token of the name is the most likely one after those before it.

Pairs are A sep B sep, and a single text A sep. Deviation: the released code begins texts with
words for the task and its parts ("mnli premise: ... hypothesis: ..."), which tasks trained together
need; put them into the texts if you want them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.config.fields import between
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Item, TokenVectors
from ssl_jax.core.length import Length
from ssl_jax.core.method import Array, Batch, DataSpec, PyTree, Weights, hyper_parameters
from ssl_jax.methods.base import encoder_decoder
from ssl_jax.methods.base.encoder_decoder import EncoderDecoderMethod, make_net
from ssl_jax.methods.base.labelled import check_task
from ssl_jax.views.span_corruption import shifted

_ANSWERS = "answers"


@dataclasses.dataclass(frozen=True)
class HyperParameters(encoder_decoder.HyperParameters):
    """The keys of `config.method`."""

    answer_length: Annotated[
        int, between(2, 512), "Tokens of the longest name of a class, the end token included."
    ] = 16


@dataclasses.dataclass(frozen=True)
class TextToText(EncoderDecoderMethod):
    """Classes of texts by their names.

    Attributes:
      num_classes: number of classes.
      length: tokens in a row.
      class_tokens: tokens of the names of the classes; None if they are not known yet.
    """

    title: ClassVar[str] = "text-to-text"
    learns_from_labels: ClassVar[bool] = True

    hyper: HyperParameters
    num_classes: int
    length: int
    class_tokens: tuple[tuple[int, ...], ...] | None = None

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """The parameters, and the buffer `answers` int32 [classes m], -1 behind the end token.

        Without the names of the classes, which a checkpoint has, answers are end tokens only.
        """
        params, buffers = super().init(key, batch)
        names = self.class_tokens or ((),) * self.num_classes
        answers = np.full((self.num_classes, self.hyper.answer_length), -1, np.int32)
        for row, tokens in zip(answers, names, strict=True):
            row[: len(tokens) + 1] = [*tokens, self.end_token]
        return params, {**buffers, _ANSWERS: jnp.asarray(answers)}

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        del keys, key, step
        return {"text": _text(batch), "label": batch["label"]}

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        views = {"text": views["text"], "targets": _targets(w, views["label"])}
        return super().encode(w, views, key=key, step=step)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], `tokens` [n l d], and `logits` [n c]: log p of the names of the classes."""
        text = _text(batch)
        h, out = self._forward(w.params, text)
        module, answers = self.encoder.module, w.buffers[_ANSWERS]

        def log_likelihood(answer: Array) -> Array:
            targets = jnp.broadcast_to(answer, (len(h), len(answer)))
            written = module.apply(
                {"params": w.params["encoder"]},
                shifted(jnp.maximum(targets, 0), self.vocabulary.pad),
                out["tokens"],
                text["segment"],
                train=False,
                method="decode",
            )
            return -self._score(w.params, written, targets)["loss"]

        logits = jax.lax.map(log_likelihood, answers).T
        return {"h": h, "tokens": out["tokens"].astype(jnp.float32), "logits": logits}

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """The scores of the tokens of the right answers, and `exact_hits` of whole answers."""
        del keys
        targets = _targets(w, batch["label"])
        _, out = self._forward(w.params, _text(batch), targets)
        scores = self._score(w.params, out["written"], targets)
        is_labelled = (batch["label"] >= 0).astype(jnp.float32)
        exact = scores.pop("exact") * is_labelled
        return {**scores, "exact_count": is_labelled, "exact_hits": exact}

    @property
    def context(self) -> int:
        """The length of the rows, without the token in front of them."""
        return self.length - 1

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """What the model answers, and neighbours of words."""
        text = _text(batch)
        answered = self.answered(
            w,
            keys,
            text["tokens"],
            text["segment"].sum(axis=1),
            count=self.hyper.answer_length,
            note="Texts that the model was not trained on, with its answers: the most likely "
            "token at every step.",
        )
        table = w.params["encoder"]["embed"]["token"]["embedding"]
        return {"Answers": answered, "Neighbours of words": TokenVectors(table)}

    def origin(self, path: str) -> str | None:
        """The net of the pretrained run; the answers are this run's own."""
        return None if path == f"buffers/{_ANSWERS}" else path

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        del batch_size
        return [("loss", f"cross-entropy of the names of {self.num_classes} classes, as tokens")]


def _text(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The input of the encoder: rows without their first token, cls."""
    return {name: jnp.pad(batch[name][:, 1:], ((0, 0), (0, 1))) for name in ("tokens", "segment")}


def _targets(w: Weights, label: Array) -> Array:
    """The tokens of the answers, int32 [n m], -1 where there is none."""
    answers = w.buffers[_ANSWERS][jnp.maximum(label, 0)]
    return jnp.where(label[:, None] >= 0, answers, -1)


def make(config: Any, spec: DataSpec, length: Length) -> TextToText:
    """Builds the method from the config's sections method and model.

    Raises:
      UserError: the data are no texts with classes, the model is no encoder-decoder, or names of
        classes are too long or have the same tokens.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    net = make_net(config, spec)
    check_task(config, spec, "classify")
    if not spec.num_classes:
        raise UserError(f"{config.data.name} has no classes; set data.num_classes")
    names: dict[tuple[int, ...], int] = {}
    for number, tokens in enumerate(spec.class_tokens or ()):
        if (other := names.setdefault(tokens, number)) != number:
            raise UserError(
                f"the names of the classes {other} and {number} have the same tokens; use another "
                "tokenizer, such as data.options.tokenizer=bpe, or other names"
            )
    longest = max(map(len, spec.class_tokens or ((),))) + 1
    if longest > hyper.answer_length:
        raise UserError(
            f"method.answer_length is {hyper.answer_length}, and a class's name has {longest} "
            f"tokens with the end token; set method.answer_length={longest}"
        )
    return TextToText(
        hyper=hyper,
        encoder=net,
        vocabulary=spec.vocabulary,
        num_classes=spec.num_classes,
        length=spec.arrays["tokens"].shape[0],
        class_tokens=spec.class_tokens,
    )
