"""Distillation's own facts: a frozen teacher, the mix with labels, teachers of another kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path, replace
from ssl_jax.experiment.build import Experiment
from tests.methods import paper_scale
from tests.methods.contract import encode, views_of
from tests.methods.rows.images import LEARNING
from tests.methods.table import ROWS


def build(row="distill", **overrides):
    config = ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    return Experiment.build(
        config, source.spec, parallel.make_mesh(devices=jax.devices()[:1])
    ), source


def softmax(x):
    e = np.exp(np.asarray(x, np.float64))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_objective_mixes_teacher_and_labels(weight):
    experiment, _ = build(method__distill_weight=weight, method__temperature=2.0)
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(6, 10)).astype(np.float32) for _ in range(2))
    label = np.array([3, -1, 0, 9, -1, -1], np.int32)
    encoded = {"h": student, "logits": student, "teacher_logits": teacher, "label": label}
    loss, aux = experiment.method.objective(Weights({}, {}), encoded, key=jax.random.key(0), step=0)

    taught = np.mean(-(softmax(teacher / 2) * np.log(softmax(student / 2))).sum(1))
    labelled = np.mean([-np.log(softmax(student)[i, label[i]]) for i in (0, 2, 3)])
    np.testing.assert_allclose(loss, weight * taught + (1 - weight) * labelled, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["distill_loss"], taught, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["label_loss"], labelled, rtol=1e-5)
    agreement = np.mean(student.argmax(1) == teacher.argmax(1))
    np.testing.assert_allclose(aux.metrics["agreement"], agreement)


@pytest.mark.slow
def test_the_teacher_is_a_supervised_run_that_stays_as_it_is():
    """It answers in evaluation mode what that run answers, and three steps do not change it."""
    trained, source = build("supervised")
    given = trained.init_state()
    rng = np.random.default_rng(0)
    params, buffers = jax.tree.map(
        lambda x: x + 0.1 * np.abs(rng.normal(size=x.shape)).astype(np.float32),
        (given.params, given.buffers),
    )
    there = by_path({"params": params, "buffers": buffers})

    experiment, _ = build(method__teacher_projector_layers=1, method__teacher_hidden_dim=16)
    method, state = experiment.method, experiment.init_state()
    here = {"params": state.params, "buffers": state.buffers}
    origins = {path: method.origin(path) for path in by_path(here)}
    assert {path for path, origin in origins.items() if origin is None} == {
        path for path in by_path(here) if "teacher" not in path
    }
    assert set(origins.values()) - {None} == set(there)  # all of it finds its place
    begun = replace(here, {path: there[at] for path, at in origins.items() if at})
    state = state.replace(params=begun["params"], buffers=begun["buffers"])

    batch = source.batch(np.arange(16))
    keys = jax.random.split(jax.random.key(0), 16)
    views = views_of(method, keys, batch)
    encoded, updates = encode(
        method, Weights(state.params, state.buffers), views, key=jax.random.key(1)
    )
    assert set(updates) == {"encoder"}
    (_, expected), _ = trained.method.classifier.apply(params, buffers, views["x"], train=False)
    np.testing.assert_allclose(encoded["teacher_logits"], expected, rtol=1e-4, atol=1e-5)

    before = jax.tree.map(np.asarray, by_path(state.buffers["teacher"]))
    run = experiment.train_step
    with jax.set_mesh(experiment.mesh):
        for _ in range(3):
            state, _, _ = run(state, batch)
    for path, leaf in by_path(state.buffers["teacher"]).items():
        np.testing.assert_array_equal(leaf, before[path], err_msg=path)


@pytest.mark.slow
def test_a_student_learns_what_its_teacher_says_without_labels():
    """After 60 steps it agrees on most images, of which it has seen no label."""
    experiment, source = build(
        method__distill_weight=1.0, batch_size=128, steps=60, optimizer__warmup_steps=5,
        optimizer__base_lr=1e-2, **LEARNING | dict(model__widths=(8, 16, 32)),
    )  # fmt: skip
    state = experiment.init_state()
    # A teacher whose classes are far apart: the head of the random one, enlarged.
    head = state.buffers["teacher"]["params"]["head"]
    loud = {**head, "kernel": 1e3 * head["kernel"]}
    teacher = state.buffers["teacher"]
    teacher = {**teacher, "params": {**teacher["params"], "head": loud}}
    state = state.replace(buffers={**state.buffers, "teacher": teacher})
    run, agreement = experiment.train_step, []
    with jax.set_mesh(experiment.mesh):
        for i in range(60):
            batch = source.batch((np.arange(128) + 128 * i) % 1024)
            state, metrics, _ = run(state, batch | {"label": np.full(128, -1, np.int32)})
            agreement.append(float(metrics["agreement"]))
    assert metrics["label_loss"] == 0
    assert np.mean(agreement[-5:]) > 0.6 > 0.4 > np.mean(agreement[:2])


def test_a_teacher_of_another_kind():
    experiment, _ = build(
        nets__teacher={"name": "vit_ti16", "patch_size": 8, "dim": 8, "depth": 1, "num_heads": 2}
    )
    buffers = experiment.abstract_state.buffers["teacher"]["params"]
    assert buffers["encoder"]["layer1"]["attn"]["qkv"]["kernel"].shape == (8, 24)
    assert buffers["head"]["kernel"].shape == (8, 10)
    assert ("teacher", "vit_ti16, frozen") in experiment.method.preflight(16)
    image = jax.ShapeDtypeStruct((3, 8, 8, 1), jnp.uint8)
    assert jax.eval_shape(experiment.method.eval_view, image).shape == (3, 16, 16, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "width"), [("imagenet", 2048), ("imagenet_big", 6144)])
def test_the_teacher_of_a_recipe_has_its_width(variant, width):
    experiment = paper_scale.build(f"distill.py:{variant}", init_from="runs/teacher")
    teacher = experiment.abstract_state.buffers["teacher"]["params"]
    assert teacher["head"]["kernel"].shape == (width, 1000)
    assert experiment.abstract_state.params["head"]["kernel"].shape == (2048, 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init_from": None}, "distillation has no teacher; set init_from"),
        ({"nets__teacher": {"name": "resnet5"}}, "nets.teacher.name is 'resnet5'"),
        ({"nets__teacher": {"name": "resnet18", "widht": 2}}, "key nets.teacher.widht; .*'width'"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(UserError, match=message):
        build(**change)
