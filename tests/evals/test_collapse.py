import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from ssl_jax.evals import collapse

_diagnostics = jax.jit(collapse.diagnostics)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _rankme(x, epsilon=1e-7):
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    p = s / s.sum() + epsilon
    p = p[p > 0]
    return np.exp(-(p * np.log(p)).sum())


def test_diagnostics_match_numpy():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 3, 12)) + 0.5 * rng.normal(size=(60, 1, 12)) + 0.3
    h = rng.normal(size=(60, 20)) * np.logspace(0, -2, 20)
    got = _diagnostics(z.astype(np.float32), h.astype(np.float32))
    unit = _unit(z)
    views = range(3)
    alignment = np.mean(
        [((unit[:, a] - unit[:, b]) ** 2).sum(-1).mean() for a in views for b in views if a < b]
    )
    uniformity = []
    for view in views:
        x = unit[:, view]
        terms = [np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(60) for j in range(i)]
        uniformity.append(math.log(np.mean(terms)))
    expected = {
        "rankme_z": _rankme(z[:, 0]),
        "effective_rank_z": _rankme(z[:, 0], 0.0),
        "rankme_h": _rankme(h),
        "effective_rank_h": _rankme(h, 0.0),
        "std_z": unit.reshape(-1, 12).std(axis=0).mean() * math.sqrt(12),
        "alignment": alignment,
        "uniformity": np.mean(uniformity),
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name].dtype == jnp.float32 and got[name].shape == ()
        assert float(got[name]) == pytest.approx(value, rel=2e-5), name


def test_rank_of_known_spectra():
    columns = np.linalg.qr(np.random.default_rng(1).normal(size=(300, 128)))[0]
    got = _diagnostics(h=columns.astype(np.float32))
    assert got["rankme_h"] == pytest.approx(128.0063, abs=2e-3)
    assert got["effective_rank_h"] == pytest.approx(128.0, abs=1e-3)
    assert collapse.rankme(jnp.eye(128)[0]) == pytest.approx(1.00020, abs=1e-5)
    assert collapse.rankme(jnp.eye(2048)[0]) == pytest.approx(1.0033, abs=1e-4)
    assert collapse.rankme(jnp.eye(128)[0], epsilon=0.0) == 1.0
    one = _diagnostics(h=np.outer(np.arange(1.0, 301.0), np.ones(128)).astype(np.float32))
    assert one["effective_rank_h"] == pytest.approx(1.0, abs=1e-3)


def test_ranks_do_not_depend_on_scale_but_on_the_offset():
    h = np.random.default_rng(2).normal(size=(100, 10)).astype(np.float32)
    rank = lambda x: float(_diagnostics(h=x)["rankme_h"])  # noqa: E731
    assert rank(1e3 * h) == pytest.approx(rank(h), rel=1e-5)
    assert rank(h + 100.0) < 0.5 * rank(h)  # not centred


def test_alignment_and_uniformity_of_known_sets():
    rng = np.random.default_rng(3)
    x = _unit(rng.normal(size=(50, 8))).astype(np.float32)
    assert collapse.alignment(x, x) == 0.0
    assert collapse.alignment(x, -x) == pytest.approx(4.0)
    assert collapse.alignment(x, -x, alpha=1.0) == pytest.approx(2.0)
    assert collapse.uniformity(np.tile(x[:1], (30, 1))) == pytest.approx(0.0, abs=1e-5)
    assert collapse.uniformity(np.stack([x[0], -x[0]])) == pytest.approx(-8.0, abs=1e-4)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    y = _unit(x + 0.3 * rng.normal(size=x.shape)).astype(np.float32)
    for measure in (collapse.uniformity, lambda x: collapse.alignment(x, y[:, : x.shape[1]])):
        assert np.isfinite(measure(x))
    assert collapse.uniformity(x @ rotation) == pytest.approx(
        float(collapse.uniformity(x)), abs=1e-5
    )
    aligned = float(collapse.alignment(x, y))
    assert collapse.alignment(x @ rotation, y @ rotation) == pytest.approx(aligned, abs=1e-5)


