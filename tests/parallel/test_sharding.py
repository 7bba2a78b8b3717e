from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import path_string


class EmaState(NamedTuple):
    ema: Any


def ema():
    """An averaging transform of the usual form; only its state matters here."""

    def update(updates, state, params=None):
        return updates, state

    return optax.GradientTransformation(lambda params: EmaState(params), update)


class State(flax.struct.PyTreeNode):
    step: jax.Array
    key: jax.Array
    params: Any
    buffers: Any
    opt_state: Any
    probe: Any = None


def make_init(tx):
    def init(key):
        w = jax.random.normal(key, (64, 128))
        params = {
            "encoder": {"dense": {"kernel": w, "bias": jnp.zeros(128)}},
            "projector": {"dense": {"kernel": jnp.ones((128, 32))}, "kernel": jnp.ones((7, 24))},
            "kernel": jnp.ones((24, 16)),
        }
        buffers = {"queue": jnp.zeros((256, 32)), "encoder": {"dense": {"kernel": jnp.ones(3)}}}
        return State(jnp.int32(0), key, params, buffers, tx.init(params))

    return init


def groups(path, _):
    return "a" if "encoder" in jax.tree_util.keystr(path) else "b"


OPTIMIZERS = {
    "sgd": optax.sgd(0.1, momentum=0.9),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), ema()),
    "multi_steps": optax.MultiSteps(
        optax.chain(optax.adamw(1e-3), ema()), 4
    ).gradient_transformation(),
    "partition": optax.chain(
        optax.partition(
            {"a": optax.adamw(1e-3), "b": optax.sgd(0.1, momentum=0.9)},
            lambda params: jax.tree_util.tree_map_with_path(groups, params),
        ),
        ema(),
    ),
    "masked": optax.masked(
        optax.trace(0.9), lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    ),
    "scheduled": optax.inject_hyperparams(optax.sgd)(optax.cosine_decay_schedule(0.1, 9), 0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_state_follows_its_parameter(name):
    mesh = parallel.make_mesh(fsdp=4)
    abstract = jax.eval_shape(make_init(OPTIMIZERS[name]), jax.random.PRNGKey(0))
    shardings = parallel.state_shardings(abstract, mesh, min_size=1)
    expected = {
        "encoder/dense/kernel": ((64, 128), P(None, "fsdp")),
        "encoder/dense/bias": ((128,), P("fsdp")),
        "projector/dense/kernel": ((128, 32), P("fsdp")),
        "projector/kernel": ((7, 24), P(None, "fsdp")),
        "kernel": ((24, 16), P("fsdp")),
    }
    followed = 0
    leaves = jax.tree_util.tree_leaves_with_path(abstract)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        owner = path_string(path)
        spec = P()
        if owner.startswith("params/"):
            spec = expected[owner.removeprefix("params/")][1]
        elif owner.startswith("opt_state/"):
            for parameter in sorted(expected, key=len, reverse=True):
                if owner.endswith("/" + parameter):
                    assert leaf.shape == expected[parameter][0]
                    spec = expected[parameter][1]
                    followed += 1
                    break
            else:
                assert leaf.shape == ()
        assert sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), leaf.ndim), owner
    copies = {"sgd": 5, "chain": 15, "multi_steps": 20, "partition": 12, "masked": 4}
    assert followed == copies.get(name, 5)


def test_shape_must_agree_as_well():
    mesh = parallel.make_mesh(fsdp=4)
    params = {"kernel": jnp.zeros((64, 64))}
    state = {"params": params, "opt_state": {"v_row": {"kernel": jnp.zeros(64)}, "m": params}}
    shardings = parallel.state_shardings(state, mesh, min_size=1)
    assert shardings["opt_state"]["v_row"]["kernel"].spec == P()
    assert shardings["opt_state"]["m"]["kernel"].spec == P(None, "fsdp")


def test_small_and_indivisible_parameters_stay_whole():
    mesh = parallel.make_mesh(fsdp=4)
    params = {
        "odd": jnp.zeros((127, 131)),
        "small": jnp.zeros((64, 64)),
        "big": jnp.zeros((256, 64)),
    }
    specs = parallel.state_shardings({"params": params}, mesh)["params"]
    assert (specs["odd"].spec, specs["small"].spec, specs["big"].spec) == (P(), P(), P("fsdp"))
    specs = parallel.state_shardings({"params": params}, parallel.make_mesh())["params"]
    assert specs["big"].spec == P()


