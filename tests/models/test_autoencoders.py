"""The papers' encoders and decoders: parameter counts by hand, shapes, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import Net, count_parameters
from ssl_jax.models.autoencoders import conv_decoder, conv_encoder, mlp_decoder, mlp_encoder

MNIST, DSPRITES, FACES = (28, 28, 1), (64, 64, 1), (64, 64, 3)


def dense(inputs, outputs):
    return inputs * outputs + outputs


def conv(kernel, inputs, outputs):
    return kernel**2 * inputs * outputs + outputs


def encoder_size(module, shape):
    params, buffers = jax.eval_shape(Net(module).init, jax.random.key(0), jnp.zeros((1, *shape)))
    assert buffers == {}
    return count_parameters(params)


def decoder_size(module, latents):
    params, _ = jax.eval_shape(Net(module).init, jax.random.key(0), jnp.zeros((1, latents)))
    return count_parameters(params)


def test_the_nets_of_kingma_and_welling():
    net = mlp_encoder(widths=(500,), activation="tanh")
    assert encoder_size(net, MNIST) == dense(784, 500) == 392_500
    net = mlp_decoder(shape=MNIST, widths=(500,), activation="tanh")
    assert decoder_size(net, 20) == dense(20, 500) + dense(500, 784) == 403_284


def test_the_nets_of_higgins_for_dsprites():
    net = mlp_encoder(widths=(1200, 1200))
    assert encoder_size(net, DSPRITES) == dense(4096, 1200) + dense(1200, 1200) == 6_357_600
    net = mlp_decoder(shape=DSPRITES, widths=(1200,) * 3, activation="tanh")
    expected = dense(10, 1200) + 2 * dense(1200, 1200) + dense(1200, 4096)
    assert decoder_size(net, 10) == expected == 7_814_896


def test_the_nets_of_higgins_for_faces():
    expected = conv(4, 3, 32) + conv(4, 32, 32) + conv(4, 32, 64) + conv(4, 64, 64)
    expected += dense(4 * 4 * 64, 256)
    assert encoder_size(conv_encoder(), FACES) == expected
    expected = dense(32, 256) + dense(256, 1024)
    expected += conv(4, 64, 64) + conv(4, 64, 32) + conv(4, 32, 32) + conv(4, 32, 3)
    assert decoder_size(conv_decoder(shape=FACES), 32) == expected


def test_the_nets_of_burgess():
    net = conv_encoder(channels=(32,) * 4, widths=(256, 256))
    expected = conv(4, 1, 32) + 3 * conv(4, 32, 32) + dense(512, 256) + dense(256, 256)
    assert encoder_size(net, DSPRITES) == expected == 246_912
    net = conv_decoder(shape=DSPRITES, channels=(32,) * 4, widths=(256, 256))
    expected = dense(10, 256) + dense(256, 256) + dense(256, 512)
    expected += 3 * conv(4, 32, 32) + conv(4, 32, 1)
    assert decoder_size(net, 10) == expected == 249_953


def test_the_nets_of_locatello():
    """disentanglement_lib's conv_encoder and deconv_decoder, which has no 2x2 kernels."""
    net = conv_encoder(kernels=(4, 4, 2, 2))
    expected = conv(4, 1, 32) + conv(4, 32, 32) + conv(2, 32, 64) + conv(2, 64, 64)
    assert encoder_size(net, DSPRITES) == expected + dense(1024, 256) == 304_064
    assert decoder_size(conv_decoder(shape=DSPRITES), 10) == 381_313


@pytest.mark.parametrize(
    "encoder, decoder, shape",
    [
        (
            mlp_encoder(widths=(6, 5)),
            lambda shape: mlp_decoder(shape=shape, widths=(7,)),
            (5, 3, 2),
        ),
        (
            conv_encoder(channels=(3, 4), widths=(5,)),
            lambda shape: conv_decoder(shape=shape, channels=(4, 3), widths=(6,)),
            (8, 4, 3),
        ),
    ],
    ids=["mlp", "conv"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_outputs_are_float32_and_rows_do_not_mix(encoder, decoder, shape, dtype):
    encoder = Net(encoder.clone(dtype=jnp.dtype(dtype)))
    decoder = Net(decoder(shape).clone(dtype=jnp.dtype(dtype)))
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    params, buffers = encoder.init(jax.random.key(0), x)
    (h, out), _ = encoder.apply(params, buffers, x, train=True)
    assert h.shape == (3, 5) and h.dtype == jnp.float32 and np.array_equal(out["h"], h)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    params, buffers = decoder.init(jax.random.key(1), h)
    pixels, _ = decoder.apply(params, buffers, h, train=True)
    assert pixels.shape == (3, *shape) and pixels.dtype == jnp.float32
    alone, _ = decoder.apply(params, buffers, h[:1], train=False)
    np.testing.assert_allclose(alone, pixels[:1], rtol=1e-5, atol=1e-6)
    assert np.ptp(np.asarray(pixels), axis=0).max() > 1e-3


def test_every_pixel_of_the_conv_decoder_depends_on_the_latents():
    """None is cut off or doubled at the borders."""
    net = Net(conv_decoder(shape=(16, 16, 1), channels=(4, 4), widths=(8,)))
    params, _ = net.init(jax.random.key(0), jnp.zeros((1, 2)))
    z = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    pixels, _ = net.apply(params, {}, z, train=False)
    assert (np.asarray(pixels).std(axis=0) > 1e-4).all()


def test_a_decoder_without_hidden_layers_is_linear():
    net = Net(mlp_decoder(shape=(2, 2, 1), widths=()))
    params, _ = net.init(jax.random.key(0), jnp.zeros((1, 3)))
    assert count_parameters(params) == dense(3, 4)
    z = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    (a, b), _ = net.apply(params, {}, z, train=False)
    middle, _ = net.apply(params, {}, z.mean(0, keepdims=True), train=False)
    np.testing.assert_allclose(middle[0], (a + b) / 2, rtol=1e-5, atol=1e-6)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"4 times.*multiples of 16; they are 28x28"):
        conv_decoder(shape=MNIST)
    with pytest.raises(UserError, match=r"channels \(8, 8\) and kernels \(4,\)"):
        conv_encoder(channels=(8, 8), kernels=(4,))
