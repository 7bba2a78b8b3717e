"""The exponential moving average of the parameters, as an optax transform.

This is the momentum encoder of MoCo (He et al. 2020), the target of BYOL (Grill et al. 2020) and
the teacher of DINO (Caron et al. 2021):

    ema <- d * ema + (1 - d) * params        after every update of the parameters

Its state lives in the optimizer state, so it is saved, restored and sharded with it, and a train
step need not know of it: `ema_params(opt_state)` finds it there.

`track_polyak` is the same average of all parameters for evaluation alone (Polyak & Juditsky 1992).
The loss never reads it, and a run may have both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssl_jax.core.tree_paths import path_string

PyTree = Any


class EmaState(NamedTuple):
    """State of `track_ema`.

    Attributes:
      count: updates averaged so far, int32 [].
      ema: the average, float32; without the parameters that have none.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as in optax
    ema: PyTree


class PolyakState(NamedTuple):
    """State of `track_polyak`.

    Attributes:
      count: updates averaged so far, int32 [].
      average: of all parameters, float32.
    """

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count, as in optax
    average: PyTree


def track_ema(
    decay: float | optax.Schedule, mask: Callable[[str], bool] | PyTree | None = None
) -> optax.GradientTransformation:
    """Follows the parameters with a moving average. Passes updates through unchanged.

    It must see the final updates, so it goes last in a chain; outside `optax.partition` (inside, it
    would see a part of the parameters) and inside `optax.MultiSteps` and `optax.apply_if_finite`
    (outside, it would count micro-steps and rejected steps).

        tx = optax.chain(optax.adamw(1e-3), track_ema(0.996))

    Args:
      decay: d, or a schedule of it over this transform's own count of updates: the first update
        uses `decay(0)`. 1 freezes the average, 0 copies the parameters.
      mask: which parameters have an average: a predicate on the path ("encoder/stem/conv/kernel"),
        or a tree of bools shaped like the parameters or like an upper part of them. Default: all.

    Returns:
      A transform. The average starts as a copy of the parameters, which share no buffer with it
      (both may be donated), and is kept in float32: in bfloat16 it would stand still, as 1 - d is
      below half a unit in the last place. Under a mask it is the parameters' nested dict without
      the leaves that have no average and without the dicts that this leaves empty, so
      `ema_params(opt_state)["encoder"]` is what the encoder takes, and a predictor without a twin
      is simply not there.
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
        # What the parameters will be, rounded to their own dtype.
        params = optax.apply_updates(_select(params, mask), _select(updates, mask))
        ema = jax.tree.map(lambda e, p: d * e + (1 - d) * p.astype(jnp.float32), state.ema, params)
        return updates, EmaState(count=optax.safe_increment(state.count), ema=ema)

    return optax.GradientTransformation(init, update)


def track_polyak(decay: float) -> optax.GradientTransformation:
    """Averages all parameters for evaluation; `track_ema` under another name in the state.

    Args:
      decay: d of average <- d * average + (1 - d) * params.
    """
    ema = track_ema(decay)

    def init(params: PyTree) -> PolyakState:
        return PolyakState(*ema.init(params))

    def update(updates: PyTree, state: PolyakState, params: PyTree | None = None):
        updates, after = ema.update(updates, EmaState(*state), params)
        return updates, PolyakState(*after)

    return optax.GradientTransformation(init, update)


def ema_params(opt_state: PyTree) -> PyTree | None:
    """The moving average inside an optimizer state, wherever it is nested; None if there is none.

    Raises:
      ValueError: there is more than one.
    """
    state = _only(opt_state, EmaState)
    return None if state is None else state.ema


def polyak_params(opt_state: PyTree) -> PyTree | None:
    """As `ema_params`, of the average that `track_polyak` keeps."""
    state = _only(opt_state, PolyakState)
    return None if state is None else state.average


def _only(opt_state: PyTree, kind: type) -> Any | None:
    """The one state of a kind, None if there is none."""
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
    if not isinstance(mask, Mapping):  # one bool for all that is below
        return tree if mask else {}
    if mask.keys() != tree.keys():
        raise ValueError(f"the mask has keys {sorted(mask)}, the parameters {sorted(tree)}")
    pruned = {}
    for name, child in tree.items():
        kept = _prune(child, mask[name])
        if not isinstance(kept, Mapping) or kept:
            pruned[name] = kept
    return pruned
