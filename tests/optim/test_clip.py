"""Clipping of all gradients, groups and tensors, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssl_jax.core.tree_paths import path_string
from ssl_jax.optim import clip_by_norm, make_optimizer

RNG = np.random.default_rng(0)
GRADS = {
    "encoder": {"kernel": 2 * RNG.normal(size=(4, 3)), "bias": 0.1 * RNG.normal(size=3)},
    "predictor": {"kernel": RNG.normal(size=(3, 2)), "scale": RNG.normal(size=2)},
}
SIZES = {
    "encoder/kernel": "encoder", "encoder/bias": "encoder", "predictor/kernel": "predictor",
    "predictor/scale": "predictor",
}  # fmt: skip


def by_module(path):
    return path.partition("/")[0]


def oracle(grads, norm, key):
    """Gradients whose norm over all arrays with the same `key(path)` is at most `norm`."""
    leaves = {path_string(path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    totals = {}
    for path, g in leaves.items():
        totals[key(path)] = totals.get(key(path), 0) + np.sum(g**2)
    return jax.tree_util.tree_map_with_path(
        lambda path, g: g * min(1, norm / np.sqrt(totals[key(path_string(path))])), grads
    )


def clip(tx, grads=GRADS):
    grads = jax.tree.map(jnp.float32, grads)
    updates, _ = jax.jit(tx.update)(grads, tx.init(grads), grads)
    return updates


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), actual, expected)


KEYS = {"all": lambda path: "", "group": by_module, "tensor": lambda path: path}


@pytest.mark.parametrize("norm", [0.5, 2.5])
@pytest.mark.parametrize("per", KEYS)
def test_matches_the_oracle(per, norm):
    expected = oracle(GRADS, norm, KEYS[per])
    assert_close(clip(clip_by_norm(norm, per, by_module)), expected)
    others = [oracle(GRADS, norm, KEYS[other]) for other in KEYS if other != per]
    for other in others:
        gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected, other)
        assert max(jax.tree.leaves(gap)) > 1e-3


def test_short_gradients_are_left_alone_to_the_bit():
    for per in KEYS:
        jax.tree.map(
            np.testing.assert_array_equal,
            clip(clip_by_norm(100.0, per, by_module)),
            jax.tree.map(np.float32, GRADS),
        )


def test_all_is_optax_clip_to_the_bit():
    jax.tree.map(
        np.testing.assert_array_equal,
        clip(clip_by_norm(0.5)), clip(optax.clip_by_global_norm(0.5)),
    )  # fmt: skip


@pytest.mark.parametrize("per", KEYS)
def test_gradients_of_zero_stay_zero(per):
    zeros = jax.tree.map(np.zeros_like, GRADS)
    for leaf in jax.tree.leaves(clip(clip_by_norm(0.5, per, by_module), zeros)):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("per", KEYS)
def test_stacked_layers_are_clipped_as_they_are_apart(per):
    """A layer's slice of a stacked array is a tensor; its slices of all arrays are a group."""
    apart = {
        f"layer{i}": {"kernel": i * RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)}
        for i in (1, 2, 3)
    }
    stacked = {"layers": jax.tree.map(lambda *x: np.stack(x), *apart.values())}
    one, two = (
        clip(clip_by_norm(1.5, per, lambda path: path.split("/")[1]), {"net": tree})["net"]
        for tree in (apart, stacked)
    )
    assert_close(two["layers"], jax.tree.map(lambda *x: np.stack(x), *one.values()))
    assert_close(
        one, oracle({"net": apart}, 1.5, {**KEYS, "group": lambda p: p.split("/")[1]}[per])["net"]
    )


def test_stacks_of_different_depth_are_different_groups():
    tree = {
        part: {"layers": {"kernel": RNG.normal(size=(depth, 4))}}
        for part, depth in (("encoder", 3), ("decoder", 2))
    }
    clipped = clip(clip_by_norm(0.5, "group", lambda path: path.split("/")[1]), tree)
    for part in tree:
        norms = np.linalg.norm(clipped[part]["layers"]["kernel"], axis=1)
        np.testing.assert_allclose(norms, 0.5, rtol=1e-5)


def sgd(**section):
    """Updates that are minus the clipped gradients."""
    section = {
        "name": "sgd", "base_lr": 1.0, "lr_scaling": "none", "schedule": "constant",
        "warmup_epochs": 0.0, "momentum": 0.0, "weight_decay": 0.0, **section,
    }  # fmt: skip
    run = dict(batch_size=1, total_steps=5, steps_per_epoch=5)
    updates = clip(make_optimizer(section, **run, param_group=by_module))
    return jax.tree.map(lambda u: -u, updates)


@pytest.mark.parametrize("per", KEYS)
def test_the_config_sets_it(per):
    assert_close(sgd(clip=dict(norm=0.5, per=per)), oracle(GRADS, 0.5, KEYS[per]))
    assert_close(sgd(clip=dict(norm=0.0, per=per)), GRADS)


@pytest.mark.parametrize(
    "own", [dict(norm=0.3, per="group"), dict(norm=0.3, per="tensor"), dict(norm=0.0)]
)
def test_a_group_with_its_own_clip_is_outside_of_the_norm_of_all(own):
    clipped = sgd(clip=dict(norm=0.5, per="all"), groups={"predictor": dict(clip=own)})
    assert_close(
        clipped["encoder"], oracle({"encoder": GRADS["encoder"]}, 0.5, KEYS["all"])["encoder"]
    )
    expected = GRADS if not own["norm"] else oracle(GRADS, 0.3, KEYS[own["per"]])
    assert_close(clipped["predictor"], expected["predictor"])
