"""Runs under `jit` what tests call outside of it: nets, losses and gradients.

One operation after the other, each is compiled by itself, which takes longer than to compile the
whole function. What cannot be jitted (a value decides what is computed, or the result is no
array) runs as it is.
"""

import functools
import importlib
import inspect
import pkgutil

import jax
import numpy as np

import ssl_jax.losses
from ssl_jax.models import Net

_UNJITTABLE = (jax.errors.JAXTypeError, TypeError, ValueError)


def _concrete(arguments):
    """Whether these are arrays, neither shapes nor what a function is traced with."""
    return not any(
        isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct))
        for leaf in jax.tree.leaves(arguments)
    )


def _is_array(leaf):
    return isinstance(leaf, (jax.Array, np.ndarray))


def _constants():
    """What the modules of `losses` hold now: a test may have put another tile size there."""
    return tuple(
        value if isinstance(value, (int, float)) else id(value)
        for module in _loss_modules()
        for value in vars(module).values()
    )


@functools.cache
def _loss_modules():
    package = ssl_jax.losses
    return package, *(
        importlib.import_module(f"{package.__name__}.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
    )


@functools.lru_cache(maxsize=256)  # a gradient is a new function at every call
def _program(function, structure, static, constants):
    """`function` jitted over the leaves that are arrays; `static` holds the others by position."""

    def call(arrays):
        rest = iter(arrays)
        known = {i: leaf for i, leaf, _ in static}
        leaves = [known[i] if i in known else next(rest) for i in range(structure.num_leaves)]
        arguments, options = jax.tree.unflatten(structure, leaves)
        results = function(*arguments, **options)
        if not all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(results)):
            raise TypeError("jit would turn a number into an array")
        return results

    return jax.jit(call)


def forget():
    """Frees the programs that are kept."""
    _program.cache_clear()


def jitted(function):
    """`function`, jitted where it is called with arrays and outside of a transformation."""

    @functools.wraps(function)
    def call(*arguments, **options):
        if not _concrete((arguments, options)):
            return function(*arguments, **options)
        leaves, structure = jax.tree.flatten((arguments, options))
        arrays = [leaf for leaf in leaves if _is_array(leaf)]
        # With the types: 1 is no other key than 1.0.
        static = tuple(
            (i, leaf, type(leaf)) for i, leaf in enumerate(leaves) if not _is_array(leaf)
        )
        if not arrays:
            return function(*arguments, **options)
        try:
            return _program(function, structure, static, _constants())(arrays)
        except _UNJITTABLE:
            return function(*arguments, **options)

    return call


def _gradient(transformation):
    @functools.wraps(transformation)
    def call(function, *settings, **named):
        return jitted(transformation(function, *settings, **named))

    return call


def install():
    """Replaces the methods of `Net`, the public functions of `losses`, and `jax.grad`."""
    jax.grad, jax.value_and_grad = _gradient(jax.grad), _gradient(jax.value_and_grad)
    Net.init, Net.apply = jitted(Net.init), jitted(Net.apply)
    replaced = {}
    for module in _loss_modules():
        for name, value in list(vars(module).items()):
            home = getattr(value, "__module__", "")
            if (
                inspect.isfunction(value)
                and not name.startswith("_")
                and home.startswith("ssl_jax.losses")
            ):
                setattr(module, name, replaced.setdefault(value, jitted(value)))
