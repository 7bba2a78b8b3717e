"""Every optimizer the config can name against float64 NumPy, and how they are put together."""

from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssl_jax.config import fields
from ssl_jax.config.base import base_config
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import path_string
from ssl_jax.optim import (
    OptimizerSection,
    ema_params,
    make_optimizer,
    make_schedule,
    path_mask,
    polyak_params,
)

OPTIMIZERS = ("lars", "adamw", "sgd", "lamb", "adafactor")

RNG = np.random.default_rng(0)
PARAMS = {
    "encoder": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)},
    "predictor": {"kernel": RNG.normal(size=(3, 2)), "scale": RNG.normal(size=2)},
}
STEPS = 5
GRADS = [jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS) for _ in range(STEPS)]
RUN = dict(batch_size=512, total_steps=STEPS, steps_per_epoch=2)


def config(**overrides):
    """An optimizer section with every key, no two of which have the same effect."""
    section = ConfigDict(
        dict(
            name="lars",
            base_lr=0.05,
            lr_scaling="linear",
            schedule="cosine",
            warmup_epochs=1.0,
            warmup_steps=None,
            final_lr_factor=0.1,
            decay_until=1.0,
            milestones=(),
            decay_factor=0.1,
            weight_decay=0.2,
            momentum=0.8,
            nesterov=False,
            b1=0.7,
            b2=0.95,
            eps=1e-6,
            bias_correction=True,
            trust_coefficient=0.01,
            momentum_order="lr_inside",
            clip=dict(norm=0.0, per="all"),
            exclude=r"(bias|scale)$",
            lr_factor=1.0,
            warmup_start=0.0,
            weight_decay_end=placeholder(float),
            frozen_epochs=0.0,
            frozen_steps=placeholder(int),
            polyak=0.0,
            groups=ConfigDict(),
        )
    )
    section.update(overrides)
    return section


def test_the_config_has_every_key():
    assert set(config()) == set(fields.defaults(OptimizerSection)) == set(base_config().optimizer)
    defaults = fields.check(OptimizerSection, base_config().optimizer, "optimizer")
    assert defaults == fields.check(OptimizerSection, {}, "optimizer")


def run(tx, dtype=jnp.float32):
    """Parameters after every step, and the last state, in one program."""
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    stacked = jax.tree.map(lambda *grads: np.stack(grads).astype(dtype), *GRADS)

    def step(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def steps(params, stacked):
        (_, state), history = jax.lax.scan(step, (params, tx.init(params)), stacked)
        return history, state

    history, state = steps(params, stacked)
    history = jax.device_get(history)
    return [jax.tree.map(lambda x, i=i: x[i], history) for i in range(STEPS)], state


def assert_close(actual, expected, rtol=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-5), actual, expected)


def oracle_leaf(c, w, grads, adapted):
    """One tensor's values after every step, from the papers, in float64."""
    section = fields.read(OptimizerSection, c, "optimizer")
    schedule = make_schedule(section, **RUN)
    end = c["weight_decay"] if c["weight_decay_end"] is None else c["weight_decay_end"]
    v, m, s, history = 0.0, 0.0, 0.0, []
    for step, g in enumerate(grads):
        lr, t = float(schedule(step)), step + 1 - (c["frozen_steps"] or 0)
        if t <= 0:  # as PyTorch where grad is None: nothing has happened to the tensor
            history.append(w)
            continue
        wd = end + (c["weight_decay"] - end) * (1 + np.cos(np.pi * step / STEPS)) / 2
        wd = wd if adapted else 0.0
        if c["name"] in ("lars", "sgd"):
            g = g + wd * w
            if c["name"] == "lars" and adapted:
                g = g * c["trust_coefficient"] * np.linalg.norm(w) / np.linalg.norm(g)
            inside = c["name"] == "lars" and c["momentum_order"] == "lr_inside"
            g, outer = (lr * g, 1.0) if inside else (g, lr)
            v = c["momentum"] * v + g
            w = w - outer * (c["momentum"] * v + g if c["nesterov"] else v)
        elif c["name"] == "adafactor":
            b = 1 - t**-0.8
            s = b * s + (1 - b) * g**2
            u = g / np.sqrt(s)
            u = u / max(1, np.sqrt(np.mean(u**2))) * max(np.sqrt(np.mean(w**2)), 1e-3)
            w = w - lr * (u + wd * w)
        else:
            m = c["b1"] * m + (1 - c["b1"]) * g
            s = c["b2"] * s + (1 - c["b2"]) * g**2
            m_hat, s_hat = m, s
            if c["bias_correction"]:
                m_hat, s_hat = m / (1 - c["b1"] ** t), s / (1 - c["b2"] ** t)
            elif c["nesterov"]:
                m_hat = c["b1"] * m + (1 - c["b1"]) * g
            r = m_hat / (np.sqrt(s_hat) + c["eps"]) + wd * w
            if c["name"] == "lamb" and adapted:
                r = r * np.linalg.norm(w) / np.linalg.norm(r)
            w = w - lr * r
        history.append(w)
    return history


