"""Supervised learning's own facts: labels that are missing, frozen encoders, a pretrained start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssl_jax import config as config_lib
from ssl_jax import data, optim, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.experiment import train_step
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods import supervised
from ssl_jax.models import Net
from ssl_jax.models.classifier import make_classifier
from tests.marks import slow_unless
from tests.methods.contract import loss_and_aux, views_of
from tests.methods.rows.row import CONFIGS
from tests.methods.table import ROWS
from tests.methods.test_methods import build

SGD = dict(
    optimizer__name="sgd",
    optimizer__base_lr=0.1,
    optimizer__warmup_steps=0,
    optimizer__weight_decay=1e-2,
)


def load(variant, **changes):
    changes = {"eval.online": False, **changes}
    config = config_lib.load(f"{CONFIGS}/supervised.py:{variant}")
    config = config_lib.apply(config, changes)
    return config_lib.resolve(config, changes)


def step(experiment, batch, state=None):
    state = experiment.init_state() if state is None else state
    rows = np.arange(experiment.config.batch_size)
    batch = parallel.to_global(batch, experiment.mesh, rows, len(rows))
    with jax.set_mesh(experiment.mesh):
        return experiment.train_step(state, batch)


@pytest.mark.slow
def test_missing_labels_weigh_the_same_however_the_batch_is_split():
    """Labels of 3 in 16 examples, all in one micro-batch and on two devices of four."""
    found = []
    for devices, micro in ((1, None), (1, 4), (4, 8)):
        experiment, source = build(
            "supervised-vit", devices, model__drop_path=0.0, micro_batch_size=micro, **SGD
        )
        batch = source.batch(np.arange(16))
        batch["label"] = np.where(np.isin(np.arange(16), (0, 4, 8)), batch["label"], -1)
        before = experiment.init_state()
        first = jax.tree.map(np.asarray, before.params)
        state, metrics, _ = step(experiment, batch, before)
        found.append((by_path(state.params), metrics["loss"], metrics["grad_norm"]))
    (params, loss, norm), *others = found
    assert norm > 0.1
    moved = [np.abs(params[path] - leaf).max() for path, leaf in by_path(first).items()]
    assert min(moved) > 0
    for other, other_loss, other_norm in others:
        np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
        np.testing.assert_allclose(other_norm, norm, rtol=1e-4)
        for path, leaf in params.items():
            np.testing.assert_allclose(other[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)


def test_the_loss_is_the_mean_over_the_labelled():
    experiment, source = build("supervised-vit", model__drop_path=0.0)
    method, state = experiment.method, experiment.init_state()
    batch = source.batch(np.arange(6))
    batch["label"][[0, 3]] = -1
    views = views_of(method, jax.random.split(jax.random.key(0), 6), batch)
    loss, aux = loss_and_aux(
        method, Weights(state.params, state.buffers), views, key=jax.random.key(1), step=state.step
    )
    (h, logits), _ = method.classifier.apply(state.params, state.buffers, views["x"], train=False)
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    losses = [-np.log(p[i, batch["label"][i]]) for i in (1, 2, 4, 5)]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    hits = [logits[i].argmax() == batch["label"][i] for i in (1, 2, 4, 5)]
    np.testing.assert_allclose(aux.metrics["accuracy"], np.mean(hits))
    np.testing.assert_allclose(aux.outputs["h"], h, rtol=1e-5, atol=1e-6)


def test_a_frozen_encoder_stays_as_it_is_to_the_bit():
    experiment, source = build("supervised-frozen", method__projector_layers=1, **SGD)
    state = experiment.init_state()
    assert set(state.params) == {"head"}
    before = jax.tree.map(np.asarray, (state.params, state.buffers))
    for i in range(3):
        state, _, _ = step(experiment, source.batch(np.arange(16) + 16 * i), state)
    for (path, old), new in zip(
        by_path(before[1]).items(), jax.tree.leaves(state.buffers), strict=True
    ):
        np.testing.assert_array_equal(old, new, err_msg=path)
    assert {"frozen/encoder/stage1/kernel", "encoder/batch_stats/stage1/norm/mean"} < set(
        by_path(before[1])
    )
    assert np.abs(state.params["head"]["kernel"] - before[0]["head"]["kernel"]).max() > 0


def test_a_head_of_zeros_starts_from_equal_logits_and_alone():
    experiment, source = build("supervised", method__zero_init_head=True, **SGD)
    state = experiment.init_state()
    first = jax.tree.map(np.asarray, by_path(state.params))
    features = experiment.features(state.weights, source.batch(np.arange(4)))
    assert not np.any(features["logits"])
    state, metrics, _ = step(experiment, source.batch(np.arange(16)), state)
    np.testing.assert_allclose(metrics["loss"], np.log(10), rtol=1e-6)
    for path, leaf in by_path(state.params).items():
        if path.startswith("head/"):
            assert np.any(leaf != first[path]), path
        else:  # weight decay only
            assert np.abs(leaf - first[path]).max() <= 1.01e-3 * np.abs(first[path]).max(), path


@pytest.mark.parametrize("frozen", [False, True])
def test_fine_tuning_starts_from_the_first_layer_of_the_projection_head(frozen):
    """What SimCLR v2 returns as "ft" is what the classifier stands on."""
    given, source = build("simclr-v2")
    rng, first = np.random.default_rng(0), given.init_state()
    pretrained = jax.tree.map(
        lambda x: np.asarray(x) + rng.uniform(0, 0.1, x.shape).astype(np.float32),
        Weights(first.params, first.buffers),
    )
    there = by_path({"params": pretrained.params, "buffers": pretrained.buffers})
    batch = source.batch(np.arange(5))
    expected = given.features(pretrained, batch)

    experiment, _ = build("supervised", method__freeze_encoder=frozen)
    state = experiment.init_state()
    here = {"params": state.params, "buffers": state.buffers}
    origins = {path: experiment.method.origin(path) for path in by_path(here)}
    taken = {path: there[origin] for path, origin in origins.items() if origin in there}
    assert {path for path in by_path(here) if path not in taken} == {
        "params/head/kernel",
        "params/head/bias",
    }
    begun = replace(here, taken)
    features = experiment.features(Weights(begun["params"], begun["buffers"]), batch)
    np.testing.assert_allclose(features["h"], expected["h"], rtol=1e-5, atol=1e-6)
    head = begun["params"]["head"]
    logits = np.asarray(expected["ft"], np.float64) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(features["logits"], logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "changes", "depth", "base_lr", "decay"),
    slow_unless(
        lambda value: value[2] == 3,
        [
            ("finetune_mae_b", {"model.depth": 3, "optimizer.base_lr": 2e-4}, 3, 2e-4, 0.65),
            ("finetune_mae_b", {}, 12, 5e-4, 0.65),
            ("finetune_mae_l", {}, 24, 1e-3, 0.75),
            ("finetune_mae_h", {}, 32, 1e-3, 0.75),
        ],
    ),
)
def test_learning_rates_fall_by_layer_whatever_the_models_depth(
    variant, changes, depth, base_lr, decay
):
    """Adam's first step is its rate, where nothing decays."""
    narrow = {"model.dim": 4, "model.num_heads": 1, "dtype": "float32"}
    plain = {"optimizer.weight_decay": 0.0, "optimizer.warmup_steps": 0}
    config = load(variant, **changes, **narrow, **plain)
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    shapes, _ = jax.eval_shape(experiment.method.init, jax.random.key(0), experiment.spec.batch(2))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    updates, _ = jax.jit(experiment.tx.update)(ones, jax.jit(experiment.tx.init)(ones), ones)
    powers = {}
    for path, update in by_path(updates).items():
        part = path.split("/")[1] if path.startswith("encoder/") else "head"
        rate = -np.unique(update).item() / (base_lr * 1024 / 256)
        powers.setdefault(part, set()).add(round(np.log(rate) / np.log(decay), 3))
    assert powers == {
        "patch_embed": {depth + 1},
        "cls_token": {depth + 1},
        **{f"layer{i}": {depth + 1 - i} for i in range(1, depth + 1)},
        "norm": {0},
        "head": {0},
    }


