"""Schedules: functions step -> value. Step 0 is the first update.

The step is a Python int or a JAX array, which may be traced. For an int the value is computed in
NumPy, without a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.optim.section import GroupSection, Scaling

Schedule = Callable[[Any], Any]


def scale_learning_rate(base_lr: float, batch_size: int, scaling: Scaling = "linear") -> float:
    """The learning rate for a global batch (SimCLR, Chen et al. 2020, App. B.1).

    Args:
      base_lr: SimCLR's is 0.3 with "linear" and 0.075 with "sqrt"; both give 4.8 at 4096.
      batch_size: global batch, images.
      scaling: "linear": base * B / 256; "sqrt": base * sqrt(B); "none": base.
    """
    rates = {
        "linear": base_lr * batch_size / 256,
        "sqrt": base_lr * math.sqrt(batch_size),
        "none": base_lr,
    }
    return rates[scaling]


def warmup_cosine(
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    final_factor: float = 0.0,
    *,
    start_factor: float = 0.0,
) -> Schedule:
    """Linear warm-up from `start_factor * peak` to `peak`, then half a cosine to
    `final_factor * peak` (SGDR, Loshchilov & Hutter 2017)."""

    def factor(xp: Any, step: Any) -> Any:
        cosine = 0.5 * (1 + xp.cos(np.pi * _progress(xp, step, warmup_steps, total_steps)))
        return final_factor + (1 - final_factor) * cosine

    return _after_warmup(factor, peak, warmup_steps, start_factor)


def warmup_linear(
    peak: float,
    total_steps: int,
    warmup_steps: int = 0,
    final_factor: float = 0.0,
    *,
    start_factor: float = 0.0,
    shifted: bool = True,
) -> Schedule:
    """Linear warm-up from `start_factor * peak` to `peak`, then a line to `final_factor * peak`.

    If `shifted`, the line has the value `peak` at the end of the warm-up. Otherwise it has that
    value at step 0, as in BERT's released code: after a warm-up of 1% of the run the rate drops at
    once by 1%.
    """
    start = warmup_steps if shifted else 0

    def factor(xp: Any, step: Any) -> Any:
        return 1 - (1 - final_factor) * _progress(xp, step, start, total_steps)

    return _after_warmup(factor, peak, warmup_steps, start_factor)


def warmup_constant(peak: float, warmup_steps: int = 0, *, start_factor: float = 0.0) -> Schedule:
    """Linear warm-up from `start_factor * peak` to `peak`, then `peak`."""
    return _after_warmup(lambda xp, step: xp.ones_like(step), peak, warmup_steps, start_factor)


def warmup_step(
    peak: float,
    milestones: Sequence[int],
    decay_factor: float = 0.1,
    warmup_steps: int = 0,
    *,
    start_factor: float = 0.0,
) -> Schedule:
    """Linear warm-up from `start_factor * peak` to `peak`, which is then multiplied by
    `decay_factor` at each milestone step."""
    milestones = tuple(milestones)

    def factor(xp: Any, step: Any) -> Any:
        passed = sum((xp.where(step >= milestone, 1.0, 0.0) for milestone in milestones), 0.0)
        return decay_factor**passed * xp.ones_like(step)

    return _after_warmup(factor, peak, warmup_steps, start_factor)


def warmup_inverse_sqrt(
    peak: float, warmup_steps: int = 0, *, start_factor: float = 0.0
) -> Schedule:
    """Linear warm-up from `start_factor * peak` to `peak`, then `peak` sqrt(warmup_steps / step).

    With a start factor of 1 and a peak of 1 / sqrt(k) after k steps it is 1 / sqrt(max(step, k)),
    the rate of T5 (Raffel et al. 2020, Sec. 3.1.2); with a start factor of 0 it is that of the
    Transformer (Vaswani et al. 2017, Eq. 3).
    """
    first = max(warmup_steps, 1)

    def factor(xp: Any, step: Any) -> Any:
        return xp.sqrt(first / xp.maximum(step, first))

    return _after_warmup(factor, peak, warmup_steps, start_factor)


def cosine_between(start: float, end: float, total_steps: int) -> Schedule:
    """Half a cosine from `start` at step 0 to `end` at `total_steps`.

    end + (start - end) * (1 + cos(pi * step / total_steps)) / 2: the weight decay of DINO, Caron et
    al. 2021, App. A.
    """

    def schedule(step: Any) -> Any:
        xp, step = _on_host_or_device(step)
        cosine = 0.5 * (1 + xp.cos(np.pi * _progress(xp, step, 0, total_steps)))
        return end + (start - end) * cosine

    return schedule


def cosine_ema(base_decay: float, total_steps: int) -> Schedule:
    """Decay of a moving average: half a cosine from `base_decay` at step 0 to 1 at `total_steps`.

    1 - (1 - base_decay) * (1 + cos(pi * step / total_steps)) / 2: BYOL, Grill et al. 2020, 3.3.
    """

    def schedule(step: Any) -> Any:
        xp, step = _on_host_or_device(step)
        cosine = 0.5 * (1 + xp.cos(np.pi * _progress(xp, step, 0, total_steps)))
        return 1 - (1 - base_decay) * cosine

    return schedule


def linear_ema(base_decay: float, total_steps: int) -> Schedule:
    """A moving average's decay, from `base_decay` at step 0 in a line to 1 (I-JEPA, App. A.1)."""

    def schedule(step: Any) -> Any:
        xp, step = _on_host_or_device(step)
        return base_decay + (1 - base_decay) * _progress(xp, step, 0, total_steps)

    return schedule


