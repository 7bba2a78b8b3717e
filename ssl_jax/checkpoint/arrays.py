"""The arrays of a state by name, and how they are read from files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from ssl_jax.checkpoint.errors import DamagedCheckpointError
from ssl_jax.core.tree_paths import path_string


def flatten(state: Any) -> dict[str, Any]:
    """Arrays by their '/'-joined path.

    Raises:
        TypeError: a leaf is no plain array and could not be restored bit by bit.
        ValueError: two arrays have the same name.
    """
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = path_string(path)
        if not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(
                f"{name} is a {type(leaf).__name__}, not a plain array; use jnp.asarray for "
                "numbers and jax.random.key_data for keys"
            )
        if name in arrays:
            raise ValueError(f"two arrays of the state are both called {name!r}")
        arrays[name] = leaf
    return arrays


def nest(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from '/'-joined names: a form that can be read without the state's classes."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def with_elements(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not empty: Orbax stores no others, and there is nothing to store."""
    return {name: array for name, array in arrays.items() if math.prod(array.shape)}


def read(directory: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads arrays straight into their shardings; each process reads what its devices hold.

    Raises:
        DamagedCheckpointError: naming the first array that cannot be read.
    """
    stored = with_elements(wanted)
    try:
        found = _read_tree(directory, stored)
    except jax.errors.JaxRuntimeError:
        raise  # of the devices, such as their memory, and not of the file
    except Exception as error:
        name, error = _first_unreadable(directory, stored) or ("the state", error)
        raise DamagedCheckpointError(
            f"checkpoint {directory}: cannot read {name} ({reason(error)})"
        ) from error
    for name, leaf in wanted.items():
        if name in stored and not isinstance(found.get(name), jax.Array):
            raise DamagedCheckpointError(
                f"checkpoint {directory}: cannot read {name} (not in its index)"
            )
        if name not in stored:
            found[name] = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
    return found


def _read_tree(
    directory: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Uses Orbax's handler by itself: its `Checkpointer` waits for the other processes afterwards,
    where one that has met a damaged file never comes."""
    if not wanted:
        return {}
    tree = nest(wanted)
    restored = ocp.PyTreeCheckpointHandler().restore(
        directory,
        args=ocp.args.PyTreeRestore(
            item=tree,
            restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
            partial_restore=True,
        ),
    )
    return flatten(restored)


def _first_unreadable(
    directory: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[str, Exception] | None:
    for name, leaf in wanted.items():
        try:
            _read_tree(directory, {name: leaf})
        except Exception as error:
            return name, error
    return None


def reason(error: BaseException) -> str:
    """Why it failed, in one line: the innermost cause, of which the end says most."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    line = re.split(r" \[\w+=", line)[0]  # TensorStore appends its whole specification
    if len(line) <= 200:
        return line
    *clauses, short = line.split(": ")  # each names a file, and what went wrong below it
    while clauses and len(clauses[-1]) + len(short) < 150:
        short = f"{clauses.pop()}: {short}"
    return short[-150:]


def some(names: Sequence[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
