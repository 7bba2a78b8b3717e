"""Paths, exclusions and how many parameters they concern."""

import jax
import jax.numpy as jnp
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import path_string
from ssl_jax.models import make_encoder
from ssl_jax.optim import count_excluded, path_mask

PARAMS = {
    "encoder": {
        "stem": {"conv": {"kernel": jnp.ones((3, 3, 1, 2))}, "norm": {"scale": jnp.ones(2)}}
    },
    "projector": {
        "dense1": {"kernel": jnp.ones((2, 5)), "bias": jnp.ones(5)},
        "scales": jnp.ones(7),
    },
}


def test_path_string():
    paths = [path_string(path) for path, _ in jax.tree_util.tree_leaves_with_path(PARAMS)]
    assert paths == [
        "encoder/stem/conv/kernel",
        "encoder/stem/norm/scale",
        "projector/dense1/bias",
        "projector/dense1/kernel",
        "projector/scales",
    ]


def test_default_excludes_biases_and_norm_scales():
    assert path_mask()(PARAMS) == {
        "encoder": {"stem": {"conv": {"kernel": True}, "norm": {"scale": False}}},
        "projector": {"dense1": {"kernel": True, "bias": False}, "scales": True},
    }


def test_exclusion_is_a_regex_on_the_whole_path():
    assert path_mask("^encoder/")(PARAMS)["encoder"]["stem"]["conv"]["kernel"] is False
    assert all(jax.tree.leaves(path_mask("")(PARAMS)))
    with pytest.raises(UserError, match=r"exclude '\(bias' is not a regex"):
        path_mask("(bias")


def test_count_excluded():
    assert count_excluded(PARAMS) == (18 + 10 + 7, 2 + 5)
    assert count_excluded(PARAMS, "") == (42, 0)


def test_resnet50_excludes_its_batch_norms_only():
    """53 convolutions are adapted; twice their 26,560 output channels are not."""
    net = make_encoder("resnet50")
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
    assert count_excluded(params) == (23_508_032 - 2 * 26_560, 2 * 26_560)
