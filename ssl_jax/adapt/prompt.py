"""Prompt tuning: trained vectors in front of a text, the net frozen (Lester et al. 2021).

    e(x_1), ..., e(x_n)   ->   p_1, ..., p_m, e(x_1), ..., e(x_n)        p [m d] is trained

The vectors take the place of token embeddings: position embeddings are added to them as to others,
and the positions of the text move on by m. Tokens attend to them, and nothing else sees them: the
outputs of the net at their places are cut off, and the mean over the tokens leaves them out. In
encoders they stand behind the first token, so that this one stays the first. They begin as the
embeddings of random tokens (section 3.2).

A row of several texts has the vectors in its first text only. Where text is generated, they are in
front of the prompt and of what is cached.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssl_jax.adapt import adapters
from ssl_jax.adapt.adapters import PROMPT, Adapters, OnUse, net_and_groups
from ssl_jax.config.fields import positive
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import DataSpec, Method
from ssl_jax.models.transformer import TextEncoder, mean_over_text
from ssl_jax.models.transformer_layers import CACHE, Embeddings, Text

Array = jax.Array
PyTree = Any

_EMBEDDINGS = "embed"  # the net's module of embeddings


@dataclasses.dataclass(frozen=True)
class HyperParameters(adapters.HyperParameters):
    """The keys of `config.adapt` of prompt tuning."""

    length: Annotated[int, positive, "Number m of vectors."] = 20


@dataclasses.dataclass(frozen=True)
class Prompt(Adapters):
    """The vectors in front of the texts of a method."""

    name: ClassVar[str] = PROMPT

    hyper: HyperParameters

    def init(self, key: Array, params: PyTree) -> PyTree:
        net = self.hyper.net
        table = params[net][_EMBEDDINGS]["token"]["embedding"]
        rows = jax.random.randint(key, (self.hyper.length,), 0, len(table))
        return {net: {_EMBEDDINGS: {PROMPT: jnp.asarray(table)[rows]}}}

    @contextlib.contextmanager
    def active(self, on_use: OnUse | None = None) -> Iterator[None]:
        with nn.intercept_methods(functools.partial(_intercept, on_use=on_use)):
            yield

    def merge(self, params: PyTree) -> PyTree:
        raise UserError(
            "a soft prompt (adapt.name=prompt) is no part of the weights, which alone cannot "
            "compute the same; use LoRA to export a net"
        )

    def __str__(self) -> str:
        return f"{self.hyper.length} vectors in front of a text; {self._frozen_text()}"


def make(method: Method, hyper: HyperParameters, spec: DataSpec) -> Prompt:
    """The vectors of a method.

    Raises:
      UserError: there is no such net, it is no text encoder, or texts become too long.
    """
    _, groups = net_and_groups(method, hyper, spec)
    module = getattr(method.nets().get(hyper.net), "module", None)
    if not isinstance(module, TextEncoder):
        raise UserError(f"adapt.name=prompt is for text encoders, and {hyper.net} is none")
    length = spec.arrays["tokens"].shape[0]
    if length + hyper.length > module.max_length:
        raise UserError(
            f"adapt.length is {hyper.length}: with the {length} tokens of a text that is more than "
            f"model.max_length={module.max_length}; shorten one of them"
        )
    return Prompt(hyper, ((f"{hyper.net}/{_EMBEDDINGS}", (PROMPT,)),), groups)


def _intercept(
    apply: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: Any,
    *,
    on_use: OnUse | None,
) -> Any:
    """Interceptor of Linen modules: adds the vectors to texts, and cuts the outputs."""
    module = context.module
    if context.method_name != "__call__":
        return apply(*args, **kwargs)
    if isinstance(module, TextEncoder):
        prompt = _prompt_of(module)
        return (
            apply(*args, **kwargs)
            if prompt is None
            else _apply(module, prompt, apply, args, kwargs)
        )
    if isinstance(module, nn.Embed) and module.name == "token":
        embeddings = module.parent
        has_prompt = isinstance(embeddings, Embeddings) and embeddings.has_variable(
            "params", PROMPT
        )
        if has_prompt and not _goes_on(embeddings.parent):
            if on_use is not None:
                on_use("/".join(embeddings.path), True)
            prompt = embeddings.get_variable("params", PROMPT)
            first = _first(embeddings.parent)
            x = apply(*args, **kwargs)
            return x.at[:, first : first + len(prompt)].set(prompt.astype(x.dtype))
    return apply(*args, **kwargs)


def _prompt_of(module: TextEncoder) -> Array | None:
    embeddings = module.get_variable("params", _EMBEDDINGS)
    return (embeddings or {}).get(PROMPT)


def _goes_on(module: TextEncoder) -> bool:
    """Whether the text is the continuation of a cached one, which has the vectors."""
    return bool(module.cache_length) and bool(module.variables.get(CACHE))


def _first(module: TextEncoder) -> int:
    """The place of the first vector."""
    return 0 if module.causal else 1


def _apply(
    module: TextEncoder, prompt: Array, apply: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """The outputs of the encoder at the tokens of the text."""
    text, first, length = args[0], _first(module), len(prompt)
    if _goes_on(module):
        return apply({**text, "position": text["position"] + length}, *args[1:], **kwargs)
    _, out = apply(with_places(text, first, length), *args[1:], **kwargs)
    out = {
        name: jnp.concatenate([x[:, :first], x[:, first + length :]], axis=1) if x.ndim == 3 else x
        for name, x in out.items()
    }
    if module.pool == "mean":
        out["h"] = mean_over_text(out["tokens"], text["segment"])
    return out["h"], out


def with_places(text: Text, first: int, length: int) -> dict[str, Array]:
    """A text with `length` more tokens from place `first` on, which belong to its first text.

    Args:
      text: arrays int [n l], see `TextEncoder`.
      first: 0 or 1.
      length: number of tokens.
    """
    inserted = {}
    is_moved = (text["segment"] == text["segment"][:, :1]) & (
        jnp.arange(text["tokens"].shape[1]) >= first
    )
    for name, x in text.items():
        if name == "position":
            x = jnp.where(is_moved, x + length, x)
            new = jnp.broadcast_to(jnp.arange(first, first + length), (len(x), length))
        elif name == "tokens":
            new = jnp.zeros((len(x), length), x.dtype)
        else:  # as of the first token
            new = jnp.broadcast_to(x[:, :1], (len(x), length))
        inserted[name] = jnp.concatenate([x[:, :first], new.astype(x.dtype), x[:, first:]], axis=1)
    return inserted
