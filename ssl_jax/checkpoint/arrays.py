"""Names the arrays of a state by path, and reads them from files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from ssl_jax.checkpoint.errors import DamagedCheckpointError
from ssl_jax.core.tree_paths import path_string


def flatten(state: Any) -> dict[str, Any]:
    """Arrays by their '/'-joined path.

    Raises:
        TypeError: a leaf is not a plain array, so it could not be restored bit by bit.
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
    """Nested dicts from '/'-joined names; they can be read without the classes of the state."""
    return traverse_util.unflatten_dict(dict(arrays), sep="/")


def with_elements(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that are not empty. Orbax does not store empty arrays."""
    return {name: array for name, array in arrays.items() if math.prod(array.shape)}


def read(directory: epath.Path, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Reads arrays directly into their shardings; each process reads the parts of its devices.

    Args:
        directory: of the state in a checkpoint.
        shapes: the arrays to read, with shardings, by name.

    Raises:
        DamagedCheckpointError: names the first array that cannot be read.
    """
    stored = with_elements(shapes)
    try:
        arrays = _read_tree(directory, stored)
    except jax.errors.JaxRuntimeError:
        raise  # an error of the devices, such as too little memory, not of the file
    except Exception as error:
        name, error = _first_unreadable(directory, stored) or ("the state", error)
        raise DamagedCheckpointError(
            f"checkpoint {directory}: cannot read {name} ({reason(error)})"
        ) from error
    for name, leaf in shapes.items():
        if name in stored and not isinstance(arrays.get(name), jax.Array):
            raise DamagedCheckpointError(
                f"checkpoint {directory}: cannot read {name} (not in its index)"
            )
        if name not in stored:
            arrays[name] = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
    return arrays


def _read_tree(
    directory: epath.Path, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Reads arrays with Orbax's handler.

    Orbax's `Checkpointer` is not used: after reading it waits for all processes, but a process that
    found a damaged file never arrives.
    """
    if not shapes:
        return {}
    tree = nest(shapes)
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
    directory: epath.Path, shapes: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[str, Exception] | None:
    for name, leaf in shapes.items():
        try:
            _read_tree(directory, {name: leaf})
        except Exception as error:
            return name, error
    return None


def reason(error: BaseException) -> str:
    """The innermost cause of an error as one line; a long line keeps its end."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    line = re.split(r" \[\w+=", line)[0]  # TensorStore appends its whole specification
    if len(line) <= 200:
        return line
    *clauses, short = line.split(": ")  # each clause names a file and the error below it
    while clauses and len(clauses[-1]) + len(short) < 150:
        short = f"{clauses.pop()}: {short}"
    return short[-150:]


def some(names: Sequence[str]) -> str:
    """The first name, and the number of further names."""
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
