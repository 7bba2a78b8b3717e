"""iBOT's and DINOv2's own facts: masks, the loss of patches, centres, groups, recipes, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import losses
from ssl_jax.core.errors import UserError
from ssl_jax.core.families import MAIN
from ssl_jax.core.method import TEACHER, Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.methods.base.masked_distillation import patch_weights
from ssl_jax.models import count_parameters
from ssl_jax.models.prototypes import prototype_matrix
from ssl_jax.optim.layerwise import layer_factors
from tests.methods import paper_scale
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.test_methods import build

N = 8


def method_of(row, **changes):
    return build(row, model__patch_size=2, **changes)[0].method


def test_masks_hide_a_part_of_some_large_views():
    """8x8 patches: at most 32; `places` are the masked ones and padding."""
    views = jax.jit(method_of("ibot").masks)(jax.random.split(jax.random.key(0), N))
    mask, places, is_masked = (np.asarray(views[name]) for name in ("mask", "places", "is_masked"))
    assert mask.shape == (N, 2, 64) and places.shape == is_masked.shape == (N, 2, 32)
    counts = mask.sum(axis=2)
    np.testing.assert_array_equal(counts, is_masked.sum(axis=2))
    assert (counts == 0).any() and (counts > 0).any() and counts.max() <= 32
    for i, g in np.ndindex(N, 2):
        np.testing.assert_array_equal(places[i, g][is_masked[i, g]], np.flatnonzero(mask[i, g]))
    weights = np.asarray(patch_weights(jnp.asarray(is_masked)))
    np.testing.assert_allclose(weights.sum(axis=2), (counts > 0) / 2, rtol=1e-6)


def test_the_report_shows_what_the_masks_hide():
    method, source = method_of("ibot"), build("ibot")[1]
    keys, batch = jax.random.split(jax.random.key(0), N), source.batch(np.arange(N))
    assert method.encoder.module.depth == 1  # no attention maps, which need weights
    items = jax.jit(lambda keys, batch: method.show(None, keys, batch))(keys, batch)
    items = jax.device_get(items)
    masked, whole = items["Masked views"].pixels, items["Augmented views"].pixels[0]
    mask = np.asarray(jax.jit(method.masks)(keys)["mask"]).reshape(N, 2, 8, 8)
    hidden = mask.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_allclose(masked[~hidden], np.clip(whole, 0, 1)[~hidden], atol=1e-6)
    assert len(np.unique(np.asarray(masked)[hidden])) == 1


def given(method, seed=0):
    """A state and outputs of the nets, drawn at random: views have 0 to 5 masked patches."""
    rng = np.random.default_rng(seed)
    hyper, d = method.hyper, method.encoder.module.dim

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def unit(*shape):
        x = draw(*shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    nets = {"prototypes": (hyper.output_dim, hyper.num_prototypes)}
    if method.patch_prototypes is not None:
        nets["patch_prototypes"] = (hyper.patch_output_dim, hyper.num_patch_prototypes)
    patch_dim = [*nets.values()][-1][0]
    params, ema = (
        {name: {"direction": draw(*shape)} for name, shape in nets.items()} for _ in "12"
    )
    buffers = {}
    if method.targets == "centring":
        buffers = {name: 0.1 * draw(hyper.num_prototypes) for name in ("centre", "patch_centre")}
    counts = rng.permutation(2 * N).reshape(N, 2, 1) % 6
    encoded = {
        "h": draw(N, 2, d), "u": unit(N, 4, hyper.output_dim), "t": unit(N, 2, hyper.output_dim),
        "patch_u": unit(N, 10, patch_dim), "patch_t": unit(N, 10, patch_dim),
        "is_masked": np.arange(5) < counts,
    }  # fmt: skip
    return Weights(params, buffers, ema), encoded


def patch_oracle(w, encoded, offset, name):
    """View by view and patch by patch, in float64."""

    def log_softmax(x):
        return x - np.log(np.exp(x).sum())

    student, teacher = (
        np.asarray(prototype_matrix(tree[name]), np.float64) for tree in (w.params, w.ema)
    )
    is_masked = np.asarray(encoded["is_masked"])
    u, t = (
        np.asarray(encoded[key], np.float64).reshape(*is_masked.shape, -1)
        for key in ("patch_u", "patch_t")
    )
    total = 0.0
    for i, g in np.ndindex(*is_masked.shape[:2]):
        terms = [
            -np.sum(
                np.exp(log_softmax(t[i, g, j] @ teacher / 0.04 + offset))
                * log_softmax(u[i, g, j] @ student / 0.1)
            )
            for j in np.flatnonzero(is_masked[i, g])
        ]
        total += np.mean(terms) if terms else 0.0
    return total / is_masked.shape[0] / is_masked.shape[1]


def test_the_loss_is_dinos_plus_that_of_masked_patches():
    """With the same prototypes; a centre of each, of masked patches alone."""
    method = method_of("ibot")
    w, encoded = given(method)
    objective = functools.partial(method.objective, key=jax.random.key(0), step=jnp.int32(0))
    loss, aux = jax.jit(objective)(w, encoded)
    centre = np.asarray(w.buffers["patch_centre"], np.float64)
    patches = patch_oracle(w, encoded, -centre / 0.04, "prototypes")
    np.testing.assert_allclose(aux.metrics["patch_loss"], patches, rtol=1e-4)
    dino = build("dino", method__num_prototypes=24)[0].method
    (view_loss, dino_aux) = jax.jit(
        lambda w, encoded: dino.objective(
            w, {**encoded, "h": encoded["h"][:, 0]}, key=jax.random.key(0), step=jnp.int32(0)
        )
    )(w, {name: encoded[name] for name in ("h", "u", "t")})
    np.testing.assert_allclose(loss, view_loss + patches, rtol=1e-5)
    np.testing.assert_allclose(aux.buffers["centre"], dino_aux.buffers["centre"], rtol=1e-6)
    t = np.asarray(encoded["patch_t"], np.float64)[encoded["is_masked"].reshape(N, -1)]
    logits = t @ np.asarray(prototype_matrix(w.ema["prototypes"]), np.float64)
    expected = 0.9 * centre + 0.1 * logits.mean(axis=0)
    np.testing.assert_allclose(aux.buffers["patch_centre"], expected, rtol=1e-4, atol=1e-6)


def test_dinov2_adds_koleo_and_assigns_targets_equally():
    """Heads of their own for patches; Sinkhorn over both large views together."""
    method = method_of("dinov2", method__koleo_chunk=4, method__koleo_weight=0.1)
    w, encoded = given(method)
    objective = functools.partial(method.objective, key=jax.random.key(0), step=jnp.int32(0))
    loss, aux = jax.jit(objective)(w, encoded)

    @jax.jit
    def parts(w, encoded):
        scores = encoded["t"].reshape(2 * N, -1) @ prototype_matrix(w.ema["prototypes"])
        codes = losses.sinkhorn(scores, epsilon=0.04).reshape(N, 2, -1)
        koleo = sum(losses.koleo(encoded["h"][:, view], chunk=4) for view in range(2))
        offset = losses.sinkhorn_offset(
            encoded["patch_t"], prototype_matrix(w.ema["patch_prototypes"]),
            encoded["is_masked"].reshape(N, -1), epsilon=0.04,
        )  # fmt: skip
        student = prototype_matrix(w.params["prototypes"])
        return losses.self_distillation(encoded["u"], student, codes), koleo, offset

    view_loss, koleo, offset = parts(w, encoded)
    patches = patch_oracle(w, encoded, np.asarray(offset, np.float64), "patch_prototypes")
    np.testing.assert_allclose(aux.metrics["koleo"], koleo, rtol=1e-5)
    np.testing.assert_allclose(loss, view_loss + patches + 0.1 * koleo, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["ibot", "dinov2"])
def test_a_head_with_batch_norm_keeps_the_statistics_of_views(row):
    """Also where patches share it; a head of patches has its own, and so has the teacher."""
    experiment, source = build(row, method__head_batch_norm=True)
    method, batch = experiment.method, source.batch(np.arange(N))
    keys, key = jax.random.split(jax.random.key(0), N), jax.random.key(1)

    @jax.jit
    def encoded_and_expected(params, buffers, ema, views):
        w = Weights(params, buffers, ema)
        encoded, updates = method.encode(w, views, key=key, step=jnp.int32(0))
        expected = {}
        for side, tree, masks, seen in (
            ("student", params, {MAIN: views["mask"]}, views),
            ("teacher", ema, None, {MAIN: views[MAIN]}),
        ):
            h, _, _ = method.encode_families(tree, buffers, seen, key=key, masks=masks)
            z, statistics = method.projector.apply(
                tree["projector"], buffers["projector"], h.reshape(-1, h.shape[-1]), train=True
            )
            expected[side] = losses.unit_length(z).reshape(*h.shape[:2], -1), statistics
        return encoded, updates, expected

    init = jax.jit(method.init)
    params, buffers = init(jax.random.key(0), batch)
    ema, _ = init(jax.random.key(1), batch)
    encoded, updates, expected = encoded_and_expected(
        params, buffers, ema, views_of(method, keys, batch)
    )
    sides = {"student": ("u", updates), "teacher": ("t", updates[TEACHER])}
    for side, (name, changed) in sides.items():
        u, statistics = expected[side]
        np.testing.assert_allclose(encoded[name], u, atol=1e-5)
        for path, x in by_path(statistics).items():
            np.testing.assert_allclose(by_path(changed["projector"])[path], x, atol=1e-6)
        assert ("patch_projector" in changed) == (row == "dinov2")
    if row == "dinov2":
        means = [
            np.asarray(tree["patch_projector"]["batch_stats"]["norm1"]["mean"])
            for tree in (buffers, buffers[TEACHER], updates, updates[TEACHER])
        ]
        assert not means[0].any() and not means[1].any() and means[2].any() and means[3].any()


@pytest.mark.slow
def test_without_patches_and_koleo_it_is_dino():
    """Views, value and gradient of a step."""
    off = dict(method__patch_weight=0.0, method__targets="centring", method__koleo_weight=0.0)
    off |= dict(method__head_batch_norm=False)
    experiment, source = build("dinov2", **off)
    net = {
        f"model__{key}": value
        for key, value in experiment.config.model.items()
        if value is not None
    }  # fmt: skip
    dino, _ = build("dino-vit", method__unit_prototypes=True, **net)
    keys = jax.random.split(jax.random.key(0), N)
    results = []
    for method in (experiment.method, dino.method):
        params, buffers = jax.jit(method.init)(jax.random.key(0), source.batch(np.arange(N)))
        ema, _ = jax.jit(method.init)(jax.random.key(1), source.batch(np.arange(N)))
        views = views_of(method, keys, source.batch(np.arange(N)))
        assert views.keys() == {"global", "local"}

        def loss(params, w, views, method=method):
            w = w._replace(params=params)
            key, step = jax.random.key(0), jnp.int32(0)
            return loss_and_aux(method, w, views, key=key, step=step)[0]

        step = jax.jit(jax.value_and_grad(loss))
        results.append(step(params, Weights(params, buffers, ema), views))
    (ours, grads), (expected, dino_grads) = results
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    for path, grad in by_path(dino_grads).items():
        np.testing.assert_allclose(by_path(grads)[path], grad, atol=1e-6, err_msg=path)


def test_the_patch_embedding_and_the_layers_have_groups():
    method = paper_scale.build("dinov2.py:imagenet").method
    groups = {
        "encoder/patch_embed/proj/kernel": "patch_embed", "encoder/cls_token": "embed",
        "encoder/mask_token": "embed", "encoder/layer3/attn/qkv/kernel": "layer3",
        "encoder/norm/scale": "norm", "projector/layer1/kernel": "default",
        "prototypes/direction": "last_layer", "patch_prototypes/direction": "last_layer",
        "patch_projector/layer1/kernel": "default",
    }  # fmt: skip
    assert {path: method.param_group(path) for path in groups} == groups
    tree = {"encoder": {"patch_embed": {"x": 0}, "cls_token": 0, "layer1": {"x": 0}, "norm": 0}}
    factors = layer_factors(jax.tree.map(np.zeros, tree), 0.9, method.param_group)["encoder"]
    assert factors["patch_embed"]["x"] == factors["cls_token"] == 0.9**2
    assert (factors["layer1"]["x"], factors["norm"]) == (0.9, 1.0)


RECIPES = {  # batch, steps, peak, last rate, decays, momentum, drop path, warm-up and frozen steps
    "ibot.py:imagenet": (1024, 800 * 1251, 2e-3, 1e-6, (0.04, 0.4), 0.996, 0.1, 12510, 1251),
    "dinov2.py:imagenet": (
        2048, 125_000, 4e-3 * 2**0.5, 1e-6, (0.04, 0.4), 0.992, 0.3, 12_500, 1250
    ),
    "dinov2.py:vitl14": (
        3072, 625_000, 2e-4 * 3**0.5, 1e-6, (0.04, 0.2), 0.994, 0.4, 100_000, 1250
    ),
    "dinov2.py:vitg14": (
        3072, 625_000, 2e-4 * 3**0.5, 1e-6, (0.04, 0.2), 0.994, 0.4, 100_000, 1250
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_are_the_released_ones(name):
    batch, steps, peak, last, decays, momentum, drop_path, warmup, frozen = RECIPES[name]
    experiment = paper_scale.build(name)
    config, groups, method = experiment.config, experiment.groups, experiment.method
    assert (config.batch_size, experiment.length.total_steps) == (batch, steps)
    rate = groups.default.learning_rate
    np.testing.assert_allclose([rate(warmup), rate(steps)], [peak, last], rtol=1e-4)
    decay = groups.default.weight_decay
    np.testing.assert_allclose([decay(0), decay(steps)], decays, rtol=1e-5)
    assert groups.group("last_layer").frozen_steps == frozen
    np.testing.assert_allclose(method.ema_decay(jnp.int32(0)), momentum, rtol=1e-6)
    assert method.encoder.module.drop_path == drop_path
    shapes = method.families.shapes
    if name.startswith("ibot"):
        assert shapes == {"global": (2, 224, 224, 3), "local": (10, 96, 96, 3)}
        assert (method.grid, method.max_masked) == ((14, 14), 98)
        return
    np.testing.assert_allclose(
        groups.group("patch_embed").learning_rate(warmup), 0.2 * peak, rtol=1e-4
    )
    side = 96 if name.endswith("imagenet") else 98
    assert shapes == {"global": (2, 224, 224, 3), "local": (8, side, side, 3)}
    # The teacher's temperature rises for 37,500 steps.
    warmup_steps = method.hyper.temperature_warmup_epochs * experiment.length.steps_per_epoch
    assert abs(warmup_steps / 37_500 - 1) < 0.01


@pytest.mark.slow
def test_the_heads_are_the_released_ones():
    shapes = paper_scale.build("dinov2.py:vitl14").abstract_state.params
    counts = {name: count_parameters(net) for name, net in shapes.items()}
    hidden = 1025 * 2048 + 2049 * 2048
    assert counts["projector"] == hidden + 2049 * 384
    assert counts["prototypes"] == 384 * 131072
    assert counts["patch_projector"] == hidden + 2049 * 256
    assert counts["patch_prototypes"] == 256 * 131072


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("ibot", dict(method__mask_ratio=(0.0, 0.05)),
         r"mask_ratio \(0.0, 0.05\) and mask_probability 0.5 mask no patch of a grid of 4x4"),
        ("ibot", dict(method__mask_probability=0.0), r"mask_probability 0 mask no patch"),
        ("ibot", dict(method__min_block=9), r"min_block 9 is larger .* of 4x4, 8 patches"),
        ("ibot", dict(method__mask_ratio=(0.5, 0.1)), r"mask_ratio \(0.5, 0.1\) is not"),
        ("ibot", dict(model__mask_token=False), r"method ibot needs a ViT with .* a mask token"),
        ("ibot", dict(model__pool="mean"), r"needs a ViT with a class token"),
        ("ibot", dict(model__patch_size=5), r"views of 16x16 .* patches of model.patch_size=5"),
        ("ibot", dict(model__patch_size=8, method__patch_weight=0.0,
                      views__families__local__center_crop__size=12),
         r"views of 12x12 .* patches of model.patch_size=8"),
        ("ibot", dict(method__num_prototypes=5000), r"num_prototypes 5,000 is more than the"),
        ("dinov2", dict(method__num_patch_prototypes=5000), r"num_patch_prototypes 5,000 is more"),
        ("dinov2", dict(method__koleo_chunk=5), r"koleo_chunk 5 does not divide batch_size 16"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(row, changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(row, **changes)
    assert "\n" not in str(error.value)


def test_the_preflight_tells_of_masks_targets_and_koleo():
    lines = dict(paper_scale.build("dinov2.py:vitl14").method.preflight(3072))
    assert lines["masks"] == (
        "50% of the large views, 10% to 50% of 256 patches; a head of their own"
    )
    assert lines["targets"] == "equal use of prototypes"
    assert lines["KoLeo"] == "weight 0.1, neighbours among 32 images"
