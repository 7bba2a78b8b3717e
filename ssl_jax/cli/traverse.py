"""Draws what latents do: ssl_jax traverse --workdir=runs/vae --examples=3,17 --output=t.png

For each example the image and its reconstruction, and one row for each latent: the images decoded
after adding -3 to 3 standard deviations to the latent. Those with the largest KL come first; for an
autoencoder, which has no KL, those that vary most. KL and spread are means over at most 512
examples of the split.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ssl_jax.cli import latent_pictures
from ssl_jax.core.arrays import Array
from ssl_jax.core.items import Images
from ssl_jax.core.method import Weights
from ssl_jax.methods.base.latents import Latents, traversals

_MEASURED = 512  # examples of the KL of latents


def define_flags() -> None:
    latent_pictures.define_flags()
    flags.DEFINE_list("examples", ["0"], "Numbers of examples of the split, from 0.")
    flags.DEFINE_list(
        "latents", None, "Numbers of latents, in the order of the rows; default: the first 12."
    )


def main() -> int:
    run, source = latent_pictures.open_run()
    examples = latent_pictures.read_examples(flags.FLAGS.examples, source, at_least=1)
    method, w = run.experiment.method, run.weights
    latents_of = jax.jit(method.latents)
    rows = np.linspace(0, len(source) - 1, min(_MEASURED, len(source))).astype(int)
    measured = latents_of(w, latent_pictures.batch_of(source, rows))
    shown = latents_of(w, latent_pictures.batch_of(source, examples))
    shown = dataclasses.replace(shown, size=measured.size, unit=measured.unit, note=measured.note)
    numbers = flags.FLAGS.latents
    if numbers is not None:
        count = shown.z.shape[1]
        numbers = tuple(
            latent_pictures.read_numbers("latents", numbers, count, f"the latents of {run.workdir}")
        )

    def draw(w: Weights, latents: Latents, example: Array) -> tuple[Images, Images]:
        """The image and its reconstruction, and the traversals."""
        pair = jnp.stack([latents.x[example], method.decode(w, latents.z[example][None])[0]])
        original = Images(pair[None], columns=("image", "decoded"))
        return original, traversals(lambda z: method.decode(w, z), latents, example, numbers)

    drawn, tables = jax.jit(draw), []
    for row, number in enumerate(examples):
        original, changed = jax.device_get(drawn(w, shown, row))
        tables += [(latent_pictures.title(source, number), original), ("", changed)]
    latent_pictures.write(run, source, tables)
    return 0
