"""Groups that are frozen at first, against AdamW with gradients of None, in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.optim import make_optimizer, make_schedule, read_groups

STEPS, FROZEN = 8, 3
RUN = dict(batch_size=256, total_steps=STEPS, steps_per_epoch=3)
RNG = np.random.default_rng(0)
PARAMS = {
    "head": {"kernel": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=2)},
    "last_layer": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)},
}
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS) for _ in range(STEPS)]
SECTION = dict(
    name="adamw", base_lr=0.1, schedule="cosine", warmup_steps=2, weight_decay=0.1, b1=0.7, b2=0.9,
    weight_decay_end=0.5, clip=dict(norm=0.5, per="all"),
)  # fmt: skip


def by_module(path):
    return path.partition("/")[0]


def optimizer(groups, **changes):
    section = {**SECTION, **changes, "groups": groups}
    return make_optimizer(section, **RUN, param_group=by_module, ema_decay=0.9)


def run(tx, grads=GRADS, steps=STEPS):
    """[(parameters, state)], at first and after every step."""
    params = jax.tree.map(jnp.float32, PARAMS)
    history, update = [(params, tx.init(params))], jax.jit(tx.update)
    for step in range(steps):
        params, state = history[-1]
        updates, state = update(jax.tree.map(jnp.float32, grads[step]), state, params)
        history.append((optax.apply_updates(params, updates), state))
    return history


class AdamW:
    """PyTorch's rules for one tensor: a gradient of None is no step, not even of the count."""

    def __init__(self, w, decayed):
        self.w, self.m, self.v, self.t, self.decayed = w, 0.0, 0.0, 0, decayed

    def step(self, g, lr, weight_decay):
        if g is None:
            return
        self.t += 1
        self.m = 0.7 * self.m + 0.3 * g
        self.v = 0.9 * self.v + 0.1 * g**2
        m, v = self.m / (1 - 0.7**self.t), self.v / (1 - 0.9**self.t)
        decay = lr * weight_decay if self.decayed else 0.0
        self.w = self.w * (1 - decay) - lr * m / (np.sqrt(v) + 1e-8)


def expected(frozen_steps):
    tensors = {
        (module, leaf): AdamW(w, leaf == "kernel")
        for module in PARAMS for leaf, w in PARAMS[module].items()
    }  # fmt: skip
    schedule = make_schedule(read_groups(SECTION, **RUN).default.section, **RUN)
    for step, grads in enumerate(GRADS):
        with_gradient = {
            key: grads[key[0]][key[1]]
            for key in tensors
            if key[0] != "last_layer" or step >= frozen_steps
        }
        norm = np.sqrt(sum(np.sum(g**2) for g in with_gradient.values()))
        weight_decay = 0.5 + (0.1 - 0.5) * (1 + np.cos(np.pi * step / STEPS)) / 2
        for key, tensor in tensors.items():
            g = with_gradient.get(key)
            clipped = None if g is None else g * min(1, 0.5 / norm)
            tensor.step(clipped, float(schedule(step)), weight_decay)
    return {key: tensor.w for key, tensor in tensors.items()}


def assert_close(params, expected):
    for (module, leaf), w in expected.items():
        np.testing.assert_allclose(params[module][leaf], w, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "freeze", [dict(frozen_steps=FROZEN), dict(frozen_epochs=1.0)], ids=["steps", "epochs"]
)
def test_matches_adamw_with_gradients_of_none(freeze):
    """Moments, bias correction, clip norm; the rate and the decay are those of the run's step."""
    history = run(optimizer({"last_layer": freeze}))
    assert_close(history[-1][0], expected(FROZEN))
    without = expected(0)["last_layer", "kernel"]
    assert np.abs(without - history[-1][0]["last_layer"]["kernel"]).max() > 1e-2


@pytest.mark.parametrize("name", ["adamw", "lars", "sgd", "lamb"])
def test_nothing_of_a_frozen_group_changes_even_where_its_gradient_is_not_finite(name):
    bad = [{**grads, "last_layer": jax.tree.map(lambda g: g * np.nan, grads["last_layer"])}
           for grads in GRADS[:FROZEN]]  # fmt: skip
    tx = optimizer({"last_layer": dict(frozen_steps=FROZEN)}, name=name)
    history = run(tx, bad, FROZEN)
    (first, before), (last, after) = history[0], history[-1]
    chex.assert_trees_all_equal(last["last_layer"], first["last_layer"])
    assert not np.array_equal(last["head"]["kernel"], first["head"]["kernel"])
    inner = [
        [part for part in state.inner["rules"] if isinstance(part, optax.transforms.PartitionState)]
        for state in (before, after)
    ]
    (start,), (end,) = inner
    frozen = [state.inner_states["last_layer"] for state in (start, end)]
    assert jax.tree.leaves(frozen[0])
    chex.assert_trees_all_equal(*frozen)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_what_is_frozen_at_first_moves_as_if_the_run_began_later():
    """A group's moments after it has thawed do not depend on the gradients before."""
    tx = optimizer({"last_layer": dict(frozen_steps=FROZEN)})
    other = [jax.tree.map(lambda g: -3 * g, grads) for grads in GRADS[:FROZEN]] + GRADS[FROZEN:]
    one, two = (run(tx, grads)[-1][0]["last_layer"] for grads in (GRADS, other))
    chex.assert_trees_all_equal(one, two)


def test_the_section_may_freeze_all_but_a_group():
    """The classifier learns before the encoder does."""
    tx = optimizer({"head": dict(frozen_steps=0)}, frozen_steps=FROZEN)
    history = run(tx)
    assert_close(history[-1][0], expected(FROZEN))
    chex.assert_trees_all_equal(history[FROZEN][0]["last_layer"],
        jax.tree.map(np.float32, PARAMS["last_layer"]),
    )  # fmt: skip


def test_a_constraint_leaves_a_frozen_group_alone():
    def unit(params):
        kernel = params["last_layer"]["kernel"]
        kernel = kernel / jnp.linalg.norm(kernel, axis=0)
        return {**params, "last_layer": {**params["last_layer"], "kernel": kernel}}

    section = {**SECTION, "groups": {"last_layer": dict(frozen_steps=FROZEN)}}
    tx = make_optimizer(section, **RUN, param_group=by_module, constrain=unit)
    history = run(tx)
    kernels = [params["last_layer"]["kernel"] for params, _ in history]
    np.testing.assert_array_equal(kernels[FROZEN], kernels[0])
    np.testing.assert_allclose(np.linalg.norm(kernels[FROZEN + 1], axis=0), 1, rtol=1e-6)