def test_a_decay_by_layer_multiplies_the_rate_of_a_group():
    params = {name: jnp.ones(3) for name in ("embed", "layer1", "layer2", "head")}
    section = {**load("finetune_mae_b").optimizer.to_dict(), "name": "sgd", "weight_decay": 0.0}
    section |= {"warmup_steps": 0, "base_lr": 1.0, "lr_scaling": "none"}
    section["groups"] = {"layerwise": {"decay": 0.5}, "layer1": {"base_lr": 3.0}}
    tx = optim.make_optimizer(
        section, batch_size=1, total_steps=10, steps_per_epoch=10, param_group=lambda path: path
    )
    updates, _ = tx.update(params, tx.init(params), params)
    rates = {name: -np.unique(update).item() for name, update in updates.items()}
    assert rates == {"embed": 0.125, "layer1": 0.75, "layer2": 0.5, "head": 1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "resnet18"}, "layerwise needs groups layer1, layer2 .* stage1"),
        ({"method.freeze_encoder": True}, "the method's are head"),
        ({"optimizer.groups": {"layerwise": {"decay": 65.0}}}, "layerwise.decay is 65.0; use a"),
        ({"optimizer.groups": {"layerwise": {}}}, "optimizer.groups.layerwise.decay is missing"),
        (
            {"optimizer.groups": {"layerwise": {"decya": 0.5}}},
            "unknown config key optimizer.groups.layerwise.decya;.*'decay'",
        ),
    ],
)
def test_a_decay_by_layer_that_does_not_fit_is_named(changes, message):
    config = config_lib.load(f"{CONFIGS}/supervised.py:finetune_mae_b")
    config.model.update(dim=16, num_heads=2, depth=2)
    with pytest.raises(UserError, match=message):
        config = config_lib.resolve(config_lib.apply(config, changes))
        experiment = Experiment.build(config, data.spec_from_config(config.data))
        _ = experiment.abstract_state


