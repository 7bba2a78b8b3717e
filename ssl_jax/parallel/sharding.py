"""Computes the sharding of every array of the training state.

Parameters are placed by rules on their path, optimizer statistics follow their parameter, and all
else is replicated. Fully sharded data parallelism (ZeRO-3, Rajbhandari et al. 2020) is then only a
placement: XLA gathers a parameter where it is used and scatters its gradient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import BASE
from ssl_jax.core.tree_paths import path_string

# Matrices of transformer layers (Megatron-LM, Shoeybi et al. 2019, Sec. 3). The first of a pair is
# split by columns and the second by rows over `tensor`, so that a pair communicates once.
_BY_COLUMNS = re.compile(r"/(attn/qkv|(cross_)?attn/(query|key|value)|mlp/(fc1|gate|w12))/kernel$")
_BY_ROWS = re.compile(r"/((cross_)?attn/proj|mlp/(fc2|w3))/kernel$")

# A regular expression, and for each dimension an axis of the mesh, several of them, or None.
Rule = tuple[str, Sequence[str | Sequence[str] | None]]

# Smaller parameters stay whole: gathering them costs more than the memory they occupy.
MIN_SHARDED_SIZE = 2**14


def state_shardings(
    abstract_state: Any,
    mesh: Mesh,
    rules: Sequence[Rule] = (),
    *,
    placement: Callable[[str], P | None] | None = None,
    min_size: int = MIN_SHARDED_SIZE,
) -> Any:
    """The sharding of every array in a training state.

    A rule `(regex, spec)` applies to the first-level entries other than `opt_state`: the first
    whose regex is found in the array's path (`params/encoder/conv1/kernel`, `buffers/queue`)
    decides. Without a match `placement` decides, unless it returns None. Else parameters and the
    frozen weights of adapters, of at least `min_size` elements, are split over the mesh's `tensor`
    and `fsdp` axes if they are matrices of transformer layers whose sides divide, the others along
    their largest dimension that divides by the `fsdp` axis, and everything else is replicated.

    A leaf of `opt_state` (momentum, accumulated gradient, averaged parameter; at any nesting of
    transforms) belongs to the parameter whose path ends its own, and is placed like it if also the
    shapes agree. Factored statistics, counters and schedules do not agree and are replicated.

    Args:
        abstract_state: tree with entries `params` and `opt_state`, such as `jax.eval_shape` gives.
        mesh: mesh of `make_mesh`.
        rules: placements that replace all others.
        placement: path -> placement by the method, in names of mesh axes, or None.
        min_size: minimum number of elements of a parameter that is split over `fsdp`.

    Returns:
        The same tree of `NamedSharding`.

    Raises:
        UserError: a rule names an unknown axis, does not fit the arrays it matches, or matches
            none.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract_state)
    arrays = {path_string(path): leaf for path, leaf in leaves}
    unused = {pattern for pattern, _ in rules}
    placed: dict[str, P] = {}
    for name, array in arrays.items():
        if name.startswith("opt_state/"):
            continue
        matches = [(pattern, spec) for pattern, spec in rules if re.search(pattern, name)]
        unused.difference_update(pattern for pattern, _ in matches)
        if matches:
            pattern, spec = matches[0]
            placed[name] = _checked_spec(f"mesh.rules: {pattern!r}", spec, name, array.shape, mesh)
        elif placement is not None and (spec := placement(name)) is not None:
            placed[name] = _checked_spec("the method", spec, name, array.shape, mesh)
        elif name.startswith(("params/", f"buffers/{BASE}/")):
            placed[name] = _default_spec(name, array.shape, mesh, min_size)
        else:
            placed[name] = P()
    if unused:
        raise UserError(
            f"mesh.rules: {sorted(unused)[0]!r} matches no array of the state; paths look like "
            f"{next((name for name in arrays if name.startswith('params/')), next(iter(arrays)))!r}"
        )
    parameters = {
        name.removeprefix("params/"): (arrays[name].shape, spec)
        for name, spec in placed.items()
        if name.startswith("params/")
    }
    for name, array in arrays.items():
        if name not in placed:
            placed[name] = _spec_of_parameter(name, array.shape, parameters)
    return treedef.unflatten(NamedSharding(mesh, placed[name]) for name in arrays)


