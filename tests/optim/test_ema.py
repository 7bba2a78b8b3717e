"""The moving average: closed forms, wrappers, masks, precision, donation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.models import Net, projection_head
from ssl_jax.optim import EmaState, cosine_ema, ema_params, replace_ema, track_ema

PARAMS = {
    "encoder": {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}},
    "predictor": {"dense": {"kernel": 2 * jnp.ones((3, 3))}},
}


def grads(step):
    return jax.tree.map(lambda p: jnp.full_like(p, 0.1 * (step + 1)), PARAMS)


def run(tx, steps, params=PARAMS):
    """[(params, ema)] after each step, and the last state."""
    state, history = tx.init(params), []
    for step in range(steps):
        updates, state = tx.update(grads(step), state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, ema_params(state)))
    return history, state


def assert_close(actual, expected, rtol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol), actual, expected)


def oracle(history, decays):
    """The average of the parameters in `history`, in float64."""
    ema = jax.tree.map(lambda p: np.asarray(p, np.float64), PARAMS)
    for (params, _), d in zip(history, decays, strict=True):
        ema = jax.tree.map(lambda e, p, d=d: d * e + (1 - d) * np.float64(p), ema, params)
    return ema


def test_follows_the_updated_parameters():
    history, state = run(optax.chain(optax.sgd(0.5), track_ema(0.9)), 7)
    assert_close(history[-1][1], oracle(history, [0.9] * 7))
    assert jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, EmaState))[-1].count == 7


def test_updates_pass_through():
    tx = track_ema(0.9)
    updates, _ = tx.update(grads(0), tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, grads(0))


def test_one_freezes_and_zero_copies():
    history, _ = run(optax.chain(optax.sgd(0.5), track_ema(1.0)), 3)
    chex.assert_trees_all_equal(history[-1][1], PARAMS)
    history, _ = run(optax.chain(optax.sgd(0.5), track_ema(0.0)), 3)
    for params, ema in history:
        chex.assert_trees_all_equal(ema, params)


def test_geometric_closed_form():
    """With the parameters at rest after one jump: ema = p + m^t (ema_0 - p)."""
    m, t, start = 0.99, 50, {"w": jnp.zeros(3)}
    tx = optax.chain(optax.identity(), track_ema(m))
    state = tx.init(start)
    params = {"w": jnp.array([1.0, -2.0, 3.0])}
    rest = {"w": jnp.zeros(3)}
    for _ in range(t):
        _, state = tx.update(rest, state, params)
    np.testing.assert_allclose(ema_params(state)["w"], params["w"] * (1 - m**t), rtol=1e-5)


def test_schedule_sees_the_count_of_updates():
    decay = cosine_ema(0.5, 5)
    history, _ = run(optax.chain(optax.sgd(0.5), track_ema(decay)), 5)
    assert_close(history[-1][1], oracle(history, [float(decay(k)) for k in range(5)]))


def test_multi_steps_counts_real_steps_only():
    """Twelve micro-steps of three are four updates, of the average and of its schedule."""
    decay = cosine_ema(0.5, 4)
    tx = optax.MultiSteps(optax.chain(optax.sgd(0.5), track_ema(decay)), 3)
    history, state = run(tx, 12)
    real = history[2::3]
    assert_close(real[-1][1], oracle(real, [float(decay(k)) for k in range(4)]))
    assert state.inner_opt_state[-1].count == 4
    for k in range(0, 12, 3):  # between real steps it stands still
        assert_close(history[k][1], history[k + 1][1], rtol=0)


def test_rejected_steps_are_not_averaged():
    tx = optax.apply_if_finite(optax.chain(optax.sgd(0.5), track_ema(0.9)), 5)
    state = tx.init(PARAMS)
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), PARAMS)
    _, state = tx.update(bad, state, PARAMS)
    chex.assert_trees_all_equal(ema_params(state), PARAMS)
    _, state = tx.update(grads(0), state, PARAMS)
    assert np.isfinite(ema_params(state)["predictor"]["dense"]["kernel"]).all()
    assert ema_params(state)["predictor"]["dense"]["kernel"][0, 0] < 2


@pytest.mark.parametrize(
    "mask",
    [
        lambda path: path.startswith("encoder"),
        {"encoder": True, "predictor": False},
        {"encoder": {"dense": {"kernel": True, "bias": True}}, "predictor": {"dense": False}},
    ],
    ids=["predicate", "upper tree", "tree"],
)
def test_masked_parameters_are_absent(mask):
    history, _ = run(optax.chain(optax.sgd(0.5), track_ema(0.9, mask)), 3)
    expected = oracle(history, [0.9] * 3)
    chex.assert_trees_all_equal_structs(history[-1][1], {"encoder": PARAMS["encoder"]})
    assert_close(history[-1][1], {"encoder": expected["encoder"]})


def test_mask_of_other_keys_is_an_error():
    with pytest.raises(ValueError, match="mask has keys"):
        track_ema(0.9, {"encoder": True}).init(PARAMS)


def test_masked_average_feeds_the_net_it_belongs_to():
    head = projection_head(output_dim=2, hidden_dim=3)
    h = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    params, buffers = head.init(jax.random.key(0), h)
    both = {"projector": params, "predictor": {"dense": {"kernel": jnp.ones((2, 2))}}}
    tx = track_ema(0.9, lambda path: path.startswith("projector/"))
    ema = ema_params(tx.init(both))
    assert set(ema) == {"projector"}
    ours, _ = head.apply(ema["projector"], buffers, h, train=False)
    np.testing.assert_array_equal(ours, head.apply(params, buffers, h, train=False)[0])
    assert isinstance(head, Net)


def test_bfloat16_parameters_have_a_float32_average():
    """In bfloat16, 1 + (1 - 0.999) * 0.5 would be 1 for ever."""
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    tx = optax.chain(optax.identity(), track_ema(0.999))
    state = tx.init(params)
    assert ema_params(state)["w"].dtype == jnp.float32
    moved = {"w": jnp.full(4, 1.5, jnp.bfloat16)}
    for _ in range(10):
        updates, state = tx.update({"w": jnp.zeros(4, jnp.bfloat16)}, state, moved)
    ema = ema_params(state)["w"]
    assert ema.dtype == jnp.float32 and updates["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(ema, 1.5 - 0.5 * 0.999**10, rtol=1e-6)


def test_found_by_type_wherever_it_is():
    inner = optax.chain(optax.adam(0.1), track_ema(0.9))
    for tx in (
        inner,
        track_ema(0.9),
        optax.named_chain(("adam", optax.adam(0.1)), ("ema", track_ema(0.9))),
        optax.MultiSteps(inner, 2),
        optax.apply_if_finite(inner, 2),
        optax.MultiSteps(optax.apply_if_finite(inner, 2), 2),
    ):
        chex.assert_trees_all_equal(ema_params(tx.init(PARAMS)), PARAMS)
    assert ema_params(optax.adam(0.1).init(PARAMS)) is None
    with pytest.raises(ValueError, match="holds 2 moving averages"):
        ema_params(optax.chain(track_ema(0.9), track_ema(0.99)).init(PARAMS))


@pytest.mark.parametrize("under_jit", [False, True])
def test_state_can_be_donated(under_jit):
    """Parameters and their average never share a buffer; the structure is stable under jit."""
    tx = optax.chain(optax.sgd(0.5, momentum=0.9), track_ema(0.9))

    def init():
        params = jax.tree.map(jnp.array, PARAMS)
        return params, tx.init(params)

    @jax.jit
    def reference(state):
        params, opt_state = state
        updates, opt_state = tx.update(grads(0), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    state = jax.jit(init)() if under_jit else init()
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(buffers) == len(set(buffers))
    expected, before = reference(reference(state)), jax.tree.map(lambda x: x.aval, state)
    step = jax.jit(reference, donate_argnums=0)
    state = step(step(state))
    assert jax.tree.map(lambda x: x.aval, state) == before
    chex.assert_trees_all_equal(state, expected)


def test_needs_the_parameters():
    tx = track_ema(0.9)
    with pytest.raises(ValueError, match="track_ema needs params"):
        tx.update(grads(0), tx.init(PARAMS))


def test_values_of_the_average_are_replaced_below_other_transforms():
    tx = optax.MultiSteps(optax.chain(optax.sgd(0.5), track_ema(0.9)), 2).gradient_transformation()
    state = tx.init(PARAMS)
    new = replace_ema(state, {"encoder/dense/bias": np.array([3.0, 4.0, 5.0])})
    np.testing.assert_array_equal(ema_params(new)["encoder"]["dense"]["bias"], [3, 4, 5])
    chex.assert_trees_all_equal(ema_params(new)["predictor"], PARAMS["predictor"])
    chex.assert_trees_all_equal_structs(new, state)
    with pytest.raises(ValueError, match="no such leaf: encoder/dense/scale"):
        replace_ema(state, {"encoder/dense/scale": np.ones(3)})
    with pytest.raises(ValueError, match="holds no moving average"):
        replace_ema(optax.sgd(0.5).init(PARAMS), {})