@pytest.mark.slow
def test_each_group_moves_at_its_own_rate():
    """The last layer at a tenth of the rate: its SGD step is a tenth, the others' are the same."""
    steps = []
    for group in ({}, {"layer2": {"base_lr": 0.01}}):
        experiment, source = build(
            "supervised-vit", model__drop_path=0.0, optimizer__groups=group,
            **(SGD | dict(optimizer__weight_decay=0.0)),
        )  # fmt: skip
        before = experiment.init_state()
        first = by_path(jax.tree.map(np.asarray, before.params))
        after, _, _ = step(experiment, source.batch(np.arange(16)), before)
        steps.append({path: leaf - first[path] for path, leaf in by_path(after.params).items()})
    for path, change in steps[0].items():
        factor = 0.1 if path.startswith("encoder/layer2/") else 1
        np.testing.assert_allclose(steps[1][path], factor * change, rtol=1e-2, atol=1e-7)


MIXED = dict(model__drop_path=0.0, method__mix={"mixup": 0.8, "cutmix": 1.0, "per": "pair"})


@pytest.mark.slow
def test_a_mixed_batch_is_the_same_however_it_is_split():
    """One step on one device, in two micro-batches, and on eight devices; two labels missing."""
    results = []
    for devices, micro in ((1, None), (1, 8), (8, None)):
        experiment, source = build(
            "supervised-vit", devices, micro_batch_size=micro, **MIXED, **SGD
        )
        batch = source.batch(np.arange(16))
        batch["label"][[3, 4]] = -1
        before = experiment.init_state()
        state, metrics, _ = step(experiment, batch, before)
        results.append((by_path(state.params), metrics))
    (params, metrics), *others = results
    for other, other_metrics in others:
        for name in ("loss", "accuracy", "top5"):
            np.testing.assert_allclose(other_metrics[name], metrics[name], rtol=1e-5)
        for path, leaf in params.items():
            np.testing.assert_allclose(other[path], leaf, rtol=1e-4, atol=1e-6, err_msg=path)


