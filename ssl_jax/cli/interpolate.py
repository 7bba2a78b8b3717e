"""Draws lines between images: ssl_jax interpolate --workdir=runs/vae --examples=3,17 --output=i.png

One block for each example and the next one: the images decoded from the straight line between their
codes, and below them the mixtures of their pixels.
"""

from __future__ import annotations

import itertools

import jax
import numpy as np
from absl import flags

from ssl_jax.cli import latent_pictures
from ssl_jax.core.items import Images
from ssl_jax.methods.base.paths_between import interpolations


def define_flags() -> None:
    latent_pictures.define_flags()
    flags.DEFINE_list(
        "examples", ["0", "1"], "Numbers of examples of the split, from 0; two or more."
    )


def main() -> int:
    run, source = latent_pictures.open_run()
    examples = latent_pictures.read_examples(flags.FLAGS.examples, source, at_least=2)
    method = run.experiment.method

    def draw(w, batch):
        latents = method.latents(w, batch)
        return interpolations(lambda z: method.decode(w, z), latents.z, latents.x)

    items = jax.device_get(jax.jit(draw)(run.weights, latent_pictures.batch_of(source, examples)))
    decoded, mixed = items.values()
    tables = []
    for row, pair in enumerate(itertools.pairwise(examples)):
        table = Images(
            np.stack([decoded.pixels[row], mixed.pixels[row]]),
            rows=("codes", "pixels"),
            columns=decoded.columns,
        )
        titles = [latent_pictures.title(source, number) for number in pair]
        tables.append((" to ".join(titles), table))
    latent_pictures.write(run, source, tables)
    return 0
