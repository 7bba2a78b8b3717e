"""Schedules: functions step -> value. Step 0 is the first update.

Each takes a Python int (and then answers on the host, in NumPy, without a device) or a JAX array,
traced or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError, nearest

Schedule = Callable[[Any], Any]
SCALINGS = ("linear", "sqrt", "none")
SCHEDULES = ("cosine", "constant", "step", "linear", "linear_unshifted")


def scale_learning_rate(base_lr: float, batch_size: int, scaling: str = "linear") -> float:
    """The learning rate for a global batch (SimCLR, Chen et al. 2020, App. B.1).

    Args:
      base_lr: SimCLR's is 0.3 with "linear" and 0.075 with "sqrt"; both give 4.8 at 4096.
      batch_size: global batch, images.
      scaling: "linear": base * B / 256; "sqrt": base * sqrt(B); "none": base.

    Raises:
      UserError: unknown scaling.
    """
    if scaling == "linear":
        return base_lr * batch_size / 256
    if scaling == "sqrt":
        return base_lr * math.sqrt(batch_size)
    if scaling == "none":
        return base_lr
    raise UserError(
        f"unknown lr_scaling {scaling!r}; known are {SCALINGS}.{nearest(scaling, SCALINGS)}"
    )


def warmup_cosine(
    peak: float, total_steps: int, warmup_steps: int = 0, final_factor: float = 0.0
) -> Schedule:
    """Linear warm-up from 0 to `peak`, then half a cosine to `final_factor * peak` (SGDR, 2017)."""

    def factor(xp: Any, step: Any) -> Any:
        cosine = 0.5 * (1 + xp.cos(np.pi * _progress(xp, step, warmup_steps, total_steps)))
        return final_factor + (1 - final_factor) * cosine

    return _after_warmup(factor, peak, warmup_steps)


def warmup_linear(
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    final_factor: float = 0.0,
    *,
    shifted: bool = True,
) -> Schedule:
    """Linear warm-up from 0 to `peak`, then a straight line to `final_factor * peak`.

    The line starts from `peak` where the warm-up ends. Not `shifted`, it starts from there at step
    0, as in BERT's released code: behind a warm-up of 1% of the run the rate falls by 1% at once.
    """
    start = warmup_steps if shifted else 0

    def factor(xp: Any, step: Any) -> Any:
        return 1 - (1 - final_factor) * _progress(xp, step, start, total_steps)

    return _after_warmup(factor, peak, warmup_steps)


def warmup_constant(peak: float, warmup_steps: int = 0) -> Schedule:
    """Linear warm-up from 0 to `peak`, then `peak`."""
    return _after_warmup(lambda xp, step: xp.ones_like(step), peak, warmup_steps)


def warmup_step(
    peak: float, milestones: Sequence[int], decay_factor: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """Linear warm-up from 0 to `peak`, then times `decay_factor` from each milestone step on."""
    milestones = tuple(milestones)

    def factor(xp: Any, step: Any) -> Any:
        passed = sum((xp.where(step >= milestone, 1.0, 0.0) for milestone in milestones), 0.0)
        return decay_factor**passed * xp.ones_like(step)

    return _after_warmup(factor, peak, warmup_steps)


def cosine_ema(base_decay: float, total_steps: int) -> Schedule:
    """A moving average's decay, from `base_decay` at step 0 along half a cosine to 1.

    1 - (1 - base_decay) * (1 + cos(pi * step / total_steps)) / 2: BYOL, Grill et al. 2020, 3.3.
    """

    def schedule(step: Any) -> Any:
        xp, step = _on_host_or_device(step)
        cosine = 0.5 * (1 + xp.cos(np.pi * _progress(xp, step, 0, total_steps)))
        return 1 - (1 - base_decay) * cosine

    return schedule


def make_schedule(
    config: Mapping[str, Any], *, batch_size: int, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """The learning rate that the config's optimizer section means for this run.

    Args:
      config: base_lr, lr_scaling, schedule, warmup_epochs, warmup_steps (wins when set),
        final_lr_factor, milestones (fractions of the run) and decay_factor.
      batch_size: global batch, images.
      total_steps: length of the run.
      steps_per_epoch: of it.

    Returns:
      step -> learning rate, float32 []. A warm-up longer than the run is cut to it;
      `schedule_notes` says so.

    Raises:
      UserError: an unknown schedule or scaling, or a value out of its range.
    """
    name = config["schedule"]
    peak = scale_learning_rate(config["base_lr"], batch_size, config["lr_scaling"])
    if total_steps < 1:
        raise UserError(f"a run of {total_steps} steps has no learning rate; it needs at least 1")
    warmup = min(_requested_warmup(config, steps_per_epoch), total_steps)
    if name == "cosine":
        return warmup_cosine(peak, total_steps, warmup, config["final_lr_factor"])
    if name == "linear":
        return warmup_linear(peak, total_steps, warmup, config["final_lr_factor"])
    if name == "linear_unshifted":
        return warmup_linear(peak, total_steps, warmup, config["final_lr_factor"], shifted=False)
    if name == "constant":
        return warmup_constant(peak, warmup)
    if name == "step":
        fractions = config["milestones"]
        if not all(0 < fraction < 1 for fraction in fractions):
            raise UserError(
                f"optimizer.milestones {tuple(fractions)} must be fractions of the run between 0 "
                "and 1, such as (0.6, 0.8)"
            )
        milestones = [round(fraction * total_steps) for fraction in fractions]
        return warmup_step(peak, milestones, config["decay_factor"], warmup)
    raise UserError(f"unknown schedule {name!r}; known are {SCHEDULES}.{nearest(name, SCHEDULES)}")


def schedule_notes(
    config: Mapping[str, Any], *, batch_size: int, total_steps: int, steps_per_epoch: int
) -> list[str]:
    """Warnings about the schedule `make_schedule` builds of the same arguments, a line each."""
    del batch_size
    notes = []
    requested = _requested_warmup(config, steps_per_epoch)
    if requested > total_steps:
        notes.append(
            f"the warm-up of {requested:,} steps is longer than the run and was cut to its "
            f"{total_steps:,}; set optimizer.warmup_epochs or warmup_steps lower"
        )
    if config["schedule"] == "step" and not config["milestones"]:
        notes.append("schedule 'step' has no optimizer.milestones: the learning rate is constant")
    return notes


def _requested_warmup(config: Mapping[str, Any], steps_per_epoch: int) -> int:
    steps = config.get("warmup_steps")
    if steps is None:
        steps = round(config["warmup_epochs"] * steps_per_epoch)
    if steps < 0:
        raise UserError(f"the warm-up is {steps} steps; it must be 0 or more")
    return steps


def _progress(xp: Any, step: Any, start: int, end: int) -> Any:
    """The share of [start, end] that `step` has gone, between 0 and 1."""
    return xp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def _after_warmup(factor: Callable[[Any, Any], Any], peak: float, warmup_steps: int) -> Schedule:
    def schedule(step: Any) -> Any:
        xp, step = _on_host_or_device(step)
        rising = step / max(warmup_steps, 1)
        return peak * xp.where(step < warmup_steps, rising, factor(xp, step))

    return schedule


def _on_host_or_device(step: Any) -> tuple[Any, Any]:
    if isinstance(step, jax.Array):
        return jnp, step.astype(jnp.float32)
    return np, np.float32(step)