def test_the_loss_is_that_of_mixed_images_and_labels():
    """Each example's soft target as a vector, with smoothing, in float64."""
    experiment, source = build("supervised-vit", method__label_smoothing=0.1, **MIXED)
    method, state = experiment.method, experiment.init_state()
    batch = source.batch(np.arange(8))
    batch["label"][2] = -1
    keys = jax.random.split(jax.random.key(0), 8)
    views = views_of(method, keys, batch)
    share = np.asarray(views["share"], np.float64)
    assert share[2] == share[6] == 1 and (share < 1).sum() > 2
    loss, _ = loss_and_aux(
        method, Weights(state.params, state.buffers), views, key=jax.random.key(1), step=state.step
    )
    (_, logits), _ = method.classifier.apply(state.params, state.buffers, views["x"], train=False)
    logits = np.asarray(logits, np.float64)
    losses = []
    for i in (0, 1, 3, 4, 5, 6, 7):
        q = np.full(10, 0.01)
        q[batch["label"][i]] += 0.9 * share[i]
        q[batch["label"][(i + 4) % 8]] += 0.9 * (1 - share[i])
        losses.append(-q @ (logits[i] - np.log(np.exp(logits[i]).sum())))
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_a_normalised_head_has_statistics_of_the_batch_although_the_encoder_is_frozen():
    experiment, source = build("supervised-frozen", method__normalize_head=True, **SGD)
    method, state = experiment.method, experiment.init_state()
    before = jax.tree.map(np.asarray, state.buffers)
    assert set(state.params) == {"head"} and set(state.params["head"]) == {"kernel", "bias"}
    batch = source.batch(np.arange(16))
    views = views_of(method, jax.random.split(jax.random.key(0), 16), batch)
    (h, logits), updates = method.forward(
        state.params, state.buffers, views["x"], train=True, key=jax.random.key(1)
    )
    assert set(updates) == {"norm"}
    h = np.asarray(h, np.float64)
    mean, variance = h.mean(0), h.var(0)
    head = {name: np.float64(x) for name, x in state.params["head"].items()}
    expected = (h - mean) / np.sqrt(variance + 1e-6) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    running = by_path(updates["norm"])
    np.testing.assert_allclose(running["batch_stats/BatchNorm_0/mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(
        running["batch_stats/BatchNorm_0/var"], 0.9 + 0.1 * variance, rtol=1e-4
    )
    state, _, _ = step(experiment, batch, state)
    for path, leaf in by_path(state.buffers).items():
        changed = np.any(np.asarray(leaf) != by_path(before)[path])
        assert changed == path.startswith("norm/"), path
    features = experiment.features(state.weights, batch)
    stats = by_path(state.buffers["norm"])
    h = (np.float64(features["h"]) - stats["batch_stats/BatchNorm_0/mean"]) / np.sqrt(
        np.float64(stats["batch_stats/BatchNorm_0/var"]) + 1e-6
    )
    expected = h @ np.float64(state.params["head"]["kernel"]) + np.float64(
        state.params["head"]["bias"]
    )
    np.testing.assert_allclose(features["logits"], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ("supervised-vit", {"method__mix": {"mixup": -1.0}}, r"method\.mix\.mixup is -1\.0; use"),
        ("supervised-vit", {"method__mix": {"mixupp": 1.0}}, r"method\.mix\.mixupp;.*'mixup'"),
        ("supervised-vit", {"method__mix": {"per": "image"}}, r"one of batch, pair, example"),
        (
            "supervised-vit",
            {"method__mix": {"mixup": 0.8}, "batch_size": 15},
            r"method\.mix mixes pairs of images, and batch_size is 15; use .* such as 16",
        ),
        (
            "supervised-vit",
            {"method__mix": {"cutmix": 0.8}, "batch_size": 18, "micro_batch_size": 9},
            r"micro_batch_size is 9",
        ),
        ("supervised-text", {"method__mix": {"mixup": 0.8}}, r"method\.mix is for images, and csv"),
        ("supervised-text", {"method__normalize_head": True}, r"normalize_head is for images"),
    ],
)
def test_options_of_images_that_do_not_fit_are_named(row, changes, message):
    with pytest.raises(UserError, match=message) as error:
        build(row, **changes)
    assert "\n" not in str(error.value)


