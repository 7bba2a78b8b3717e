import numpy as np
import pytest

from ssl_jax.evals.lbfgs import _direction, minimise


def test_direction_is_that_of_the_dense_bfgs_update():
    rng = np.random.default_rng(2)
    pairs = [(s, s + 0.1 * rng.normal(size=7)) for s in rng.normal(size=(4, 7))]  # s @ y > 0
    s, y = pairs[-1]
    inverse = (s @ y) / (y @ y) * np.eye(7)
    for s, y in pairs:
        left = np.eye(7) - np.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    g = rng.normal(size=7)
    np.testing.assert_allclose(_direction(g, pairs), -inverse @ g, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_ill_conditioned_quadratic(scale):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    hessian = scale * basis * np.logspace(-2, 1, 30) @ basis.T
    optimum = rng.normal(size=30)
    found = minimise(
        lambda x: hessian @ (x - optimum), np.zeros(30), tolerance=1e-9 * scale, max_iterations=500
    )
    assert found.gradient_norm < 1e-9 * scale
    assert found.evaluations < 310  # SciPy's L-BFGS-B: 290
    np.testing.assert_allclose(found.x, optimum, atol=1e-6)


def test_steps_that_are_far_too_long_or_short():
    """exp grows out of all bounds on one side and is flat on the other."""
    for start in (-20.0, 20.0):
        found = minimise(
            lambda x: np.exp(x) - 2.0 + 1e-3 * (x - np.log(2.0)),
            np.array([start]), tolerance=1e-8, max_iterations=200,
        )  # fmt: skip
        np.testing.assert_allclose(found.x, np.log(2.0), atol=1e-7)


def test_float32_gradients_converge_below_what_float32_objectives_resolve():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(200, 20)).astype(np.float32)
    y = rng.integers(0, 2, 200)

    def gradient(w):
        p = 1 / (1 + np.exp(-(a @ w.astype(np.float32))))
        return (a.T @ (p - y) / 200 + np.float32(1e-3) * w.astype(np.float32)).astype(np.float64)

    found = minimise(gradient, np.zeros(20), tolerance=1e-6, max_iterations=500)
    assert found.gradient_norm < 1e-6


def test_starting_at_the_optimum_costs_one_evaluation():
    found = minimise(lambda x: 2 * x, np.zeros(3), tolerance=1e-8, max_iterations=10)
    assert found.evaluations == 1 and found.gradient_norm == 0.0