def _default_spec(name: str, shape: tuple[int, ...], mesh: Mesh, min_size: int) -> P:
    """Where a parameter or a frozen weight is placed that no rule and no method places."""
    tensor, fsdp = mesh.shape["tensor"], mesh.shape["fsdp"]
    axes: tuple[str, ...] = ()
    if tensor > 1 and math.prod(shape) >= min_size:
        if _BY_COLUMNS.search(name):
            axes = ("fsdp", "tensor")
        elif _BY_ROWS.search(name):
            axes = ("tensor", "fsdp")
    sides = zip(shape[-2:], axes, strict=False)
    if axes and all(side % mesh.shape[axis] == 0 for side, axis in sides):
        return P(*([None] * (len(shape) - 2)), *axes)
    return _fsdp_spec(shape, fsdp, min_size)


def _fsdp_spec(shape: tuple[int, ...], shards: int, min_size: int) -> P:
    """Splits the largest divisible dimension, of equal ones the last; P() if there is none."""
    candidates = [axis for axis, size in enumerate(shape) if size % shards == 0]
    if shards == 1 or not candidates or math.prod(shape) < min_size:
        return P()
    chosen = max(candidates, key=lambda axis: (shape[axis], axis))
    return P(*("fsdp" if axis == chosen else None for axis in range(chosen + 1)))


def _checked_spec(
    origin: str, spec: Sequence[Any], name: str, shape: tuple[int, ...], mesh: Mesh
) -> P:
    """The spec as a `PartitionSpec`.

    Raises:
      UserError: an axis does not exist or does not divide its dimension.
    """
    if len(spec) > len(shape):
        raise UserError(f"{origin} places {len(spec)} dimensions but {name} has shape {shape}")
    for dimension, axes in zip(shape, spec, strict=False):
        axes = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        for axis in axes:
            if axis not in mesh.shape:
                raise UserError(
                    f"{origin} names axis {axis!r}; the mesh has "
                    f"{', '.join(mesh.shape)}.{nearest(axis, mesh.shape)}"
                )
        shards = math.prod(mesh.shape[axis] for axis in axes)
        if dimension % shards:
            raise UserError(
                f"{origin} splits a dimension of {dimension} of {name} {shape} over "
                f"{shards} devices; leave it whole (None) or change the mesh"
            )
    return P(*(tuple(axes) if isinstance(axes, list) else axes for axes in spec))


def _spec_of_parameter(
    name: str, shape: tuple[int, ...], parameters: Mapping[str, tuple[tuple[int, ...], P]]
) -> P:
    """The spec of the parameter whose path is the longest suffix of `name`, if shapes agree."""
    parts = name.split("/")
    for start in range(1, len(parts)):
        suffix = "/".join(parts[start:])
        if suffix in parameters:
            parameter_shape, spec = parameters[suffix]
            return spec if shape == parameter_shape else P()
    return P()


def init_sharded(
    init: Callable[..., Any],
    *args: Any,
    mesh: Mesh,
    rules: Sequence[Rule] = (),
    min_size: int = MIN_SHARDED_SIZE,
) -> tuple[Any, Any]:
    """Builds a training state directly in its shards, so that no device holds the whole state.

    Args:
        init: function of `args` returning the state; it is traced, and compiled once.
        args: its arguments, arrays or trees of them.
        mesh, rules, min_size: as for `state_shardings`.

    Returns:
        The state and its shardings. Give the latter to the train step as `out_shardings` too, or
        the state drifts from its placement and the step compiles again.
    """
    shardings = state_shardings(jax.eval_shape(init, *args), mesh, rules, min_size=min_size)
    return jax.jit(init, out_shardings=shardings)(*args), shardings


def abstract_with(shardings: Any, abstract_state: Any) -> Any:
    """The state's shapes and dtypes together with its shardings, as restoring needs them."""
    return jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
