"""The exponential moving average of the parameters, as an optax transform.

This is the momentum encoder of MoCo (He et al. 2020), the target of BYOL (Grill et al. 2020) and
the teacher of DINO (Caron et al. 2021):

    ema <- d * ema + (1 - d) * params        after every update of the parameters

The average is part of the optimizer state and is saved, restored and sharded with it, so a train
step needs no code for it. `ema_params(opt_state)` returns it.

`track_polyak` keeps the same kind of average of all parameters, for evaluation only (Polyak &
Juditsky 1992). The loss does not use it. A run may have both averages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core.tree_paths import path_string, replace

PyTree = Any


class EmaState(NamedTuple):
    """State of `track_ema`.

    Attributes:
      count: number of updates so far, int32 [].
      ema: the average, float32, of the parameters that the mask selects.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as in optax
    ema: PyTree


class PolyakState(NamedTuple):
    """State of `track_polyak`.

    Attributes:
      count: number of updates so far, int32 [].
      average: average of all parameters, float32.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as in optax
    average: PyTree


def track_ema(
    decay: float | optax.Schedule, mask: Callable[[str], bool] | PyTree | None = None
) -> optax.GradientTransformation:
    """Keeps a moving average of the parameters. Updates pass through unchanged.

    It needs the final updates, so place it last in a chain: outside `optax.partition`, inside of
    which it would get only some of the parameters, and inside `optax.MultiSteps` and
    `optax.apply_if_finite`, outside of which it would count micro-steps and rejected steps.

        tx = optax.chain(optax.adamw(1e-3), track_ema(0.996))

    Args:
      decay: d, or a schedule of this transform's own count of updates: the first update uses
        `decay(0)`. 1 freezes the average, 0 copies the parameters.
      mask: the parameters to average: a predicate on the path ("encoder/stem/conv/kernel"), or a
        tree of bools with the structure of the parameters or of a prefix of it. Default: all.

    Returns:
      A transform. The average starts as a copy of the parameters that shares no buffer with them,
      so both may be donated. It is float32: in bfloat16 it would not change, because 1 - d is below
      half a unit in the last place. With a mask, leaves without an average and dicts that become
      empty are removed from the nested dict of parameters: `ema_params(opt_state)["encoder"]` has
      the structure of the encoder's parameters, and a predictor without an average has no entry.
    """
    schedule = decay if callable(decay) else lambda count: decay

    def init(params: PyTree) -> EmaState:
        ema = jax.tree.map(
            lambda p: jnp.array(p, dtype=jnp.float32, copy=True), _select(params, mask)
        )
        return EmaState(count=jnp.zeros((), jnp.int32), ema=ema)

    def update(
        updates: PyTree, state: EmaState, params: PyTree | None = None
    ) -> tuple[PyTree, EmaState]:
        if params is None:
            raise ValueError("track_ema needs params: tx.update(grads, opt_state, params)")
        d = jnp.asarray(schedule(state.count), jnp.float32)
        # The parameters after this update, rounded to their own dtype.
        params = optax.apply_updates(_select(params, mask), _select(updates, mask))
        ema = jax.tree.map(lambda e, p: d * e + (1 - d) * p.astype(jnp.float32), state.ema, params)
        return updates, EmaState(count=optax.safe_increment(state.count), ema=ema)

    return optax.GradientTransformation(init, update)


def track_polyak(decay: float) -> optax.GradientTransformation:
    """Averages all parameters for evaluation: `track_ema` with a state of another type.

    Args:
      decay: d in average <- d * average + (1 - d) * params.
    """
    ema = track_ema(decay)

    def init(params: PyTree) -> PolyakState:
        return PolyakState(*ema.init(params))

    def update(updates: PyTree, state: PolyakState, params: PyTree | None = None):
        updates, new_state = ema.update(updates, EmaState(*state), params)
        return updates, PolyakState(*new_state)

    return optax.GradientTransformation(init, update)


def ema_params(opt_state: PyTree) -> PyTree | None:
    """The average of `track_ema` in an optimizer state, at any depth; None if there is none.

    Raises:
      ValueError: the state contains more than one.
    """
    state = _only_state(opt_state, EmaState)
    return None if state is None else state.ema


def polyak_params(opt_state: PyTree) -> PyTree | None:
    """The average of `track_polyak` in an optimizer state, as `ema_params`."""
    state = _only_state(opt_state, PolyakState)
    return None if state is None else state.average


def replace_ema(opt_state: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    """An optimizer state with new values in the average of `track_ema`.

    Args:
      opt_state: the state, with one average.
      arrays: path of a parameter -> its average; they are cast to float32.

    Raises:
      ValueError: the state has no average, or none of a parameter.
    """
    state = _only_state(opt_state, EmaState)
    if state is None:
        raise ValueError("the optimizer state holds no moving average")
    new = state._replace(ema=replace(state.ema, arrays))
    return jax.tree.map(
        lambda node: new if isinstance(node, EmaState) else node,
        opt_state,
        is_leaf=lambda node: isinstance(node, EmaState),
    )


def _only_state(opt_state: PyTree, kind: type) -> Any | None:
    """The state of type `kind` in an optimizer state; None if there is none."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kind))
    states = [node for node in leaves if isinstance(node, kind)]
    if len(states) > 1:
        raise ValueError(f"the optimizer state holds {len(states)} moving averages; track one only")
    return states[0] if states else None


def _select(tree: PyTree, mask: Callable[[str], bool] | PyTree | None) -> PyTree:
    """`tree` without the leaves that `mask` rejects."""
    if mask is None:
        return tree
    if callable(mask):
        predicate = mask
        mask = jax.tree_util.tree_map_with_path(
            lambda path, _: bool(predicate(path_string(path))), tree
        )
    return _prune(tree, mask)


def _prune(tree: PyTree, mask: PyTree) -> PyTree:
    if not isinstance(mask, Mapping):  # one bool for the whole subtree
        return tree if mask else {}
    if mask.keys() != tree.keys():
        raise ValueError(f"the mask has keys {sorted(mask)}, the parameters {sorted(tree)}")
    pruned = {}
    for name, child in tree.items():
        subtree = _prune(child, mask[name])
        if not isinstance(subtree, Mapping) or subtree:
            pruned[name] = subtree
    return pruned
