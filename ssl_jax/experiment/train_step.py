"""The state of a run and the one train step. It knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ssl_jax import optim
from ssl_jax.core.method import Aux, Batch, Method
from ssl_jax.core.tree_paths import replace
from ssl_jax.evals import online
from ssl_jax.experiment import gradient_cache

Array = jax.Array
PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run carries from step to step, and so everything a checkpoint holds.

    Attributes:
      step: int32 [], number of updates done.
      key: uint32 key data; every random number derives from it and `step`.
      params: receive gradients.
      buffers: the method's other state: batch statistics, queue, memory bank, centre.
      opt_state: the optimizer's, with the moving average of the parameters in it.
      probe: the online linear probe, or None. It stands apart: in `params` it would enter gradient
        clipping, the moving average and every export.
    """

    step: Array
    key: Array
    params: PyTree
    buffers: PyTree
    opt_state: PyTree
    probe: PyTree

    @property
    def ema_params(self) -> PyTree | None:
        """The moving average of the parameters, or None where the method declares none."""
        return optim.ema_params(self.opt_state)


def make_init(
    method: Method,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    probe_classes: int | None = None,
) -> Callable[..., TrainState]:
    """A jittable function: batch (shapes suffice), loaded=None -> first state.

    `loaded` is {"params": {path: array}, "buffers": {path: array}}, weights to start from instead
    of random ones. They go in before the optimizer starts, so that a moving average begins at them.

    Args:
      method: the method; its `loss` is only traced, for the width of its outputs.
      tx: the optimizer.
      seed: of the parameters and of everything drawn later.
      probe_classes: classes of the online probe, None for no probe.
    """

    def init(batch: Batch, loaded: Mapping[str, Any] | None = None) -> TrainState:
        root = jax.random.key(seed)
        init_key, probe_key, run_key = jax.random.split(root, 3)
        params, buffers = method.init(init_key, batch)
        if loaded:
            params = replace(params, loaded["params"])
            buffers = replace(buffers, loaded["buffers"])
        opt_state = tx.init(params)
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
        views = method.views(jax.random.split(key, len(jax.tree.leaves(batch)[0])), batch)
        ema_params = optim.ema_params(opt_state)
        step = jnp.zeros((), jnp.int32)
        _, aux = method.loss(params, buffers, views, ema_params=ema_params, key=key, step=step)
        return aux.outputs

    return jax.eval_shape(outputs, params, buffers, opt_state, batch)


Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array], dict[str, Array]]]


def make_train_step(
    method: Method, tx: optax.GradientTransformation, *, micro_batch_size: int | None = None
) -> Step:
    """The train step: (state, batch) -> (state, metrics, outputs). Jit it with the state donated.

    With a `micro_batch_size` the forward passes run in micro-batches of so many examples, see
    `ssl_jax.experiment.gradient_cache`.

    `metrics` are float32 scalars: `loss`, the method's own, the gradient norm, and the online
    probe's. `outputs` are the method's representations of this batch (see `method.Aux`).
    """

    def train_step(state: TrainState, batch: Batch):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        view_key, encode_key, objective_key = jax.random.split(key, 3)
        view_keys = jax.random.split(view_key, len(jax.tree.leaves(batch)[0]))

        def encode(params: PyTree) -> tuple[PyTree, PyTree]:
            context = dict(ema_params=state.ema_params, key=encode_key)
            if micro_batch_size is not None:
                return gradient_cache.encode(
                    method, params, state.buffers, batch, keys=view_keys, size=micro_batch_size,
                    **context,
                )  # fmt: skip
            return method.encode(params, state.buffers, method.views(view_keys, batch), **context)

        def loss(params: PyTree) -> tuple[Array, Aux]:
            encoded, updates = encode(params)
            buffers = {**state.buffers, **updates}
            return method.objective(params, buffers, encoded, key=objective_key, step=state.step)

        (loss, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
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