def test_uniformity_in_blocks(monkeypatch):
    x = _unit(np.random.default_rng(4).normal(size=(37, 5))).astype(np.float32)
    whole = float(collapse.uniformity(x))
    monkeypatch.setattr(collapse, "_PAIRS", 37 * 5)
    assert collapse.uniformity(x) == pytest.approx(whole, abs=1e-6)


def test_spread():
    rng = np.random.default_rng(5)
    assert collapse.spread(rng.normal(size=(20000, 32))) == pytest.approx(1.0, abs=0.01)
    # A constant is a collapse at any size and whatever the offset, as all zeros are.
    noise = 1e-3 * rng.normal(size=(500, 32))
    assert collapse.spread(noise + rng.normal(size=32)) < 0.01
    assert collapse.spread(np.zeros((500, 32))) == 0.0


def test_degenerate_outputs_give_numbers():
    got = _diagnostics(np.zeros((20, 2, 8), np.float32), np.zeros((20, 4), np.float32))
    assert all(np.isfinite(float(value)) for value in got.values())
    assert got["uniformity"] == 0.0 and got["effective_rank_z"] == 1.0
    bad = np.ones((20, 2, 8), np.float32)
    bad[3, 0, 0] = np.nan
    assert all(np.isnan(float(value)) for value in _diagnostics(bad).values())


def test_what_is_not_given_is_left_out():
    z = np.random.default_rng(6).normal(size=(10, 1, 4)).astype(np.float32)
    ranks = {"rankme_z", "effective_rank_z"}
    names = lambda *x: set(jax.eval_shape(collapse.diagnostics, *x))  # noqa: E731
    assert names(z) == ranks | {"std_z", "uniformity"}
    assert names(z[:1]) == ranks | {"std_z"}
    assert names() == set()
    few = jax.jit(collapse.diagnostics, static_argnames="max_rows")(z, max_rows=4)
    assert few["rankme_z"] == pytest.approx(_rankme(z[:4, 0]), rel=1e-5)


# --- the monitor ---------------------------------------------------------------------------------


def _watch(rows, **limits):
    monitor, alarms = collapse.Monitor(**limits), []
    for step, row in rows:
        monitor, new = monitor.update(step, row)
        alarms += new
    return monitor, alarms


def _rows(spreads, ranks, every=50):
    pairs = zip(spreads, ranks, strict=True)
    return [(i * every, {"std_z": s, "rankme_z": r}) for i, (s, r) in enumerate(pairs)]


def test_healthy_courses_are_silent():
    n = 60
    ramp = np.linspace(0, 1, n)
    courses = {
        "slow start": (0.3 + 0.65 * ramp, 5 + 60 * ramp),
        "narrow start": (0.05 + 0.9 * ramp, 2 + 40 * ramp),
        "almost constant until warmed up": (
            np.where(ramp < 0.13, 0.01, ramp),
            np.where(ramp < 0.13, 1.05, 20 * ramp),
        ),
        "random head loses rank": (np.full(n, 0.97), 110 * np.exp(-5 * ramp) + 9),
        "early dip": (0.5 - 0.4 * np.exp(-((np.arange(n) - 4) ** 2)) + 0.4 * ramp, 8 + 0 * ramp),
        "low rank from the start": (np.full(n, 0.9), np.full(n, 5.0)),
    }
    for name, (spreads, ranks) in courses.items():
        assert _watch(_rows(spreads, ranks))[1] == [], name


def test_single_bad_rows_are_silent():
    spreads, ranks = np.full(40, 0.9), np.full(40, 50.0)
    spreads[[10, 20, 21]] = 0.001
    ranks[[12, 30, 31]] = 1.0
    assert _watch(_rows(spreads, ranks))[1] == []


def test_complete_collapse_is_told_once_and_alone():
    spreads = np.concatenate([np.full(5, 0.8), np.full(40, 0.001)])
    ranks = np.concatenate([np.full(5, 50.0), np.full(40, 1.01)])
    _, alarms = _watch(_rows(spreads, ranks))
    assert [(a.cause, a.active, a.step) for a in alarms] == [("complete", True, 7 * 50)]
    text = alarms[0].message
    assert text.startswith("step 350: complete collapse") and "0.001" in text and "0.80" in text
    assert "stop-gradient" in text and "predictor" in text and "learning rate" in text
    assert "\n" not in text


