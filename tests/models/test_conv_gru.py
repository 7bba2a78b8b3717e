"""CPC's encoder of audio: frames, parameters, causality, and the GRU's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import count_parameters, make_encoder
from ssl_jax.models.conv_gru import (
    KERNELS,
    STRIDES,
    ConvGru,
    Gru,
    num_frames,
    receptive_field,
)
from ssl_jax.models.functional import Net

SMALL = dict(channels=4, context_dim=5)


def test_a_window_has_the_papers_frames():
    assert receptive_field(KERNELS, STRIDES) == 465 and np.prod(STRIDES) == 160
    for padded, frames in ((True, 128), (False, 126)):
        assert num_frames(20_480, KERNELS, STRIDES, padded) == frames
        net = make_encoder("conv_gru", padded=padded)
        x = jax.ShapeDtypeStruct((2, 20_480), jnp.float32)
        params, buffers = jax.eval_shape(net.init, jax.random.key(0), x)
        (h, out), _ = jax.eval_shape(
            lambda p, x, net=net: net.apply(p, {}, x, train=True), params, x
        )
        assert h.shape == (2, 256) and not buffers
        assert out["latents"].shape == (2, frames, 512) and out["frames"].shape == (2, frames, 256)
    assert num_frames(464, KERNELS, STRIDES, False) == 0


def test_parameters_are_those_of_the_paper():
    """5,248,000 weights of convolutions; the GRU has two biases a gate, as in PyTorch."""
    net = make_encoder("conv_gru")
    params, _ = jax.eval_shape(
        net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 20_480), jnp.float32)
    )
    kernels = sum(params[f"conv{i}"]["kernel"].size for i in range(1, 6))
    assert kernels == 5_248_000
    assert count_parameters(params["gru"]) == 591_360
    assert count_parameters(params) == kernels + 5 * 512 + 591_360


def test_the_gru_is_its_equations():
    module = Gru(3)
    x = np.random.default_rng(0).normal(size=(2, 4, 5))
    params = module.init(jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    params = {name: rng.normal(size=value.shape) for name, value in params.items()}
    states = module.apply({"params": params}, x)

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    w, u = (np.split(params[f"{name}_kernel"], 3, axis=1) for name in ("input", "recurrent"))
    a, b = (np.split(params[f"{name}_bias"], 3) for name in ("input", "recurrent"))
    for n in range(2):
        c = np.zeros(3)
        for t in range(4):
            r, z = (sigmoid(x[n, t] @ w[g] + a[g] + c @ u[g] + b[g]) for g in (0, 1))
            m = np.tanh(x[n, t] @ w[2] + a[2] + r * (c @ u[2] + b[2]))
            c = (1 - z) * m + z * c
            np.testing.assert_allclose(states[n, t], c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("norm", ["none", "channel"])
def test_no_frame_sees_the_future(padded, norm):
    """The gradient of context t is exactly 0 at every sample that frame t must not see."""
    net = Net(ConvGru(**SMALL, padded=padded, norm=norm))
    x = jax.random.normal(jax.random.key(1), (1, 1_600))
    params, _ = net.init(jax.random.key(0), x)

    @jax.jit
    def gradient(x, t):
        def of_frame(x):
            (_, out), _ = net.apply(params, {}, x, train=True)
            return jnp.sum(out["frames"][0, t] ** 2)

        return jax.grad(of_frame)(x)[0]

    for t in (0, 3, 6):
        last = 160 * t + (311 if padded else 464)
        seen = np.asarray(gradient(x, t))
        assert not seen[last + 1 :].any()
        assert seen[last - 40 : last + 1].any() and seen[:160].any()


def test_bad_options_are_one_line():
    with pytest.raises(UserError, match="model.kernels has 2 layers and model.strides 5"):
        make_encoder("conv_gru", kernels=(4, 4))
    with pytest.raises(UserError, match=r"model.kernels is \(\)"):
        make_encoder("conv_gru", kernels=())
    with pytest.raises(UserError, match="model.norm is 'batch'"):
        make_encoder("conv_gru", norm="batch")
