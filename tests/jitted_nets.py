"""Runs nets jitted where a test calls them outside of `jit`.

One operation after the other, each would be compiled by itself: longer than the whole net takes.
"""

import jax

from ssl_jax.models import Net

_init = jax.jit(Net.init, static_argnums=0)
_apply = jax.jit(Net.apply, static_argnums=0, static_argnames="train")


def _concrete(arguments):
    """Whether these are arrays, neither shapes nor what a function is traced with."""
    return not any(
        isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct))
        for leaf in jax.tree.leaves(arguments)
    )


def install():
    """Replaces `Net.init` and `Net.apply`."""
    init, apply = Net.init, Net.apply

    def jitted_init(self, *arguments):
        return (_init if _concrete(arguments) else init)(self, *arguments)

    def jitted_apply(self, *arguments, **options):
        call = _apply if _concrete((arguments, options)) else apply
        return call(self, *arguments, **options)

    Net.init, Net.apply = jitted_init, jitted_apply
