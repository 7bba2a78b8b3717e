"""Parameters that satisfy a constraint after every update."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.optim import constrain, ema_params, make_optimizer, track_ema

RNG = np.random.default_rng(0)
PARAMS = {
    "prototypes": {"kernel": RNG.normal(size=(5, 4))},
    "encoder": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)},
}
STEPS = 4
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS) for _ in range(STEPS)]


def unit_prototypes(params):
    """Prototypes of norm 1, as SwAV's."""
    kernel = params["prototypes"]["kernel"]
    return {**params, "prototypes": {"kernel": kernel / jnp.linalg.norm(kernel, axis=0)}}


def run(tx, dtype=jnp.float32):
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS)
    params = unit_prototypes(params)
    state, history, update = tx.init(params), [], jax.jit(tx.update)
    for grads in GRADS:
        updates, state = update(jax.tree.map(lambda g: jnp.asarray(g, dtype), grads), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history, state


def test_every_update_is_projected_and_the_average_sees_it():
    """Projected SGD in NumPy."""
    history, state = run(optax.chain(optax.sgd(0.1), constrain(unit_prototypes), track_ema(0.5)))
    w = PARAMS["prototypes"]["kernel"] / np.linalg.norm(PARAMS["prototypes"]["kernel"], axis=0)
    average = w
    for grads, params in zip(GRADS, history, strict=True):
        w = w - 0.1 * grads["prototypes"]["kernel"]
        w = w / np.linalg.norm(w, axis=0)
        average = 0.5 * average + 0.5 * w
        np.testing.assert_allclose(params["prototypes"]["kernel"], w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        ema_params(state)["prototypes"]["kernel"], average, rtol=1e-4, atol=1e-6
    )


def test_what_it_does_not_concern_is_left_alone_to_the_bit():
    with_it, _ = run(optax.chain(optax.sgd(0.1), constrain(unit_prototypes)))
    without, _ = run(optax.sgd(0.1))
    chex.assert_trees_all_equal(with_it[-1]["encoder"], without[-1]["encoder"])


def test_bfloat16_stays():
    history, _ = run(optax.chain(optax.sgd(0.1), constrain(unit_prototypes)), jnp.bfloat16)
    kernel = history[-1]["prototypes"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.linalg.norm(np.float32(kernel), axis=0), 1, rtol=0.02)


def test_the_optimizer_projects_before_it_averages():
    section = {"name": "adamw", "base_lr": 0.1, "lr_scaling": "none", "warmup_epochs": 0.0}
    run_length = dict(batch_size=1, total_steps=STEPS, steps_per_epoch=STEPS)
    tx = make_optimizer(section, **run_length, ema_decay=0.0, constrain=unit_prototypes)
    history, state = run(tx)
    for params in history:
        norms = np.linalg.norm(params["prototypes"]["kernel"], axis=0)
        np.testing.assert_allclose(norms, 1, rtol=1e-6)
    chex.assert_trees_all_equal(ema_params(state), history[-1])


@pytest.mark.parametrize(
    ("project", "message"),
    [
        (lambda params: {"encoder": params["encoder"]}, "constrain changed the tree"),
        (
            lambda params: jax.tree.map(jnp.sum, params),
            r"constrain changed \['encoder'\].*float32\(3",
        ),
        (lambda params: jax.tree.map(jnp.int32, params), "int32"),
    ],
)
def test_a_constraint_that_is_none_is_refused(project, message):
    with pytest.raises(ValueError, match=message):
        run(optax.chain(optax.sgd(0.1), constrain(project)))
    tx = constrain(unit_prototypes)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(PARAMS, tx.init(PARAMS))
