"""LoRA of dense layers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.adapt import lora
from ssl_jax.adapt.lora import HyperParameters, Lora
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path, join, select
from ssl_jax.models import Net
from ssl_jax.models.vit import ViT
from tests.adapt.nets import TEXT, text_net


def adapted(net, *inputs, **hyper):
    """The parameters of a net without and with random adapters, and the adapters' object."""
    params, _ = jax.jit(lambda: net.init(jax.random.key(0), *inputs))()
    hyper = HyperParameters(**{"rank": 2, "alpha": 3.0, **hyper})
    layers = lora.find_layers(params, hyper)
    own = Lora(
        hyper, tuple((f"encoder/{path}", maps) for path, maps in layers.items()), frozenset()
    )
    adapters = jax.jit(own.init)(jax.random.key(1), {"encoder": params})["encoder"]
    return params, adapters, own


def with_noise(adapters):
    keys = iter(jax.random.split(jax.random.key(2), 99))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), adapters)


def test_a_layer_adds_the_product_of_two_small_matrices_to_each_adapted_map():
    net = text_net(depth=1)
    params, adapters, own = adapted(net, TEXT, targets=("query", "value", "fc2"))
    adapters = with_noise(adapters)
    with own.active():
        got = jax.jit(lambda p: net.apply(p, {}, TEXT, train=False)[0][1]["tokens"])(
            join(params, adapters)
        )
    # The same net with kernels that contain the update, computed in float64.
    kernels = {path: np.asarray(x, np.float64) for path, x in by_path(params).items()}
    ab = {path: np.asarray(x, np.float64) for path, x in by_path(adapters).items()}
    qkv, fc2 = "layer1/attn/qkv", "layer1/mlp/fc2"
    for i, part in ((0, "query"), (2, "value")):
        product = ab[f"{qkv}/lora/{part}/a"] @ ab[f"{qkv}/lora/{part}/b"]
        kernels[f"{qkv}/kernel"][:, 8 * i : 8 * (i + 1)] += 3 / 2 * product
    kernels[f"{fc2}/kernel"] += 3 / 2 * ab[f"{fc2}/lora/whole/a"] @ ab[f"{fc2}/lora/whole/b"]
    tree = jax.tree.unflatten(
        jax.tree.structure(params), [np.float32(kernels[path]) for path in by_path(params)]
    )
    expected = jax.jit(lambda p: net.apply(p, {}, TEXT, train=False)[0][1]["tokens"])(tree)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    plain = net.apply(params, {}, TEXT, train=False)[0][1]["tokens"]
    assert np.abs(got - plain).max() > 0.01
    merged = own.merge(join(params, adapters))
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, tree)
    back = lora.unmerge(merged, adapters, own.hyper.scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), back, params)


def test_the_first_step_computes_what_the_pretrained_net_does_bit_for_bit():
    net = text_net()
    params, adapters, own = adapted(net, TEXT, targets=("all",))
    apply = jax.jit(lambda p: net.apply(p, {}, TEXT, train=False)[0][1]["tokens"])
    plain = apply(params)
    with own.active():
        np.testing.assert_array_equal(apply(join(params, adapters)), plain)
    for path, x in by_path(adapters).items():
        if path.endswith("/b"):
            assert not np.any(x)
        else:
            assert 0.5 < np.abs(x).max() * np.sqrt(x.shape[0]) <= 1


def test_scanned_layers_have_stacked_adapters_that_compute_the_same():
    scanned, unrolled = text_net(scan_layers=True, remat="full"), text_net()
    params, adapters, own = adapted(scanned, TEXT)
    adapters = with_noise(adapters)
    assert adapters["layers"]["attn"]["qkv"]["lora"]["value"]["b"].shape == (2, 2, 8)
    both = join(params, adapters)
    single = jax.tree.map(lambda x: x, {k: v for k, v in both.items() if k != "layers"})
    for i in range(2):
        single[f"layer{i + 1}"] = jax.tree.map(lambda x, i=i: x[i], both["layers"])

    def loss(net, p):
        return jnp.sum(jnp.square(net.apply(p, {}, TEXT, train=True)[0][1]["tokens"][..., :3]))

    with own.active():
        value, grads = jax.jit(jax.value_and_grad(lambda p: loss(scanned, p)))(both)
        expected, single_grads = jax.jit(jax.value_and_grad(lambda p: loss(unrolled, p)))(single)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for i in range(2):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-4),
            grads["layers"]["attn"]["qkv"]["lora"],
            single_grads[f"layer{i + 1}"]["attn"]["qkv"]["lora"],
        )


