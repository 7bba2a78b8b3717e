"""Smoothness and invariance of an encoder: its codes of images and of the same images changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import parallel
from ssl_jax.evals.model import Model
from ssl_jax.evals.properties import response
from ssl_jax.evals.properties.perturbations import perturb

_PERCENTILE = 95.0


def scores(
    model: Model,
    prober: Any,
    rows: np.ndarray | None,
    codes: np.ndarray,
    *,
    feature: str,
    names: Sequence[str],
    strengths: Sequence[float],
    local_strength: float,
) -> dict[str, float]:
    """`lipschitz`, `lipschitz_95` and `invariance`, and the values of each perturbation.

    Args:
      model: the model.
      prober: provides the test split.
      rows: numbers of the test examples; None: all.
      codes: their codes, [n d].
      feature: name of the output.
      names: of perturbations.
      strengths: of the perturbations under which the cosine is measured.
      local_strength: of those along which the Lipschitz quotient is measured.
    """
    code_scale = response.pair_distance(codes)
    image_scale = _image_scale(prober.batches(prober.test, rows))
    mean = np.asarray(codes, np.float64).mean(axis=0)
    quotients, cosines = {}, {}
    for name in names:
        changed = _changed_codes(model, prober, rows, feature, name, local_strength)
        distance = np.linalg.norm(np.asarray(changed["code"], np.float64) - codes, axis=1)
        quotients[name] = response.expansion(
            distance, changed["distance"], code_scale=code_scale, image_scale=image_scale
        )
        for strength in strengths:
            changed = _changed_codes(model, prober, rows, feature, name, strength)
            cosines[name, strength] = response.similarity(codes, changed["code"], mean)
    quotients = {name: values for name, values in quotients.items() if len(values)}
    out = {
        **{f"lipschitz_{name}": float(np.median(values)) for name, values in quotients.items()},
        **{
            f"cosine_{name}_{round(100 * strength)}": value
            for (name, strength), value in cosines.items()
        },
    }
    if quotients:
        medians = [np.median(values) for values in quotients.values()]
        worst = [np.percentile(values, _PERCENTILE) for values in quotients.values()]
        out |= {"lipschitz": float(np.mean(medians)), "lipschitz_95": float(np.mean(worst))}
    if cosines:
        out["invariance"] = float(np.mean(list(cosines.values())))
    return out


def _changed_codes(
    model: Model, prober: Any, rows: np.ndarray | None, feature: str, name: str, strength: float
) -> dict[str, np.ndarray]:
    """The codes of changed images, and the distance of these to the images."""

    def encode(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        images = perturb(batch["image"], batch["index"], strength, name=name)
        outputs = model.outputs({**batch, "image": images}, [feature])
        return {"code": outputs[feature], "distance": _distance(images, batch["image"])}

    return prober.features(encode, prober.test, rows, ())


@jax.jit
def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Euclidean distances of images in [0, 1], [n]."""
    difference = (a.astype(jnp.float32) - b.astype(jnp.float32)) / 255
    return jnp.sqrt(jnp.sum(jnp.square(difference), axis=(1, 2, 3)))


def _image_scale(batches: Any) -> float:
    """`response.pair_distance` of all images in [0, 1], without holding them in memory."""
    mean, squares, count = 0.0, 0.0, 0.0
    for batch in batches:
        sums = parallel.gather(_sums(batch["image"], batch["mask"]))
        image_sum, square_sum, number = (np.asarray(value, np.float64) for value in sums)
        mean, squares, count = mean + image_sum, squares + square_sum, count + number
    variance = (squares - np.sum(mean**2) / count) / (count - 1)
    return float(np.sqrt(2 * variance))


@jax.jit
def _sums(images: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over the images that are no padding: of pixels, of squared norms, of ones."""
    x = images.astype(jnp.float32) / 255 * mask[:, None, None, None]
    return jnp.sum(x, axis=0), jnp.sum(jnp.square(x)), jnp.sum(mask, dtype=jnp.float32)
