"""Linear interpolation: does the decoder's path between two codes stay on the data?"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from ssl_jax import parallel
from ssl_jax.evals.model import Model
from ssl_jax.evals.properties import midpoints
from ssl_jax.modalities.image import IMAGE

_DECODED_AT_A_TIME = 100


def can_decode(model: Model, feature: str) -> bool:
    """Whether codes can be turned into images: raw pixels, or h of a method with a decoder."""
    if feature != "h":
        return False
    if model.method is None:
        return model.features == IMAGE.raw_features
    return hasattr(model.method, "decode")


def scores(
    model: Model,
    prober: Any,
    rows: np.ndarray | None,
    codes: np.ndarray,
    *,
    train_rows: np.ndarray,
    num_pairs: int,
    neighbours: int,
    seed: int,
) -> dict[str, float]:
    """`midpoint` and `decoded`: distances to the train images over that of test images.

    Args:
      model: one that can decode.
      prober: provides the splits.
      rows: numbers of the test examples; None: all.
      codes: their codes h, [n d].
      train_rows: numbers of the train examples that distances are measured to.
      num_pairs: largest number of midpoints.
      neighbours: train images of which the mean distance is taken.
      seed: of the pairs.
    """
    view = None if model.method is None else jax.jit(model.method.eval_view)

    def pixels(batch: Any) -> dict[str, jax.Array]:
        if view is None:
            return IMAGE.raw_features(batch)
        x = view(batch["image"])
        return {"h": x.reshape(len(x), -1)}

    data = prober.features(pixels, prober.train, train_rows, ())["h"]
    images = prober.features(pixels, prober.test, rows, ())["h"]
    pairs = midpoints.pairs(len(codes), num_pairs, seed)
    ends, middles = codes[pairs].reshape(-1, codes.shape[1]), codes[pairs].mean(axis=1)
    real, *decoded = (
        midpoints.distance_to_data(some, data, neighbours)
        for some in (images[pairs.reshape(-1)], _decoded(model, middles), _decoded(model, ends))
    )
    return dict(zip(("midpoint", "decoded"), (value / real for value in decoded), strict=True))


def _decoded(model: Model, codes: np.ndarray) -> np.ndarray:
    """The images of codes, [m h * w * c]."""
    if model.method is None:
        return codes
    parts = []
    decode = jax.jit(model.method.decode)
    for first in range(0, len(codes), _DECODED_AT_A_TIME):
        part = codes[first : first + _DECODED_AT_A_TIME].astype(np.float32)
        padding = ((0, _DECODED_AT_A_TIME - len(part)), (0, 0))  # compiled for one shape
        images = parallel.gather(decode(model.weights, np.pad(part, padding)))
        parts.append(images.reshape(len(images), -1)[: len(part)])
    return np.concatenate(parts)
