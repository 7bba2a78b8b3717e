"""Optimizers, learning rates and moving averages, as optax transforms and plain functions."""

from ssl_jax.optim.adam import scale_by_adam
from ssl_jax.optim.ema import EmaState, ema_params, ema_path, track_ema
from ssl_jax.optim.factory import OPTIMIZERS, make_optimizer
from ssl_jax.optim.lars import lars
from ssl_jax.optim.masks import (
    DEFAULT_EXCLUDE,
    ExcludedCount,
    count_excluded,
    path_mask,
)
from ssl_jax.optim.schedules import (
    cosine_ema,
    make_schedule,
    scale_learning_rate,
    schedule_notes,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    warmup_step,
)
from ssl_jax.optim.trust import scale_by_trust_ratio

__all__ = [
    "DEFAULT_EXCLUDE",
    "OPTIMIZERS",
    "EmaState",
    "ExcludedCount",
    "cosine_ema",
    "count_excluded",
    "ema_params",
    "ema_path",
    "lars",
    "make_optimizer",
    "make_schedule",
    "path_mask",
    "scale_by_adam",
    "scale_by_trust_ratio",
    "scale_learning_rate",
    "schedule_notes",
    "track_ema",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "warmup_step",
]
