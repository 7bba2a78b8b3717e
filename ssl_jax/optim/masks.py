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

# Biases and the scales and offsets of norms get neither weight decay nor layer-wise adaptation, in
# SimCLR (Chen et al. 2020, released code) and nearly everything after it.
DEFAULT_EXCLUDE = r"(bias|scale)$"


def path_mask(exclude: str = DEFAULT_EXCLUDE) -> Callable[[PyTree], PyTree]:
    """A mask for optax: True on leaves whose path does *not* match the regex `exclude`.

    The regex is searched for anywhere in the path; `""` excludes nothing.

    Raises:
      UserError: not a regular expression.
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
    """Numbers of scalars on either side of a mask."""

    included: int
    excluded: int


def count_excluded(params: PyTree, exclude: str = DEFAULT_EXCLUDE) -> ExcludedCount:
    """How many parameters are decayed and adapted, and how many `exclude` keeps from it.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      exclude: as for `path_mask`.
    """
    counts = {True: 0, False: 0}
    mask = path_mask(exclude)(params)
    for leaf, included in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        counts[included] += math.prod(leaf.shape)
    return ExcludedCount(included=counts[True], excluded=counts[False])
