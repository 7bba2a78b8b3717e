"""Encoders by name, and what a mistyped name or option says."""

import jax
import jax.numpy as jnp
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.models import ENCODERS, make_encoder
from tests.marks import slow_unless
from tests.models.test_table_encoder import COLUMNS

# Deeper and wider ones are traced with the slow tests.
QUICK = {
    "resnet18", "resnet50", "convnet", "alexnet", "nin", "mlp_encoder", "conv_encoder",
    "vit_s14", "vit_s16", "table_encoder", "bert_tiny", "roberta_tiny",
}  # fmt: skip


@pytest.mark.parametrize("name", slow_unless(QUICK.__contains__, ENCODERS))
def test_every_encoder_keeps_the_contract(name):
    """(h, out): h [n d] float32, the stages in the compute dtype; params float32; hashable."""
    # Not known without the data.
    options = {"word_vectors": {"vocab_size": 50}, "table_encoder": {"columns": COLUMNS}}.get(
        name, {}
    )
    net = make_encoder(name, dtype="bfloat16", **options)
    x = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)  # patches of 8, 14 and 16 tile it
    if is_text := name.startswith(("bert", "roberta", "gpt", "t5", "image_gpt", "word_vectors")):
        tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
        x = dict(tokens=tokens, segment=tokens, position=tokens)
    if is_audio := name == "conv_gru":
        x = jax.ShapeDtypeStruct((2, 3_200), jnp.float32)
    if name == "table_encoder":
        x = jax.ShapeDtypeStruct((2, len(COLUMNS)), jnp.float32)

    def forward(key, x):
        params, buffers = net.init(key, x)
        return params, buffers, *net.apply(params, buffers, x, train=True, key=key)

    params, buffers, (h, out), after = jax.eval_shape(forward, jax.random.key(0), x)
    assert h.ndim == 2 and h.shape[0] == 2 and h.dtype == jnp.float32
    assert out["h"].shape == h.shape
    first, axes = ("layer1", 3) if is_text or name.startswith("vit") else ("stage1", 4)
    if not is_audio and not name.endswith(
        ("_encoder", "_vectors")
    ):  # these have no stages to return
        assert out[first].ndim == axes and out[first].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((params, buffers))} == {jnp.dtype("float32")}
    assert after == buffers
    assert hash(net) == hash(make_encoder(name, dtype="bfloat16", **options))


def test_an_option_overrides_what_the_name_means():
    module = make_encoder("vit_s16", patch_size=4, num_heads=12).module
    assert (module.patch_size, module.dim, module.depth, module.num_heads) == (4, 384, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name=None), r"model.name is not set; use one of resnet10, "),
        (dict(name="resnet5"), r"model.name is 'resnet5'; .*Did you mean 'resnet50'\?"),
        (dict(name="vit_b61"), r"model.name is 'vit_b61'; .*Did you mean 'vit_b16'\?"),
        (dict(name="vit_b16", dims=8), r"key model.dims; .*Did you mean 'dim'\?"),
        (dict(name="convnet", width=2), r"key model.width; .*Did you mean 'widths'"),
        (dict(name="convnet", widths=()), r"model.widths is \(\); .* at least one item"),
        (dict(name="convnet", widths=(8, 0)), r"widths is \(8, 0\); .*a whole number above 0"),
        (dict(name="resnet18", stem="cifer"), r"stem is 'cifer'; .*Did you mean 'cifar'\?"),
        (dict(name="resnet50", shortcut="pol"), r"shortcut is 'pol'; .*Did you mean 'pool'\?"),
        (dict(name="vit_s16", positions="sin"), r"positions is 'sin'; .*Did you mean 'sincos'\?"),
        (dict(name="vit_s16", position_resize="dyno"), r"is 'dyno'; .*Did you mean 'dino'\?"),
        (dict(name="vit_s16", pool="man"), r"pool is 'man'; .*Did you mean 'mean'\?"),
        (dict(name="vit_s16", kernel_init="lecun"), r"kernel_init is 'lecun'; use one of xavier"),
        (dict(name="vit_s16", attention="flash"), r"attention is 'flash'; use one of auto, xla"),
        (dict(name="vit_s16", drop_path=1.0), r"drop_path is 1.0; use a number of at least 0"),
        (dict(name="vit_s16", depth=0), r"model.depth is 0; use a whole number from 1 to 1000"),
        (dict(name="bert_tiny", activation="gelu_new"), r"'gelu_new'; use one of gelu, gelu_tanh"),
        (dict(name="bert_tiny", remat="dot"), r"remat is 'dot'; .*Did you mean 'dots'\?"),
        (dict(name="bert_tiny", dropout=1.0), r"dropout is 1.0; use a number of at least 0"),
        (dict(name="bert_tiny", patch_size=4), r"unknown config key model.patch_size"),
        (dict(name="resnet34", sk_ratio=0.1), r"bottleneck blocks, which ResNet-34 does not have"),
        (dict(name="resnet50", sk_ratio=2), r"sk_ratio is 2; use a number from 0 to 1"),
        (dict(name="resnet18", kernel_init="he"), r"model.kernel_init is 'he'"),
        (dict(name="resnet_v2_50", norm="leyer"), r"norm is 'leyer'; .*Did you mean 'layer'\?"),
        (dict(name="resnet_v2_small", blocks=()), r"model.blocks is \(\); .* at least one item"),
        (dict(name="resnet18", width=0), r"width is 0; use a number from 0.015625 to 64"),
        (dict(name="resnet18", dtype="bfloat61"), r"Did you mean 'bfloat16'\?"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make_encoder(**arguments)
