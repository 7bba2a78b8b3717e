"""InfoNCE over steps of prediction against a float64 oracle, and eight devices against one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.losses.cpc import CURRENT, NEGATIVES, cpc

N, Q, D = 8, 6, 5
STEPS = {1: 5, 3: 3, 4: 1}  # step -> predictions
GROUPS = np.array([0, 1, 1, 0, 2, 1, 0, 0], np.int32)  # 2 has one sequence


def oracle(predictions, targets, groups, negatives):
    """Prediction by prediction: {step: (loss, accuracy)} in float64."""
    targets, result = np.asarray(targets, np.float64), {}
    n, q, _ = targets.shape
    for step, p in predictions.items():
        losses, hits = [], []
        for i in range(n):
            for j, prediction in enumerate(np.asarray(p[i], np.float64)):
                at, others = q - len(p[i]) + j, []
                for i2 in range(n):
                    for j2 in range(q):
                        own = i == i2
                        allowed = {
                            "mixed": True,
                            "same": groups[i] == groups[i2],
                            "mixed_excluding": not own,
                            "same_excluding": groups[i] == groups[i2] and not own,
                            "current": own,
                        }[negatives]
                        if allowed and (i2, j2) != (i, at):
                            others.append(prediction @ targets[i2, j2])
                if not others:
                    continue
                positive = prediction @ targets[i, at]
                scores = np.array([positive, *others])
                losses.append(scores.max() + np.log(np.exp(scores - scores.max()).sum()) - positive)
                hits.append(positive >= max(others))
        result[step] = np.mean(losses), np.mean(hits)
    return result


@functools.cache
def arrays(scale=1.0):
    rng = np.random.default_rng(0)
    draw = lambda p: (scale * rng.normal(size=(N, p, D))).astype(np.float32)  # noqa: E731
    return {k: draw(p) for k, p in STEPS.items()}, draw(Q)


def measured(negatives, predictions, targets, mesh=None, **options):
    """((loss, metrics), gradients) of predictions and targets."""

    def f(predictions, targets, groups):
        loss = functools.partial(cpc, groups=groups, negatives=negatives, **options)
        return jax.value_and_grad(loss, (0, 1), has_aux=True)(predictions, targets)

    inputs = predictions, targets, GROUPS
    if mesh is None:
        return jax.jit(f)(*inputs)
    with jax.set_mesh(mesh):
        return jax.jit(f)(*jax.device_put(inputs, parallel.batch_sharding(mesh)))


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_value_and_metrics_match_the_oracle(negatives, scale):
    predictions, targets = arrays(scale)
    loss, metrics = cpc(predictions, targets, jnp.asarray(GROUPS), negatives=negatives)
    expected = oracle(predictions, targets, GROUPS, negatives)
    np.testing.assert_allclose(loss, np.mean([x for x, _ in expected.values()]), rtol=1e-5)
    for k, (loss_k, accuracy) in expected.items():
        np.testing.assert_allclose(metrics[f"loss_step_{k}"], loss_k, rtol=1e-5)
        np.testing.assert_allclose(metrics[f"accuracy_step_{k}"], accuracy, rtol=1e-6)
    mean = np.mean([x for _, x in expected.values()])
    np.testing.assert_allclose(metrics["contrastive_accuracy"], mean, rtol=1e-6)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_gradient_matches_finite_differences_of_the_oracle(negatives):
    predictions, targets = arrays()
    _, (got_p, got_t) = measured(negatives, predictions, targets)
    rng = np.random.default_rng(1)

    def loss(along_p, along_t):
        moved = {k: p.astype(np.float64) + along_p.get(k, 0) for k, p in predictions.items()}
        result = oracle(moved, targets.astype(np.float64) + along_t, GROUPS, negatives)
        return np.mean([x for x, _ in result.values()])

    def central(along_p, along_t):
        h = 1e-5
        ends = [
            loss({k: sign * h * x for k, x in along_p.items()}, sign * h * along_t)
            for sign in (1, -1)
        ]
        return (ends[0] - ends[1]) / (2 * h)

    for k, p in predictions.items():
        direction = rng.normal(size=p.shape)
        expected = central({k: direction}, 0.0)
        np.testing.assert_allclose(np.vdot(got_p[k], direction), expected, rtol=1e-4, atol=1e-6)
    direction = rng.normal(size=targets.shape)
    expected = central({}, direction)
    np.testing.assert_allclose(np.vdot(got_t, direction), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_tiles_and_eight_devices_equal_the_whole_matrix(negatives):
    predictions, targets = arrays()
    whole = measured(negatives, predictions, targets)
    mesh = parallel.make_mesh(data=4, fsdp=2)
    others = {"eight devices": measured(negatives, predictions, targets, mesh)}
    if negatives != CURRENT:
        others["tiles"] = measured(negatives, predictions, targets, block_size=16)
    if negatives == "same_excluding":
        others["tiles on 8"] = measured(negatives, predictions, targets, mesh, block_size=16)
    for got in others.values():
        chex.assert_trees_all_close(got, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_constant_scores_give_log_of_the_candidates(negatives):
    _, targets = arrays()
    targets = np.ones_like(targets)
    predictions = {2: np.full((N, Q - 2, D), 3.0, np.float32)}
    size = {group: int(np.sum(group == GROUPS)) for group in GROUPS}
    candidates = [
        {
            "mixed": N * Q,
            "same": size[group] * Q,
            "mixed_excluding": (N - 1) * Q + 1,
            "same_excluding": (size[group] - 1) * Q + 1,
            "current": Q,
        }[negatives]
        for group in GROUPS
    ]
    loss, _ = cpc(predictions, targets, jnp.asarray(GROUPS), negatives=negatives)
    expected = np.mean([np.log(count) for count in candidates if count > 1])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_rows_ahead_have_the_published_label_index():
    """The pseudo-code of CPC v2 (Henaff et al. 2020): b H W + (i + 1) W + column."""
    h, w, i = 4, 3, 1  # i + 1 rows ahead
    d = N * h * w
    targets = np.eye(d, dtype=np.float32).reshape(N, h * w, d)
    predictions = np.zeros((N, (h - i - 1) * w, d), np.float32)
    for row, (b, col) in enumerate(np.ndindex(N, (h - i - 1) * w)):
        label = b * h * w + (i + 1) * w + col
        predictions.reshape(-1, d)[row, label] = 100.0
    loss, metrics = cpc({i + 1: predictions}, targets)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert metrics["contrastive_accuracy"] == 1


def test_extreme_scores_stay_finite():
    predictions, targets = arrays(1e4)
    for block_size in (None, 16):
        (loss, metrics), gradients = measured("mixed", predictions, targets, block_size=block_size)
        chex.assert_tree_all_finite((loss, metrics, gradients))


def test_a_batch_without_negatives_has_no_loss():
    predictions, targets = arrays()
    alone = functools.partial(cpc, negatives="mixed_excluding")
    (loss, _), gradients = jax.value_and_grad(alone, (0, 1), has_aux=True)(
        {k: p[:1] for k, p in predictions.items()}, targets[:1]
    )
    assert loss == 0
    chex.assert_trees_all_equal(gradients, jax.tree.map(np.zeros_like, gradients))


def test_bfloat16_inputs_give_a_float32_loss():
    predictions, targets = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays())
    for negatives in ("mixed", "current"):
        loss, _ = cpc(predictions, targets, negatives=negatives)
        exact = oracle(*arrays(), GROUPS, negatives)
        assert loss.dtype == jnp.float32
        np.testing.assert_allclose(loss, np.mean([x for x, _ in exact.values()]), rtol=2e-2)


@pytest.mark.wrong_shapes
def test_bad_input_is_named():
    predictions, targets = arrays()
    with pytest.raises(ValueError, match="unknown negatives 'sam'"):
        cpc(predictions, targets, negatives="sam")
    with pytest.raises(ValueError, match="'same' needs the group"):
        cpc(predictions, targets, negatives="same")
    with pytest.raises(ValueError, match=r"step 1 must be \[8 p 5\] with 0 < p <= 4"):
        cpc(predictions, targets[:, :4])
    with pytest.raises(ValueError, match="at least one step"):
        cpc({}, targets)
    with pytest.raises(ValueError, match=r"groups must be \[8\]"):
        cpc(predictions, targets, jnp.zeros(3, jnp.int32))
