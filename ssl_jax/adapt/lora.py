"""LoRA: low-rank adaptation of dense layers (Hu et al. 2021, arXiv:2106.09685).

    y = W x + b + (alpha / r) B A dropout(x)        A [r, d_in], B [d_out, r]

W and b are frozen. A is random and B is 0, so that the first step computes what the pretrained net
does. As in the released code A is drawn from the uniform distribution of Kaiming with a = sqrt(5),
that is on [-1/sqrt(d_in), 1/sqrt(d_in)]; the paper has a Gaussian.

A and B are stored transposed, like kernels, below the layer that they adapt:

    encoder/layer1/attn/qkv/kernel               [d_in, d_out]      frozen
    encoder/layer1/attn/qkv/lora/query/a         [d_in, r]          trained
    encoder/layer1/attn/qkv/lora/query/b         [r, d_out / 3]     trained

Layers that hold several maps side by side, such as the one of query, key and value, have an adapter
for each of them. In scanned layers the arrays have the layers as first axis. The update is added to
the output of the layer, not to its kernel: there is no gradient of the shape of the kernel, and
dropout acts on the input of the update alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.adapt import adapters
from ssl_jax.adapt.adapters import LORA, Adapters, OnUse, net_and_groups
from ssl_jax.config.fields import below_one, not_empty, positive
from ssl_jax.core.errors import UserError, nearest
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.core.tree_paths import by_path, is_stacked
from ssl_jax.models.query_key_value import QueryKeyValue

Array = jax.Array
PyTree = Any

# The adapter of all outputs of a layer.
WHOLE = "whole"
# Layers that hold several maps of the same width, side by side in their outputs.
PARTS = {"qkv": ("query", "key", "value"), "w12": ("w1", "w2")}


@dataclasses.dataclass(frozen=True)
class HyperParameters(adapters.HyperParameters):
    """The keys of `config.adapt` of LoRA."""

    rank: Annotated[int, positive, "Rank r of the update of a layer."] = 8
    alpha: Annotated[float, positive, "The update is multiplied by alpha / rank."] = 16.0
    targets: Annotated[
        tuple[str, ...], not_empty,
        "Dense layers by the ends of their paths: query, key, value, qkv (all three), proj, fc1, "
        "layer1/mlp/fc2 ...; all: every dense layer of the net.",
    ] = ("query", "value")  # fmt: skip
    dropout: Annotated[float, below_one, "Dropout of the input of the update."] = 0.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class Lora(Adapters):
    """Adapters of dense layers. Those of a layer are named after its maps."""

    name: ClassVar[str] = LORA

    hyper: HyperParameters

    def init(self, key: Array, params: PyTree) -> PyTree:
        kernels, rank = by_path(params), self.hyper.rank
        arrays = {}
        for path, maps in self.layers:
            *stack, inputs, outputs = kernels[f"{path}/kernel"].shape
            for name in maps:
                width = outputs // _count(path, name)
                own_key = jax.random.fold_in(key, zlib.crc32(f"{path}/{name}".encode()))
                bound = 1 / math.sqrt(inputs)
                a = jax.random.uniform(own_key, (*stack, inputs, rank), minval=-bound, maxval=bound)
                arrays[f"{path}/{LORA}/{name}/a"] = a
                arrays[f"{path}/{LORA}/{name}/b"] = jnp.zeros((*stack, rank, width))
        return flax.traverse_util.unflatten_dict(arrays, sep="/")

    @contextlib.contextmanager
    def active(self, on_use: OnUse | None = None) -> Iterator[None]:
        add = functools.partial(
            _add_update, scale=self.hyper.scale, dropout=self.hyper.dropout, on_use=on_use
        )
        with nn.intercept_methods(add):
            yield

    def merge(self, params: PyTree) -> PyTree:
        return merge(params, self.hyper.scale)

    def __str__(self) -> str:
        hyper = self.hyper
        maps = sum(len(maps) for _, maps in self.layers)
        dropout = f", dropout {hyper.dropout:g}" * bool(hyper.dropout)
        return (
            f"LoRA of rank {hyper.rank}, alpha {hyper.alpha:g}{dropout}, of "
            f"{', '.join(hyper.targets)} ({maps} in {len(self.layers)} layers); "
            f"{self._frozen_text()}"
        )


def make(method: Method, hyper: HyperParameters, spec: DataSpec) -> Lora:
    """The adapters of a method.

    Args:
      method: the method without adapters.
      hyper: the config's section.
      spec: the data.

    Raises:
      UserError: there is no such net or layer, or the rank is too large.
    """
    params, groups = net_and_groups(method, hyper, spec)
    layers = find_layers(params, hyper)
    return Lora(
        hyper, tuple((f"{hyper.net}/{path}", maps) for path, maps in layers.items()), groups
    )


def find_layers(params: PyTree, hyper: HyperParameters) -> dict[str, tuple[str, ...]]:
    """The layers of a net that `hyper.targets` names.

    Args:
      params: the parameters of the net, abstract or not.
      hyper: the config's section.

    Returns:
      Path of the layer -> names of the adapted maps.

    Raises:
      UserError: a target is no layer, a layer is adapted twice, or the rank is too large.
    """
    shapes = _dense_layers(params)
    candidates: dict[str, tuple[str, str]] = {}  # path of a map or layer -> layer and name of map
    for path in shapes:
        candidates[path] = (path, WHOLE)
        for part in PARTS.get(path.rpartition("/")[2], ()):
            candidates[f"{path}/{part}"] = (path, part)
    layers: dict[str, dict[str, None]] = {}
    for target in hyper.targets:
        targeted = {
            candidate: layer
            for candidate, layer in candidates.items()
            if f"/{candidate}".endswith(f"/{target}") or (target == "all" and layer[1] == WHOLE)
        }
        if not targeted:
            names = sorted({candidate.rpartition("/")[2] for candidate in candidates})
            raise UserError(
                f"adapt.targets has {target!r}, and {hyper.net} has no such dense layer; its "
                f"layers are {', '.join(names) or 'not dense'}.{nearest(target, names)}"
            )
        for path, name in targeted.values():
            layers.setdefault(path, {})[name] = None
    for path, maps in layers.items():
        if WHOLE in maps and len(maps) > 1:
            part = next(name for name in maps if name != WHOLE)
            raise UserError(
                f"adapt.targets names the layer {path} and its part {part!r}; remove one of them"
            )
        for name in maps:
            *_, inputs, outputs = shapes[path]
            smallest = min(inputs, outputs // _count(path, name))
            if hyper.rank > smallest:
                raise UserError(
                    f"adapt.rank is {hyper.rank}, and {path} maps {inputs} to "
                    f"{outputs // _count(path, name)} values; use at most {smallest}"
                )
    return {path: tuple(maps) for path, maps in layers.items()}


def merge(params: PyTree, scale: float) -> PyTree:
    """The parameters of the net without adapters that computes the same: W + (alpha / r) B A.

    Args:
      params: parameters with adapters.
      scale: alpha / r.
    """
    if not isinstance(params, Mapping):
        return params
    result = {name: merge(x, scale) for name, x in params.items() if name != LORA}
    if LORA in params:
        result["kernel"] = params["kernel"] + _update(params["kernel"], params[LORA], scale)
    return result


def unmerge(params: PyTree, adapters: PyTree, scale: float) -> PyTree:
    """The kernels W of merged parameters, up to rounding.

    Args:
      params: the result of `merge`.
      adapters: parameters of which only the adapters are read.
      scale: alpha / r.
    """
    if not isinstance(params, Mapping):
        return params
    result = {
        name: unmerge(x, adapters.get(name, {}), scale) if isinstance(x, Mapping) else x
        for name, x in params.items()
    }
    if LORA in adapters:
        result["kernel"] = params["kernel"] - _update(params["kernel"], adapters[LORA], scale)
    return result


def _update(kernel: Array, adapters: Mapping[str, Any], scale: float) -> Array:
    """The update of a kernel [... d_in d_out], in float32."""
    products = {
        name: scale * jnp.matmul(ab["a"], ab["b"], precision=jax.lax.Precision.HIGHEST)
        for name, ab in adapters.items()
    }
    return _side_by_side(products)


def _side_by_side(updates: Mapping[str, Array]) -> Array:
    """The updates of the outputs of a layer [... d_out] from those of its maps."""
    if WHOLE in updates:
        return updates[WHOLE]
    return _all_parts(updates, jnp.concatenate, axis=-1)


def _all_parts(updates: Mapping[str, Array], join: Callable[..., Array], axis: int) -> Array:
    """The updates of all parts of a layer along an axis; those without an adapter are 0."""
    parts = next(parts for parts in PARTS.values() if set(updates) <= set(parts))
    zeros = jnp.zeros_like(next(iter(updates.values())))
    return join([updates.get(part, zeros) for part in parts], axis=axis)


def _add_update(
    apply: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Any,
    *,
    scale: float,
    dropout: float,
    on_use: OnUse | None,
) -> Any:
    """Interceptor of Linen modules: adds the update to the output of an adapted dense layer."""
    module, outputs = context.module, apply(*args, **kwargs)
    is_call = context.method_name == "__call__" and isinstance(module, nn.Dense | QueryKeyValue)
    if not is_call or not module.has_variable("params", LORA):
        return outputs
    if on_use is not None:
        on_use("/".join(module.path), not dropout or module.has_rng("dropout"))
    x = args[0].astype(outputs.dtype)
    if dropout and module.has_rng("dropout"):
        kept = jax.random.bernoulli(module.make_rng("dropout"), 1 - dropout, x.shape)
        x = jnp.where(kept, x / (1 - dropout), 0).astype(x.dtype)
    updates = {
        name: (x @ ab["a"].astype(x.dtype)) @ (scale * ab["b"]).astype(x.dtype)
        for name, ab in module.get_variable("params", LORA).items()
    }
    if isinstance(module, QueryKeyValue) and WHOLE not in updates:
        # Part by part, so that a split of the heads remains one.
        heads = (*x.shape[:-1], *outputs.shape[-2:])
        updates = {name: update.reshape(heads) for name, update in updates.items()}
        return outputs + _all_parts(updates, jnp.stack, axis=-3)
    return outputs + _side_by_side(updates).reshape(outputs.shape)


def _dense_layers(params: PyTree) -> dict[str, tuple[int, ...]]:
    """Path of each dense layer -> shape of its kernel."""
    return {
        path.removesuffix("/kernel"): leaf.shape
        for path, leaf in by_path(params).items()
        if path.endswith("/kernel") and len(leaf.shape) == 2 + is_stacked(path)
    }


def _count(path: str, name: str) -> int:
    """The number of maps side by side in the layer at `path`, if `name` is one of them; else 1."""
    return 1 if name == WHOLE else len(PARTS[path.rpartition("/")[2]])
