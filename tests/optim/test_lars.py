"""LARS against a float64 NumPy account of both momentum orders."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.optim import count_steps, lars, path_mask, warmup_cosine

STEPS = 6
RNG = np.random.default_rng(0)
PARAMS = {
    "dense": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)},
    "norm": {"scale": RNG.normal(size=3)},
    "zero": {"kernel": np.zeros((2, 2))},
}
ADAPTED = path_mask()(PARAMS)
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS) for _ in range(STEPS)]
WARMUP = warmup_cosine(0.5, STEPS, 3)


def numpy_lars(schedule, order, *, weight_decay=0.1, momentum=0.9, eta=0.01, nesterov=False):
    """Parameters after every step."""
    params, history = PARAMS, []
    velocity = jax.tree.map(np.zeros_like, params)
    for step, grads in enumerate(GRADS):
        lr = float(schedule(step))

        def adapted(w, g, mask):
            if not mask:
                return g
            g = g + weight_decay * w
            norms = np.linalg.norm(w), np.linalg.norm(g)
            return g * (eta * norms[0] / norms[1] if min(norms) > 0 else 1.0)

        g = jax.tree.map(adapted, params, grads, ADAPTED)
        inside, outside = (lr, 1.0) if order == "lr_inside" else (1.0, lr)
        velocity = jax.tree.map(lambda v, g, c=inside: momentum * v + c * g, velocity, g)
        ahead = jax.tree.map(lambda v, g, c=inside: momentum * v + c * g, velocity, g)
        step_ = ahead if nesterov else velocity
        params = jax.tree.map(lambda w, s, c=outside: w - c * s, params, step_)
        history.append(params)
    return history


def run(tx, grads=GRADS):
    """Parameters after every step, float32."""
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), PARAMS)
    tx = count_steps(tx)
    state, history, update = tx.init(params), [], jax.jit(tx.update)
    for g in grads:
        updates, state = update(jax.tree.map(jnp.float32, g), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def assert_close(actual, expected, rtol=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-5), actual, expected)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("order", ["lr_inside", "lr_outside"])
def test_matches_the_oracle_under_warmup(order, nesterov):
    tx = lars(
        WARMUP, weight_decay=0.1, trust_coefficient=0.01, momentum_order=order, nesterov=nesterov
    )
    assert_close(run(tx), numpy_lars(WARMUP, order, nesterov=nesterov))


def test_orders_agree_at_constant_rate_and_differ_under_warmup():
    def final(lr, order):
        return run(lars(lr, weight_decay=0.1, trust_coefficient=0.01, momentum_order=order))[-1]

    assert_close(final(0.5, "lr_inside"), final(0.5, "lr_outside"))
    inside, outside = final(WARMUP, "lr_inside"), final(WARMUP, "lr_outside")
    assert np.abs(inside["dense"]["kernel"] - outside["dense"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_first_step_has_length_lr_eta_norm_whatever_the_gradient(scale):
    grads = jax.tree.map(lambda g: scale * g, GRADS[0])
    (after,) = run(lars(4.8, trust_coefficient=1e-3), [grads])
    kernel = PARAMS["dense"]["kernel"]
    moved = np.linalg.norm(after["dense"]["kernel"] - kernel)
    np.testing.assert_allclose(moved, 4.8 * 1e-3 * np.linalg.norm(kernel), rtol=1e-3)


def test_zero_norms_mean_no_adaptation():
    """A weight of norm 0 takes the plain step; a gradient of norm 0 none, and nothing is NaN."""
    zeroed = jax.tree.map(np.copy, GRADS[0])
    zeroed["dense"]["kernel"][:] = 0
    (after,) = run(lars(0.5, trust_coefficient=1e-3), [zeroed])
    np.testing.assert_allclose(after["zero"]["kernel"], -0.5 * GRADS[0]["zero"]["kernel"], 1e-5)
    np.testing.assert_allclose(after["dense"]["kernel"], PARAMS["dense"]["kernel"], 1e-6)


def test_excluded_tensors_follow_sgd_with_momentum():
    tx = lars(WARMUP, weight_decay=0.1, momentum_order="lr_outside")
    sgd = optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(WARMUP))
    for adapted, plain in zip(run(tx), run(sgd), strict=True):
        assert_close(adapted["dense"]["bias"], plain["dense"]["bias"])
        assert_close(adapted["norm"], plain["norm"])


def test_mask_may_be_given():
    everything = lars(0.5, trust_coefficient=1e-3, mask=path_mask(""))
    (after,) = run(everything, GRADS[:1])
    bias = PARAMS["dense"]["bias"]
    moved = np.linalg.norm(after["dense"]["bias"] - bias)
    np.testing.assert_allclose(moved, 0.5e-3 * np.linalg.norm(bias), rtol=1e-2)
