"""The targets of a model that predicts the next token."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

NO_TARGET = -1


def next_tokens(batch: Mapping[str, Any]) -> Any:
    """The token that follows each token of a batch.

    Rows of a stream have it as `next_token`. In other rows it is the next token of the same text,
    so that the last token of a text has no target.

    Args:
      batch: NumPy or JAX arrays `tokens` and `segment`, int32 [n l], and optionally `next_token`.

    Returns:
      int32 [n l], -1 where there is no target.
    """
    if "next_token" in batch:
        return batch["next_token"]
    tokens, segment = batch["tokens"], batch["segment"]
    xp: ModuleType = np if isinstance(tokens, np.ndarray) else jnp
    is_same = (segment[:, 1:] == segment[:, :-1]) & (segment[:, 1:] > 0)
    following = xp.where(is_same, tokens[:, 1:], NO_TARGET)
    return xp.pad(following, ((0, 0), (0, 1)), constant_values=NO_TARGET)
