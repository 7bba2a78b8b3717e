"""Overrides that rows of text share: a tiny net on a short text that is always there."""

from __future__ import annotations

import os
import tempfile

from tests.methods.rows.row import CONFIGS

# In a vocabulary of its own.
TEXT_OPTIONS = dict(
    tokenizer="wordpiece",
    vocab_size=300,
    sequence_length=32,
    cache_dir=os.path.join(tempfile.gettempdir(), "ssl_jax_test_text"),
)
TEXT = {
    "data.name": f"text:{CONFIGS.parent}/LICENSE",
    "model.dim": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "model.max_length": 32,
    "model.dropout": 0.1,
    "optimizer.name": "sgd",
    "optimizer.base_lr": 1e-3,
    "eval.online": False,
}
