"""The contract of methods that generate text."""

from __future__ import annotations

import abc
from typing import ClassVar

from ssl_jax.core.method import Array, Method, Weights
from ssl_jax.models.decoding import Completions, Sampling, Stops


class Generative(Method):
    """A method that continues or answers token sequences.

    Attributes:
      separate_prompt: whether an encoder reads the prompts. The end token then stands behind a
        prompt, not before it, and the completion takes no room of the prompt's.
    """

    separate_prompt: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """Largest number of tokens of a prompt and its completion together.

        With `separate_prompt`, of the prompt alone.
        """

    @property
    @abc.abstractmethod
    def end_token(self) -> int:
        """The token that ends a completion; it also stands before the text of a prompt, or with
        `separate_prompt` behind it."""

    @abc.abstractmethod
    def generate(
        self,
        w: Weights,
        prompts: Array,
        lengths: Array,
        keys: Array,
        *,
        sampling: Sampling,
        stops: Stops | None = None,
    ) -> Completions:
        """Continues prompts, see `ssl_jax.models.decoding.generate`."""
