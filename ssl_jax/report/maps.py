"""Geometry of representations: maps to the plane, nearest neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits

MAX_POINTS = 1500  # maximum number of points in a map
MAX_COLOURED_CLASSES = 20
POPULAR_CLASSES = 10  # number of coloured classes if there are more than the maximum
PIXEL_SIDE = 32  # maximum side of images that are compared


def pixel_vectors(pixels: np.ndarray) -> np.ndarray:
    """uint8 [n h w c] -> float32 [n p] in [0, 1]; large images are averaged down to 32 x 32."""
    n, h, w, c = pixels.shape
    fy, fx = max(1, -(-h // PIXEL_SIDE)), max(1, -(-w // PIXEL_SIDE))
    out = np.empty((n, h // fy, w // fx, c), np.float32)
    for i, image in enumerate(pixels):  # one at a time: the whole set in float may not fit
        image = image[: h // fy * fy, : w // fx * fx].astype(np.float32)
        out[i] = image.reshape(h // fy, fy, w // fx, fx, c).mean(axis=(1, 3)) / 255
    return out.reshape(n, -1)


def coloured_classes(labels: np.ndarray) -> list[int]:
    """Labels that get a colour: all of up to 20 classes, else the ten most frequent ones."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) > MAX_COLOURED_CLASSES:
        classes = np.sort(classes[np.argsort(-counts, kind="stable")[:POPULAR_CLASSES]])
    return [int(label) for label in classes]


def choose_points(labels: np.ndarray, coloured: list[int], seed: int) -> np.ndarray:
    """Indices of at most 1500 examples for a map; where some classes have a colour, those first."""
    n = len(labels)
    order = np.random.default_rng(seed).permutation(n)
    if len(coloured) < len(np.unique(labels)):
        order = order[np.argsort(~np.isin(labels[order], coloured), kind="stable")]
    return np.sort(order[:MAX_POINTS])


def project(x: np.ndarray, *, how: str = "tsne", seed: int = 0) -> np.ndarray:
    """float [n d] -> [n 2]: t-SNE (van der Maaten & Hinton 2008) or UMAP (McInnes et al. 2018).

    Wide data are first reduced to 50 principal components, the customary step before either. The
    axes and the scale of the result mean nothing; its first axis is the one of largest variance.
    """
    x = np.asarray(x, np.float32)
    x = x - x.mean(axis=0)
    x = x / max(float(np.abs(x).max()), 1e-12)  # so that the principal components stay finite
    if x.shape[1] > 50 and x.any():
        from sklearn.decomposition import PCA

        parts = min(50, len(x))
        x = PCA(parts, svd_solver="covariance_eigh" if x.shape[1] < 5000 else "randomized",
                random_state=seed).fit_transform(x)  # fmt: skip
    # One OpenMP thread (the limit is the calling thread's own): where fewer cores are free than a
    # team has threads, its barriers cost ten times the work.
    with threadpool_limits(1, user_api="openmp"):
        y = _umap(x, seed) if how == "umap" else _tsne(x, seed)
    y = y - y.mean(axis=0)
    _, _, axes = np.linalg.svd(y, full_matrices=False)
    return y @ axes.T


def project_all(spaces: Sequence[np.ndarray], *, how: str, seed: int) -> list[np.ndarray]:
    """`project` of each space, in parallel threads."""
    # Before the threads start: two of them that import the same modules at once can both fail.
    import sklearn.decomposition
    import sklearn.manifold  # noqa: F401

    if how == "umap":
        import umap  # noqa: F401

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(len(spaces)) as pool:
        return list(pool.map(lambda x: project(x, how=how, seed=seed), spaces))


def perplexity(n: int) -> float:
    """The perplexity of t-SNE for n points: 30, or less for few points."""
    return min(30.0, (n - 1) / 3)


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    spread = np.linalg.norm(x, axis=1)
    init = "pca" if x.shape[1] >= 2 and spread.min() < spread.max() else "random"
    tsne = TSNE(perplexity=perplexity(len(x)), init=init, max_iter=750, random_state=seed)
    return tsne.fit_transform(x)


def _umap(x: np.ndarray, seed: int) -> np.ndarray:
    from umap import UMAP

    return UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed, n_jobs=1).fit_transform(x)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of some examples among all.

    Attributes:
      queries: int [q], indices of the examples.
      nearest: int [q k], indices of their neighbours, nearest first, never the query itself.
    """

    queries: np.ndarray
    nearest: np.ndarray

    def agreement(self, labels: np.ndarray) -> np.ndarray:
        """float [q]: share of neighbours with the query's label; nan for unlabelled queries."""
        same = (labels[self.nearest] == labels[self.queries][:, None]).mean(axis=1)
        return np.where(labels[self.queries] >= 0, same, np.nan)


def neighbours(x: np.ndarray, queries: np.ndarray, k: int, *, cosine: bool) -> Neighbours:
    """The k nearest of float [n d] to each query, by cosine similarity or Euclidean distance."""
    x = np.asarray(x, np.float32)
    if cosine:
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    k = min(k, len(x) - 1)
    # |q - x|^2 = |q|^2 - 2 q.x + |x|^2, whose first term is the same for all x.
    distance = (x**2).sum(axis=1)[None] - 2 * np.einsum("qd,nd->qn", x[queries], x, optimize=True)
    distance[np.arange(len(queries)), queries] = np.inf
    return Neighbours(queries, np.argsort(distance, axis=1, kind="stable")[:, :k])


def choose_queries(labels: np.ndarray | None, n: int, count: int, seed: int) -> np.ndarray:
    """`count` random examples; with labels, at most one per class, sorted by label."""
    order = np.random.default_rng(seed + 1).permutation(n)
    if labels is None or not (labels >= 0).any():
        return order[:count]
    labelled = order[labels[order] >= 0]
    _, first = np.unique(labels[labelled], return_index=True)
    first = np.random.default_rng(seed + 2).permutation(first)[:count]
    chosen = labelled[first]
    return chosen[np.argsort(labels[chosen], kind="stable")]
