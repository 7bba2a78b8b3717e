"""A tiny text net and a text for it."""

import jax.numpy as jnp
import numpy as np

from ssl_jax.models import Net
from ssl_jax.models.transformer import TextEncoder

TEXT = dict(
    tokens=np.array([[3, 5, 7, 2, 0]], np.int32),
    segment=np.array([[1, 1, 1, 1, 0]], np.int32),
    position=np.array([[0, 1, 2, 3, 0]], np.int32),
)  # fmt: skip


def text_net(**options):
    sizes = dict(vocab_size=11, dim=8, depth=2, num_heads=2, mlp_ratio=2.0, max_length=9)
    rest = dict(
        position_offset=0, num_types=1, activation="gelu", norm_eps=1e-5, dropout=0.0,
        attention_dropout=0.0, pooler=False, pool="mean", scan_layers=False, remat="none",
        attention="xla", dtype=jnp.float32,
    )  # fmt: skip
    return Net(TextEncoder(**{**sizes, **rest, **options}))
