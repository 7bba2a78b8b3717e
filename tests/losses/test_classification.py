"""Classifiers' losses against plain loops, and over eight devices against one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses.classification import cross_entropy, distillation

RNG = np.random.default_rng(0)
N, C = 16, 7
LOGITS = (3 * RNG.normal(size=(N, C))).astype(np.float32)
LABELS = RNG.integers(0, C, size=N).astype(np.int32)
LABELS[[1, 2, 3, 9]] = -1  # unevenly over two halves


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def oracle(logits, labels, smoothing):
    losses, first, among_five = [], [], []
    for row, label in zip(logits, labels, strict=True):
        if label < 0:
            continue
        q = [(1 - smoothing) * (k == label) + smoothing / len(row) for k in range(len(row))]
        losses.append(-sum(a * np.log(b) for a, b in zip(q, softmax(row), strict=True)))
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        first.append(order[0] == label)
        among_five.append(label in order[:5])
    return np.mean(losses), np.mean(first), np.mean(among_five)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_cross_entropy_of_the_labelled_examples(smoothing, dtype):
    logits = jnp.asarray(LOGITS, dtype)
    loss, metrics = cross_entropy(logits, LABELS, label_smoothing=smoothing)
    expected = oracle(np.asarray(logits, np.float64), LABELS, smoothing)
    np.testing.assert_allclose((loss, metrics["accuracy"], metrics["top5"]), expected, rtol=1e-5)
    assert loss.dtype == jnp.float32


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_labels(smoothing):
    """Each example's soft target is built as a vector; unlabelled partners have no share."""
    partner = np.roll(LABELS, N // 2)
    share = np.where(partner < 0, 1, RNG.uniform(size=N)).astype(np.float32)
    losses, first, among_five = [], [], []
    for row, y, other, s in zip(LOGITS, LABELS, partner, np.float64(share), strict=True):
        if y < 0:
            continue
        q = np.full(C, smoothing / C)
        q[y] += (1 - smoothing) * s
        q[other] += (1 - smoothing) * (1 - s)
        losses.append(-q @ np.log(softmax(row)))
        order = sorted(range(C), key=lambda k: (-row[k], k))
        first.append(s * (order[0] == y) + (1 - s) * (order[0] == other))
        among_five.append(s * (y in order[:5]) + (1 - s) * (other in order[:5]))
    loss, metrics = cross_entropy(LOGITS, LABELS, label_smoothing=smoothing, mixed=(partner, share))
    expected = (np.mean(losses), np.mean(first), np.mean(among_five))
    np.testing.assert_allclose((loss, metrics["accuracy"], metrics["top5"]), expected, rtol=1e-5)


def test_an_unlabelled_example_has_no_gradient():
    grad = jax.grad(lambda x: cross_entropy(x, LABELS, label_smoothing=0.1)[0])(LOGITS)
    moved = np.abs(grad).max(axis=1) > 0
    np.testing.assert_array_equal(moved, LABELS >= 0)


def test_a_batch_without_labels_costs_nothing():
    nothing = np.full(N, -1, np.int32)
    (loss, metrics), grad = jax.value_and_grad(cross_entropy, has_aux=True)(LOGITS, nothing)
    assert loss == 0 and metrics["accuracy"] == 0 and not np.any(grad)


def test_equal_logits():
    loss, metrics = cross_entropy(np.zeros((4, C), np.float32), np.array([0, 4, 5, 6]))
    np.testing.assert_allclose(loss, np.log(C), rtol=1e-6)
    assert metrics["accuracy"] == 0.25 and metrics["top5"] == 0.5


def test_top5_needs_more_than_five_classes():
    assert "top5" not in cross_entropy(LOGITS[:, :5], LABELS % 5)[1]


def test_extreme_logits_stay_finite():
    logits = np.array([[1e4, -1e4, 0]], np.float32)
    loss, grad = jax.value_and_grad(lambda x: cross_entropy(x, np.array([1]))[0])(logits)
    np.testing.assert_allclose(loss, 2e4)
    assert np.isfinite(grad).all()


def distillation_oracle(student, teacher, t):
    rows = zip(student, teacher, strict=True)
    return np.mean([-(softmax(b / t) * np.log(softmax(a / t))).sum() for a, b in rows])


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_distillation(t):
    teacher = RNG.normal(size=(N, C)).astype(np.float32)
    value = distillation(LOGITS, teacher, temperature=t)
    np.testing.assert_allclose(value, distillation_oracle(LOGITS, teacher, t), rtol=1e-5)
    # Least, and then the teacher's entropy, where the student agrees.
    same, grad = jax.value_and_grad(distillation)(teacher, teacher, temperature=t)
    np.testing.assert_allclose(grad, 0, atol=1e-7)
    assert same < value
    entropy = np.mean([-(p * np.log(p)).sum() for p in map(softmax, teacher / t)])
    np.testing.assert_allclose(same, entropy, rtol=1e-5)


def test_a_certain_teacher_is_a_label():
    labels = np.abs(LABELS)
    teacher = 1e4 * np.eye(C, dtype=np.float32)[labels]
    expected, _ = cross_entropy(LOGITS, labels)
    np.testing.assert_allclose(distillation(LOGITS, teacher), expected, rtol=1e-6)


def test_the_teacher_gets_no_gradient():
    assert not np.any(jax.grad(distillation, argnums=1)(LOGITS, LOGITS[::-1].copy()))


def test_eight_devices_give_the_value_and_gradient_of_one():
    """The mean is over the labelled of all devices, of which some have none."""
    labels = LABELS.copy()
    labels[:4] = -1

    def loss(x, labels):
        return cross_entropy(x, labels, label_smoothing=0.1)[0] + distillation(x, 2 * x)

    one = jax.value_and_grad(loss)(LOGITS, labels)
    rows = parallel.batch_sharding(parallel.make_mesh(devices=jax.devices()[:8]))
    eight = jax.jit(jax.value_and_grad(loss))(*jax.device_put((LOGITS, labels), rows))
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(eight[1], one[1], rtol=1e-5, atol=1e-7)


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cross_entropy(LOGITS, LABELS[:3]), r"logits \[n c\] and labels \[n\]"),
        (lambda: cross_entropy(LOGITS, LABELS, label_smoothing=1.5), "between 0 and 1, got 1.5"),
        (lambda: distillation(LOGITS, LOGITS[:, :3]), r"two \[n c\], got \(16, 7\) and \(16, 3\)"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