def test_dropout_acts_on_the_input_of_the_update_while_training():
    net = text_net(depth=1)
    params, adapters, own = adapted(net, TEXT, dropout=0.5)
    both = join(params, with_noise(adapters))

    @jax.jit
    def train(key):
        with own.active():
            return net.apply(both, {}, TEXT, train=True, key=key)[0][1]["tokens"]

    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert np.abs(first - second).max() > 1e-3
    with own.active():
        whole = net.apply(both, {}, TEXT, train=False)[0][1]["tokens"]
    merged = net.apply(own.merge(both), {}, TEXT, train=False)[0][1]["tokens"]
    np.testing.assert_allclose(whole, merged, atol=2e-6)


@pytest.mark.parametrize(
    ("dim", "depth", "rank", "count"),
    [(768, 12, 8, 294_912), (12_288, 96, 1, 4_718_592), (12_288, 96, 8, 37_748_736)],
    ids=["RoBERTa-base", "GPT-3 r=1", "GPT-3 r=8"],
)
def test_published_numbers_of_trained_parameters(dim, depth, rank, count):
    """Hu et al. 2021, Tables 2 and 4: query and value of every layer."""
    kernel = jax.ShapeDtypeStruct((depth, dim, 3 * dim), jnp.float32)
    params = {"layers": {"attn": {"qkv": {"kernel": kernel}}}}
    hyper = HyperParameters(rank=rank)
    layers = lora.find_layers(params, hyper)
    own = Lora(
        hyper, tuple((f"encoder/{path}", maps) for path, maps in layers.items()), frozenset()
    )
    shapes = jax.eval_shape(own.init, jax.random.key(0), {"encoder": params})
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_targets_are_the_ends_of_paths():
    vit = Net(ViT(dim=8, depth=2, num_heads=2, patch_size=4, feed_forward="swiglu"))
    params, _ = jax.eval_shape(vit.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

    def find(*targets):
        return lora.find_layers(params, HyperParameters(rank=2, targets=targets))

    assert find("layer2/attn/proj") == {"layer2/attn/proj": ("whole",)}
    assert find("w1") == {f"layer{i}/mlp/w12": ("w1",) for i in (1, 2)}
    assert find("qkv", "w3") == {
        f"layer{i}/{name}": ("whole",) for name in ("attn/qkv", "mlp/w3") for i in (1, 2)
    }
    assert len(find("all")) == 8
    assert find("key", "query")["layer1/attn/qkv"] == ("key", "query")
    # The embedding of patches is a convolution.
    with pytest.raises(UserError, match="no such dense layer"):
        find("patch_embed")


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"targets": ("querry",)}, r"adapt.targets has 'querry', .* Did you mean 'query'\?"),
        ({"targets": ("qkv", "key")}, "the layer layer1/attn/qkv and its part 'key'"),
        ({"rank": 9}, "adapt.rank is 9, and layer1/attn/qkv maps 8 to 8 values; use at most 8"),
        ({"targets": ("fc1",), "rank": 9}, "maps 8 to 16 values; use at most 8"),
    ],
)
def test_what_cannot_be_adapted_is_said(hyper, message):
    params, _ = jax.eval_shape(text_net().init, jax.random.key(0), TEXT)
    with pytest.raises(UserError, match=message) as told:
        lora.find_layers(params, HyperParameters(**hyper))
    assert "\n" not in str(told.value)


def test_select_and_join_take_a_tree_apart_and_together():
    tree = {"a": {"x": 1, "y": 2}, "b": 3}
    parts = [select(tree, lambda path, p=p: bool(re.search(p, path))) for p in ("x|b", "y")]
    assert parts == [{"a": {"x": 1}, "b": 3}, {"a": {"y": 2}}]
    assert join(*parts) == tree
    assert select(tree, lambda path: False) == {}
    with pytest.raises(ValueError, match="same path"):
        join(tree, {"a": {"x": 4}})