def make_schedule(
    section: GroupSection, *, batch_size: int, total_steps: int, steps_per_epoch: int
) -> Schedule:
    """The learning rate schedule of a parameter group.

    Args:
      section: the keys read are base_lr, lr_scaling, lr_factor, schedule, warmup_epochs,
        warmup_steps (overrides warmup_epochs), warmup_start, final_lr_factor, decay_until,
        milestones and decay_factor.
      batch_size: global batch, examples.
      total_steps: length of the run, steps.
      steps_per_epoch: steps in an epoch.

    Returns:
      step -> learning rate, float32 []. A warm-up longer than the run is shortened to the run;
      `schedule_notes` then returns a warning.

    Raises:
      UserError: the run has no steps.
    """
    if total_steps < 1:
        raise UserError(f"a run of {total_steps} steps has no learning rate; it needs at least 1")
    peak = section.lr_factor * scale_learning_rate(section.base_lr, batch_size, section.lr_scaling)
    start, end = section.warmup_start, section.final_lr_factor
    warmup = min(warmup_length(section, steps_per_epoch), total_steps)
    if section.schedule == "constant":
        return warmup_constant(peak, warmup, start_factor=start)
    if section.schedule == "inverse_sqrt":
        return warmup_inverse_sqrt(peak, warmup, start_factor=start)
    decay_end = round(section.decay_until * total_steps)
    if section.schedule == "cosine":
        return warmup_cosine(peak, decay_end, warmup, end, start_factor=start)
    if section.schedule == "step":
        milestones = [round(fraction * total_steps) for fraction in section.milestones]
        return warmup_step(peak, milestones, section.decay_factor, warmup, start_factor=start)
    return warmup_linear(
        peak, decay_end, warmup, end, start_factor=start, shifted=section.schedule == "linear"
    )


def warmup_length(section: GroupSection, steps_per_epoch: int) -> int:
    """Warm-up steps of a group, from `warmup_steps` or `warmup_epochs`; not limited to the run."""
    if section.warmup_steps is not None:
        return section.warmup_steps
    return round(section.warmup_epochs * steps_per_epoch)


def _progress(xp: Any, step: Any, start: int, end: int) -> Any:
    """The position of `step` in [start, end], scaled to [0, 1]."""
    return xp.clip((step - start) / max(end - start, 1), 0.0, 1.0)


def _after_warmup(
    factor: Callable[[Any, Any], Any], peak: float, warmup_steps: int, start_factor: float
) -> Schedule:
    def schedule(step: Any) -> Any:
        xp, step = _on_host_or_device(step)
        rising = step / max(warmup_steps, 1)
        if start_factor:
            rising = start_factor + (1 - start_factor) * rising
        return peak * xp.where(step < warmup_steps, rising, factor(xp, step))

    return schedule


def _on_host_or_device(step: Any) -> tuple[Any, Any]:
    if isinstance(step, jax.Array):
        return jnp, step.astype(jnp.float32)
    return np, np.float32(step)