def test_dimensional_collapse():
    spreads = np.full(40, 0.9)
    ranks = np.concatenate([np.full(10, 100.0), np.full(30, 2.5)])
    _, alarms = _watch(_rows(spreads, ranks))
    assert [(a.cause, a.step) for a in alarms] == [("dimensional", 12 * 50)]
    assert "effective rank of z is 2.5 (highest so far 100.0)" in alarms[0].message


def test_collapsed_from_the_first_step():
    constant = _rows(np.full(20, 0.005), np.full(20, 1.0))
    assert [a.cause for a in _watch(constant)[1]] == ["complete"]
    two_points = _rows(np.full(20, 1.0), np.full(20, 1.0))  # +-x: spread, but one direction
    assert [a.cause for a in _watch(two_points)[1]] == ["dimensional"]


def test_recovery_and_relapse():
    spreads = np.concatenate([np.full(n, s) for n, s in ((5, 0.8), (6, 0.01), (6, 0.7), (6, 0.01))])
    _, alarms = _watch(_rows(spreads, np.full(len(spreads), 30.0)))
    assert [(a.active, a.step) for a in alarms] == [(True, 350), (False, 650), (True, 950)]
    assert {a.cause for a in alarms} == {"complete"} and "passed" in alarms[1].message


def test_no_flicker_around_the_limit():
    spreads = np.concatenate([np.full(5, 0.9), np.tile(np.repeat([0.09, 0.11], 4), 10)])
    assert len(_watch(_rows(spreads, np.full(len(spreads), 30.0)))[1]) == 1


def test_not_finite_is_told_at_once_and_names_the_values():
    rows = _rows(np.full(5, 0.9), np.full(5, 30.0))
    rows[3] = (150, {"std_z": math.nan, "rankme_z": math.inf, "loss": 1.0})
    rows[4] = (200, {"std_z": math.nan, "rankme_z": 3.0, "loss": math.nan})
    _, alarms = _watch(rows)
    assert [(a.cause, a.step) for a in alarms] == [("non-finite", 150)]
    assert alarms[0].message.startswith("step 150: rankme_z, std_z not finite")


def test_features_alone_are_watched():
    rows = [(i, {"rankme_h": 60.0 if i < 4 else 1.5}) for i in range(10)]
    _, alarms = _watch(rows)
    assert [a.cause for a in alarms] == ["dimensional"] and "rank of h" in alarms[0].message


def _target_rows(used, entropies):
    return [
        (i, {"std_z": 0.9, "rankme_z": 9.0, "prototypes_used": u, "target_entropy": e})
        for i, (u, e) in enumerate(zip(used, entropies, strict=True))
    ]


def test_targets_that_do_not_depend_on_the_image():
    """One prototype for all, or all prototypes equally; not a dip as real runs of SwAV have."""
    k, n = 64, 30
    healthy = np.full(n, 0.5 * k), np.full(n, 1.5)
    dip = np.full(n, 60.0), np.where(np.arange(n) == 7, 3.9, 1.5)
    assert _watch(_target_rows(*healthy))[1] == _watch(_target_rows(*dip))[1] == []
    begin = np.arange(n) < 5
    one = np.where(begin, 30, 1.001), np.where(begin, 1.5, 0.0005)
    (alarm,) = _watch(_target_rows(*one))[1]
    assert (alarm.cause, alarm.step) == ("targets", 7)
    assert "0.00 nats over 1.0 prototypes" in alarm.message and "centring" in alarm.message
    flat = np.where(begin, 60, k), np.where(begin, 1.5, np.log(k) - 0.001)
    (alarm,) = _watch(_target_rows(*flat))[1]
    assert alarm.cause == "targets" and "temperature is too high" in alarm.message
    from_the_start = np.full(n, float(k)), np.full(n, np.log(k))
    assert [a.step for a in _watch(_target_rows(*from_the_start))[1]] == [12]


