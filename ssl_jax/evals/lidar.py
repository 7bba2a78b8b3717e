"""LiDAR: how many directions tell images apart, beyond what augmentation does to them.

Thilak et al. 2023, "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL
Architectures". Every image is a class of its own, and its random views are the examples of it. With
the covariance S_b of the images' means and the covariance S_w of the views around them,

    l = eigenvalues of (S_w + delta I)^(-1/2) S_b (S_w + delta I)^(-1/2)
    LiDAR = exp(-sum p log p),  p = l / sum(l)

No label is used. It lies between 1 and min(images - 1, d); higher is better. Features that noise
or augmentation moves count less than in RankMe. Use more images than dimensions.

Views are drawn by the recipe of the run (`views`, its main family, without `normalize`), or by
random crops and flips where it has none, and encoded as images are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssl_jax.config.fields import at_least, positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.evals.known import Known
from ssl_jax.evals.metric import Metric
from ssl_jax.evals.model import Model
from ssl_jax.modalities.image import IMAGE
from ssl_jax.views.image import make_views

NEEDS = ()
METRICS = {"rank": Metric("LiDAR", "linear discriminant analysis rank (LiDAR)", unit="")}
_WITHOUT = ("normalize", "standardize")  # ops that leave [0, 1]
_PLAIN = ("random_resized_crop", "flip")


def applies(method: Method, spec: DataSpec) -> bool:
    """Whether the data are images."""
    del method
    return spec.modality == IMAGE.name


def evaluate_model(
    model: Model,
    prober: Any,
    *,
    feature: str = "h",
    seed: int = 0,
    images: Annotated[int, at_least(2), "Train images, evenly spaced in the split."] = 1000,
    views: Annotated[int, at_least(2), "Random views of each."] = 10,
    delta: Annotated[float, positive, "Added to the variances within an image."] = 1e-4,
) -> dict[str, float]:
    """LiDAR of the train split.

    Args:
      model: the model to evaluate.
      prober: provides the split and the config of the run.
      feature: the output to evaluate, [n d].
      seed: draws the views.
      images, views, delta: the options.
    """
    source = prober.train
    subset = prober.evenly(source, images)
    augment = augmentation(prober.config.views)
    encoded = []
    for view in range(views):
        key = jax.random.fold_in(jax.random.key(seed), view)

        def encode(batch: Mapping[str, jax.Array], key: jax.Array = key) -> dict[str, jax.Array]:
            changed = augment(key, batch["index"], batch["image"])
            return {"h": model.outputs({**batch, "image": changed}, (feature,))[feature]}

        encoded.append(prober.features(encode, source, subset, targets=())["h"])
    return {"rank": rank(np.stack(encoded, axis=1), delta=delta)}


def check(known: Known, *, images: int, **options: Any) -> None:
    """Raises UserError if there is only one image."""
    del options
    if min(images, known.num_train) < 2:
        raise UserError("lidar needs at least two train images")


def augmentation(section: Mapping[str, Any]) -> Callable[..., jax.Array]:
    """A jitted function (key, index [n], images [n h w c]) -> float32 views [n h w c] in [0, 1].

    The view of an image depends on the key and its index alone.

    Args:
      section: `views` of a config.
    """
    recipe = {
        name: value
        for name, value in (section.to_dict() if hasattr(section, "to_dict") else section).items()
        if name not in ("families", "overrides")
    }
    recipe["ops"] = tuple(op for op in recipe.get("ops", ()) if op not in _WITHOUT) or _PLAIN
    views = make_views(recipe, num_views=1)

    @jax.jit
    def augment(key: jax.Array, index: jax.Array, images: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
        return views(keys, images)[:, 0].astype(jnp.float32)

    return augment


def rank(z: Float[np.ndarray, "n q d"], *, delta: float = 1e-4) -> float:
    """LiDAR of q views of n images; 1 where all images have one mean.

    Args:
      z: the features.
      delta: see the docstring of this module; in units of the squared features.
    """
    z = np.asarray(z, np.float64)
    n, q, d = z.shape
    mean = z.mean(axis=1)  # (n, d)
    between = mean - mean.mean(axis=0)
    within = (z - mean[:, None]).reshape(n * q, d)
    covariance = within.T @ within / (n * (q - 1)) + delta * np.eye(d)
    variances, directions = np.linalg.eigh(covariance)
    # The singular values of the whitened means: S_b itself is never squared, nor inverted.
    whitened = between @ directions / np.sqrt(variances)
    values = np.linalg.svd(whitened, compute_uv=False) ** 2
    if not values.sum() > 0:
        return 1.0
    p = values / values.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))
