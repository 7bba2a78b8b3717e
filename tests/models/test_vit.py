"""Vision Transformers against their published sizes and a float64 NumPy forward pass."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path, is_stacked, replace
from ssl_jax.models import Net, count_parameters, make_encoder, vit
from ssl_jax.models.layers import restack
from ssl_jax.models.positions import resize_positions, sincos_positions
from ssl_jax.models.vit import layer_norm
from tests.marks import slow_unless

DINOV2 = {"layer_scale": 1e-5, "mask_token": True}  # with registers: 4 vectors more
TINY = dict(patch_size=4, dim=8, depth=2, num_heads=2, mlp_ratio=2.0)
IMAGES = np.random.default_rng(1).uniform(size=(3, 12, 8, 3)).astype(np.float32)


def tiny(**options):
    return Net(vit(**{**TINY, **options}))


def drawn(net, x=IMAGES):
    """Parameters of which none is 0 or 1, so that nothing hides."""
    params, _ = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(p):
        fan_in = math.prod(p.shape[:-1]) if len(p.shape) > 1 else 2
        return (rng.normal(size=p.shape) / np.sqrt(fan_in)).astype(np.float32)

    return jax.tree.map(draw, params)


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(net, params, x=IMAGES, *more, train=False, key=None):
    (h, out), _ = net.apply(params, {}, x, *more, train=train, key=key)
    return h, out


@pytest.mark.parametrize(
    ("name", "options", "classifier", "expected"),
    slow_unless(
        lambda value: value[0] in ("vit_s16", "vit_ti16") or (value[1] and value[0] == "vit_b16"),
        [
            ("vit_ti16", {}, 192 * 1000 + 1000, 5_717_416),
            ("vit_s16", {}, 0, 21_665_664),
            ("vit_b16", {}, 0, 85_798_656),
            ("vit_b16", {}, 768 * 1000 + 1000, 86_567_656),
            ("vit_l16", {}, 0, 303_301_632),
            ("vit_h14", {}, 1280 * 1000 + 1000, 632_045_800),
            # Fixed positions are no parameters: 197 vectors less.
            ("vit_b16", {"positions": "sincos"}, 0, 85_798_656 - 197 * 768),
            ("vit_b16", {"positions": "sincos_row_first"}, 0, 85_798_656 - 197 * 768),
            # MoCo v3's 12 heads are as many parameters as 6.
            ("vit_s16", {"num_heads": 12}, 0, 21_665_664),
            ("vit_b16", {"layer_scale": 1e-5}, 0, 85_798_656 + 24 * 768),
            ("vit_b16", {"qkv_bias": False}, 0, 85_798_656 - 12 * 3 * 768),
            ("vit_b16", {"cls_token": False, "pool": "mean"}, 0, 85_798_656 - 2 * 768),
            ("vit_b16", {"num_registers": 4, "mask_token": True}, 0, 85_798_656 + 5 * 768),
            # 256 positions of 224 pixels: the released DINOv2 nets have 1369, of 518 pixels.
            ("vit_l14", DINOV2, 0, 304_368_640 - 1113 * 1024),
            ("vit_g14", {**DINOV2, "feed_forward": "swiglu"}, 0, 1_136_480_768 - 1113 * 1536),
        ],
    ),
)
def test_parameter_counts(name, options, classifier, expected):
    """At 224 pixels; with a classifier of 1000 classes where the published count has one."""
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    params, buffers = jax.eval_shape(make_encoder(name, **options).init, jax.random.key(0), x)
    assert count_parameters(params) + classifier == expected
    assert buffers == {}


def test_every_layer_is_named():
    net = make_encoder("vit_s16", dtype="bfloat16")
    x = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)

    def forward(key, x):
        params, buffers = net.init(key, x)
        return params, *net.apply(params, buffers, x, train=True)[0]

    params, h, out = jax.eval_shape(forward, jax.random.key(0), x)
    assert set(out) == {*(f"layer{i}" for i in range(1, 13)), "patch_tokens", "h"}
    assert all(out[f"layer{i}"].shape == (2, 197, 384) for i in range(1, 13))
    assert {out[f"layer{i}"].dtype for i in range(1, 13)} == {jnp.dtype("bfloat16")}
    assert out["patch_tokens"].shape == (2, 196, 384)
    assert (h.shape, h.dtype) == ((2, 384), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


# A float64 forward pass over weights named and laid out as in timm, written from the paper.


def to_timm(params):
    """Our parameters as a state dict of timm's VisionTransformer, [out in] matrices."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    state = {"cls_token": params["cls_token"]} if "cls_token" in params else {}
    if "pos_embed" in params:
        grid = params["pos_embed"]["grid"]
        rows = [params["pos_embed"]["cls"][None]] if "cls" in params["pos_embed"] else []
        state["pos_embed"] = np.concatenate([*rows, grid.reshape(-1, grid.shape[-1])])[None]
    for name, layer in params.items():
        if name in ("cls_token", "pos_embed"):
            continue
        if name in ("register_tokens", "mask_token"):
            state[name] = layer
            continue
        prefix = f"blocks.{int(name[5:]) - 1}" if name.startswith("layer") else name
        for path, leaf in jax.tree_util.tree_leaves_with_path(layer):
            keys = [entry.key for entry in path]
            if keys[-1] == "kernel":
                leaf = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
            last = {"kernel": "weight", "scale": "weight"}.get(keys[-1], keys[-1])
            last = "gamma" if keys[0].startswith("ls") else last
            state[".".join([prefix, *keys[:-1], last])] = leaf
    return state


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def norm(x, state, name):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def self_attention(x, state, name, heads):
    n, t, d = x.shape
    q, k, v = (
        linear(x, state, f"{name}.qkv").reshape(n, t, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
    )  # each (n, heads, t, d')
    logits = q @ k.swapaxes(2, 3) / np.sqrt(d // heads)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return linear((weights @ v).swapaxes(1, 2).reshape(n, t, d), state, f"{name}.proj")


def oracle(images, state, heads, positions=None, mask=None):
    """All tokens after the last LayerNorm. `positions` are the fixed ones, [t d]; mask is [n t]."""
    kernel = state["patch_embed.proj.weight"]  # (d, c, p, p)
    p = kernel.shape[-1]
    images = np.asarray(images, np.float64)
    x = np.stack(
        [
            np.einsum("nhwc,dchw->nd", images[:, i : i + p, j : j + p], kernel)
            for i in range(0, images.shape[1], p)
            for j in range(0, images.shape[2], p)
        ],
        axis=1,
    )
    x = x + state["patch_embed.proj.bias"]
    if mask is not None:
        x = np.where(mask[:, :, None], state["mask_token"], x)
    if positions is not None:
        x = x + positions
    if "cls_token" in state:
        x = np.concatenate([np.repeat(state["cls_token"], len(x), axis=0), x], axis=1)
    x = x + state.get("pos_embed", 0)
    if "register_tokens" in state:
        registers = np.repeat(state["register_tokens"], len(x), axis=0)
        x = np.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
    for i in range(TINY["depth"]):
        y = self_attention(norm(x, state, f"blocks.{i}.norm1"), state, f"blocks.{i}.attn", heads)
        x = x + y * state.get(f"blocks.{i}.ls1.gamma", 1)
        y = norm(x, state, f"blocks.{i}.norm2")
        if f"blocks.{i}.mlp.w12.weight" in state:
            gate, value = np.split(linear(y, state, f"blocks.{i}.mlp.w12"), 2, axis=-1)
            y = linear(gate / (1 + np.exp(-gate)) * value, state, f"blocks.{i}.mlp.w3")
        else:
            y = linear(gelu(linear(y, state, f"blocks.{i}.mlp.fc1")), state, f"blocks.{i}.mlp.fc2")
        x = x + y * state.get(f"blocks.{i}.ls2.gamma", 1)
    return norm(x, state, "norm")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layer_scale": 0.1, "num_heads": 4, "positions": "sincos_row_first"},
        {"pool": "mean", "positions": "sincos", "qkv_bias": False},
        {"cls_token": False, "pool": "mean"},
    ],
    ids=str,
)
def test_the_net_matches_the_oracle(options):
    net = tiny(**options)
    params = drawn(net)
    fixed = by_formula((3, 2), 8, options["positions"]) if options.get("positions") else None
    tokens = oracle(IMAGES, to_timm(params), options.get("num_heads", 2), fixed)
    h, out = apply(net, params)
    first = 0 if options.get("cls_token") is False else 1
    expected = tokens[:, first:].mean(1) if options.get("pool") else tokens[:, 0]
    np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["patch_tokens"], tokens[:, first:], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out["h"], h)


