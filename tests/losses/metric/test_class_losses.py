"""Losses of examples and classes against loops in float64, on one device and on eight."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses.metric import class_losses, classes, margins, strips
from ssl_jax.losses.metric.class_losses import adacos, arcface, center, cosface, plain_softmax
from tests.losses.metric import oracles
from tests.losses.metric.oracles import logsumexp, unit

PER_CLASS = np.linspace(0.1, 0.6, 48)


def cosines(x, weights):
    """float64 [n c]: to the nearest sub-centre of each class."""
    return np.einsum("nd,ckd->nck", unit(x), unit(weights)).max(-1)


def psi(theta, m):
    k = min(int(theta * m / np.pi), m - 1)
    return (-1) ** k * np.cos(m * theta) - 2 * k


def oracle(name, x, labels, weights, options):
    """The loss, row by row."""
    x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    s, each = cosines(x, weights), []
    scale = options.get("scale", 64.0)
    for i, y in enumerate(labels):
        if y < 0:
            continue
        theta = np.arccos(np.clip(s[i, y], -1, 1))
        m = np.asarray(options.get("margin", 0))
        m = float(m[y] if m.ndim else m)
        if name == "sphereface":
            scale, lam = np.linalg.norm(x[i]), options["annealing"]
            target = (lam * np.cos(theta) + psi(theta, int(m))) / (1 + lam)
        elif name == "cosface":
            target = s[i, y] - m
        else:
            beyond = theta > np.pi - m
            target = s[i, y] - m * np.sin(m) if beyond else np.cos(theta + m)
        logits = scale * np.append(np.delete(s[i], y), target)
        each.append(logsumexp(logits) - logits[-1])
    return np.mean(each)


CASES = {
    "cosface": (cosface, 1, dict(scale=16.0, margin=0.35)),
    "arcface": (arcface, 1, dict(scale=16.0, margin=0.5)),
    "arcface, sub-centres": (arcface, 3, dict(scale=16.0, margin=0.5)),
    "arcface, margins of classes": (arcface, 2, dict(scale=10.0, margin=PER_CLASS)),
    "sphereface": (class_losses.sphereface, 1, dict(margin=4, annealing=5.0)),
    "cosine softmax": (arcface, 1, dict(scale=8.0, margin=0.0)),
}


def arrays(n=24, c=48, d=6, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, c, n).astype(np.int32)
    labels[5] = -1
    weights = rng.normal(size=(c, 3, d))
    x = 2 * rng.normal(size=(n, d)) + weights[labels, 0]
    x[7] = -weights[labels[7], 0]  # on the far side of its class
    return x.astype(np.float32), labels, weights.astype(np.float32)


def measure(names, x, labels, weights, mesh=None):
    def f(x, labels, weights):
        def one(name):
            loss, k, options = CASES[name]
            options = {
                key: jnp.asarray(value, jnp.float32) if np.ndim(value) else value
                for key, value in options.items()
            }
            call = lambda x, w: loss(x, labels, w[:, :k], **options)  # noqa: E731
            return jax.value_and_grad(call, (0, 1), has_aux=True)(x, weights)

        return {name: one(name) for name in names}

    if mesh is None:
        return jax.jit(f)(x, labels, weights)
    mesh = parallel.make_mesh(**mesh)
    with jax.set_mesh(mesh):
        placed = jax.device_put((x, labels, weights), parallel.batch_sharding(mesh))
        return jax.jit(f)(*placed)


def check(name, x, labels, weights, result):
    (value, metrics), (dx, dw) = result
    loss, k, options = CASES[name]
    expected = oracle(loss.__name__, x, labels, weights[:, :k], options)
    np.testing.assert_allclose(value, expected, rtol=5e-6, err_msg=name)
    rng = np.random.default_rng(1)
    for _ in range(3):
        vx, vw = rng.normal(size=x.shape), rng.normal(size=weights.shape)

        def along(t, vx=vx, vw=vw):
            return oracle(loss.__name__, x + t * vx, labels, (weights + t * vw)[:, :k], options)

        expected = oracles.slope(along, 0.0, 1.0)
        got = np.sum(np.asarray(dx, np.float64) * vx) + np.sum(np.asarray(dw, np.float64) * vw)
        np.testing.assert_allclose(got, expected, rtol=5e-4, atol=5e-5, err_msg=name)
    s = cosines(x, weights[:, :k])
    known = np.flatnonzero(labels >= 0)
    own = s[known, labels[known]]
    s[known, labels[known]] = -2
    top = s[known].max(1)
    np.testing.assert_allclose(metrics["class_accuracy"], np.mean(own >= top), rtol=1e-6)
    for key, cosine in (("class_angle", own), ("other_angle", top)):
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean()
        np.testing.assert_allclose(metrics[key], angle, rtol=1e-4)


@pytest.mark.parametrize(
    "strip, mesh, names",
    [
        (24 * 8, None, CASES),
        (24 * 3 * 8, {"data": 8}, ("arcface, sub-centres",)),
        pytest.param(strips.STRIP, None, CASES, marks=pytest.mark.slow),
        pytest.param(strips.STRIP, {"data": 2, "fsdp": 4}, CASES, marks=pytest.mark.slow),
    ],
    ids=["chunks", "chunks, data 8", "one chunk", "data 2, fsdp 4"],
)
def test_value_gradient_and_metrics_are_the_oracles(strip, mesh, names, monkeypatch):
    monkeypatch.setattr(strips, "STRIP", strip)
    monkeypatch.setattr(classes, "MIN_CLASSES", 8)
    inputs = arrays()
    results = measure(names, *inputs, mesh)
    for name in names:
        check(name, *inputs, results[name])


def test_rows_behind_the_classes_and_classes_that_do_not_divide_change_nothing():
    """On eight devices, 45 classes in 48 rows, and 45 rows on every device."""
    x, labels, weights = arrays()
    labels = np.minimum(labels, 44)
    how = dict(scale=16.0, margin=0.5)
    expected = jax.jit(functools.partial(arcface, **how))(x, labels, weights[:45])[0]
    mesh = parallel.make_mesh(data=8)
    with jax.set_mesh(mesh):
        rows, whole = parallel.batch_sharding(mesh), None
        del whole
        x, labels = jax.device_put((x, labels), rows)
        f = jax.jit(functools.partial(arcface, **how, num_classes=45))
        np.testing.assert_allclose(f(x, labels, weights)[0], expected, rtol=1e-6)
        np.testing.assert_allclose(f(x, labels, weights[:45])[0], expected, rtol=1e-6)
    assert classes.rows_for(10) == 10
    assert classes.rows_for(10_572) % 256 == 0 and classes.rows_for(10_572) - 10_572 < 256


def test_sub_centres():
    """One is ArcFace; only the nearest one has a gradient; their order does not matter."""
    x, labels, weights = arrays()
    f = jax.jit(lambda w: arcface(x, labels, w, scale=16.0)[0])
    gradient = jax.jit(jax.grad(lambda w: arcface(x[:1], labels[:1], w, scale=16.0)[0]))(weights)
    nearest = np.einsum("d,ckd->ck", unit(x[0]), unit(weights)).argmax(1)
    touched = np.abs(gradient).sum(-1) > 0
    assert touched[np.arange(48), nearest].sum() == touched.sum() > 1
    np.testing.assert_allclose(f(weights[:, ::-1]), f(weights), rtol=1e-6)


def test_cleaning_keeps_what_is_near_the_dominant_sub_centre():
    eye = np.eye(4, dtype=np.float32)
    weights = np.stack([eye[:2], eye[2:]])  # 2 classes x 2 sub-centres
    x = np.stack([eye[0], eye[0] + 0.1, eye[1], eye[3], eye[3], eye[2], eye[0]])
    labels = np.array([0, 0, 0, 1, 1, 1, -1], np.int32)
    keep, dominant = class_losses.clean(x, labels, weights)
    np.testing.assert_array_equal(dominant, [0, 1])
    np.testing.assert_array_equal(keep, [True, True, False, True, True, False, False])
    keep, _ = class_losses.clean(x, labels, weights, max_angle=91.0)
    np.testing.assert_array_equal(keep, labels >= 0)


@pytest.mark.parametrize("sign", [1, -1])
def test_examples_on_their_class_and_opposite_have_finite_gradients(sign):
    x = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0)
    labels, weights = np.repeat(np.arange(4), 2).astype(np.int32), sign * x[::2, None]

    def losses(x, w):
        return [
            arcface(x, labels, w)[0], cosface(x, labels, w)[0],
            class_losses.sphereface(x, labels, w)[0], adacos(x, labels, w, scale=3.0)[0],
            arcface(x, labels, w, straight_through=True)[0],
            arcface(0 * x, labels, w)[0], class_losses.sphereface(0 * x, labels, w)[0],
            arcface(x, labels * 0 - 1, w)[0],
        ]  # fmt: skip

    values, gradients = jax.jit(lambda x, w: (losses(x, w), jax.jacrev(losses, (0, 1))(x, w)))(
        x, weights
    )
    assert np.isfinite(values).all()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert values[-1] == 0  # nothing is labelled


def test_margins():
    theta = np.linspace(0.01, np.pi - 0.01, 50)
    cosine = np.cos(theta).astype(np.float32)
    np.testing.assert_allclose(margins.arc(np.cos([np.pi / 3]), 0.5), np.cos(np.pi / 3 + 0.5))
    for m in (1, 2, 3, 4):
        expected = [psi(t, m) for t in theta]
        np.testing.assert_allclose(margins.multiplicative(cosine, m), expected, atol=2e-5)
    ends = margins.multiplicative(jnp.array([1.0, -1.0]), 4)
    np.testing.assert_allclose(ends, [1, -7])
    assert np.all(np.diff(margins.multiplicative(cosine, 4)) < 1e-6)
    assert np.all(np.diff(margins.arc(cosine, 0.5)) < 0)
    slope = jax.grad(lambda c: margins.arc(c, 0.5).sum())(cosine)
    inside = theta < np.pi - 0.5
    expected = np.where(inside, np.sin(theta + 0.5) / np.sin(theta), 1)
    np.testing.assert_allclose(slope, expected, rtol=2e-3)
    through = lambda c: margins.arc(c, 0.5, straight_through=True)  # noqa: E731
    np.testing.assert_array_equal(jax.grad(lambda c: through(c).sum())(cosine), 1)
    np.testing.assert_allclose(through(cosine), np.cos(theta + 0.5), atol=1e-6)
    assert margins.annealing(0) == 1000 and margins.annealing(1658) > 5
    assert margins.annealing(1659) == 5


def test_margins_of_class_counts():
    counts = jnp.array([1.0, 16.0, 81.0, 625.0])
    got = margins.from_counts(counts)
    power = np.asarray(counts) ** -0.25
    a = 0.45 / (power[0] - power[-1])  # m_c = a N^-1/4 + b
    np.testing.assert_allclose(got, a * power + 0.5 - a * power[0], rtol=1e-5)
    assert np.all(np.diff(got) < 0) and np.isclose(got[0], 0.5) and np.isclose(got[-1], 0.05)
    np.testing.assert_allclose(margins.from_counts(jnp.full(3, 9.0)), 0.275, rtol=1e-6)
    assert np.isfinite(margins.from_counts(jnp.array([0.0, 5.0]))).all()


def test_adacos():
    scales = [class_losses.adacos_scale(c) for c in (10, 100, 1000)]
    np.testing.assert_allclose(scales, [3.1073, 6.4985, 9.7676], atol=5e-5)
    x, labels, weights = arrays()
    f = jax.jit(functools.partial(adacos, scale=4.0, dynamic=True))
    loss, metrics, scale = f(x, labels, weights[:, :1])
    s = cosines(x, weights[:, :1])
    known = np.flatnonzero(labels >= 0)
    b = np.mean([np.exp(4 * np.delete(s[i], labels[i])).sum() for i in known])
    median = np.median(np.arccos(s[known, labels[known]]))
    expected = np.log(b) / np.cos(min(np.pi / 4, median))
    np.testing.assert_allclose(scale, expected, rtol=1e-5)
    want = oracle("cosface", x, labels, weights[:, :1], dict(scale=expected, margin=0))
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["scale"], expected, rtol=1e-5)


def test_center_loss_and_its_centres():
    x = np.tile(np.array([[3.0, -1.0]], np.float32), (4, 1))
    labels, centers = np.array([1, 1, 1, -1], np.int32), np.zeros((3, 2), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: center(x, labels, centers)))(x)
    assert np.isclose(value, 5.0)  # |x|^2 / 2
    np.testing.assert_allclose(gradient, np.array([1, 1, 1, 0])[:, None] * x / 3, rtol=1e-6)
    moved = class_losses.update_centers(centers, x, labels, rate=0.5)
    np.testing.assert_allclose(moved[1], 0.5 * 3 * x[0] / 4, rtol=1e-6)
    assert not np.any(moved[::2])
    weights, bias = np.ones((3, 1, 2), np.float32), np.arange(3, dtype=np.float32)
    loss, metrics = plain_softmax(x, labels, weights, bias)
    np.testing.assert_allclose(loss, logsumexp([0, 1, 2]) - 1, rtol=1e-6)
    assert metrics["class_accuracy"] == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda *a: arcface(*a, margin=2.0), "margin must be from 0 to 1.571, got 2.0"),
        (lambda *a: cosface(*a, scale=0.0), "scale must be positive, got 0.0"),
        (lambda *a: class_losses.sphereface(*a, margin=2.5), "whole number from 1 to 8, got 2.5"),
        (lambda x, y, w: arcface(x[:, :3], y, w), "do not agree"),
        (lambda *a: class_losses.adacos_scale(2), "at least 3 classes, got 2"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(*map(jnp.asarray, arrays()))


def test_memory_does_not_grow_with_the_classes_logits():
    """65,536 classes and 1,024 examples: the logits would take 256 MiB."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((1024, 32), jnp.float32), ((1024,), jnp.int32),
                             ((65536, 1, 32), jnp.float32))
    ]  # fmt: skip
    f = jax.jit(jax.grad(lambda x, y, w: arcface(x, y, w)[0], (0, 2)))
    used = f.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert used < 64 * 2**20, used
    assert math.isfinite(used)
