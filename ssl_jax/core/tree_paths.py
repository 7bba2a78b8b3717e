"""Names the leaves of a tree by path, for masks, sharding rules, checkpoints and groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def select(tree: Any, keep: Callable[[str], bool]) -> Any:
    """The leaves of a nested dict whose paths `keep` accepts; dicts that become empty are left out.

    The whole tree is `{}` if no leaf is kept.
    """

    def below(node: Any, path: str) -> Any:
        if not isinstance(node, Mapping):
            return node if keep(path) else None
        kept = {name: below(x, f"{path}/{name}" if path else name) for name, x in node.items()}
        return {name: x for name, x in kept.items() if x is not None} or None

    return below(tree, "") or {}


def join(first: Any, second: Any) -> Any:
    """The nested dict with the leaves of both nested dicts, which have no path in common.

    Raises:
      ValueError: both have a leaf at the same path.
    """
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        raise ValueError("both trees have a leaf at the same path")
    common = {name: join(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **common}
