"""Counts the model FLOPs of a train step: the arithmetic that its definition needs.

The model FLOP utilisation (MFU) compares them with a device's peak. They are counted in the traced
program, not in the compiled one. So recomputation that saves memory (remat, micro-batches) does not
count, the body of a loop counts once per iteration, and arithmetic counts even if the compiler
moves it to library calls (GPU) or kernels (TPU).

Only matrix products and convolutions count, two FLOPs per multiply-add of real values. Losses that
compute logits or similarities again for their gradient count them twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from ssl_jax import parallel
from ssl_jax.experiment import train_step
from ssl_jax.experiment.build import Experiment
from ssl_jax.hlo.flops import valid_pairs


def model_flops(experiment: Experiment) -> int:
    """FLOPs of one train step over the global batch. Traces the step, compiles nothing."""
    config = experiment.config.copy_and_resolve_references()
    with config.unlocked():
        config.micro_batch_size = None
        for key, value in (("remat", "none"), ("attention", "xla")):
            if config.model.get(key) is not None:
                config.model[key] = value
    mesh = parallel.make_mesh(devices=experiment.mesh.devices.reshape(-1)[:1])
    plain = Experiment.build(config, experiment.spec, mesh)
    step = train_step.make_train_step(plain.method, plain.tx)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), experiment.abstract_state
    )
    with jax.set_mesh(mesh):
        return traced_flops(step, state, plain.spec.batch(config.batch_size))


def traced_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of the matrix products and convolutions of a function.

    A loop whose number of iterations depends on data counts one iteration, a conditional counts its
    most expensive branch, and a Pallas kernel counts nothing.

    Args:
      function: any traceable function.
      *arguments: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        lhs = equation.invars[0].aval
        (contracted, _), _ = params["dimension_numbers"]
        size = math.prod(equation.outvars[0].aval.shape)
        return 2 * size * math.prod(lhs.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name == "pallas_call":
        return 0
    inner = [_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        manual = params.get("manual_axes") or params["mesh"].axis_names
        return sum(inner) * math.prod(params["mesh"].shape[axis] for axis in manual)
    return sum(inner)


def _inner(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """The inner programs of an equation, such as the body of a loop."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _convolution_flops(equation: core.JaxprEqn) -> int:
    params, (lhs, rhs) = equation.params, (var.aval.shape for var in equation.invars)
    out = equation.outvars[0].aval.shape
    lhs_axes, rhs_axes, out_axes = params["dimension_numbers"]  # each: two, then spatial axes
    pairs = math.prod(
        valid_pairs(
            lhs[lhs_axes[i + 2]], out[out_axes[i + 2]], rhs[rhs_axes[i + 2]],
            params["window_strides"][i], params["padding"][i][0],
            params["lhs_dilation"][i], params["rhs_dilation"][i],
        )
        for i in range(len(out) - 2)
    )  # fmt: skip
    examples = lhs[lhs_axes[0]] // params["batch_group_count"]
    # The kernel's input features are those of one feature group.
    return 2 * examples * rhs[rhs_axes[0]] * rhs[rhs_axes[1]] * pairs
