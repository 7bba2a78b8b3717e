"""The nets of context encoders: sizes, parameters, the channel-wise layer."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.models import count_parameters, make_discriminator, make_encoder, make_map_decoder
from ssl_jax.models.inpainting import ChannelWiseDense


def test_the_released_nets():
    """At 128 pixels, from convolutions of the released code: 4x4 kernels, bottleneck 4000."""
    encoder = make_encoder("inpainting_encoder")
    decoder = make_map_decoder("inpainting_decoder", values=3)
    discriminator = make_discriminator("inpainting_discriminator")

    def nets(key, x):
        params, buffers = encoder.init(key, x)
        (h, out), _ = encoder.apply(params, buffers, x, train=False)
        decoder_params, decoder_buffers = decoder.init(key, out["stage5"])
        pixels = decoder.apply(decoder_params, decoder_buffers, out["stage5"], train=False)[0]
        critic, critic_buffers = discriminator.init(key, pixels)
        logits, _ = discriminator.apply(critic, critic_buffers, pixels, train=False)
        return (params, decoder_params, critic), (h, out["stage5"], pixels, logits)

    x = jax.ShapeDtypeStruct((2, 128, 128, 3), jnp.float32)
    params, outputs = jax.eval_shape(nets, jax.random.key(0), x)
    assert [y.shape for y in outputs] == [(2, 512), (2, 4, 4, 512), (2, 64, 64, 3), (2,)]
    pairs = ((3, 64), (64, 64), (64, 128), (128, 256), (256, 512))
    encoder_count = sum(16 * a * b for a, b in pairs) + 64 + 2 * (64 + 128 + 256 + 512)
    link = 2 * 16 * 512 * 4000 + 2 * (4000 + 512)
    decoder_count = sum(16 * a * b for a, b in ((512, 256), (256, 128), (128, 64), (64, 3)))
    decoder_count += link + 2 * (256 + 128 + 64) + 3
    critic_count = sum(16 * a * b for a, b in ((3, 64), *pairs[2:])) + 64 + 2 * (128 + 256 + 512)
    critic_count += 16 * 512 + 1
    counts = [count_parameters(tree) for tree in params]
    assert counts == [encoder_count, decoder_count, critic_count]


def test_the_channel_wise_layer_of_alexnet_has_331776_weights():
    x = jax.ShapeDtypeStruct((1, 6, 6, 256), jnp.float32)
    params = jax.eval_shape(ChannelWiseDense(jnp.float32).init, jax.random.key(0), x)
    assert count_parameters(params) == 256 * 6**4 == 331_776


def test_the_channel_wise_layer_connects_positions_and_not_channels():
    layer = ChannelWiseDense(jnp.float32)
    x = jax.random.normal(jax.random.key(1), (1, 2, 3, 4))

    @jax.jit
    def jacobian(x):
        params = layer.init(jax.random.key(0), x)
        return params, layer.apply(params, x), jax.jacobian(lambda x: layer.apply(params, x)[0])(x)

    params, y, matrix = jacobian(x)
    matrix = np.asarray(matrix)[:, :, :, 0]  # (h, w, c, h, w, c)
    for out in range(4):
        for channel in range(4):
            assert np.any(matrix[:, :, out, :, :, channel] != 0) == (out == channel)
    assert np.all(matrix[:, :, 1, :, :, 1] != 0)  # every position reaches every other one
    kernel = np.asarray(params["params"]["kernel"], np.float64)
    expected = [np.asarray(x, np.float64)[0, ..., c].ravel() @ kernel[c] for c in range(4)]
    np.testing.assert_allclose(np.asarray(y)[0].reshape(6, 4).T, expected, rtol=1e-4, atol=1e-6)
