"""Image GPT (Chen et al. 2020): predicting the pixels of an image, without a prior of images.

    x -> k_1 ... k_l, the nearest colours of a palette in raster order
    "ar"      loss = mean over all i of -log p(k_i | k_1 ... k_{i-1})
    "bert"    loss = mean over hidden i of -log p(k_i | the pixels that are not hidden)

The palette has 512 colours, the centroids of k-means over random pixels of training images, found
before the first step. A hidden pixel is drawn with probability `mask_rate`, on its own. The loss is
in nats per pixel. It is exactly log 512 at first, because the table of the logits is 0.

The representation of layer i is the mean over pixels of its tokens after the next layer's first
norm (Sec. 2.3). `h` is that of the middle layer. The layers are probed by their names:
`eval.features=("layer1/mean", "layer2/mean", ...)` gives the curve over depth.

Deviation: the causal model's tokens are shifted by the start token in evaluation too, so that its
features never see the last pixel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import clustering
from ssl_jax.config.fields import between, open_fraction
from ssl_jax.core.batch_axes import ROWS, WHOLE, on_each_device, shards
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.items import Images, Item
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    EncodeAll,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.losses import token_cross_entropy
from ssl_jax.losses.language import CHUNK
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_pixel_view
from ssl_jax.methods.base.token_scores import ChunkSize, mean_over_targets, row_sums
from ssl_jax.models import Net, decoding, make_encoder
from ssl_jax.models.decoding import Sampling
from ssl_jax.models.image_gpt import IMAGE_GPTS
from ssl_jax.models.transformer import output_table
from ssl_jax.models.transformer_layers import make_norm
from ssl_jax.views.ops import fold_in

_HIDE, _PALETTE, _DRAW = 1, 2, 3  # folded into an example's key
_COMPLETIONS = 3


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    objective: Annotated[
        Literal["ar", "bert"], "Predict each next pixel (ar), or hidden pixels (bert)."
    ] = "ar"
    num_colors: Annotated[int, between(2, 65_536), "Colours of the palette."] = 512
    palette_pixels: Annotated[
        int, between(1, 4096), "Random pixels of each training image from which it is made."
    ] = 4
    kmeans_iterations: Annotated[int, between(0, 1000), "Updates of the palette."] = 20
    mask_rate: Annotated[float, open_fraction, "For bert: probability that a pixel is hidden."] = (
        0.15
    )
    chunk_size: ChunkSize = CHUNK


@dataclasses.dataclass(frozen=True)
class ImageGptMethod(OneViewMethod):
    """A transformer on colours of a palette.

    Attributes:
      hyper: the config's section.
      encoder: the net.
      view: computes images in [0, 1] from batches.
    """

    title: ClassVar[str] = "Image GPT"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    encoder: Net
    view: OneView

    @property
    def _pixels(self) -> int:
        height, width, _ = self.view.shape
        return height * width

    @property
    def _is_causal(self) -> bool:
        return self.hyper.objective == "ar"

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        """The parameters, and the buffer `palette` [colours c] in [0, 1], at first random."""
        del batch
        row = jax.ShapeDtypeStruct((1, self._pixels), jnp.int32)
        params, _ = self.encoder.init(key, {"tokens": row, "position": row})
        shape = (self.hyper.num_colors, self.view.shape[-1])
        palette = jax.random.uniform(jax.random.fold_in(key, _PALETTE), shape)
        return {"encoder": params}, {"palette": palette}

    def refresh_every(self, length: Length) -> int:
        """Once, at step 0."""
        return length.total_steps

    def refresh(self, w: Weights, encode_all: EncodeAll, *, key: Array, step: int) -> PyTree:
        """Makes the palette."""
        if step:
            return {}
        count = self.hyper.palette_pixels

        def draw(w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
            del w
            x = self.view.evaluate(batch).reshape(len(keys), self._pixels, -1)

            def some(key: Array, x: Array) -> Array:
                return x[jax.random.randint(key, (count,), 0, len(x))]

            return {"pixels": jax.vmap(some)(fold_in(keys, _DRAW), x)}

        drawn = encode_all(draw)
        rows = drawn["pixels"].reshape(-1, drawn["pixels"].shape[-1])
        clusters = clustering.kmeans(
            rows,
            jnp.repeat(drawn["mask"], count),
            key=key,
            num_clusters=self.hyper.num_colors,
            iterations=self.hyper.kmeans_iterations,
        )
        return {"palette": clusters.centroids}

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> PyTree:
        """`x` [n h w c] in [0, 1] and, for bert, `hidden` bool [n l]."""
        del key, step
        views = {"x": self.view.train(keys, batch)}
        if not self._is_causal:
            views["hidden"] = self._hide(keys)
        return views

    def _hide(self, keys: Array) -> Array:
        def draw(key: Array) -> Array:
            return jax.random.bernoulli(key, self.hyper.mask_rate, (self._pixels,))

        return jax.vmap(draw)(fold_in(keys, _HIDE))

    def encode(
        self, w: Weights, views: PyTree, *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        del step
        colors = quantize(views["x"], w.buffers["palette"])
        hidden = views.get("hidden")
        h, out = self._forward(w.params, colors, hidden, train=True, key=key)
        return {"h": h, **self._score(w.params, out["tokens"], colors, hidden)}, {}

    def _forward(
        self,
        params: PyTree,
        colors: Array,
        hidden: Array | None = None,
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """(h, out) of the net, from colours int32 [n l]."""
        n, length = colors.shape
        pixels = {"tokens": colors, "position": jnp.broadcast_to(jnp.arange(length), (n, length))}
        if self._is_causal:
            pixels["tokens"] = jnp.concatenate([self._start(n), colors[:, :-1]], axis=1)
        elif hidden is not None:
            pixels["hidden"] = hidden
        return self.encoder.apply(params["encoder"], {}, pixels, train=train, key=key)[0]

    def _start(self, n: int) -> Array:
        return jnp.full((n, 1), self.hyper.num_colors, jnp.int32)

    def _score(
        self, params: PyTree, tokens: Array, colors: Array, hidden: Array | None
    ) -> dict[str, Array]:
        """Sums over each image [n]: `count` of predicted pixels, `loss` and `hits`."""
        losses, hits = token_cross_entropy(
            tokens,
            output_table(params["encoder"]),
            None,
            colors,
            chunk_size=self.hyper.chunk_size,
        )  # (n, l)
        weights = jnp.ones_like(losses) if hidden is None else hidden.astype(jnp.float32)
        return row_sums(weights, losses, hits)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        del key, step
        return mean_over_targets(encoded, jax.lax.stop_gradient(encoded["h"]), w.buffers)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n d], the representation of the middle layer."""
        middle = self.encoder.module.depth // 2
        tokens = self.layers(w, batch)[f"layer{max(middle, 1)}"].patches
        return {"h": tokens.mean(axis=1)}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        """The tokens [n l d] of each layer after the norm in front of what follows it."""
        colors = quantize(self.view.evaluate(batch), w.buffers["palette"])
        _, out = self._forward(w.params, colors)
        norm = make_norm("rms", 1e-5, jnp.float32, name=None)
        params, layers = w.params["encoder"], {}
        for i in range(1, self.encoder.module.depth + 1):
            scale = {"scale": _scale_behind(params, i, self.encoder.module.depth)}
            layers[f"layer{i}"] = LayerOutput(norm.apply({"params": scale}, out[f"layer{i}"]))
        return layers

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        colors = quantize(self.view.evaluate(batch), w.buffers["palette"])
        hidden = None if self._is_causal else self._hide(keys)
        _, out = self._forward(w.params, colors, hidden)
        return self._score(w.params, out["tokens"], colors, hidden)

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """Images in the palette, and completions of their upper halves or hidden pixels."""
        x, palette = self.view.evaluate(batch), w.buffers["palette"]
        colors = quantize(x, palette)
        if not self._is_causal:
            return {"Hidden pixels": self._filled(w, keys, x, colors)}
        shown = self._pixels // 2 // self.view.shape[1] * self.view.shape[1]  # whole lines
        shown = max(shown, 1)
        n, missing = len(x), self._pixels - shown
        prompts = jnp.concatenate([self._start(n), colors[:, :shown]], axis=1)
        drawn = decoding.generate(
            self.encoder.module,
            w.params["encoder"],
            jnp.tile(prompts, (_COMPLETIONS, 1)),
            jnp.full(_COMPLETIONS * n, shown + 1),
            jnp.concatenate([fold_in(keys, _DRAW + i) for i in range(_COMPLETIONS)]),
            sampling=Sampling(max_new_tokens=missing),
            end=-1,  # no colour
        ).tokens.reshape(_COMPLETIONS, n, missing)
        columns = [colors, jnp.where(jnp.arange(self._pixels) < shown, colors, -1)]
        columns += [jnp.concatenate([colors[:, :shown], new], axis=1) for new in drawn]
        names = tuple(f"completion {number + 1}" for number in range(_COMPLETIONS))
        return {
            "Completions": Images(
                self._images(columns, palette),
                inputs=x,
                columns=("palette", "given", *names),
                note="Images that the model was not trained on, in the colours of the palette. It "
                "completes their upper halves, pixel by pixel, each drawn from its probabilities.",
            )
        }

    def _filled(self, w: Weights, keys: Array, x: Array, colors: Array) -> Images:
        hidden = self._hide(keys)
        _, out = self._forward(w.params, colors, hidden)
        logits = jnp.einsum("nld,vd->nlv", out["tokens"], output_table(w.params["encoder"]))
        filled = jnp.where(hidden, logits.argmax(axis=-1), colors)
        return Images(
            self._images([colors, jnp.where(hidden, -1, colors), filled], w.buffers["palette"]),
            inputs=x,
            columns=("palette", "given", "most likely"),
            note="Images that the model was not trained on, in the colours of the palette. Hidden "
            "pixels have the most likely colour.",
        )

    def _images(self, columns: list[Array], palette: Array) -> Array:
        """Colours [n l], -1 for grey, to images [n columns h w c]."""
        colors = jnp.stack(columns, axis=1)
        pixels = jnp.where(colors[..., None] < 0, 0.5, dequantize(jnp.maximum(colors, 0), palette))
        return jnp.clip(pixels, 0, 1).reshape(*colors.shape[:2], *self.view.shape)

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        hidden = f"of {hyper.mask_rate:.0%} hidden pixels"
        what = "of each next pixel" if self._is_causal else hidden
        height, width, _ = self.view.shape
        return [
            ("loss", f"cross-entropy {what}"),
            ("pixels", f"{height} x {width} of an image, {batch_size * self._pixels:,} a step; "
                       f"{hyper.num_colors} colours"),
        ]  # fmt: skip