def test_targets_of_patches_that_tell_their_position_only():
    """As in a run of I-JEPA on digits; the spread alone does not show it."""
    variances = [0.037, 0.037, 0.03, 0.025, 0.012, 0.01, 0.009, 0.008, 0.008]

    def rows(values):
        return [(i, {"std_z": 0.05, "patch_target_variance": v}) for i, v in enumerate(values)]

    (alarm,) = _watch(rows(variances))[1]
    assert (alarm.cause, alarm.step) == ("patches", 6)
    assert "variance over images is 0.009 (highest so far 0.037)" in alarm.message
    assert "method.momentum" in alarm.message
    assert _watch(rows([0.037, 0.03, 0.025, 0.03, 0.2, 0.3, 0.5]))[1] == []
    assert [a.step for a in _watch(rows([0.009] * 20))[1]] == [12]


def test_monitor_is_pure_and_replays():
    rows = _rows(np.concatenate([np.full(5, 0.8), np.full(10, 0.01)]), np.full(15, 9.0))
    start = collapse.Monitor()
    whole, alarms = _watch(rows)
    assert start == collapse.Monitor() and hash(whole)
    half, first = _watch(rows[:6])
    for step, row in rows[6:]:
        half, new = half.update(step, row)
        first += new
    assert (half, first) == (whole, alarms)


def _pretrain(loss, steps=300, batch=128, every=10):
    """A small network on digits; (step, diagnostics) every few steps."""
    pixels = jnp.asarray(load_digits().data / 16.0, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((64, 64), (64, 64), (64, 32))
    params = [
        math.sqrt(2 / a) * jax.random.normal(k, (a, b))
        for k, (a, b) in zip(keys, sizes, strict=True)
    ]
    tx = optax.adam(3e-3)

    def embed(params, x):
        h = jax.nn.relu(jax.nn.relu(x @ params[0]) @ params[1])
        return h @ params[2], h

    def objective(params, x, key):
        views = x[:, None] + 0.2 * jax.random.normal(key, (batch, 2, 64))
        z, h = embed(params, views)
        return loss(z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-6)), (z, h[:, 0])

    @jax.jit
    def run(params):
        def step(carry, i):
            params, opt_state = carry
            rows, noise = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
            x = pixels[jax.random.choice(rows, len(pixels), (batch,), replace=False)]
            grads, (z, h) = jax.grad(objective, has_aux=True)(params, x, noise)
            updates, opt_state = tx.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), (z, h)

        def stretch(carry, first):
            carry, outputs = jax.lax.scan(step, carry, first + jnp.arange(every))
            return carry, collapse.diagnostics(*(x[0] for x in outputs))

        return jax.lax.scan(stretch, (params, tx.init(params)), jnp.arange(0, steps, every))[1]

    values = jax.device_get(run(params))
    return [
        (i * every, {name: float(value[i]) for name, value in values.items()})
        for i in range(steps // every)
    ]


def _nt_xent(z, temperature=0.5):
    z = z.transpose(1, 0, 2).reshape(-1, z.shape[-1])  # [2n d]
    n = len(z) // 2
    logits = z @ z.T / temperature - 1e9 * jnp.eye(2 * n)
    positive = (jnp.arange(2 * n) + n) % (2 * n)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, positive)
    return losses.mean()


def _agreement_only(z):
    return jnp.sum((z[:, 0] - z[:, 1]) ** 2, axis=-1).mean()


@pytest.mark.slow
def test_real_runs():
    """A contrastive run stays silent; the same run without negatives collapses, and it is told."""
    healthy, collapsing = _pretrain(_nt_xent), _pretrain(_agreement_only)
    assert _watch(healthy)[1] == []
    assert healthy[-1][1]["std_z"] > 0.8
    _, alarms = _watch(collapsing)
    assert [(a.cause, a.active) for a in alarms] == [("complete", True)]
    assert alarms[0].step <= 100
    assert collapsing[-1][1]["alignment"] < 1e-2  # the loss alone looks excellent