def test_groups_are_the_parts_of_the_net():
    vit, _ = build("supervised-vit")
    groups = {vit.method.param_group(path) for path in by_path(vit.abstract_state.params)}
    assert groups == {"embed", "layer1", "layer2", "norm", "head"}
    convnet, _ = build("supervised")
    groups = {convnet.method.param_group(path) for path in by_path(convnet.abstract_state.params)}
    assert groups == {"stage1", "stage2", "projector", "head"}


@pytest.mark.parametrize(
    ("variant", "examples", "peak", "epochs"),
    slow_unless(
        lambda value: value[0] in ("imagenet", "linear"),
        [
            ("imagenet", 1_281_167, 1.6, 90),
            ("finetune", 12_811, 0.8, 60),
            ("finetune_v2", 12_811, 0.16, 60),
            ("finetune_mae_b", 1_281_167, 2e-3, 100),
            ("finetune_mae_l", 1_281_167, 4e-3, 50),
            ("finetune_mae_h", 1_281_167, 4e-3, 50),
            ("linear", 1_281_167, 1.6, 90),
            ("linear_moco", 1_281_167, 30, 100),
            ("linear_moco_v3", 1_281_167, 0.4, 90),
            ("linear_moco_v3_vit", 1_281_167, 12, 90),
            ("linear_lars", 1_281_167, 1.6, 90),
            ("linear_byol", 1_281_167, 0.8, 80),
            ("linear_barlow_twins", 1_281_167, 0.3, 100),
            ("linear_vicreg", 1_281_167, 0.02, 100),
            ("linear_mae", 1_281_167, 6.4, 90),
        ],
    ),
)
def test_the_recipes_are_the_papers(variant, examples, peak, epochs):
    config = load(variant)
    spec = data.spec_from_config(config.data)
    assert (spec.num_examples, spec.num_classes) == (examples, 1000)
    experiment = Experiment.build(config, spec, parallel.make_mesh(devices=jax.devices()[:8]))
    length = experiment.length
    assert length.total_steps == epochs * length.steps_per_epoch
    rates = np.asarray(jax.vmap(experiment.schedule)(jnp.arange(length.total_steps)))
    np.testing.assert_allclose(max(rates), peak, rtol=1e-3)
    if variant == "imagenet":
        at = [rates[round(epoch * length.steps_per_epoch)] for epoch in (29, 31, 61, 81)]
        np.testing.assert_allclose(at, [1.6, 0.16, 0.016, 0.0016], rtol=1e-3)
    if variant == "linear_moco":
        at = [rates[round(epoch * length.steps_per_epoch)] for epoch in (0, 59, 61, 79, 81, 99)]
        np.testing.assert_allclose(at, [30, 30, 3, 3, 0.3, 0.3], rtol=1e-3)
    elif variant == "linear_mae":
        warm = 10 * length.steps_per_epoch
        assert rates[0] == 0 and rates.argmax() in (warm - 1, warm) and rates[-1] < 1e-3 * peak
    elif variant.startswith("linear"):  # a cosine from the first step to 0
        assert rates[0] == max(rates) and rates[-1] < 1e-3 * peak
        middle = rates[length.total_steps // 2]
        np.testing.assert_allclose(middle, peak / 2, rtol=1e-2)
    if variant.startswith("linear"):
        assert set(experiment.abstract_state.params) == {"head"}
        assert config.eval.final_names == ("accuracy",)
        batch = {"linear": 4096, "linear_lars": 4096, "linear_moco": 256}
        batch |= {"linear_barlow_twins": 256, "linear_vicreg": 256, "linear_mae": 16384}
        assert config.batch_size == batch.get(variant, 1024)
        optimizer = config.optimizer
        lars = variant in ("linear_lars", "linear_mae")
        assert optimizer.name == ("lars" if lars else "sgd") and optimizer.momentum == 0.9
        assert not lars or optimizer.momentum_order == "lr_outside"
        assert optimizer.nesterov == (variant in ("linear", "linear_byol"))
        decayed = variant in ("linear_barlow_twins", "linear_vicreg")  # and the bias too
        assert optimizer.weight_decay == (1e-6 if decayed else 0)
        assert not decayed or optimizer.exclude == ""
        assert config.method.get("normalize_head", False) == (variant == "linear_mae")
    if variant.startswith("finetune_mae"):
        np.testing.assert_allclose(rates[-1], 1e-6, rtol=0.02)
        assert (config.batch_size, config.optimizer.name) == (1024, "adamw")
        name, drop_path = {"b": ("vit_b16", 0.1), "l": ("vit_l16", 0.2), "h": ("vit_h14", 0.3)}[
            variant[-1]
        ]
        assert (config.model.name, config.model.drop_path) == (name, drop_path)
        assert config.optimizer.weight_decay == 0.05 and config.method.label_smoothing == 0.1
        mixing = experiment.method.hyper.mix
        assert (mixing.mixup, mixing.cutmix, mixing.p, mixing.cutmix_p) == (0.8, 1.0, 1.0, 0.5)
        assert config.views.ops == ("flip", "rand_augment", "normalize", "random_erasing")
    if variant == "finetune_v2":  # the classifier is outside of LARS
        mask = optim.path_mask(config.optimizer.exclude)(experiment.abstract_state.params)
        assert not mask["head"]["kernel"] and mask["projector"]["dense1"]["kernel"]
        assert mask["encoder"]["stage1"]["block1"]["conv1"]["kernel"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "pretraining"),
    [
        ("linear_mae", "imagenet"),
        ("finetune_mae_b", "imagenet"),
        ("finetune_mae_l", "imagenet_l"),
        ("finetune_mae_h", "imagenet_h"),
        ("finetune_mae_digits", "digits"),
    ],
)
def test_mae_s_encoder_is_taken_whole(variant, pretraining):
    """Every array of the encoder is in the pretrained run, and the other way round."""
    shapes = []
    for config in (load(variant), config_lib.load(f"{CONFIGS}/mae.py:{pretraining}")):
        config = config_lib.resolve(config)
        experiment = Experiment.build(config, data.spec_from_config(config.data))
        state = jax.eval_shape(experiment.method.init, jax.random.key(0), experiment.spec.batch(2))
        paths = by_path({"params": state[0], "buffers": state[1]})
        origins = {path: experiment.method.origin(path) for path in paths}
        shapes.append(
            {at: paths[path].shape for path, at in origins.items() if "params/encoder/" in at}
        )
    ours, pretrained = shapes
    assert ours == pretrained and len(ours) > 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "pretraining"),
    [
        ("linear", "simclr.py:imagenet"),
        ("linear_moco", "moco_v2.py:imagenet"),
        ("linear_moco_v3", "moco_v3.py:imagenet"),
        ("linear_moco_v3_vit", "moco_v3.py:vit_s16"),
        ("linear_lars", "simsiam.py:imagenet"),
        ("linear_byol", "byol.py:imagenet"),
        ("linear_barlow_twins", "barlow_twins.py:imagenet"),
        ("linear_vicreg", "vicreg.py:imagenet"),
        ("linear_digits", "simclr.py:digits"),
    ],
)
def test_a_linear_probe_sees_what_its_encoder_was_pretrained_on(variant, pretraining):
    """The same net and input: every array of the encoder has its twin, in the same units."""
    experiments = []
    for config in (load(variant), config_lib.load(f"{CONFIGS}/{pretraining}")):
        spec = data.spec_from_config(config.data)
        mesh = parallel.make_mesh(devices=jax.devices()[:1])
        experiments.append(Experiment.build(config_lib.resolve(config), spec, mesh))
    probe, pretrained = experiments
    here, there = (
        by_path({"params": state.params, "buffers": state.buffers})
        for state in (probe.abstract_state, pretrained.abstract_state)
    )
    origins = {path: probe.method.origin(path) for path in here}
    encoder = {path: at for path, at in origins.items() if "/encoder/" in at}
    assert len(encoder) == len(here) - 2  # the classifier's kernel and bias
    for path, origin in encoder.items():
        assert there[origin].shape == here[path].shape, path
    image = jax.ShapeDtypeStruct((2, *probe.spec.evaluated.arrays["image"].shape[-3:]), jnp.uint8)
    seen = [jax.eval_shape(one.method.eval_view, image).shape for one in experiments]
    assert seen[0] == seen[1]
    assert len({"normalize" in one.config.views.ops for one in experiments}) == 1
    # So do options that have no array, such as fixed positions. How weights begin does not.
    nets = probe.method.classifier.encoder.module, pretrained.method.encoder.module
    options = [
        {field.name: getattr(net, field.name) for field in dataclasses.fields(net)} for net in nets
    ]
    for name in ("kernel_init", "parent", "name"):
        _ = [found.pop(name, None) for found in options]
    assert type(nets[0]) is type(nets[1]) and options[0] == options[1]