@pytest.mark.parametrize("scanned", [(), (3,)])
def test_layers_of_transformers_are_split_by_columns_and_rows(scanned):
    mesh = parallel.make_mesh(fsdp=2, tensor=4)
    shapes = {
        "attn/qkv": (64, 192), "attn/proj": (64, 64), "mlp/fc1": (64, 256), "mlp/fc2": (256, 64),
        "cross_attn/query": (64, 48), "cross_attn/key": (64, 48), "cross_attn/proj": (48, 64),
        "mlp/w12": (64, 344), "mlp/w3": (172, 64), "patch_embed/proj": (48, 64),
    }  # fmt: skip
    by_columns, by_rows = ("fsdp", "tensor"), ("tensor", "fsdp")
    expected = dict.fromkeys(shapes, by_columns)
    expected |= dict.fromkeys(("attn/proj", "mlp/fc2", "cross_attn/proj", "mlp/w3"), by_rows)
    params = {
        f"layers/{name}": {"kernel": jnp.zeros((*scanned, *shape))}
        for name, shape in shapes.items()
    }
    specs = parallel.state_shardings({"params": {"encoder": params}}, mesh, min_size=1)["params"]
    found = {name: specs["encoder"][f"layers/{name}"]["kernel"].spec for name in shapes}
    whole = [None] * len(scanned)
    assert found.pop("patch_embed/proj") == P(*whole, None, "fsdp")  # no pair of matrices
    for name, spec in found.items():
        assert spec == P(*whole, *expected[name]), name
    # Sides that do not divide over the axis, and a mesh without it.
    odd = {"params": {"attn": {"qkv": {"kernel": jnp.zeros((64, 198))}}}}
    for other in (mesh, parallel.make_mesh(fsdp=2)):
        placed = parallel.state_shardings(odd, other, min_size=1)["params"]["attn"]["qkv"]
        assert placed["kernel"].spec == P(None, "fsdp")


def test_rules():
    mesh = parallel.make_mesh(fsdp=2, tensor=2)
    abstract = jax.eval_shape(make_init(OPTIMIZERS["sgd"]), jax.random.PRNGKey(0))
    rules = (
        ("projector/dense/kernel$", ("fsdp", "tensor")),
        ("params/encoder/.*kernel", (None, ("fsdp", "tensor"))),
        ("encoder/.*", ()),
        ("^buffers/queue$", (("data", "fsdp"),)),
    )
    shardings = parallel.state_shardings(abstract, mesh, rules, min_size=1)
    assert shardings.params["projector"]["dense"]["kernel"].spec == P("fsdp", "tensor")
    assert shardings.opt_state[0].trace["projector"]["dense"]["kernel"].spec == P("fsdp", "tensor")
    assert shardings.params["encoder"]["dense"]["kernel"].spec == P(None, ("fsdp", "tensor"))
    assert shardings.params["encoder"]["dense"]["bias"].spec == P()
    assert shardings.buffers["queue"].spec == P(("data", "fsdp"))
    assert shardings.params["kernel"].spec == P("fsdp")


@pytest.mark.parametrize(
    "rule, message",
    [
        (("encodr", ()), "'encodr' matches no array of the state; paths look like 'params/"),
        (
            ("encoder", ("fdsp",)),
            "axis 'fdsp'; the mesh has data, fsdp, tensor. Did you mean 'fsdp'",
        ),
        (("dense/bias", (None, "fsdp")), "places 2 dimensions but params/encoder/dense/bias"),
        (("projector/kernel", ("fsdp",)), r"a dimension of 7 of params/projector/kernel \(7, 24\)"),
    ],
)
def test_bad_rules(rule, message):
    abstract = jax.eval_shape(make_init(OPTIMIZERS["sgd"]), jax.random.PRNGKey(0))
    with pytest.raises(UserError, match=message):
        parallel.state_shardings(abstract, parallel.make_mesh(fsdp=2), (rule,))


def test_init_sharded_equals_init():
    init = make_init(OPTIMIZERS["sgd"])
    key = jax.random.PRNGKey(3)
    plain = init(key)
    state, shardings = parallel.init_sharded(init, key, mesh=parallel.make_mesh(fsdp=4), min_size=1)
    kernel = state.params["encoder"]["dense"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(64, 32)}
    for leaf, sharding, expected in zip(
        *map(jax.tree.leaves, (state, shardings, plain)), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)


def test_abstract_with_shardings():
    init = make_init(OPTIMIZERS["sgd"])
    abstract = jax.eval_shape(init, jax.random.PRNGKey(0))
    shardings = parallel.state_shardings(abstract, parallel.make_mesh(fsdp=4))
    described = parallel.abstract_with(shardings, abstract)
    assert described.buffers["queue"].sharding == shardings.buffers["queue"]
    assert described.buffers["queue"].shape == (256, 32)
