"""Names of a tree's leaves, as masks, sharding rules, checkpoints and groups use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def path_string(path: Sequence[Any]) -> str:
    """A leaf's key path as text: `"encoder/stem/conv/kernel"`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, in the tree's order."""
    return {path_string(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
