"""The contract of methods that generate text."""

from __future__ import annotations

import abc

from ssl_jax.core.method import Array, Method, Weights
from ssl_jax.models.decoding import Completions, Sampling, Stops


class Generative(Method):
    """A method that continues token sequences."""

    @property
    @abc.abstractmethod
    def context(self) -> int:
        """Largest number of tokens of a prompt and its completion together."""

    @property
    @abc.abstractmethod
    def end_token(self) -> int:
        """The token that ends a completion, and that stands before the text of a prompt."""

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