def test_registers_a_mask_token_and_swiglu_match_the_oracle():
    """The hidden width is 2/3 of 16, rounded up to a multiple of 8."""
    net = tiny(num_registers=2, mask_token=True, feed_forward="swiglu", layer_scale=0.1)
    params = drawn(net)
    assert params["layer1"]["mlp"]["w12"]["kernel"].shape == (8, 2 * 16)
    assert params["layer1"]["mlp"]["w3"]["kernel"].shape == (16, 8)
    mask = np.random.default_rng(3).random((3, 6)) < 0.5
    assert 0 < mask.sum() < mask.size
    for masked in (None, mask):
        tokens = oracle(IMAGES, to_timm(params), 2, mask=masked)
        h, out = apply(net, params, IMAGES, None, None, masked)
        np.testing.assert_allclose(h, tokens[:, 0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out["patch_tokens"], tokens[:, 3:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="a mask needs a net with a mask token"):
        apply(tiny(), drawn(tiny()), IMAGES, None, None, mask)


def by_formula(grid, dim, positions):
    """Fixed positions [t d], number by number."""
    rows, columns = grid
    out = np.empty((rows, columns, dim))
    for row, column, i in np.ndindex(rows, columns, dim // 4):
        order = (row, column) if positions == "sincos_row_first" else (column, row)
        omega = 10000 ** (-i / (dim / 4))
        expected = [f(x * omega) for x in order for f in (math.sin, math.cos)]
        out[row, column, i :: dim // 4] = expected
    return out.reshape(rows * columns, dim)


@pytest.mark.parametrize("order", ["sincos", "sincos_row_first"])
def test_sincos_positions_by_their_formula(order):
    positions = sincos_positions((3, 5), 12, order)
    assert positions.shape == (3, 5, 12) and positions.dtype == np.float32
    np.testing.assert_allclose(positions.reshape(15, 12), by_formula((3, 5), 12, order), atol=1e-6)
    # The row and the column of one patch, away from the diagonal: sin of 2, at frequency 1.
    first, second = (2, 1) if order == "sincos_row_first" else (1, 2)
    np.testing.assert_allclose(positions[2, 1, [0, 6]], np.sin([first, second]), atol=1e-6)
    np.testing.assert_array_equal(
        sincos_positions((3, 5), 12), sincos_positions((3, 5), 12, "sincos")
    )


def test_positions_as_mocov3_and_mae_number_their_patches():
    """Over a flattened square grid: a meshgrid indexed "ij" against one indexed "xy"."""
    side, dim = 4, 16
    angle = 1 / 10000 ** (np.arange(dim // 4) / (dim // 4))
    for order, indexing in (("sincos_row_first", "ij"), ("sincos", "xy")):
        grids = np.meshgrid(np.arange(side), np.arange(side), indexing=indexing)
        parts = [f(np.outer(g.ravel(), angle)) for g in grids for f in (np.sin, np.cos)]
        expected = np.concatenate(parts, axis=1).reshape(side, side, dim)
        np.testing.assert_allclose(
            sincos_positions((side, side), dim, order), expected, atol=1e-6, err_msg=order
        )


def test_timms_fixed_positions_are_in_neither_order():
    """timm stacks the sines of row and column before their cosines."""
    side, dim = 4, 16
    angle = 1 / 10000 ** (np.arange(dim // 4) / (dim // 4))
    row, column = np.indices((side, side)).astype(float)
    parts = [f(grid[..., None] * angle) for f in (np.sin, np.cos) for grid in (row, column)]
    timm = np.concatenate(parts, axis=-1)
    for order in ("sincos", "sincos_row_first"):
        ours = sincos_positions((side, side), dim, order)
        assert np.abs(ours - timm).max() > 1, order
    # The same numbers all the same: a permutation of the channels.
    ours = sincos_positions((side, side), dim, "sincos_row_first")
    np.testing.assert_allclose(
        ours.reshape(side, side, 2, 2, -1).swapaxes(2, 3).reshape(side, side, dim), timm, atol=1e-6
    )


def test_positions_are_resized_for_images_of_another_size():
    net = tiny()
    params = drawn(net)  # of 3x2 patches
    larger = np.random.default_rng(2).uniform(size=(2, 16, 20, 3)).astype(np.float32)
    h, out = apply(net, params, larger)
    assert out["patch_tokens"].shape == (2, 4 * 5, 8)
    # The same as a net made for that size with these positions.
    resized = resize_positions(params["pos_embed"]["grid"], (4, 5))
    same, _ = apply(net, {**params, "pos_embed": {**params["pos_embed"], "grid": resized}}, larger)
    np.testing.assert_array_equal(h, same)
    other, _ = apply(
        net, {**params, "pos_embed": {**params["pos_embed"], "grid": 0 * resized}}, larger
    )
    assert np.abs(h - other).max() > 1e-3


def test_resizing_keeps_constants_and_symmetry():
    constant = jnp.full((7, 7, 2), 3.0)
    np.testing.assert_allclose(resize_positions(constant, (12, 5)), 3.0, rtol=1e-6)
    grid = jnp.asarray(np.random.default_rng(0).normal(size=(7, 6, 2)), jnp.float32)
    assert resize_positions(grid, (7, 6)) is grid
    np.testing.assert_allclose(
        resize_positions(grid[::-1], (14, 3)), resize_positions(grid, (14, 3))[::-1], atol=1e-6
    )
    # Upwards by 2, output row 2 lies a quarter before input row 1: Keys' cubic, a = -1/2.
    weights = np.array([-0.0234375, 0.2265625, 0.8671875, -0.0703125])
    doubled = resize_positions(grid[:, :1], (14, 1))
    np.testing.assert_allclose(doubled[4, 0], weights @ np.asarray(grid[0:4, 0]), atol=1e-5)


def test_resizing_as_dinos_released_code():
    """Pixel by pixel: PyTorch's bicubic with a = -3/4 and 0.1 added to the size it scales by."""
    grid = np.random.default_rng(0).normal(size=(14, 9, 2)).astype(np.float32)

    def weight(x):
        x, a = abs(x), -0.75
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    expected = np.zeros((6, 11, 2))
    for row, column in np.ndindex(6, 11):
        y = (row + 0.5) / (6.1 / 14) - 0.5
        x = (column + 0.5) / (11.1 / 9) - 0.5
        for i in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for j in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                source = grid[min(max(i, 0), 13), min(max(j, 0), 8)].astype(np.float64)
                expected[row, column] += weight(y - i) * weight(x - j) * source
    got = resize_positions(jnp.asarray(grid), (6, 11), "dino")
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(resize_positions(jnp.ones((7, 7, 1)), (3, 12), "dino"), 1, rtol=1e-6)


def test_the_way_of_resizing_is_an_option_of_the_net():
    params = drawn(tiny())
    larger = np.random.default_rng(2).uniform(size=(2, 16, 20, 3)).astype(np.float32)
    usual, _ = apply(tiny(), params, larger)
    dino, _ = apply(tiny(position_resize="dino"), params, larger)
    assert np.abs(usual - dino).max() > 1e-4
    small = larger[:, :12, :8]  # of the size the net was made for
    np.testing.assert_array_equal(
        apply(tiny(), params, small)[0], apply(tiny(position_resize="dino"), params, small)[0]
    )


def test_patches_that_are_left_out_have_no_influence():
    net = tiny()
    params = drawn(net)
    keep = np.array([[0, 3], [4, 1], [5, 2]])
    h, out = apply(net, params, IMAGES, keep)
    assert out["patch_tokens"].shape == (3, 2, 8) and out["layer1"].shape == (3, 3, 8)
    changed = IMAGES.copy()
    for i, kept in enumerate(keep):
        for patch in set(range(6)) - set(kept):
            row, column = 4 * (patch // 2), 4 * (patch % 2)
            changed[i, row : row + 4, column : column + 4] += 1
    np.testing.assert_array_equal(apply(net, params, changed, keep)[0], h)
    # All patches in another order are the same image: positions travel with them.
    order = np.array([[2, 0, 5, 1, 3, 4]] * 3)
    whole, _ = apply(net, params)
    shuffled, out = apply(net, params, IMAGES, order)
    np.testing.assert_allclose(shuffled, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        out["patch_tokens"],
        apply(net, params)[1]["patch_tokens"][:, order[0]],
        rtol=1e-5,
        atol=1e-6,
    )


def test_drop_path_skips_branches_of_single_examples():
    """64 equal images: the last layer's two branches are each skipped for about half of them."""
    net = tiny(drop_path=0.5)
    params = drawn(net)
    x = np.repeat(IMAGES[:1], 64, axis=0)
    _, out = apply(net, params, x, train=True, key=jax.random.key(0))
    _, still = apply(net, params, x)
    np.testing.assert_allclose(out["layer1"], still["layer1"], atol=1e-6)  # the first drops none

    before, after = np.asarray(out["layer1"]), np.asarray(out["layer2"])
    values, counts = np.unique(after.round(4), axis=0, return_counts=True)
    assert len(values) == 4 and counts.min() > 5  # neither, one, the other, both
    assert any(np.allclose(value, before[0], atol=1e-4) for value in values)
    # A branch that is kept counts double: attention alone is twice its part without dropping.
    silent = jax.tree.map(np.zeros_like, params["layer2"]["mlp"])
    muted = {**params, "layer2": {**params["layer2"], "mlp": silent}}
    _, full = apply(net, muted, x[:1])
    doubled = before[0] + 2 * (np.asarray(full["layer2"][0]) - before[0])
    assert any(np.allclose(value, doubled, atol=2e-4) for value in values)

    with pytest.raises(Exception, match="dropout"):
        apply(net, params, x, train=True)

    # With the same rate in all layers, layer 1 skips branches too.
    _, out = apply(tiny(drop_path=0.5, uniform_drop_path=True), params, x, train=True,
                   key=jax.random.key(0))  # fmt: skip
    assert len(np.unique(np.asarray(out["layer1"]).round(4), axis=0)) == 4


def test_drop_path_rises_linearly_over_the_layers():
    """Of 2000 examples, the share whose layer changes nothing is the square of its rate."""
    net = tiny(dim=4, depth=3, num_heads=1, drop_path=0.6)
    params = drawn(net)
    x = np.repeat(IMAGES[:1], 2000, axis=0)
    _, out = apply(net, params, x, train=True, key=jax.random.key(1))
    for i, rate in ((2, 0.3), (3, 0.6)):
        change = np.abs(np.asarray(out[f"layer{i}"]) - np.asarray(out[f"layer{i - 1}"]))
        skipped = np.mean(change.max((1, 2)) == 0)
        assert abs(skipped - rate**2) < 4 * math.sqrt(rate**2 / 2000), i


@pytest.mark.parametrize(
    "remat", slow_unless(lambda remat: remat == "full", ["none", "dots", "full"])
)
def test_scanned_layers_equal_unrolled_ones(remat):
    """Outputs and gradients, with registers, masked patches and padding."""
    options = dict(num_registers=1, mask_token=True, layer_scale=0.5)
    plain, scanned = tiny(**options), tiny(**options, scan_layers=True, remat=remat)
    params = drawn(plain)
    shapes, _ = jax.eval_shape(scanned.init, jax.random.key(0), IMAGES)
    stacked = replace(shapes, restack(by_path(params), by_path(shapes)))
    assert all(x.shape[0] == 2 for path, x in by_path(shapes).items() if is_stacked(path))
    keep_mask = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]], bool)
    inputs = IMAGES, np.array([[0, 3, 5]] * 3), keep_mask, np.eye(3, 6, dtype=bool)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradient(net, params):
        def loss(params):
            (h, out), _ = net.apply(params, {}, *inputs, train=True, key=jax.random.key(0))
            return jnp.sum(jnp.sin(h)) + jnp.sum(out["layer2"] ** 2), out

        return jax.grad(loss, has_aux=True)(params)

    grads, out = values_and_gradient(plain, params)
    stacked_grads, scanned_out = values_and_gradient(scanned, stacked)
    for name, x in out.items():
        np.testing.assert_allclose(scanned_out[name], x, rtol=1e-4, atol=1e-5, err_msg=name)
    back = restack(by_path(stacked_grads), by_path(grads))
    assert back.keys() == by_path(grads).keys()
    for path, grad in by_path(grads).items():
        np.testing.assert_allclose(back[path], grad, rtol=1e-3, atol=1e-4, err_msg=path)


def test_stacked_layers_drop_branches_at_rising_rates():
    net = tiny(dim=4, depth=3, num_heads=1, drop_path=0.6, scan_layers=True, remat="full")
    params = drawn(net)
    _, out = apply(net, params, np.repeat(IMAGES[:1], 2000, axis=0), train=True,
                   key=jax.random.key(1))  # fmt: skip
    for i, rate in ((2, 0.3), (3, 0.6)):
        change = np.abs(np.asarray(out[f"layer{i}"]) - np.asarray(out[f"layer{i - 1}"]))
        skipped = np.mean(change.max((1, 2)) == 0)
        assert abs(skipped - rate**2) < 4 * math.sqrt(rate**2 / 2000), i
    assert len(np.unique(np.asarray(out["layer1"]).round(4), axis=0)) == 1  # the first drops none


def test_bfloat16_stays_close_and_norms_in_float32():
    net = tiny(layer_scale=0.5)
    half = tiny(layer_scale=0.5, dtype=jnp.bfloat16)
    params = drawn(net)
    expected, _ = apply(net, params)

    def loss(params):
        h, out = apply(half, params)
        return jnp.sum(h**2), (h, out)

    grads, (h, out) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert h.dtype == jnp.float32 and out["layer2"].dtype == jnp.bfloat16
    assert np.linalg.norm(h - expected) < 0.05 * np.linalg.norm(expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_layer_norm_works_in_float32():
    """Around 256 bfloat16 counts in steps of 2: its own mean and variance would be noise."""
    x = 256 + 2 * np.random.default_rng(0).integers(-4, 5, size=(6, 64))
    half = jnp.asarray(x, jnp.bfloat16)
    module = layer_norm(jnp.bfloat16, name=None)
    y = module.apply(module.init(jax.random.key(0), half), half)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=2**-8)


def test_initialisers():
    net = Net(vit(dim=64, depth=1, num_heads=2, patch_size=8))
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    params, _ = jax.jit(net.init, static_argnums=1)(jax.random.key(0), x)
    bounds = {
        "qkv": (params["layer1"]["attn"]["qkv"]["kernel"], 6 / (64 + 64)),  # each on its own
        "proj": (params["layer1"]["attn"]["proj"]["kernel"], 6 / (64 + 64)),
        "fc1": (params["layer1"]["mlp"]["fc1"]["kernel"], 6 / (64 + 256)),
        "patches": (params["patch_embed"]["proj"]["kernel"], 6 / (8 * 8 * 3 + 64)),
    }
    for name, (kernel, square) in bounds.items():
        largest = np.abs(kernel).max()
        assert 0.98 * math.sqrt(square) < largest <= math.sqrt(square), name
    assert not np.any(params["layer1"]["attn"]["qkv"]["bias"])

    normal = Net(vit(dim=64, depth=1, num_heads=2, patch_size=8, kernel_init="normal"))
    params, _ = jax.jit(normal.init, static_argnums=1)(jax.random.key(0), x)
    for kernel in (
        params["layer1"]["attn"]["qkv"]["kernel"],
        params["patch_embed"]["proj"]["kernel"],
    ):
        np.testing.assert_allclose(np.std(np.asarray(kernel)), 0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_heads=3), r"dim 8 does not divide into 3 heads"),
        (dict(dim=6, positions="sincos"), r"sincos positions need a dim that 4 divides, not 6"),
        (dict(dim=6, positions="sincos_row_first"), r"sincos_row_first positions need a dim"),
        (dict(cls_token=False), r"pool 'cls' needs a class token"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        tiny(**options)


def test_images_that_the_patches_do_not_tile_are_named():
    net = make_encoder("vit_s14")
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with pytest.raises(UserError, match=r"32x32 pixels.* patches of 14; .* 28 or 42"):
        jax.eval_shape(net.init, jax.random.key(0), x)