class Bag(nn.Module):
    """The mean of a text's token vectors, in the form of every encoder."""

    @nn.compact
    def __call__(self, tokens, *, train):
        del train
        h = nn.Embed(11, 6, name="embed")(tokens).mean(axis=1)
        return h, {"h": h}


class Tokens:
    """Texts as they are."""

    def train(self, keys, batch):
        return batch["tokens"]

    def evaluate(self, batch):
        return batch["tokens"]


def test_it_classifies_whatever_the_encoder_reads():
    encoder = Net(Bag())
    classifier = make_classifier(encoder, jax.ShapeDtypeStruct((1, 5), jnp.int32), num_classes=3)
    method = supervised.Supervised(supervised.HyperParameters(), classifier, Tokens())
    rng = np.random.default_rng(0)
    label = np.arange(32, dtype=np.int32) % 3
    tokens = (3 * rng.integers(0, 3, size=(32, 5)) + label[:, None]).astype(np.int32)
    batch = {"tokens": tokens, "label": label}
    tx = optim.make_optimizer(
        {**load("cifar10").optimizer.to_dict(), "warmup_steps": 0},
        batch_size=32, total_steps=40, steps_per_epoch=40,
    )  # fmt: skip
    state = jax.jit(train_step.make_init(method, tx))(0, batch)
    run = jax.jit(train_step.make_train_step(method, tx))
    for _ in range(40):
        state, metrics, _ = run(state, batch)
    assert metrics["accuracy"] == 1.0
    features = jax.jit(method.features)(state.weights, batch)
    np.testing.assert_array_equal(features["logits"].argmax(1), label)


