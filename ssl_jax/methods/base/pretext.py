"""Base of pretext tasks that classify how an image was cut or turned: RotNet, patches, jigsaw.

    x -> pieces p_1, ..., p_k, and a class for each of m questions
    a piece -> f -> fc6, shared by all pieces; the pieces of a question, one after the other -> head
    loss = mean over all questions of the cross-entropy of the class

A piece is an image, a patch or a tile. RotNet has four pieces, the rotated images, and a question
about each. Context prediction asks about two patches, in both orders; jigsaw about nine tiles at
once. A subclass makes the pieces and the classes (`pieces`) and lists which pieces a question is
about (`questions`).

Features are those of the whole image: `h` of the evaluation view.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ssl_jax.core.method import Array, Aux, Batch, DataSpec, PyTree, Weights
from ssl_jax.losses.classification import cross_entropy
from ssl_jax.methods.base.encoder_features import EncoderFeatures
from ssl_jax.methods.base.one_view import OneView, make_pixel_view
from ssl_jax.models import Net
from ssl_jax.models.stages import last_map


@dataclasses.dataclass(frozen=True)
class PretextTask(EncoderFeatures):
    """Classification of how pieces of an image were made.

    Attributes:
      encoder: f, a convolutional net.
      head: `FullyConnected` with logits.
      view: computes the images from which pieces are made.
      branch: layers on the feature map of each piece (fc6), `FullyConnected`; None: the head gets h
        of the piece.
    """

    decomposes: ClassVar[bool] = True

    encoder: Net
    head: Net
    view: OneView
    branch: Net | None = None

    @property
    @abc.abstractmethod
    def questions(self) -> tuple[tuple[int, ...], ...]:
        """The indices of the pieces of each question; all questions have the same number."""

    @abc.abstractmethod
    def pieces(self, keys: Array, images: Array) -> dict[str, Array]:
        """Makes the pieces and the classes of the questions.

        Args:
          keys: [n], one key per image.
          images: views [n h w c], in [0, 1] unless the views are normalised.

        Returns:
          `pieces` [n k h' w' c'], `target` int32 [n m], and perhaps more for `show`.
        """

    def prepare(self, images: Array) -> Array:
        """Whole images with the statistics of pieces, the input of the encoder in evaluation."""
        return images

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, branch_key, head_key = jax.random.split(key, 3)
        keys = jax.random.split(key, 1)
        image = jnp.zeros((1, *self.view.shape), jnp.float32)
        pieces = jax.eval_shape(self.pieces, keys, image)["pieces"]
        params, buffers = {}, {}

        def add(name: str, net: Net, key: Array, x: jax.ShapeDtypeStruct) -> Any:
            params[name], buffers[name] = net.init(key, x)
            return jax.eval_shape(
                lambda *args: net.apply(*args, train=False)[0], params[name], buffers[name], x
            )

        piece = jax.ShapeDtypeStruct((1, *pieces.shape[2:]), pieces.dtype)
        code, out = add("encoder", self.encoder, encoder_key, piece)
        if self.branch is not None:
            code = add("branch", self.branch, branch_key, last_map(out))
        width = code.shape[1] * len(self.questions[0])
        add("head", self.head, head_key, jax.ShapeDtypeStruct((1, width), code.dtype))
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`pieces` [n k h w c] of the training view of each image, and `target` int32 [n m]."""
        del key, step
        parts = self.pieces(keys, self.view.train(keys, batch))
        return {name: parts[name] for name in ("pieces", "target")}

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """`logits` [n m c], and `h` [n d], the mean over the pieces of the first question."""
        del step
        h, logits, updates = self.predict(w, views["pieces"], train=True, key=key)
        h = jnp.mean(h[:, jnp.array(self.questions[0])], axis=1)
        return {"h": h, "logits": logits, "target": views["target"]}, updates

    def predict(
        self, w: Weights, pieces: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, PyTree]:
        """h of each piece [n k d], logits of each question [n m c], and the buffers."""
        n, k = pieces.shape[:2]
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(3)]
        flat = pieces.reshape(n * k, *pieces.shape[2:])
        updates = {}
        (h, out), updates["encoder"] = self.encoder.apply(
            w.params["encoder"], w.buffers["encoder"], flat, train=train, key=keys[0]
        )
        code = h
        if self.branch is not None:
            code, updates["branch"] = self.branch.apply(
                w.params["branch"], w.buffers["branch"], last_map(out), train=train, key=keys[1]
            )
        code = code.reshape(n, k, -1)[:, jnp.array(self.questions)]  # (n, m, pieces, d)
        m = len(self.questions)
        logits, updates["head"] = self.head.apply(
            w.params["head"], w.buffers["head"], code.reshape(n * m, -1), train=train, key=keys[2]
        )
        return h.reshape(n, k, -1), logits.reshape(n, m, -1), updates

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """Cross-entropy; the metric `accuracy` is the share of right answers."""
        del key, step
        logits, target = encoded["logits"], encoded["target"]
        loss, metrics = cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))
        h = jax.lax.stop_gradient(encoded["h"])
        weight = jnp.float32(target.size)
        return loss, Aux(w.buffers, {"accuracy": metrics["accuracy"]}, {"h": h}, weight)

    def eval_view(self, images: Array) -> Array:
        """The input of the encoder in evaluation, [n h w c]: the prepared view of each image."""
        return self.prepare(self.view.eval_view(images))

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """`count` of questions about pieces of the evaluation view, their `loss` and `hits`."""
        parts = self.pieces(keys, self.view.evaluate(batch))
        _, logits, _ = self.predict(w, parts["pieces"], train=False)
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))  # (n, m, c)
        at_target = jnp.take_along_axis(log_p, parts["target"][..., None], axis=2)[..., 0]
        hits = jnp.argmax(logits, axis=2) == parts["target"]
        count = jnp.full(len(hits), hits.shape[1], jnp.float32)
        return {
            "count": count,
            "loss": -jnp.sum(at_target, axis=1),
            "hits": jnp.sum(hits, axis=1, dtype=jnp.float32),
        }


def make_piece_view(config: Any, spec: DataSpec) -> OneView:
    """The view of a method that cuts pieces and normalises each of them; float32 in [0, 1].

    Raises:
      UserError: as `make_pixel_view`.
    """
    reason = f"method {config.method.name} normalises each piece of a view itself"
    return make_pixel_view(config, spec, reason)
