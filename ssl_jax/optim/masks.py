"""Selects the parameters that an optimizer decays and adapts, by a regex on their path."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import path_string

PyTree = Any

# Biases and the scales and offsets of norms have neither weight decay nor layer-wise adaptation, as
# in SimCLR (Chen et al. 2020, released code) and most later methods.
DEFAULT_EXCLUDE = r"(bias|scale)$"


def path_mask(exclude: str = DEFAULT_EXCLUDE) -> Callable[[PyTree], PyTree]:
    """A mask for optax: True on leaves whose path does *not* match the regex `exclude`.

    The regex may match anywhere in the path; `""` excludes nothing.

    Raises:
      UserError: `exclude` is not a regular expression.
    """
    try:
        pattern = re.compile(exclude)
    except re.error as error:
        raise UserError(f"optimizer.exclude {exclude!r} is not a regex: {error}") from error

    def mask(tree: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not exclude or pattern.search(path_string(path)) is None, tree
        )

    return mask


class ExcludedCount(NamedTuple):
    """Numbers of scalar parameters that a mask includes and excludes."""

    included: int
    excluded: int


def count_excluded(params: PyTree, exclude: str = DEFAULT_EXCLUDE) -> ExcludedCount:
    """Counts the scalar parameters with weight decay and adaptation, and those excluded from it.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      exclude: as for `path_mask`.
    """
    counts = {True: 0, False: 0}
    mask = path_mask(exclude)(params)
    for leaf, included in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        counts[included] += math.prod(leaf.shape)
    return ExcludedCount(included=counts[True], excluded=counts[False])
