"""Optimizers, learning rates and moving averages, as optax transforms and plain functions."""

from ssl_jax.optim.adam import scale_by_adam
from ssl_jax.optim.by_step import (
    StepState,
    add_decayed_weights,
    count_steps,
    scale_by_learning_rate,
)
from ssl_jax.optim.clip import clip_by_norm
from ssl_jax.optim.constrain import constrain
from ssl_jax.optim.describe import describe
from ssl_jax.optim.ema import (
    EmaState,
    PolyakState,
    ema_params,
    polyak_params,
    replace_ema,
    track_ema,
    track_polyak,
)
from ssl_jax.optim.factory import AVERAGE_PATHS, make_optimizer
from ssl_jax.optim.freeze import freeze_until, zero_before
from ssl_jax.optim.groups import Group, Groups, read_groups, schedule_notes
from ssl_jax.optim.lars import lars
from ssl_jax.optim.layerwise import layer_factors, scale_by_layer
from ssl_jax.optim.masks import (
    DEFAULT_EXCLUDE,
    ExcludedCount,
    count_excluded,
    path_mask,
)
from ssl_jax.optim.schedules import (
    cosine_between,
    cosine_ema,
    linear_ema,
    make_schedule,
    scale_learning_rate,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    warmup_step,
)
from ssl_jax.optim.section import Clip, GroupSection, OptimizerSection
from ssl_jax.optim.trust import scale_by_trust_ratio

__all__ = [
    "AVERAGE_PATHS",
    "DEFAULT_EXCLUDE",
    "Clip",
    "EmaState",
    "ExcludedCount",
    "Group",
    "GroupSection",
    "Groups",
    "OptimizerSection",
    "PolyakState",
    "StepState",
    "add_decayed_weights",
    "clip_by_norm",
    "constrain",
    "cosine_between",
    "cosine_ema",
    "count_excluded",
    "count_steps",
    "describe",
    "ema_params",
    "freeze_until",
    "lars",
    "layer_factors",
    "linear_ema",
    "make_optimizer",
    "make_schedule",
    "path_mask",
    "polyak_params",
    "read_groups",
    "replace_ema",
    "scale_by_adam",
    "scale_by_layer",
    "scale_by_learning_rate",
    "scale_by_trust_ratio",
    "scale_learning_rate",
    "schedule_notes",
    "track_ema",
    "track_polyak",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
    "warmup_step",
    "zero_before",
]
