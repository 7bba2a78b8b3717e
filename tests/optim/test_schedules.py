"""Learning rates and decay schedules at their ends, in between, and against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.config import fields
from ssl_jax.core.errors import UserError
from ssl_jax.optim import (
    GroupSection,
    cosine_between,
    cosine_ema,
    make_schedule,
    read_groups,
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
    """Keys of a group; the defaults are SimCLR's."""
    return fields.read(GroupSection, overrides, "optimizer")


def notes(config, **run):
    groups = read_groups(config, **run)
    return schedule_notes(
        groups, total_steps=run["total_steps"], steps_per_epoch=run["steps_per_epoch"]
    )


def test_simclr_peak_is_the_same_under_both_scalings():
    assert scale_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert scale_learning_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    assert scale_learning_rate(0.3, 4096, "none") == 0.3


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


def test_the_warm_up_starts_at_a_share_of_the_peak():
    """SwAV's goes from 0.3 to 4.8 in 10 epochs; what follows does not depend on it."""
    run = dict(batch_size=4096, total_steps=TOTAL, steps_per_epoch=1)
    schedule = make_schedule(config(warmup_start=1 / 16), **run)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10)], [0.3, 2.55, 4.8], rtol=1e-6)
    assert [schedule(s) for s in range(10, 100)] == [
        make_schedule(config(), **run)(s) for s in range(10, 100)
    ]
    for name in ("constant", "step", "linear", "linear_unshifted"):
        section = config(schedule=name, milestones=(0.5,), warmup_start=0.5)
        assert make_schedule(section, **run)(0) == pytest.approx(2.4)


def test_the_factor_multiplies_every_rate():
    run = dict(batch_size=4096, total_steps=TOTAL, steps_per_epoch=1)
    whole, fifth = (make_schedule(config(lr_factor=f), **run) for f in (1.0, 0.2))
    expected = [0.2 * whole(step) for step in range(TOTAL)]
    np.testing.assert_allclose([fifth(step) for step in range(TOTAL)], expected, rtol=1e-6)


def test_cosine_between_is_dinos_weight_decay():
    """final + (base - final) (1 + cos(pi i / n)) / 2 of main_dino's 0.04 and 0.4."""
    decay = cosine_between(0.04, 0.4, 1000)
    np.testing.assert_allclose([decay(0), decay(500), decay(1000)], [0.04, 0.22, 0.4], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(decay)(jnp.int32(250)), decay(250), rtol=1e-6)
    assert decay(250) == pytest.approx(0.4 - 0.36 * (1 + np.cos(np.pi / 4)) / 2)


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
    assert notes({}, **run) == []


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_schedule_may_end_before_the_run(name):
    """GPT-3's rate is 10% of its peak from token 260 billion of 300 on."""
    section = config(
        schedule=name, base_lr=6e-4, lr_scaling="none", warmup_steps=3, final_lr_factor=0.1,
        decay_until=260 / 300,
    )  # fmt: skip
    schedule = make_schedule(section, batch_size=8, total_steps=300, steps_per_epoch=10)
    np.testing.assert_allclose(schedule(3), 6e-4, rtol=1e-6)
    np.testing.assert_allclose([schedule(step) for step in (260, 280, 300)], 6e-5, rtol=1e-5)
    assert schedule(250) > 6.01e-5


def test_the_inverse_square_root_is_t5s_and_the_transformers():
    """1 / sqrt(max(n, 10,000)), and the same behind a linear warm-up."""
    options = dict(
        schedule="inverse_sqrt", base_lr=0.01, lr_scaling="none", warmup_steps=10_000,
        warmup_epochs=0.0,
    )  # fmt: skip
    run = dict(batch_size=8, total_steps=2**19, steps_per_epoch=10)
    t5 = make_schedule(config(**options, warmup_start=1.0), **run)
    warmed = make_schedule(config(**options), **run)
    for step in (0, 1, 5_000, 10_000, 10_001, 40_000, 2**19 - 1):
        expected = 1 / np.sqrt(max(step, 10_000))
        np.testing.assert_allclose(t5(step), expected, rtol=1e-6)
        share = min(step / 10_000, 1)
        np.testing.assert_allclose(warmed(step), share * expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(t5)(jnp.int32(step)), expected, rtol=1e-5)


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
    section = dataclasses.replace(section, final_lr_factor=0.5)
    schedule = make_schedule(section, batch_size=256, total_steps=10**6, steps_per_epoch=1000)
    assert schedule(10_000) == pytest.approx(0.995e-4)


def test_warmup_longer_than_the_run_is_cut_and_said():
    run = dict(batch_size=256, total_steps=50, steps_per_epoch=10)
    schedule = make_schedule(config(), **run)
    values = [schedule(step) for step in range(50)]
    np.testing.assert_allclose(values, 0.3 * np.arange(50) / 50, rtol=1e-6)
    (note,) = notes({}, **run)
    assert "warm-up of 100 steps is longer than the run and was cut to its 50" in note


def test_step_without_milestones_is_said():
    run = dict(batch_size=256, total_steps=500, steps_per_epoch=10)
    (note,) = notes({"schedule": "step"}, **run)
    assert "no optimizer.milestones" in note


def test_notes_of_a_group_are_its_own():
    run = dict(batch_size=256, total_steps=500, steps_per_epoch=10)
    section = {"schedule": "step", "groups": {"head": {"frozen_steps": 500}, "stem": {}}}
    shared, own = notes(section, **run)
    assert "no optimizer.milestones" in shared and "groups" not in shared
    assert own == "optimizer.groups.head: the parameters are frozen for the whole run"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(schedule="cosin"), r"optimizer.schedule is 'cosin'; .*Did you mean 'cosine'"),
        (
            dict(milestones=(60, 80)),
            r"milestones is \(60, 80\); use a tuple, each item a number ab",
        ),
        (dict(warmup_steps=-1), r"optimizer.warmup_steps is -1; use a whole number of at least 0"),
        (dict(lr_scaling="lin"), r"optimizer.lr_scaling is 'lin'; use one of linear, sqrt, none"),
        (dict(momentum_order="lr_outsde"), r"momentum_order is 'lr_outsde'.*mean 'lr_outside'"),
        (dict(clip=dict(per="tenser")), r"optimizer.clip.per is 'tenser'.*mean 'tensor'"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        make_schedule(config(**overrides), batch_size=256, total_steps=100, steps_per_epoch=10)