def oracle(c, grads=GRADS, exclude=r"(bias|scale)$"):
    """Parameters after the last step. `c` is a config or a function from a path to one."""

    def leaf(path, w, adapted):
        section = c(path_string(path)) if callable(c) else c
        names = [entry.key for entry in path]
        return oracle_leaf(section, w, [g[names[0]][names[1]] for g in grads], adapted)[-1]

    return jax.tree_util.tree_map_with_path(leaf, PARAMS, path_mask(exclude)(PARAMS))


CASES = {
    "lars lr_inside": dict(name="lars"),
    "lars lr_outside": dict(name="lars", momentum_order="lr_outside"),
    "lars nesterov": dict(name="lars", nesterov=True),
    "sgd": dict(name="sgd"),
    "sgd nesterov": dict(name="sgd", nesterov=True),
    "adamw": dict(name="adamw"),
    "lamb": dict(name="lamb"),
    "adafactor": dict(name="adafactor"),
    # Of BERT's released code.
    "adamw uncorrected": dict(name="adamw", bias_correction=False),
    "adamw uncorrected nesterov": dict(name="adamw", bias_correction=False, nesterov=True),
    "lamb uncorrected": dict(name="lamb", bias_correction=False),
} | {f"{name} with changing decay": dict(name=name, weight_decay_end=0.9) for name in OPTIMIZERS}


@pytest.mark.parametrize("case", CASES)
def test_matches_the_oracle(case):
    c = config(**CASES[case])
    history, _ = run(make_optimizer(c, **RUN))
    assert_close(history[-1], oracle(c))


def test_every_optimizer_has_a_case():
    known = get_args(fields.find(OptimizerSection, "name").type.__origin__)
    assert {case["name"] for case in CASES.values()} == set(OPTIMIZERS) == set(known)


