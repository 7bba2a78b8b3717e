"""VAE and beta-VAE: variational autoencoders (Kingma & Welling 2014; Higgins et al. 2017).

    x -> h = f(x) -> q(z|x) = N(m, diag s^2) -> z = m + s e,  e ~ N(0, I) -> p(x|z)

    loss = -log p(x|z) + beta KL(q(z|x) || N(0, I)), the mean over images

f is an encoder. A linear map computes m and log s^2 from h; a decoder computes the parameters of
p(x|z) from z. With beta 1 the loss is the negative evidence lower bound of log p(x) (VAE). A larger
beta moves latents towards the prior and makes them more independent (beta-VAE). Log likelihoods are
summed over pixels and the KL over latents, so beta has the same meaning as in the papers. The
representation, the features `h`, is m.

Each image has one e per step. It is drawn with the image's key, so it does not depend on the other
images, the devices or the micro-batches.

Pixels are Bernoulli, given by their logits, or Gaussian with one standard deviation for all pixels,
fixed or learned. Bernoulli with grey pixels is common but not a proper likelihood: its values are
not the log probability of an image. `binarize` draws black or white pixels in each step, with the
grey value as the probability of white, as Burda et al. 2015 (Sec. 5) do on MNIST.

Deviations: weights are initialised as in LeCun's initialiser; Kingma & Welling use N(0, 0.01).
Their prior on the parameters is the optimizer's weight decay. Free nats apply to the KL of each
image (see `ssl_jax.losses.negative_elbo`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from ssl_jax import losses
from ssl_jax.config.fields import not_negative, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.items import Images, Item
from ssl_jax.core.layer_outputs import LayerOutput
from ssl_jax.core.length import Length
from ssl_jax.core.method import (
    Array,
    Aux,
    Batch,
    DataSpec,
    PyTree,
    Weights,
    hyper_parameters,
)
from ssl_jax.methods.base.coder import Coder
from ssl_jax.methods.base.latents import Latents, traversals
from ssl_jax.methods.base.one_view import OneView, OneViewMethod, make_pixel_view
from ssl_jax.methods.base.paths_between import interpolations
from ssl_jax.models import Net, make_decoder, make_encoder
from ssl_jax.models.encoder_layers import encoder_layers
from ssl_jax.models.heads import mlp_head
from ssl_jax.views.ops import fold_in

# Folded into an example's key; views fold in small integers.
_NOISE, _PIXELS = 0x6E6F6973, 0x70697865
_PRIOR = 0x7072696F
_SAMPLE = 0x73616D70
_LOGGED = 64  # latents whose KL is logged, the first ones
_GREY_LEVELS = 255  # steps between black and white of the stored images


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """The keys of `config.method`."""

    num_latents: Annotated[int, positive, "Width of z."] = 10
    beta: Annotated[float, not_negative, "Weight of the KL; 1: a VAE."] = 1.0
    beta_warmup_epochs: Annotated[
        float, not_negative, "Epochs in which the weight of the KL rises linearly from 0."
    ] = 0.0
    free_nats: Annotated[
        float, not_negative, "KL of a latent of an image without a penalty, nats."
    ] = 0.0
    likelihood: Annotated[Literal["bernoulli", "gaussian"], "Distribution of a pixel."] = (
        "bernoulli"
    )
    binarize: Annotated[
        bool, "Draw black or white pixels, with the grey value as the probability of white."
    ] = False
    noise_std: Annotated[
        float, positive, "Standard deviation of Gaussian pixels; black is 0, white is 1."
    ] = 1.0
    learn_noise: Annotated[bool, "Learn noise_std, starting from its value here."] = False
    pixel_mean: Annotated[
        Literal["sigmoid", "linear"],
        "Function from the decoder's output to the mean of Gaussian pixels.",
    ] = "sigmoid"


@dataclasses.dataclass(frozen=True)
class VAE(OneViewMethod):
    """A variational autoencoder.

    Attributes:
      hyper: the config's section.
      warmup_steps: steps in which beta rises.
      encoder: images [n h w c] -> (h [n d], outputs by name).
      posterior: h -> [n 2l], means and log variances of the l latents.
      decoder: z [n l] -> [n h w c], logits or the input of `pixel_mean`.
      view: computes the inputs of the encoder from batches.
    """

    title: ClassVar[str] = "VAE"
    decomposes: ClassVar[bool] = True

    hyper: HyperParameters
    warmup_steps: float
    encoder: Net
    posterior: Net
    decoder: Net
    view: OneView

    @property
    def _coder(self) -> Coder:
        return Coder(self.encoder, self.posterior, "posterior")

    def init(self, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        encoder_key, posterior_key, decoder_key = jax.random.split(key, 3)
        x = jax.ShapeDtypeStruct((1, *self.view.shape), jnp.float32)
        z = jax.ShapeDtypeStruct((1, self.hyper.num_latents), jnp.float32)
        params, buffers, _ = self._coder.init(encoder_key, posterior_key, x)
        params["decoder"], buffers["decoder"] = self.decoder.init(decoder_key, z)
        if self.hyper.learn_noise:
            params["noise"] = {"log_scale": jnp.log(jnp.float32(self.hyper.noise_std))}
        return params, buffers

    def views(self, keys: Array, batch: Batch, *, key: Array, step: Array) -> dict[str, Array]:
        """`x` [n h w c] in [0, 1] and `noise` [n l], standard normal."""
        return self._add_noise(keys, self.view.train(keys, batch))

    def _add_noise(self, keys: Array, x: Array) -> dict[str, Array]:
        if self.hyper.binarize:
            draw_white = jax.vmap(
                lambda key, p: jax.random.bernoulli(jax.random.fold_in(key, _PIXELS), p)
            )
            x = draw_white(keys, x.astype(jnp.float32)).astype(x.dtype)
        shape = (self.hyper.num_latents,)
        normal = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, _NOISE), shape))
        return {"x": x, "noise": normal(keys)}

    def encode(
        self, w: Weights, views: dict[str, Array], *, key: Array, step: Array
    ) -> tuple[PyTree, PyTree]:
        """For each image `mean` [n l], `kl` [n l] and `log_likelihood` [n]."""
        return self._terms(w, views, train=True, key=key)

    def _terms(
        self, w: Weights, views: dict[str, Array], *, train: bool, key: Array | None = None
    ) -> tuple[dict[str, Array], PyTree]:
        mean, log_var, updates = self._encode_posterior(w, views["x"], train=train, key=key)
        z = mean + jnp.exp(log_var / 2) * views["noise"]
        decoded, updates["decoder"] = self.decoder.apply(
            w.params["decoder"], w.buffers["decoder"], z, train=train, key=key
        )
        return {
            "mean": mean,
            "kl": losses.gaussian_kl(mean, log_var),
            "log_likelihood": self._log_likelihood(w, decoded, views["x"]),
        }, updates

    def _encode_posterior(
        self, w: Weights, x: Array, *, train: bool, key: Array | None = None
    ) -> tuple[Array, Array, dict[str, PyTree]]:
        """Mean [n l] and log variance [n l] of q(z|x), and the updated buffers."""
        out, updates = self._coder.apply(w, x, train=train, key=key)
        mean, log_var = jnp.split(out, 2, axis=-1)
        return mean, log_var, updates

    def _log_likelihood(self, w: Weights, decoded: Array, x: Array) -> Array:
        """log p(x|z), [n]."""
        if self.hyper.likelihood == "bernoulli":
            return losses.bernoulli_log_likelihood(decoded, x)
        return losses.gaussian_log_likelihood(
            self._pixel_mean(decoded), x, 2 * self._log_noise_std(w)
        )

    def _log_noise_std(self, w: Weights) -> Array | float:
        if self.hyper.learn_noise:
            return w.params["noise"]["log_scale"]
        return math.log(self.hyper.noise_std)

    def _pixel_mean(self, decoded: Array) -> Array:
        """The expectation of x, [n h w c], from the decoder's output."""
        linear = self.hyper.likelihood == "gaussian" and self.hyper.pixel_mean == "linear"
        return decoded if linear else jax.nn.sigmoid(decoded)

    def beta(self, step: Array) -> Array:
        """The weight of the KL at `step`; 0 is the first step."""
        if not self.warmup_steps:
            return jnp.float32(self.hyper.beta)
        return self.hyper.beta * jnp.minimum(1.0, step / self.warmup_steps)

    def objective(
        self, w: Weights, encoded: PyTree, *, key: Array, step: Array
    ) -> tuple[Array, Aux]:
        """The loss; logged are its terms, the active latents of the batch and the KL of each."""
        mean, count = encoded["mean"], jnp.float32(len(encoded["mean"]))
        beta = self.beta(step)
        loss, metrics = losses.negative_elbo(
            encoded["log_likelihood"], encoded["kl"], beta=beta, free_nats=self.hyper.free_nats
        )
        active = jnp.sum(losses.active_latents(mean), dtype=jnp.float32)
        metrics |= {"beta": beta, "active_latents": active}
        of_latents = jnp.mean(encoded["kl"], axis=0)[:_LOGGED]
        metrics |= {f"latent_kl/{number}": kl for number, kl in enumerate(of_latents)}
        if self.hyper.learn_noise:
            metrics["noise_std"] = jnp.exp(self._log_noise_std(w))
        return loss, Aux(w.buffers, metrics, {"h": mean}, count)

    def features(self, w: Weights, batch: Batch) -> dict[str, Array]:
        """`h` [n l], the mean of q(z|x), and `log_var` [n l]. Pixels are not binarized."""
        mean, log_var, _ = self._encode_posterior(w, self.view.evaluate(batch), train=False)
        return {"h": mean, "log_var": log_var}

    def layers(self, w: Weights, batch: Batch) -> dict[str, LayerOutput]:
        """The stages of a convolutional encoder."""
        x = self.view.evaluate(batch)
        return encoder_layers(self.encoder, w.params["encoder"], w.buffers["encoder"], x)

    def held_out(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Array]:
        """`elbo`, `reconstruction` and `kl` of each image with one z, nats; and `bits_per_dim`.

        `bits_per_dim` is the negative bound in bits, divided by the numbers of pixels and channels.
        For Gaussian pixels the unit of the density is a grey level, so that `bits_per_dim` is
        comparable with the eight bits of a stored value.
        """
        terms, _ = self._terms(w, self._add_noise(keys, self.view.evaluate(batch)), train=False)
        kl, reconstruction = jnp.sum(terms["kl"], axis=1), -terms["log_likelihood"]
        bits = (reconstruction + kl) / (math.prod(self.view.shape) * math.log(2))
        if self.hyper.likelihood == "gaussian":
            bits = bits + math.log2(_GREY_LEVELS)
        return {
            "count": jnp.ones_like(kl),
            "elbo": -reconstruction - kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "bits_per_dim": bits,
        }

    def log_weights(
        self, w: Weights, keys: Array, batch: Batch, first: int, *, count: int
    ) -> Array:
        """log p(x, z) - log q(z|x) of samples z of each image's posterior, float32 [count n].

        Args:
          w: the weights.
          keys: [n], one key an image.
          batch: the images.
          first: number of the first sample; a sample has its own noise.
          count: number of samples.
        """
        x = self._add_noise(keys, self.view.evaluate(batch))["x"]
        mean, log_var, _ = self._encode_posterior(w, x, train=False)

        def of_sample(number: Array) -> Array:
            sample_keys = fold_in(fold_in(keys, _SAMPLE), first + number)
            noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(sample_keys)
            z = mean + jnp.exp(log_var / 2) * noise
            decoded, _ = self.decoder.apply(
                w.params["decoder"], w.buffers["decoder"], z, train=False
            )
            # The terms of log 2 pi of prior and posterior cancel.
            ratio = jnp.sum(jnp.square(noise) + log_var - jnp.square(z), axis=1) / 2
            return self._log_likelihood(w, decoded, x) + ratio

        return jax.lax.map(of_sample, jnp.arange(count))

    def decode(self, w: Weights, z: Array) -> Array:
        """The expected images of latents [n l], [n h w c] in [0, 1], in evaluation mode."""
        decoded, _ = self.decoder.apply(w.params["decoder"], w.buffers["decoder"], z, train=False)
        return jnp.clip(self._pixel_mean(decoded), 0, 1)

    def latents(self, w: Weights, batch: Batch) -> Latents:
        """The means of the posteriors of images, and the KL of each latent, nats."""
        x = self.view.evaluate(batch)  # (n, h, w, c)
        mean, log_var, _ = self._encode_posterior(w, x, train=False)
        return Latents(
            z=mean,
            x=x,
            size=jnp.mean(losses.gaussian_kl(mean, log_var), axis=0),
            unit=jnp.ones(self.hyper.num_latents),
            caption="latent {:.0f}, KL {:.2f}",
            note=(
                "One image, decoded after adding to one of its latents the given number of "
                "standard deviations of the prior. Latents with the largest KL (nats, mean "
                f"over {len(x)} images) come first; a latent without KL has no effect."
            ),
        )

    def show(self, w: Weights, keys: Array, batch: Batch) -> dict[str, Item]:
        """Reconstructions, lines between images, traversals of latents, and draws of the prior."""
        latents = self.latents(w, batch)
        mean, x = latents.z, latents.x
        prior_latents = jax.vmap(lambda key: jax.random.normal(key, self._grid))(
            fold_in(keys, _PRIOR)
        )  # (n, 8, l)
        return {
            "Reconstructions": Images(
                self.decode(w, mean)[:, None],
                inputs=x,
                columns=("reconstruction",),
                note="Images, and the images decoded from the means of their posteriors.",
            ),
            **interpolations(lambda z: self.decode(w, z), mean, x),
            "Latent traversals": traversals(lambda z: self.decode(w, z), latents),
            "Samples": Images(
                self._decode_grid(w, prior_latents),
                note="Expected images of latents drawn from the prior.",
            ),
        }

    @property
    def _grid(self) -> tuple[int, int]:
        return 8, self.hyper.num_latents

    def _decode_grid(self, w: Weights, z: Array) -> Array:
        """Latents [rows columns l] to images [rows columns h w c]."""
        images = self.decode(w, z.reshape(-1, z.shape[-1]))
        return images.reshape(*z.shape[:2], *images.shape[1:])

    def preflight(self, batch_size: int) -> list[tuple[str, str]]:
        hyper = self.hyper
        pixels = f"{hyper.likelihood}, {'x'.join(map(str, self.view.shape))}"
        if hyper.likelihood == "gaussian":
            learned = ", learned" if hyper.learn_noise else ""
            pixels += f", standard deviation {hyper.noise_std:g}{learned}"
        warmup = f" after {self.warmup_steps:,.0f} steps" * bool(self.warmup_steps)
        free = f", {hyper.free_nats:g} nats of each free" * bool(hyper.free_nats)
        return [
            ("pixels", pixels + ", drawn black or white" * hyper.binarize),
            ("latents", f"{hyper.num_latents}, beta {hyper.beta:g}{warmup}{free}"),
        ]


def make(config: Any, spec: DataSpec, length: Length) -> VAE:
    """Builds the method from the config's sections method, model, nets and views.

    Raises:
      UserError: a bad value, options that contradict each other, or views not in [0, 1].
    """
    hyper = hyper_parameters(HyperParameters, config.method, "method")
    _check(hyper)
    view = make_pixel_view(config, spec, "a VAE models pixels from 0 to 1")
    return VAE(
        hyper=hyper,
        warmup_steps=hyper.beta_warmup_epochs * length.steps_per_epoch,
        encoder=make_encoder(**config.model, dtype=config.dtype),
        posterior=mlp_head(1, None, 2 * hyper.num_latents, output_bias=True, dtype=config.dtype),
        decoder=make_decoder(**config.nets.decoder, shape=view.shape, dtype=config.dtype),
        view=view,
    )


def _check(hyper: HyperParameters) -> None:
    if hyper.likelihood == "bernoulli" and hyper.learn_noise:
        raise UserError("method.learn_noise=True is for method.likelihood=gaussian, not bernoulli")
    if hyper.likelihood == "gaussian" and hyper.binarize:
        raise UserError("method.binarize=True is for method.likelihood=bernoulli, not gaussian")
