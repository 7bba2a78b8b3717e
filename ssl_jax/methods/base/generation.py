"""Generates text with a trained run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Array, Weights
from ssl_jax.data.text.stop_strings import stop_automata
from ssl_jax.data.text.token_bytes import token_bytes
from ssl_jax.data.text.tokenizer import Tokenizer
from ssl_jax.methods.base.generative import Generative
from ssl_jax.models.decoding import Completions, Sampling, Stops

_WIDTH = 16  # prompts are padded to multiples, so that few programs are compiled


def check_sampling(sampling: Sampling) -> None:
    """Raises `UserError` for an option that is out of range."""
    if sampling.max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {sampling.max_new_tokens}; use at least 1")
    if not 0 <= sampling.temperature < float("inf"):
        raise UserError(
            f"temperature is {sampling.temperature}; use 0 for the most likely token, or a number "
            "above 0"
        )
    if sampling.top_k < 0:
        raise UserError(f"top_k is {sampling.top_k}; use 0 for all tokens, or a number above 0")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"top_p is {sampling.top_p}; use a number above 0, up to 1 for all tokens")


def generate_texts(
    method: Generative,
    w: Weights,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    sampling: Sampling,
    stop: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 16,
) -> list[str]:
    """Continues texts, or answers them (`Generative.separate_prompt`).

    Args:
      method: the language model.
      w: its weights.
      tokenizer: of the run.
      prompts: the texts.
      sampling: how tokens are chosen.
      stop: strings that end a completion, which are not part of it.
      seed: of the random numbers.
      batch_size: prompts at a time.

    Returns:
      The completions, without the prompts.

    Raises:
      UserError: a prompt is empty or does not fit into the context, or an option is out of range.
    """
    check_sampling(sampling)
    encoded = _encoded(tokenizer, prompts, sentinels=method.separate_prompt)
    if method.separate_prompt:
        rows, room = [[*ids, method.end_token] for ids in encoded], method.context
        tokens = "the end token included; it"
    else:
        rows = [[method.end_token, *ids] for ids in encoded]
        room = method.context - sampling.max_new_tokens
        tokens = f"the start token included; with max_new_tokens={sampling.max_new_tokens} it"
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) > room:
            raise UserError(
                f"the prompt {prompt!r:.40} has {len(row)} tokens, {tokens} does not fit the "
                f"model's context of {method.context} tokens"
            )
    contents = token_bytes(tokenizer)
    if contents is not None:
        for number, token in enumerate(tokenizer.vocabulary.sentinels):
            contents[token] = f"<extra_id_{number}>".encode()
    stops = _stops(tokenizer, contents, stop)
    size = min(batch_size, len(rows))
    longest = max(map(len, rows))
    width = min(-(-longest // _WIDTH) * _WIDTH, room)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(
        jnp.arange(-(-len(rows) // size) * size)
    )
    texts: list[str] = []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        chunk += [chunk[0]] * (size - len(chunk))
        padded = [row + [method.end_token] * (width - len(row)) for row in chunk]
        lengths = np.array([len(row) for row in chunk], np.int32)
        completions = jax.device_get(
            _generate(
                method, sampling, w, np.array(padded, np.int32), lengths,
                keys[start : start + size], stops,
            )
        )  # fmt: skip
        for tokens, count in zip(completions.tokens, completions.lengths, strict=True):
            texts.append(_text(tokenizer, contents, tokens[:count].tolist(), stop))
    return texts[: len(rows)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(
    method: Generative,
    sampling: Sampling,
    w: Weights,
    prompts: Array,
    lengths: Array,
    keys: Array,
    stops: Stops | None,
) -> Completions:
    return method.generate(w, prompts, lengths, keys, sampling=sampling, stops=stops)


def _encoded(tokenizer: Tokenizer, prompts: Sequence[str], *, sentinels: bool) -> list[list[int]]:
    if not prompts:
        raise UserError("there is no prompt; pass at least one text")
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {number} is empty; write the beginning of a text")
    if sentinels:
        return [tokenizer.encode_with_sentinels(prompt) for prompt in prompts]
    ids, lengths = tokenizer.encode(prompts)
    ends = np.cumsum(lengths)
    return [ids[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def _stops(tokenizer: Tokenizer, contents: list[bytes] | None, stop: Sequence[str]) -> Stops | None:
    if not stop:
        return None
    if not all(stop):
        raise UserError("a stop string is empty; leave it out")
    if contents is None:  # the words of a tokenizer that changes the text
        contents = [text.encode("utf-8") for text in tokenizer.token_texts()]
    table, last = stop_automata(contents, stop)
    return Stops(jnp.asarray(table), jnp.asarray(last))


def _text(
    tokenizer: Tokenizer, contents: list[bytes] | None, tokens: list[int], stop: Sequence[str]
) -> str:
    if contents is None:
        text = tokenizer.decode(tokens)
    else:
        text = b"".join(contents[token] for token in tokens).decode("utf-8", "replace")
    ends = (text.find(string) for string in stop)
    return text[: min(itertools.chain((end for end in ends if end >= 0), [len(text)]))]