def test_data_without_labels_are_refused():
    config = ROWS["supervised"].load()
    spec = dataclasses.replace(data.spec_from_config(config.data), num_classes=None)
    with pytest.raises(UserError, match="digits has no labels to learn from"):
        supervised.make(config, spec, 10)


@pytest.mark.slow
def test_the_loss_of_frames_is_the_mean_over_labelled_frames():
    experiment, source = build("supervised-frames")
    method, w = experiment.method, experiment.init_state().weights
    batch = source.batch(np.arange(0, 52, 13))
    batch["phone"][0, 5:] = -1
    views = views_of(method, jax.random.split(jax.random.key(0), 4), batch)
    loss, aux = loss_and_aux(method, w, views, key=jax.random.key(1), step=0)
    frames = np.asarray(method.features(w, batch)["frames"], np.float64)
    head = jax.tree.map(np.float64, w.params["head"])
    logits = frames @ head["kernel"] + head["bias"]
    losses = [
        np.log(np.exp(logits[i, t]).sum()) - logits[i, t, phone]
        for i, row in enumerate(batch["phone"])
        for t, phone in enumerate(row)
        if phone >= 0
    ]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert aux.weight == len(losses) == 65


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(method__num_frame_classes=None), "set method.num_frame_classes"),
        (dict(method__projector_layers=1), "projector_layers is 1, but method.frames"),
        (dict(model__padded=False), "gives 18 frames a window, and the data have 20 labels"),
    ],
)
def test_frames_that_cannot_be_classified_are_one_line(changes, message):
    config = ROWS["supervised-frames"].load(**changes)
    with pytest.raises(UserError, match=message):
        supervised.make(config, data.spec_from_config(config.data), None)


def test_data_without_labels_of_frames_are_refused():
    config = load("digits", **{"method.frames": "phone", "method.num_frame_classes": 12})
    with pytest.raises(UserError, match="digits has no such labels of frames"):
        supervised.make(config, data.spec_from_config(config.data), None)