def test_adafactor_factors_large_matrices_as_optax_does():
    rng = np.random.default_rng(2)
    params = {"kernel": rng.normal(size=(130, 140)).astype(np.float32)}
    stack = {"layers": {"kernel": np.stack([params["kernel"], 3 * params["kernel"]])}}
    grads = [rng.normal(size=(130, 140)).astype(np.float32) for _ in range(2)]
    c = config(name="adafactor", weight_decay=0.0, schedule="constant", warmup_epochs=0.0)
    own, theirs = make_optimizer(c, **RUN), optax.adafactor(0.1)
    state, other, stacked = own.init(params), theirs.init(params), own.init(stack)
    assert sum(x.size for x in jax.tree.leaves(state)) < 300
    for g in grads:
        updates, state = own.update({"kernel": g}, state, params)
        expected, other = theirs.update({"kernel": g}, other, params)
        np.testing.assert_allclose(updates["kernel"], expected["kernel"], rtol=1e-5)
        both = {"layers": {"kernel": np.stack([g, g])}}
        moved, stacked = own.update(both, stacked, stack)
        for factor, layer in zip((1, 3), moved["layers"]["kernel"], strict=True):
            np.testing.assert_allclose(layer, factor * expected["kernel"], rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_exclude_is_read(name):
    c = config(name=name, exclude="^predictor/")
    history, _ = run(make_optimizer(c, **RUN))
    assert_close(history[-1], oracle(c, exclude="^predictor/"))


def test_lamb_steps_by_lr_times_the_weight_norm():
    """Of every adapted tensor, whatever the scale of the gradient."""
    c = config(name="lamb", eps=1e-12, warmup_epochs=0.0, schedule="constant")
    history, _ = run(make_optimizer(c, **RUN))
    moved = history[0]["encoder"]["kernel"] - PARAMS["encoder"]["kernel"]
    np.testing.assert_allclose(
        np.linalg.norm(moved), 0.1 * np.linalg.norm(PARAMS["encoder"]["kernel"]), rtol=1e-4
    )


def test_lamb_ignores_the_scale_of_gradients_and_points_where_adamw_does():
    steady = dict(eps=1e-12, warmup_epochs=0.0, schedule="constant", weight_decay=0.0)
    moved = {}
    for name in ("lamb", "adamw"):
        for scale in (1.0, 1e3):
            tx = make_optimizer(config(name=name, **steady), **RUN)
            grads = jax.tree.map(lambda g, s=scale: np.float32(s * g), GRADS[0])
            params = jax.tree.map(np.float32, PARAMS)
            first = jax.jit(lambda grads, params, tx=tx: tx.update(grads, tx.init(params), params))
            moved[name, scale] = first(grads, params)[0]["encoder"]["kernel"]
    np.testing.assert_allclose(moved["lamb", 1e3], moved["lamb", 1.0], rtol=1e-4)
    ratio = moved["lamb", 1.0] / moved["adamw", 1.0]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    assert abs(ratio[0, 0] - 1) > 0.01
    # What is excluded from adaptation moves as under AdamW.
    histories = [run(make_optimizer(config(name=name), **RUN))[0] for name in ("lamb", "adamw")]
    for lamb, adamw in zip(*histories, strict=True):
        np.testing.assert_allclose(lamb["encoder"]["bias"], adamw["encoder"]["bias"], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stacked_layers_move_as_they_do_apart(name):
    """Norms are each layer's own, and biases are excluded by their name."""
    rng = np.random.default_rng(1)
    apart = {
        f"layer{i}": {"kernel": i * rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}
        for i in (1, 2, 3)
    }
    stacked = {"layers": jax.tree.map(lambda *x: np.stack(x), *apart.values())}
    c = config(name=name, clip=dict(norm=2.0))
    results = []
    for tree in (apart, stacked):
        tx = make_optimizer(c, **RUN)

        def step(carry, number, tx=tx):
            params, state = carry
            # A function of the parameters, so that one error leads to others.
            grads = jax.tree.map(lambda p: jnp.sin(3 * p + number), params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        @jax.jit
        def steps(params, tx=tx, step=step):
            return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))[0][0]

        params = steps(jax.tree.map(np.float32, {"net": tree}))
        results.append(params["net"])
    expected = jax.tree.map(lambda *x: np.stack(x), *results[0].values())
    for leaf in ("kernel", "bias"):
        np.testing.assert_allclose(results[1]["layers"][leaf], expected[leaf], rtol=1e-4)


def by_module(path):
    return path.partition("/")[0]


@pytest.mark.parametrize(
    "overrides",
    [
        dict(lr_factor=0.2),
        dict(weight_decay_end=0.0),
        dict(name="adamw", frozen_steps=2),
        dict(schedule="constant", warmup_epochs=0.0),
        dict(name="adamw", base_lr=0.01),
        dict(weight_decay=0.0, momentum_order="lr_outside"),
    ],
    ids=["factor", "decay to 0", "frozen", "own schedule", "own optimizer", "own decay"],
)
def test_groups_override_the_section(overrides):
    """The predictor's group has its own keys; the encoder's is not named and keeps the section."""
    c = config(groups=ConfigDict({"predictor": overrides}))
    history, _ = run(make_optimizer(c, **RUN, param_group=by_module))
    own = config(**overrides)
    expected = oracle(lambda path: own if path.startswith("predictor") else c)
    assert_close(history[-1], expected)
    plain = oracle(c)["predictor"]["kernel"]
    assert np.abs(plain - history[-1]["predictor"]["kernel"]).max() > 1e-4


def test_the_average_stands_outside_the_groups():
    """It covers all groups, in one tree, and sees the final updates of each."""
    c = config(groups=ConfigDict({"predictor": dict(name="adamw")}), clip=dict(norm=1.0))
    tx = make_optimizer(c, **RUN, ema_decay=0.5, param_group=by_module)
    history, state = run(tx)
    ema = jax.tree.map(np.float64, PARAMS)
    for params in history:
        ema = jax.tree.map(lambda e, p: 0.5 * e + 0.5 * np.float64(p), ema, params)
    assert_close(ema_params(state), ema)


def test_the_polyak_average_is_another_than_the_methods():
    tx = make_optimizer(
        config(polyak=0.9), **RUN, ema_decay=0.5, ema_filter=lambda path: "enc" in path
    )
    history, state = run(tx)
    averages = {0.5: ema_params(state), 0.9: polyak_params(state)}
    for decay, average in averages.items():
        expected = jax.tree.map(np.float64, PARAMS)
        for params in history:
            expected = jax.tree.map(
                lambda e, p, d=decay: d * e + (1 - d) * np.float64(p), expected, params
            )
        assert_close(average, {name: expected[name] for name in average})
    assert set(averages[0.5]) == {"encoder"} and set(averages[0.9]) == set(PARAMS)
    assert polyak_params(make_optimizer(config(), **RUN).init(PARAMS)) is None


def test_ema_filter_and_schedule():
    tx = make_optimizer(
        config(), **RUN, ema_decay=lambda count: 0.0 * count, ema_filter=lambda path: "enc" in path
    )
    history, state = run(tx)
    chex.assert_trees_all_equal(ema_params(state), {"encoder": history[-1]["encoder"]})
    assert ema_params(make_optimizer(config(), **RUN).init(PARAMS)) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_stable_arrays_and_survives_a_checkpoint(name, tmp_path):
    """Same tree, shapes and dtypes from step to step; orbax restores every leaf to the bit."""
    c = config(name=name, groups=ConfigDict({"predictor": dict(schedule="constant")}))
    tx = make_optimizer(c, **RUN, ema_decay=0.9, ema_filter=by_module, param_group=by_module)
    _, state = run(tx)
    fresh = jax.eval_shape(tx.init, jax.tree.map(jnp.float32, PARAMS))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), fresh
    )
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        restored = checkpointer.restore(tmp_path / "state", target)
    chex.assert_trees_all_equal_structs(restored, state)
    chex.assert_trees_all_equal(restored, state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bfloat16_parameters_stay_bfloat16(name):
    history, state = run(make_optimizer(config(name=name), **RUN, ema_decay=0.9), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(history[-1])} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(ema_params(state))} == {jnp.dtype("float32")}
    assert all(np.isfinite(np.float32(leaf)).all() for leaf in jax.tree.leaves(history[-1]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(name="adamW"), r"optimizer.name is 'adamW'; use one of lars, .*Did you mean 'adamw'"),
        (dict(exclude="(bias"), r"optimizer.exclude is '\(bias'; use .* regular expression"),
        (dict(clip=dict(norm=-1.0)), r"optimizer.clip.norm is -1.0; use a number of at least 0"),
        (dict(clip=dict(per="tenser")), r"clip.per is 'tenser'; .*Did you mean 'tensor'"),
        (dict(frozen_steps=-1), r"optimizer.frozen_steps is -1; use a whole number of at least 0"),
        (dict(weight_decay_end=-0.1), r"optimizer.weight_decay_end is -0.1; use a number of at"),
        (dict(warmup_start=1.5), r"optimizer.warmup_start is 1.5; use a number from 0 to 1"),
        (dict(polyak=1.0), r"optimizer.polyak is 1.0; use a number of at least 0 and below 1"),
        (
            dict(groups=ConfigDict({"predictor": dict(base_rl=0.1)})),
            r"optimizer.groups.predictor.base_rl; .*Did you mean 'base_lr'",
        ),
        (
            dict(groups=ConfigDict({"predictor": dict(polyak=0.9)})),
            r"unknown config key optimizer.groups.predictor.polyak",
        ),
        (
            dict(groups=ConfigDict({"predictor": dict(clip=dict(norm=1.0))})),
            r"optimizer.groups.predictor.clip.per is 'all', .* use 'group' or 'tensor'",
        ),
        (
            dict(groups=ConfigDict({"predictor": dict(clip=dict(nrom=1.0))})),
            r"optimizer.groups.predictor.clip.nrom; .*Did you mean 'norm'",
        ),
        (
            dict(groups=ConfigDict({"layerwise": dict(decay=1.5)})),
            r"optimizer.groups.layerwise.decay is 1.5; use a number above 0, at most 1",
        ),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(config(**overrides), **RUN, param_group=by_module)


def test_group_without_parameters_is_named():
    c = config(groups=ConfigDict({"preditcor": dict(base_lr=0.1)}))
    tx = make_optimizer(c, **RUN, param_group=by_module)
    with pytest.raises(
        UserError, match=r"no parameter is in this group; .*Did you mean 'predictor'"
    ):
        tx.init(PARAMS)
