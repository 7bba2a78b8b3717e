"""Encoders by name, and what a mistyped name or option says."""

import jax
import jax.numpy as jnp
import pytest

from ssl_jax.errors import UserError
from ssl_jax.models import ENCODERS, make_encoder


@pytest.mark.parametrize("name", list(ENCODERS))
def test_every_encoder_keeps_the_contract(name):
    """(h, out): h [n d] float32, the stages in the compute dtype; params float32; hashable."""
    net = make_encoder(name, dtype="bfloat16")
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def forward(key, x):
        params, buffers = net.init(key, x)
        return params, buffers, *net.apply(params, buffers, x, train=True)

    params, buffers, (h, out), after = jax.eval_shape(forward, jax.random.key(0), x)
    assert h.ndim == 2 and h.shape[0] == 2 and h.dtype == jnp.float32
    assert out["h"].shape == h.shape
    assert out["stage1"].ndim == 4 and out["stage1"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((params, buffers))} == {jnp.dtype("float32")}
    assert after == buffers
    assert hash(net) == hash(make_encoder(name, dtype="bfloat16"))


def test_an_option_that_is_none_counts_as_not_given():
    assert make_encoder("convnet", stem=None, strides=None) == make_encoder("convnet")
    assert make_encoder("resnet18", width=None, stem=None) == make_encoder("resnet18")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="resnet5"), r"unknown model 'resnet5'; .*Did you mean 'resnet50'\?"),
        (dict(name="convnet", width=2), r"convnet has no option 'width'; .*Did you mean 'widths'"),
        (dict(name="resnet18", stm="cifar"), r"no option 'stm'; .*Did you mean 'stem'\?"),
        (dict(name="resnet18", stem="cifer"), r"unknown stem 'cifer'; .*Did you mean 'cifar'\?"),
        (dict(name="resnet18", kernel_init="he"), r"unknown kernel_init 'he'"),
        (dict(name="resnet18", width=0), r"width 0 leaves no channels"),
        (dict(name="resnet18", dtype="bfloat61"), r"Did you mean 'bfloat16'\?"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make_encoder(**arguments)
