"""Representations that scikit-learn learns from the inputs: PCA, ICA, dictionary, RBM.

- `pca`: principal components. Blocks of examples are taken one after the other by `IncrementalPCA`.
- `ica`: independent components by FastICA, of unit variance.
- `dictionary`: sparse codes, the lasso on atoms that are learned in small batches with penalty 1,
  in at most 10 passes over the examples.
- `rbm`: probabilities of the hidden units of a Bernoulli RBM; inputs are in [0, 1].

What is not said here is scikit-learn's default.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from ssl_jax.core.errors import UserError

Transform = Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "n k"]]
NAMES = ("pca", "ica", "dictionary", "rbm")
DEFAULT_COMPONENTS = 64
_PASSES = 10  # of the dictionary; the default of 1000 can take hours


def are_fitted(names: Iterable[str]) -> bool:
    """Whether one of these baselines is fitted to the train split."""
    return any(name in NAMES for name in names)


def check_components(
    name: str, components: int | None, examples: int, dim: int, key: str = "components"
) -> None:
    """Checks the number of components before anything is fitted.

    Args:
      name: one of `NAMES`.
      components: None: as many as there can be, at most 64.
      examples: number of examples to fit to.
      dim: numbers of an example.
      key: name of `components` in messages.

    Raises:
      UserError: there are too few examples, or too many components for PCA or ICA.
    """
    if examples < 2:
        raise UserError(f"{name} needs at least 2 train examples; there are {examples}")
    if components is not None and name in ("pca", "ica") and components > min(examples, dim):
        raise UserError(
            f"{key} is {components}, but {name} of {examples} train examples of {dim} numbers has "
            f"at most {min(examples, dim)} components"
        )


def fit(name: str, x: Float[np.ndarray, "n d"], *, components: int | None, seed: int) -> Transform:
    """Fits a representation.

    Args:
      name: one of `NAMES`.
      x: the examples; in [0, 1] for `rbm`.
      components: numbers of the representation; None: min(64, n, d), and of `ica` the directions
        in which the examples vary, if they are fewer.
      seed: of everything random.

    Returns:
      Examples float32 [m d] -> their representation float32 [m k].

    Raises:
      UserError: see `check_components`; the examples vary in fewer directions than `ica` needs.
    """
    check_components(name, components, *x.shape)
    count = components or min(DEFAULT_COMPONENTS, *x.shape)
    if name == "ica":
        directions = _varying(x, count, seed)
        if directions < (components or 1):
            raise UserError(
                f"ica of {components or 1} components needs examples that vary in as many "
                f"directions; they vary in {directions}"
            )
        count = min(count, directions)
    with _quiet_on_one_thread():
        estimator = _estimator(name, count, seed).fit(x)
    if name == "ica" and estimator.n_iter_ >= estimator.max_iter:
        logging.getLogger(__name__).warning(
            "ica: not converged after %d iterations", estimator.n_iter_
        )
    return _transform(estimator)


def fit_incremental_pca(
    blocks: Iterable[Float[np.ndarray, "n d"]], *, components: int
) -> Transform:
    """Fits PCA to examples that come in blocks and need not fit in memory.

    Args:
      blocks: the examples; the first block has at least `components` rows.
      components: numbers of the representation.

    Returns:
      As `fit`.
    """
    from sklearn.decomposition import IncrementalPCA

    estimator = IncrementalPCA(n_components=components)
    held: np.ndarray | None = None
    for block in blocks:
        if held is None:
            held = block
        elif len(block) < components:  # too few rows for a step of their own
            held = np.concatenate([held, block])
        else:
            _partial_fit(estimator, held)
            held = block
    _partial_fit(estimator, held)
    return _transform(estimator)


def _partial_fit(estimator: Any, block: Float[np.ndarray, "n d"]) -> None:
    with _quiet_on_one_thread():  # not while blocks are read
        estimator.partial_fit(block)


def _estimator(name: str, count: int, seed: int) -> Any:
    # Importing scikit-learn takes a second.
    from sklearn.decomposition import PCA, FastICA, MiniBatchDictionaryLearning
    from sklearn.neural_network import BernoulliRBM

    if name == "pca":
        return PCA(count, random_state=seed)
    if name == "ica":
        return FastICA(count, whiten="unit-variance", random_state=seed)
    if name == "dictionary":
        return MiniBatchDictionaryLearning(
            count, max_iter=_PASSES, transform_algorithm="lasso_lars", random_state=seed
        )
    return BernoulliRBM(count, random_state=seed)


def _varying(x: Float[np.ndarray, "n d"], at_most: int, seed: int) -> int:
    """The number of directions in which examples vary by more than rounding, up to `at_most`."""
    if not np.ptp(x, axis=0).any():
        return 0
    with _quiet_on_one_thread():
        scales = _estimator("pca", at_most, seed).fit(x).singular_values_
    return int((scales > scales[0] * max(x.shape) * np.finfo(np.float32).eps).sum())


def _transform(estimator: Any) -> Transform:
    def transform(x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        with _quiet_on_one_thread():
            return estimator.transform(x).astype(np.float32)

    return transform


@contextlib.contextmanager
def _quiet_on_one_thread() -> Iterator[None]:
    """Without warnings of convergence; results do not depend on the number of cores.

    The threads of a BLAS also compete for cores, with each other and with those that read data:
    on two busy cores FastICA of digits takes 0.4 s on one thread, and 16 s on two.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
