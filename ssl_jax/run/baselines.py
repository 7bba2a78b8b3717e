"""Representations that an encoder is compared with: rows of a run's results, `eval.baselines`.

All but raw inputs, colours and the untrained encoder are fitted to the train split alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Batch, DataSpec
from ssl_jax.evals import decompositions, mean_colors, mfcc
from ssl_jax.evals.model import Model
from ssl_jax.modalities.audio import AUDIO
from ssl_jax.modalities.image import IMAGE
from ssl_jax.modalities.table import TABLE
from ssl_jax.modalities.text import TEXT
from ssl_jax.run.probing import Prober

UNTRAINED = "untrained"
MFCC = "mfcc"
COLUMNS = "columns"
COLORS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "dominant_color": mean_colors.dominant_color,
        "rgb": mean_colors.rgb,
        "hsv": mean_colors.hsv,
        "lab": mean_colors.lab,
    }
)
TITLES = MappingProxyType(
    {
        "pixels": "raw pixels",
        UNTRAINED: "untrained encoder",
        "pca": "PCA",
        "ica": "ICA",
        "dictionary": "dictionary",
        "rbm": "RBM",
        "dominant_color": "dominant colour",
        "rgb": "mean RGB",
        "hsv": "mean HSV",
        "lab": "mean Lab",
        MFCC: "MFCC",
        COLUMNS: "raw columns",
    }
)
"""Name in `eval.baselines` -> the row of results, for images, audio and tables."""
_NOUNS = {
    IMAGE.name: "images",
    TEXT.name: "texts with classes",
    AUDIO.name: "audio",
    TABLE.name: "tables",
}
_MAX_BYTES = 2**30  # of the inputs that a representation is fitted to at once


def check(names: tuple[str, ...], spec: DataSpec) -> None:
    """Checks that data have the baselines.

    Args:
      names: `eval.baselines`.
      spec: of the data that are evaluated.

    Raises:
      UserError: a name is there twice; it is one of another modality; images have no colours.
    """
    if len(set(names)) < len(names):
        raise UserError(f"eval.baselines is {names}; name each once")
    for name in names:
        possible = _modalities(name)
        if name != UNTRAINED and spec.modality not in possible:
            nouns = " and ".join(_NOUNS[modality] for modality in possible)
            raise UserError(
                f"eval.baselines has {name!r}, which is for {nouns}; these data are of modality "
                f"{spec.modality!r}"
            )
        if name in COLORS and (channels := spec.arrays["image"].shape[-1]) != 3:
            raise UserError(
                f"eval.baselines has {name!r}, which needs 3 channels (RGB); the images have "
                f"{channels}"
            )


def _modalities(name: str) -> tuple[str, ...]:
    """The modalities of the data that a baseline other than the untrained encoder is for."""
    if name in decompositions.NAMES:
        return (IMAGE.name, TABLE.name)
    if name in (MFCC, COLUMNS):
        return (AUDIO.name,) if name == MFCC else (TABLE.name,)
    return (IMAGE.name,) if name in TITLES else (TEXT.name,)


def _raw(prober: Prober) -> Callable[[Batch], Any]:
    """Batch -> `h` float32 [n d], its inputs as numbers."""
    columns = prober.train.spec.columns
    if columns is None:
        return IMAGE.raw_features
    return jax.jit(functools.partial(TABLE.raw_features, columns=columns))


def outputs(name: str) -> tuple[str, ...]:
    """Names of the outputs of a baseline other than the untrained encoder."""
    return ("h", "frames") if name == MFCC else ("h",)


def check_fits(prober: Prober) -> list[str]:
    """Checks baselines that are fitted, on the size of the train split.

    Returns:
      A note if they are fitted to a part of the split.

    Raises:
      UserError: there are too many components.
    """
    section = prober.config.eval
    names = [name for name in section.baselines if name in decompositions.NAMES]
    by_number: dict[int, list[str]] = {}
    for name in names:
        dim, number = _dim(prober), len(_fitted_rows(prober, name))
        decompositions.check_components(
            name, section.baseline_components, number, dim, "eval.baseline_components"
        )
        by_number.setdefault(number, []).append(name)
    every = len(prober.train)
    return [
        f"eval.baselines: {', '.join(these)} fitted to {number:,} of {every:,} train examples"
        for number, these in by_number.items()
        if number < every
    ]


def model(name: str, prober: Prober) -> Model:
    """A baseline of images or audio other than the untrained encoder, fitted if it has to be.

    Args:
      name: one of `TITLES` except `untrained`.
      prober: gives the train split, the seed and the options.

    Raises:
      UserError: the data do not have it.
    """
    check((name,), prober.test.spec.evaluated)
    if name == MFCC:
        return Model(_mfcc_of(prober), raw_outputs=outputs(name))
    if name in COLORS:
        color = COLORS[name]
        return Model(lambda batch: {"h": color(batch["image"])})
    if name in decompositions.NAMES:
        transform = _fitted(name, prober)
        return Model(functools.partial(_on_host, prober.mesh, transform, _raw(prober)))
    return Model(_raw(prober))


def _mfcc_of(prober: Prober) -> Callable[[Batch], dict[str, jax.Array]]:
    """Batch -> `frames` [n t d], the coefficients of its frames, and their mean `h` [n d]."""
    options = prober.test.options

    def features(batch: Batch) -> dict[str, jax.Array]:
        frames = mfcc.mfcc(AUDIO.waveform(batch), rate=options.sample_rate, frame=options.frame)
        return {"h": frames.mean(axis=1), "frames": frames}

    return features


def _on_host(
    mesh: jax.sharding.Mesh,
    transform: decompositions.Transform,
    raw: Callable[[Batch], Any],
    batch: Batch,
) -> Any:
    """`transform` of the inputs of a global batch, which every process gathers."""
    x = parallel.gather(raw(batch)["h"])
    rows = parallel.local_rows(mesh, len(x))
    return {"h": parallel.to_global(transform(x[rows]), mesh, rows, len(x))}


def _fitted(name: str, prober: Prober) -> decompositions.Transform:
    section, seed = prober.config.eval, prober.config.seed
    components, rows = section.baseline_components, _fitted_rows(prober, name)
    if name == "pca" and len(rows) > _rows_in_memory(prober):
        decompositions.check_components(name, components, len(rows), _dim(prober))
        count = components or min(decompositions.DEFAULT_COMPONENTS, len(rows), _dim(prober))
        return decompositions.fit_incremental_pca(_blocks(prober, rows, count), components=count)
    x = prober.features(_raw(prober), prober.train, rows)["h"]
    return decompositions.fit(name, x, components=components, seed=seed)


def _blocks(prober: Prober, rows: np.ndarray, at_least: int) -> Iterator[np.ndarray]:
    """The inputs of train examples in blocks [n d]; all but the last have `at_least` rows."""
    size, raw = max(at_least, prober.config.eval.batch_size), _raw(prober)
    for batch in prober.batches(prober.train, rows, batch_size=size):
        x, mask = parallel.gather((raw(batch)["h"], batch["mask"]))
        yield x[mask.astype(bool)]


def _fitted_rows(prober: Prober, name: str) -> np.ndarray:
    """Indices of the train examples that a baseline is fitted to, increasing int [n].

    They are drawn at random from those of the probes if there are more than
    `eval.baseline_fit_examples`, or more than fit in memory at once and the baseline is not PCA.
    """
    subset = prober.train_subset()
    rows = np.arange(len(prober.train)) if subset is None else subset
    limit = prober.config.eval.baseline_fit_examples
    if name != "pca":
        limit = min(limit, _rows_in_memory(prober))
    if limit >= len(rows):
        return rows
    rng = np.random.default_rng(prober.config.seed)
    return np.sort(rng.choice(rows, limit, replace=False))


def _rows_in_memory(prober: Prober) -> int:
    return _MAX_BYTES // (4 * _dim(prober))


def _dim(prober: Prober) -> int:
    """Numbers of an example: of an image its pixels times channels."""
    spec = prober.train.spec.evaluated
    return jax.eval_shape(_raw(prober), spec.batch(1))["h"].shape[1]
