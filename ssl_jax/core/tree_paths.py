"""Names the leaves of a tree by path, for masks, sharding rules, checkpoints and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Arrays below this name hold equal layers of a net, stacked along the first axis.
STACKED = "layers"


def is_stacked(path: str) -> bool:
    """Whether the array at `path` holds several layers, stacked along its first axis."""
    return STACKED in path.split("/")


def path_string(path: Sequence[Any]) -> str:
    """A leaf's key path as text: `"encoder/stem/conv/kernel"`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of any tree by path, in the order of the tree."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def replace(tree: Any, arrays: Mapping[str, Any]) -> Any:
    """`tree` with new leaves at the given paths, cast to the dtype of the replaced leaves.

    Raises:
      ValueError: a path is not in the tree.
    """
    leaves = by_path(tree)
    unknown = sorted(set(arrays) - set(leaves))
    if unknown:
        raise ValueError(f"no such leaf: {', '.join(unknown)}")
    new = [
        jnp.asarray(arrays[path], leaf.dtype) if path in arrays else leaf
        for path, leaf in leaves.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), new)