def quantize(images: Array, palette: Array) -> Array:
    """The nearest colour of each pixel in raster order: [n h w c] and [k c] to int32 [n l]."""
    pixels = images.reshape(len(images), -1, images.shape[-1]).astype(jnp.float32)

    def local(pixels: Array, palette: Array) -> Array:  # image by image: [n l k] is large
        return jax.lax.map(lambda x: clustering.nearest(x, palette), pixels)

    if len(pixels) % shards():  # a few images for the report page
        return local(pixels, palette)
    return on_each_device(local, (ROWS, WHOLE), ROWS)(pixels, palette)


def dequantize(colors: Array, palette: Array) -> Array:
    """The values of colours: int [...] and [k c] to [... c]."""
    return palette[colors]


def _scale_behind(params: Mapping[str, Any], layer: int, depth: int) -> Array:
    """The scale of the norm in front of what follows a layer, from 1."""
    if layer == depth:
        return params["norm"]["scale"]
    if "layers" in params:
        return params["layers"]["norm1"]["scale"][layer]
    return params[f"layer{layer + 1}"]["norm1"]["scale"]


def make(config: Any, spec: DataSpec, length: Length) -> ImageGptMethod:
    """Builds the method from the config's sections method, model and views.

    Raises:
      UserError: a bad value, or a model that is no Image GPT.
    """
    del length
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    view = make_pixel_view(config, spec, "Image GPT's palette is made of pixels in [0, 1]")
    name = config.model.name
    if name not in IMAGE_GPTS:
        raise UserError(
            f"model {name!r} does not read pixels one after the other; use "
            f"{', '.join(IMAGE_GPTS)}.{nearest(name or '', IMAGE_GPTS)}"
        )
    height, width, _ = view.shape
    encoder = make_encoder(
        **config.model,
        num_colors=hyper.num_colors,
        num_positions=height * width,
        causal=hyper.objective == "ar",
        dtype=config.dtype,
    )
    return ImageGptMethod(hyper=hyper, encoder=encoder, view=view)
