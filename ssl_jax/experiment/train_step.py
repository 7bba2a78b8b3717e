"""The training state and the train step, which is the same for all methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ssl_jax import optim
from ssl_jax.core.method import Aux, Batch, Method, Weights, loss_and_aux
from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.evals import online
from ssl_jax.experiment import gradient_cache
from ssl_jax.experiment.gradient_cache import StepKeys, batch_size_of

Array = jax.Array
PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """The state of a run between two steps; a checkpoint stores all of it.

    Attributes:
      step: int32 [], number of updates done.
      key: uint32 key data; all random numbers derive from it and `step`.
      params: arrays that receive gradients.
      buffers: the other state of the method: batch statistics, queue, memory bank, centre.
      opt_state: the state of the optimizer, including the moving average of the parameters.
      probe: the online linear probe, or None. It is not in `params`, because it must not take part
        in gradient clipping, the moving average or exports.
    """

    step: Array
    key: Array
    params: PyTree
    buffers: PyTree
    opt_state: PyTree
    probe: PyTree

    @property
    def weights(self) -> Weights:
        """The input of the method's functions; `ema` is None if the method declares no average."""
        return Weights(self.params, self.buffers, optim.ema_params(self.opt_state))


def _with_all_rows(arrays: Mapping[str, Any], tree: PyTree) -> dict[str, Any]:
    """`arrays` by path, each with the last rows of `tree`'s if it has fewer."""
    leaves = by_path(tree)
    return {
        path: array
        if array.shape == leaves[path].shape
        else jnp.concatenate([array, leaves[path][len(array) :].astype(array.dtype)])
        for path, array in arrays.items()
    }


def make_init(
    method: Method,
    tx: optax.GradientTransformation,
    *,
    probe_classes: int | None = None,
) -> Callable[..., TrainState]:
    """Returns a jittable function (seed uint32 [], batch, loaded=None) -> first state.

    The seed determines the parameters and all later random numbers. It is an argument, so runs with
    different seeds share one compiled program.

    Only the shapes of `batch` are used. `loaded` is {"params": {path: array}, "buffers": {path:
    array}}, weights that replace random ones; an array with fewer rows replaces the first ones.
    They are set before the optimizer is initialised, so a moving average starts from them, unless
    `loaded` has an entry "ema", {path of a parameter: array}.

    Args:
      method: the method; its loss is traced, to get the width of its outputs.
      tx: the optimizer.
      probe_classes: classes of the online probe; None for no probe.
    """

    def init(seed: Any, batch: Batch, loaded: Mapping[str, Any] | None = None) -> TrainState:
        root = jax.random.key(seed)
        init_key, probe_key, run_key = jax.random.split(root, 3)
        params, buffers = method.init(init_key, batch)
        if loaded:
            params = replace(params, _with_all_rows(loaded["params"], params))
            buffers = replace(buffers, _with_all_rows(loaded["buffers"], buffers))
        params = method.constrain(params)
        opt_state = tx.init(params)
        if loaded and loaded.get("ema"):
            opt_state = optim.replace_ema(opt_state, loaded["ema"])
        probe = None
        if probe_classes:
            outputs = _output_shapes(method, params, buffers, opt_state, batch)
            if "h" in outputs:
                probe = online.init(probe_key, outputs["h"].shape[-1], probe_classes)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(run_key),
            params=params,
            buffers=buffers,
            opt_state=opt_state,
            probe=probe,
        )

    return init


def _output_shapes(
    method: Method, params: PyTree, buffers: PyTree, opt_state: PyTree, batch: Batch
) -> dict[str, jax.ShapeDtypeStruct]:
    def outputs(params: PyTree, buffers: PyTree, opt_state: PyTree, batch: Batch):
        key = jax.random.key(0)
        keys = jax.random.split(key, batch_size_of(batch))
        step = jnp.zeros((), jnp.int32)
        w = Weights(params, buffers, optim.ema_params(opt_state))
        views = method.views(keys, batch, key=key, step=step)
        return loss_and_aux(method, w, views, key=key, step=step)[1].outputs

    return jax.eval_shape(outputs, params, buffers, opt_state, batch)


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array], dict[str, Array]]]
# Folded into the key of a step, for what all examples of a batch share.
_BATCH = 3


def make_train_step(
    method: Method, tx: optax.GradientTransformation, *, micro_batch_size: int | None = None
) -> Step:
    """Returns the train step (state, batch) -> (state, metrics, outputs). Jit it and donate state.

    With a `micro_batch_size` the forward passes run in micro-batches of that many examples
    (`ssl_jax.experiment.gradient_cache`). A method that `decomposes` accumulates the gradients of
    its micro-batches; other methods encode every example twice.

    `metrics` are float32 scalars: `loss`, the gradient norm, and the metrics of the method and of
    the online probe. `outputs` are the method's representations of this batch (see `method.Aux`).
    """

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        view_key, encode_key, objective_key = jax.random.split(key, 3)
        keys = StepKeys(
            examples=jax.random.split(view_key, batch_size_of(batch)),
            batch=jax.random.fold_in(key, _BATCH),
            encode=encode_key,
            objective=objective_key,
        )
        if micro_batch_size is not None and method.decomposes:
            loss, aux, grads = gradient_cache.accumulate(
                method, state.weights, batch, keys=keys, step=state.step, size=micro_batch_size
            )
        else:
            loss, aux, grads = _whole_batch(method, state, batch, keys, micro_batch_size)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **aux.metrics}

        probe = state.probe
        if probe is not None:
            probe, measured = online.update(probe, aux.outputs["h"], batch["label"])
            metrics |= {f"online/{name}": value for name, value in measured.items()}
        state = state.replace(
            step=state.step + 1,
            params=params,
            buffers=aux.buffers,
            opt_state=opt_state,
            probe=probe,
        )
        return state, metrics, aux.outputs

    return train_step


def _whole_batch(
    method: Method, state: TrainState, batch: Batch, keys: StepKeys, micro_batch_size: int | None
) -> tuple[Array, Aux, PyTree]:
    """Loss, aux and gradients of a loss over the global batch."""
    w, step = state.weights, state.step

    def encode(w: Weights) -> tuple[PyTree, PyTree]:
        if micro_batch_size is not None:
            return gradient_cache.encode(
                method, w, batch, keys=keys, step=step, size=micro_batch_size
            )
        views = method.views(keys.examples, batch, key=keys.batch, step=step)
        return method.encode(w, views, key=keys.encode, step=step)

    def loss(params: PyTree) -> tuple[Array, Aux]:
        current = w._replace(params=params)
        encoded, updates = encode(current)
        current = current._replace(buffers={**w.buffers, **updates})
        return method.objective(current, encoded, key=keys.objective, step=step)

    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(w.params)
    return value, aux, grads
