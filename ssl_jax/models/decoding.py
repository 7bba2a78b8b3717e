"""Generates tokens with a text model, one after the other, in one compiled loop.

The prompts of a batch may have different lengths: they are padded at their ends. One pass over the
prompts fills the cache of keys and values. Each step of the loop then computes one token of every
row. The cache has a slot per position, and a token overwrites the slot of padding that was there.
An encoder-decoder reads the prompts with its encoder once; its decoder begins with a start token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ssl_jax.models.encoder_decoder import EncoderDecoder
from ssl_jax.models.transformer import TextEncoder, output_table
from ssl_jax.models.transformer_layers import CACHE, PREFIX

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
      max_new_tokens: largest number of tokens of a completion.
      temperature: divides the logits; 0: the most likely token (greedy).
      top_k: draw from the k most likely tokens; 0: from all.
      top_p: draw from the most likely tokens, as many as have this probability together (nucleus
        sampling, Holtzman et al. 2020); 1: from all.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Stops(NamedTuple):
    """Automata that find stop strings in the bytes of tokens.

    Attributes:
      table: int32 [k states v], the state after a token; state 0 is the first one.
      last: int32 [k], the state in which a stop string has been found.
    """

    table: Array
    last: Array


class Completions(NamedTuple):
    """What a model has generated.

    Attributes:
      tokens: int32 [n m]; the end token behind the last one.
      lengths: int32 [n], tokens without the end token.
      log_probabilities: float32 [n m], of each token, the end token included, under the model
        without `Sampling`, nats; 0 behind the last one.
    """

    tokens: Array
    lengths: Array
    log_probabilities: Array


def generate(
    module: TextEncoder,
    params: Any,
    prompts: Array,
    lengths: Array,
    keys: Array,
    *,
    sampling: Sampling,
    end: int,
    stops: Stops | None = None,
) -> Completions:
    """Continues prompts until the end token, a stop string or the largest number of tokens.

    Args:
      module: a causal model.
      params: its parameters.
      prompts: int32 [n p], padded at the end by any tokens.
      lengths: int32 [n], tokens of each prompt, 1 to p. With `max_new_tokens` they must not exceed
        `module.max_length`.
      keys: random keys [n]; a completion depends on its own prompt and key only.
      sampling: how tokens are chosen; static.
      end: the end token.
      stops: stop strings; None: none.
    """
    n, width = prompts.shape
    count = sampling.max_new_tokens
    prefix = len(params.get("embed", {}).get(PREFIX, ()))  # vectors that are in front of every text
    cached = module.clone(cache_length=prefix + width + count, remat="none")

    def forward(cache: Any, tokens: Array, position: Array) -> tuple[Array, Any]:
        text = {"tokens": tokens, "position": position, "segment": jnp.ones_like(tokens)}
        variables = {"params": params, **cache}
        (_, out), cache = cached.apply(variables, text, train=False, mutable=[CACHE])
        return out["tokens"], cache

    def next_vectors(cache: Any, token: Array, step: Array) -> tuple[Array, Any]:
        vectors, cache = forward(cache, token[:, None], (lengths + step)[:, None])
        return vectors[:, 0], cache

    position = jnp.broadcast_to(jnp.arange(width), (n, width))
    tokens, cache = forward({}, prompts, position)
    vectors = jnp.take_along_axis(tokens, lengths[:, None, None] - 1, axis=1)[:, 0]
    return _loop(
        vectors,
        cache,
        next_vectors,
        output_table(params),
        keys,
        sampling=sampling,
        end=end,
        stops=stops,
    )


def answer(
    module: EncoderDecoder,
    params: Any,
    text: Mapping[str, Array],
    keys: Array,
    *,
    sampling: Sampling,
    start: int,
    end: int,
    stops: Stops | None = None,
) -> Completions:
    """Writes what belongs to texts with an encoder-decoder, see `generate`.

    Args:
      module: the net.
      params: its parameters.
      text: `tokens` and `segment` (0 = padding), int32 [n l], the input of the encoder.
      keys: random keys [n].
      sampling: how tokens are chosen; static.
      start: the token in front of the first one that is written.
      end: the end token.
      stops: stop strings; None: none.
    """
    cached = module.clone(cache_length=sampling.max_new_tokens + 1, remat="none")
    variables, segment = {"params": params}, text["segment"]
    memory = module.apply(variables, text, method="encode")

    def forward(cache: Any, token: Array, step: Array) -> tuple[Array, Any]:
        vectors, cache = cached.apply(
            {**variables, **cache},
            token[:, None],
            memory,
            segment,
            train=False,
            position=jnp.full((len(token), 1), step),
            method="decode",
            mutable=[CACHE],
        )
        return vectors[:, 0], cache

    vectors, cache = forward({}, jnp.full(len(segment), start), jnp.int32(0))
    return _loop(
        vectors,
        cache,
        lambda cache, token, step: forward(cache, token, step + 1),
        output_table(params)[: module.vocab_size],
        keys,
        sampling=sampling,
        end=end,
        stops=stops,
    )


def _loop(
    vectors: Array,
    cache: Any,
    next_vectors: Callable[[Any, Array, Array], tuple[Array, Any]],
    table: Array,
    keys: Array,
    *,
    sampling: Sampling,
    end: int,
    stops: Stops | None,
) -> Completions:
    """Chooses tokens one after the other.

    Args:
      vectors: [n d], whose products with the table are the logits of the first token.
      cache: of the model.
      next_vectors: (cache, tokens [n], step) -> (vectors [n d], cache) of the token after them,
        which are those chosen at this step, from 0.
      table: [v d].
      keys, sampling, end, stops: see `generate`.
    """
    n, count = len(vectors), sampling.max_new_tokens

    def logits_of(vectors: Array) -> Array:
        e = table.astype(vectors.dtype)
        return jnp.einsum("nd,vd->nv", vectors, e, preferred_element_type=jnp.float32)

    class State(NamedTuple):
        step: Array
        cache: Any
        logits: Array
        is_done: Array
        stop_state: Array
        out: Completions

    def go_on(state: State) -> Array:
        return (state.step < count) & ~state.is_done.all()

    def one_token(state: State) -> State:
        step, out = state.step, state.out
        own_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
        token = jnp.where(state.is_done, end, choose(state.logits, own_keys, sampling))
        log_p = jnp.take_along_axis(jax.nn.log_softmax(state.logits), token[:, None], axis=1)[:, 0]
        is_new = ~state.is_done & (token != end)
        out = Completions(
            out.tokens.at[:, step].set(token),
            out.lengths + is_new,
            out.log_probabilities.at[:, step].set(jnp.where(state.is_done, 0, log_p)),
        )
        is_done, stop_state = ~is_new, state.stop_state
        if stops is not None:
            which = jnp.arange(len(stops.last))
            stop_state = stops.table[which, stop_state, token[:, None]]  # (n, k)
            is_done |= (stop_state == stops.last).any(axis=1)
        vectors, cache = next_vectors(state.cache, token, step)
        return State(step + 1, cache, logits_of(vectors), is_done, stop_state, out)

    first = State(
        step=jnp.int32(0),
        cache=cache,
        logits=logits_of(vectors),
        is_done=jnp.zeros(n, bool),
        stop_state=jnp.zeros((n, 0 if stops is None else len(stops.last)), jnp.int32),
        out=Completions(
            jnp.full((n, count), end, jnp.int32),
            jnp.zeros(n, jnp.int32),
            jnp.zeros((n, count), jnp.float32),
        ),
    )
    return jax.lax.while_loop(go_on, one_token, first).out


def choose(logits: Array, keys: Array, sampling: Sampling) -> Array:
    """The next token of each row: logits float32 [n v], keys [n] to int32 [n]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=1).astype(jnp.int32)
    logits = likely(logits / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def likely(logits: Array, *, top_k: int = 0, top_p: float = 1.0) -> Array:
    """Logits [n v] with -inf for tokens outside of the `top_k` and `top_p` most likely ones."""
    if 0 < top_k < logits.shape[1]:
        smallest = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if top_p < 1:
        ordered = jnp.sort(logits, axis=1, descending=True)
        p = jax.nn.softmax(ordered)
        before = jnp.cumsum(p, axis=1) - p  # probability of the tokens that are more likely
        smallest = jnp.where(before < top_p, ordered, jnp.inf).min(axis=1, keepdims=True)
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits
