"""Learning rates and decay schedules at their ends, in between, and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError
from ssl_jax.optim import (
    cosine_ema,
    make_schedule,
    scale_learning_rate,
    schedule_notes,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    warmup_step,
)

PEAK, TOTAL, WARM = 4.8, 100, 10
SCHEDULES = {
    "cosine": warmup_cosine(PEAK, TOTAL, WARM),
    "cosine to a tenth": warmup_cosine(PEAK, TOTAL, WARM, 0.1),
    "linear": warmup_linear(PEAK, TOTAL, WARM),
    "constant": warmup_constant(PEAK, WARM),
    "step": warmup_step(PEAK, (60, 80), 0.1, WARM),
}
END = {"cosine": 0, "cosine to a tenth": 0.1, "linear": 0, "constant": 1, "step": 0.01}


def config(**overrides):
    section = ConfigDict(
        dict(
            base_lr=0.3,
            lr_scaling="linear",
            schedule="cosine",
            warmup_epochs=10.0,
            warmup_steps=None,
            final_lr_factor=0.0,
            milestones=(),
            decay_factor=0.1,
        )
    )
    section.update(overrides)
    return section


def test_simclr_peak_is_the_same_under_both_scalings():
    assert scale_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert scale_learning_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    assert scale_learning_rate(0.3, 4096, "none") == 0.3
    with pytest.raises(UserError, match=r"unknown lr_scaling 'squrt'.*Did you mean 'sqrt'"):
        scale_learning_rate(0.3, 4096, "squrt")


@pytest.mark.parametrize("name", SCHEDULES)
def test_endpoints_and_monotone_segments(name):
    schedule = SCHEDULES[name]
    values = np.array([schedule(step) for step in range(TOTAL + 20)])
    assert values[0] == 0 and values[WARM] == pytest.approx(PEAK)
    np.testing.assert_allclose(values[:WARM], PEAK * np.arange(WARM) / WARM, rtol=1e-6)
    np.testing.assert_allclose(values[TOTAL:], END[name] * PEAK, atol=1e-6)
    assert np.all(np.diff(values[WARM:]) <= 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_host_and_device_agree(name):
    steps = np.arange(0, TOTAL + 5, 7)
    on_device = jax.jit(jax.vmap(SCHEDULES[name]))(jnp.asarray(steps, jnp.int32))
    assert on_device.dtype == jnp.float32
    on_host = [SCHEDULES[name](int(step)) for step in steps]
    np.testing.assert_allclose(on_device, on_host, rtol=1e-5, atol=1e-6)


def test_cosine_against_numpy():
    for step in (WARM, 30, 55, 77):
        share = (step - WARM) / (TOTAL - WARM)
        expected = 0.48 + 0.5 * (PEAK - 0.48) * (1 + np.cos(np.pi * share))
        assert SCHEDULES["cosine to a tenth"](step) == pytest.approx(expected)
    assert SCHEDULES["cosine to a tenth"](55) == pytest.approx((PEAK + 0.48) / 2)


def test_step_schedule_changes_at_its_milestones():
    values = [SCHEDULES["step"](step) for step in (59, 60, 79, 80)]
    np.testing.assert_allclose(values, [4.8, 0.48, 0.48, 0.048], rtol=1e-6)


def test_no_warmup_starts_at_the_peak():
    assert warmup_cosine(PEAK, TOTAL)(0) == pytest.approx(PEAK)
    assert warmup_constant(PEAK)(0) == pytest.approx(PEAK)


def test_cosine_ema_is_byols():
    """0.996 at first, 0.998 half way, 1 at the end and after it."""
    tau = cosine_ema(0.996, 1000)
    np.testing.assert_allclose([tau(0), tau(500), tau(1000), tau(2000)], [0.996, 0.998, 1, 1])
    values = np.array([tau(step) for step in range(1001)])
    assert np.all(np.diff(values) >= 0)
    np.testing.assert_allclose(jax.jit(tau)(jnp.int32(250)), tau(250), rtol=1e-6)


def test_make_schedule_reads_the_config():
    run = dict(batch_size=4096, total_steps=31_200, steps_per_epoch=312)
    schedule = make_schedule(config(), **run)
    assert schedule(3120) == pytest.approx(4.8) and schedule(0) == 0
    assert schedule(31_200) == pytest.approx(0)
    assert make_schedule(config(warmup_steps=5), **run)(5) == pytest.approx(4.8)
    assert make_schedule(config(warmup_steps=0), **run)(0) == pytest.approx(4.8)
    linear = make_schedule(config(schedule="linear", final_lr_factor=0.5), **run)
    assert linear(31_200) == pytest.approx(2.4)
    assert make_schedule(config(schedule="constant"), **run)(31_200) == pytest.approx(4.8)
    step = make_schedule(config(schedule="step", milestones=(0.6, 0.8)), **run)
    assert [round(float(step(s)), 6) for s in (18_719, 18_720, 24_960)] == [4.8, 0.48, 0.048]
    assert schedule_notes(config(), **run) == []


def test_the_unshifted_line_is_berts():
    """A million steps, 10,000 of them warm-up: after it the rate falls by 1% at once."""
    section = config(
        base_lr=1e-4, lr_scaling="none", schedule="linear_unshifted", warmup_steps=10_000
    )
    schedule = make_schedule(section, batch_size=256, total_steps=10**6, steps_per_epoch=1000)
    steps = [0, 5000, 9999, 10_000, 500_000, 10**6]
    expected = [0, 0.5e-4, 0.9999e-4, 0.99e-4, 0.5e-4, 0]
    np.testing.assert_allclose([schedule(step) for step in steps], expected, atol=1e-9)
    np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(10_000)), 0.99e-4, rtol=1e-6)
    section.final_lr_factor = 0.5
    schedule = make_schedule(section, batch_size=256, total_steps=10**6, steps_per_epoch=1000)
    assert schedule(10_000) == pytest.approx(0.995e-4)


def test_warmup_longer_than_the_run_is_cut_and_said():
    run = dict(batch_size=256, total_steps=50, steps_per_epoch=10)
    schedule = make_schedule(config(), **run)
    values = [schedule(step) for step in range(50)]
    np.testing.assert_allclose(values, 0.3 * np.arange(50) / 50, rtol=1e-6)
    (note,) = schedule_notes(config(), **run)
    assert "warm-up of 100 steps is longer than the run and was cut to its 50" in note


def test_step_without_milestones_is_said():
    run = dict(batch_size=256, total_steps=500, steps_per_epoch=10)
    (note,) = schedule_notes(config(schedule="step"), **run)
    assert "no optimizer.milestones" in note


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(schedule="cosin"), r"unknown schedule 'cosin'.*Did you mean 'cosine'"),
        (dict(schedule="step", milestones=(60, 80)), r"milestones \(60, 80\) must be fractions"),
        (dict(warmup_steps=-1), r"warm-up is -1 steps"),
        (dict(lr_scaling="lin"), r"unknown lr_scaling 'lin'"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        make_schedule(config(**overrides), batch_size=256, total_steps=100, steps_per_epoch=10)
