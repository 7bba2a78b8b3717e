"""What linear metrics fitted to some digits do to the retrieval of others: no encoder, no training

    python -m benchmarks.linear_metric

MAP@R of the test digits 5 to 9 by metrics of the digits 0 to 4, and of two of the digits 0 to 4 by
metrics of the other three, on the train split. Features are pixels, less the mean of the images
that a metric is fitted to, by cosine. "Whitened" multiplies by the inverse square root of a
covariance, mixed with a share of the identity of equal trace: that within the classes, or that of
an image less a random affine view of it, which needs no labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from ssl_jax import data
from ssl_jax.evals import retrieval
from ssl_jax.evals.ranking import Rows

FOLDS = ((3, 4), (1, 2), (0, 3))  # digits that are left out of 0 to 4
SHARES = (0.5, 0.2, 0.05)  # of the identity
Features = Callable[[np.ndarray], np.ndarray]


def load(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [n 64] in [0, 1] and labels."""
    source = data.load("digits", split)
    batch = source.batch(np.arange(len(source)))
    return batch["image"].reshape(len(source), -1) / 255.0, batch["label"]


def affine_views(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image turned, scaled, sheared and shifted at random."""
    out = np.empty_like(x)
    centre = np.array([3.5, 3.5])
    for row, image in enumerate(x.reshape(-1, 8, 8)):
        angle, shear = np.deg2rad(rng.uniform(-15, 15)), np.tan(np.deg2rad(rng.uniform(-10, 10)))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[1, shear], [0, 1]]) / rng.uniform(0.8, 1.25)
        offset = centre - matrix @ centre + rng.uniform(-0.64, 0.64, 2)
        out[row] = ndimage.affine_transform(image, matrix, offset, order=1).ravel()
    return out


def whitener(differences: np.ndarray, share: float) -> np.ndarray:
    """The map [64 64] that whitens differences."""
    covariance = differences.T @ differences / len(differences)
    trace = np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh(
        (1 - share) * covariance + share * trace * np.eye(len(covariance))
    )
    return vectors / np.sqrt(values)


def metrics(x: np.ndarray, y: np.ndarray) -> dict[str, Features]:
    """Features by name, fitted to images and their labels."""
    mean = x.mean(axis=0)
    found: dict[str, Features] = {"pixels": lambda z: z, "centred": lambda z: z - mean}

    def blurred(z: np.ndarray) -> np.ndarray:
        images = (z - mean).reshape(-1, 8, 8)
        return ndimage.gaussian_filter(images, (0, 0.5, 0.5), mode="constant").reshape(z.shape)

    found["blurred by 0.5 pixels"] = blurred
    within = np.concatenate([x[y == label] - x[y == label].mean(axis=0) for label in np.unique(y)])
    rng = np.random.default_rng(0)
    moved = np.concatenate([affine_views(x, rng) - x for _ in range(4)])
    for name, differences in (("within classes", within), ("by affine views", moved)):
        for share in SHARES:
            w = whitener(differences, share)
            found[f"whitened {name}, {share:g} identity"] = lambda z, w=w: (z - mean) @ w
    return found


def main() -> None:
    from rich.console import Console

    from benchmarks import machine

    x, y = load("train")
    columns = [(np.isin(y, range(5)), load("test"), tuple(range(5, 10)))]
    for fold in FOLDS:
        columns.append((np.isin(y, range(5)) & ~np.isin(y, fold), (x, y), fold))
    table = machine.table("MAP@R, %", "features", *(str(fold)[1:-1] for *_, fold in columns))
    scores: dict[str, list[str]] = {}
    for fitted, (images, labels), unseen in columns:
        rows = np.isin(labels, unseen)
        for name, features in metrics(x[fitted], y[fitted]).items():
            found = retrieval.of_rows(Rows(features(images[rows]), labels[rows]), ks=(1,))
            scores.setdefault(name, []).append(f"{100 * found['map_r']:.1f}")
    for name, row in scores.items():
        table.add_row(name, *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
