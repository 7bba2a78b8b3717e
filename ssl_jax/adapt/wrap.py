"""Adds adapters to a method: a subclass of the method whose functions see the net with adapters.

The frozen weights are `buffers["base"]`, and the adapters and all other weights are `params`. Each
function of the method that takes `Weights` first gets them joined, as if the method had trained
them all. So gradients, optimizer state and moving averages are those of the trained weights alone,
and no method knows of adapters.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ssl_jax.adapt.adapters import Adapters, freezes, layer_of
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import BASE, Array, Aux, Batch, DataSpec, Method, PyTree, Weights
from ssl_jax.core.tree_paths import join, select


def wrap(method: Method, adapters: Adapters, spec: DataSpec) -> Method:
    """The method with adapters.

    Args:
      method: the method.
      adapters: of one of its nets.
      spec: the data.

    Raises:
      UserError: the method does not apply a layer in the way that its adapters need.
    """
    kind = type(method)
    functions = {name: _on_joined_weights(function) for name, function in _functions(kind).items()}
    functions["objective"] = _objective(functions["objective"])
    if "refresh" in functions:
        functions["refresh"] = _refresh(functions["refresh"])
    shared = {
        "init": _init(kind.init),
        "param_group": lambda self, path: kind.param_group(self, layer_of(path)),
        "ema_filter": lambda self, path: kind.ema_filter(self, layer_of(path)),
        "placement": lambda self, path: kind.placement(self, _path_without_adapters(path)),
        "origin": lambda self, path: kind.origin(self, _path_without_adapters(path)),
        "preflight": _preflight(kind.preflight),
    }
    adapted = dataclasses.make_dataclass(
        kind.__name__,
        [("adapters", Adapters, dataclasses.field(kw_only=True))],
        bases=(kind,),
        namespace={**functions, **shared, "__doc__": kind.__doc__, "__module__": kind.__module__},
        frozen=True,
    )
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    result = adapted(**fields, adapters=adapters)
    _check_used(result, spec)
    return result


def joined(method: Method, w: Weights) -> Weights:
    """The weights of the method without adapters, with the adapters below their layers.

    Args:
      method: a method with adapters.
      w: its weights; those that are joined already are returned unchanged.
    """
    if BASE not in w.buffers:
        return w
    buffers = {name: x for name, x in w.buffers.items() if name != BASE}
    base = jax.tree.map(lambda x: x.astype(jnp.float32), w.buffers[BASE])
    ema = None if w.ema is None else join(w.ema, select(base, method.ema_filter))
    return Weights(join(w.params, base), buffers, ema)


def merged(method: Method, w: Weights) -> Weights:
    """The weights of the method without adapters that compute the same.

    Args:
      method: a method with adapters.
      w: its weights.
    """
    w = joined(method, w)
    merge = method.adapters.merge
    return w._replace(params=merge(w.params), ema=None if w.ema is None else merge(w.ema))


def frozen_groups(method: Method) -> frozenset[str]:
    """The optimizer groups of parameters that are frozen beside adapters."""
    adapters = getattr(method, "adapters", None)
    return frozenset() if adapters is None else adapters.groups


def _functions(kind: type[Method]) -> dict[str, Callable[..., Any]]:
    """The functions (self, w, ...) of a class, without those that only `Method` defines."""
    return {
        name: function
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if function is not getattr(Method, name, None)
        and list(inspect.signature(function).parameters)[:2] == ["self", "w"]
    }


@contextlib.contextmanager
def _with_adapters(method: Method, w: Weights) -> Iterator[Weights]:
    """The joined weights; layers that are applied inside have their adapters.

    Functions of a method call each other: only the outermost call joins and activates.
    """
    if BASE not in w.buffers:
        yield w
        return
    with method.adapters.active():
        yield joined(method, w)


def _on_joined_weights(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def adapted(self: Method, w: Weights, *args: Any, **kwargs: Any) -> Any:
        with _with_adapters(self, w) as w:
            return function(self, w, *args, **kwargs)

    return adapted


def _objective(objective: Callable[..., tuple[Array, Aux]]) -> Callable[..., tuple[Array, Aux]]:
    """`objective` returns all buffers: with the frozen weights."""

    @functools.wraps(objective)
    def adapted(self: Method, w: Weights, *args: Any, **kwargs: Any) -> tuple[Array, Aux]:
        loss, aux = objective(self, w, *args, **kwargs)
        base = {BASE: w.buffers[BASE]} if BASE in w.buffers else {}
        return loss, aux._replace(buffers={**aux.buffers, **base})

    return adapted


def _refresh(refresh: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`refresh` gives `encode_all` functions that take the joined weights."""

    @functools.wraps(refresh)
    def adapted(self: Method, w: Weights, encode_all: Any, **kwargs: Any) -> PyTree:
        def encode_joined(function: Callable[..., Any], **options: Any) -> Any:
            def with_adapters(w: Weights, *args: Any) -> Any:
                with _with_adapters(self, w) as w:
                    return function(w, *args)

            return encode_all(with_adapters, **options)

        return refresh(self, w, encode_joined, **kwargs)

    return adapted


def _init(init: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
    @functools.wraps(init)
    def adapted(self: Method, key: Array, batch: Batch) -> tuple[PyTree, PyTree]:
        params, buffers = init(self, key, batch)
        is_frozen = functools.partial(freezes, self.adapters.hyper)
        dtype = jnp.dtype(self.adapters.hyper.base_dtype)
        base = jax.tree.map(lambda x: x.astype(dtype), select(params, is_frozen))
        trained = select(params, lambda path: not is_frozen(path))
        own = self.adapters.init(jax.random.fold_in(key, 1), params)
        return join(trained, own), {**buffers, BASE: base}

    return adapted


def _preflight(preflight: Callable[..., list[tuple[str, str]]]) -> Callable[..., Any]:
    @functools.wraps(preflight)
    def adapted(self: Method, batch_size: int) -> list[tuple[str, str]]:
        return [*preflight(self, batch_size), ("adapters", str(self.adapters))]

    return adapted


def _path_without_adapters(path: str) -> str:
    """The path in the method without adapters: frozen weights are parameters there."""
    frozen = f"buffers/{BASE}/"
    return f"params/{path.removeprefix(frozen)}" if path.startswith(frozen) else path


def _check_used(method: Method, spec: DataSpec) -> None:
    """Raises `UserError` if the method does not apply a layer with adapters as a dense layer."""
    used: dict[str, bool] = {}

    def note(path: str, whole: bool) -> None:
        used[path] = used.get(path, False) or whole

    def encode(key: Array, batch: Batch) -> PyTree:
        params, buffers = method.init(key, batch)
        w = joined(method, Weights(params, buffers, select(params, method.ema_filter)))
        step, keys = jnp.zeros((), jnp.int32), jax.random.split(key, 2)
        views = method.views(keys, batch, key=key, step=step)
        with method.adapters.active(note):
            return method.encode(w, views, key=key, step=step)[0]

    jax.eval_shape(encode, jax.random.key(0), spec.batch(2))
    net = method.adapters.hyper.net
    for path, _ in method.adapters.layers:
        own = path.removeprefix(f"{net}/")
        if used.get(own) is False:
            raise UserError(
                f"adapt.dropout is {method.adapters.hyper.dropout}, and {method.title} gives "
                f"{path} no random key, so that nothing would be dropped; set adapt.dropout=0"
            )
        if own not in used:
            raise UserError(
                f"adapt.name={method.adapters.name}: {method.title} does not apply {path} in the "
                "way that these adapters need; leave it out of adapt.targets"
            )
