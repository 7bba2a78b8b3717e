"""A grid of probes: each as if it were alone, held-out examples, the choice, what is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.evals import probe_grid as choice
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods.probe_grid import is_held_out
from ssl_jax.run.evaluation_checks import check_evaluations
from ssl_jax.run.probing import Prober
from tests.methods.table import ROWS

STEPS = 4
RATES, DECAYS = (0.1, 0.5), (0.0, 0.1)


def build(name, devices=1, **overrides):
    config = ROWS[name].load(**overrides)
    source = data.from_config(config.data, seed=0)
    config = data.with_facts(config, source.spec)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=jax.devices()[:devices])
    return Experiment.build(config, source.spec, mesh), source


@functools.cache
def built():
    return build("probe-grid")


def batches(source, steps=STEPS, size=16):
    rng = np.random.default_rng(0)
    return [source.batch(np.sort(rng.permutation(len(source))[:size])) for _ in range(steps)]


def trained(experiment, stream, params=None, buffers=None):
    """The first state, the last one, and the metrics of every step."""
    size, rows = experiment.config.batch_size, np.arange(experiment.config.batch_size)
    state, history = experiment.init_state(), []
    state = state.replace(
        params=state.params if params is None else params,
        buffers=state.buffers if buffers is None else buffers,
    )
    state = jax.device_put(state, experiment.state_shardings)
    first = jax.device_get(state)
    with jax.set_mesh(experiment.mesh):
        for batch in stream:
            batch = parallel.to_global(batch, experiment.mesh, rows, size)
            state, metrics, _ = experiment.train_step(state, batch)
            history.append(jax.device_get(metrics))
    return first, jax.device_get(state), history


@functools.cache
def grid():
    experiment, source = built()
    return trained(experiment, batches(source))


def gradient(x, label, kernel, bias):
    """Of the mean cross-entropy, in float64."""
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(label)), label] -= 1
    return x.T @ p / len(label), p.mean(axis=0)


def test_probes_are_those_of_descent_in_float64():
    """Momentum 0.9, decay in the gradient and not of the bias, a cosine to 0 after 100 steps."""
    experiment, source = built()
    first, last, _ = grid()
    method, stream = experiment.method, batches(source)
    running = {"h": None, "stage1/mean": None}
    for feature in running:
        key = feature.replace("/", "_")
        for g, head in enumerate(method.heads(feature)):
            start = {name: np.float64(p[g]) for name, p in first.params["heads"][key].items()}
            w, v = dict(start), {name: np.zeros_like(p) for name, p in start.items()}
            for step, batch in enumerate(stream):
                x = method.view.train(jax.random.split(jax.random.key(0), 16), batch)
                x = np.float64(method._outputs(first.weights, x)[1][feature])
                x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-6)
                used = ~np.asarray(is_held_out(batch["index"], 0.2))
                grads = gradient(x[used], batch["label"][used], w["kernel"], w["bias"])
                grads = (grads[0] + head.weight_decay * w["kernel"], grads[1])
                rate = head.learning_rate * 0.5 * (1 + np.cos(np.pi * step / 100))
                for name, grad in zip(("kernel", "bias"), grads, strict=True):
                    v[name] = 0.9 * v[name] + grad
                    w[name] = w[name] - rate * v[name]
            for name, p in w.items():
                got = last.params["heads"][key][name][g]
                np.testing.assert_allclose(got, p, rtol=1e-4, atol=2e-5, err_msg=f"{head} {name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "features"),
    [("probe-grid", ("stage1/mean",)), ("probe-grid-vit", ("last2/cls_mean", "last1/patches"))],
)
def test_the_grid_equals_probes_that_are_trained_separately(name, features):
    whole, source = build(name, method__features=features)
    stream = batches(source)
    first, last, _ = trained(whole, stream)
    hyper = whole.method.hyper
    for feature in hyper.features:
        key = feature.replace("/", "_")
        for g, head in enumerate(whole.method.heads(feature)):
            if g not in (0, len(whole.method.heads(feature)) - 1):
                continue
            prefix = "attentive_" * feature.endswith("patches")
            single, _ = build(
                name, method__features=(feature,),
                **{f"method__{prefix}learning_rates": (head.learning_rate,),
                   f"method__{prefix}weight_decays": (head.weight_decay,)},
            )  # fmt: skip
            params = {key: jax.tree.map(lambda p, g=g: p[g : g + 1], first.params["heads"][key])}
            buffers = {**first.buffers, "norm": {key: first.buffers["norm"][key]}}
            _, alone, _ = trained(single, stream, {"heads": params}, buffers)
            for path, p in by_path(alone.params["heads"][key]).items():
                got = last.params["heads"][key][path][g : g + 1]
                np.testing.assert_allclose(got, p, rtol=1e-5, atol=1e-6, err_msg=f"{head} {path}")


@pytest.mark.slow
def test_a_probe_of_h_is_that_of_the_method_supervised():
    """Without normalisation: a frozen encoder, one rate and decay in the optimizer's section."""
    whole, source = build("probe-grid", method__normalize=False, method__features=("h",))
    stream = batches(source)
    first, last, _ = trained(whole, stream)
    for batch in stream:
        batch["label"][np.asarray(is_held_out(batch["index"], 0.2))] = -1
    for g, head in enumerate(whole.method.heads("h")):
        other, _ = build(
            "supervised-frozen", model__widths=whole.config.model.widths, seed=whole.config.seed,
            optimizer__base_lr=head.learning_rate, optimizer__lr_scaling="none",
            optimizer__warmup_epochs=0.0, optimizer__weight_decay=head.weight_decay,
        )  # fmt: skip
        params = {"head": jax.tree.map(lambda p, g=g: p[g], first.params["heads"]["h"])}
        _, alone, _ = trained(other, stream, params, first.buffers)
        for name, p in alone.params["head"].items():
            got = last.params["heads"]["h"][name][g]
            np.testing.assert_allclose(got, p, rtol=1e-5, atol=1e-6, err_msg=f"{head} {name}")


def test_the_encoder_keeps_its_bits_and_probes_ignore_held_out_examples():
    experiment, source = built()
    first, last, history = grid()
    for name in ("frozen", "encoder"):
        for path, leaf in by_path(first.buffers[name]).items():
            np.testing.assert_array_equal(by_path(last.buffers[name])[path], leaf, err_msg=path)
    stream = batches(source)
    poisoned = 0
    for batch in stream:
        held_out = np.asarray(is_held_out(batch["index"], 0.2))
        batch["label"] = np.where(held_out, (batch["label"] + 1) % 10, batch["label"])
        poisoned += held_out.sum()
    _, same, _ = trained(experiment, stream)
    assert poisoned > 3 and all(np.isfinite(metrics["loss"]) for metrics in history)
    for path, leaf in by_path(last.params).items():
        np.testing.assert_array_equal(by_path(same.params)[path], leaf, err_msg=path)


def test_the_held_out_share_does_not_depend_on_the_rest():
    some = np.asarray(is_held_out(np.arange(5000), 0.1))
    assert 0.085 < some.mean() < 0.115
    assert np.array_equal(np.asarray(is_held_out(np.arange(5000)[::7], 0.1)), some[::7])
    assert not np.any(some & ~np.asarray(is_held_out(np.arange(5000), 0.2)))  # nested


@pytest.mark.slow
def test_a_probe_that_diverges_leaves_the_others_alone():
    experiment, source = build("probe-grid", method__learning_rates=(0.1, 1e36))
    _, last, history = trained(experiment, batches(source))
    _, calm, _ = grid()
    assert history[-1]["diverged"] >= 1 and np.isfinite(history[-1]["loss"])
    for name, p in last.params["heads"]["h"].items():
        good = calm.params["heads"]["h"][name][:2]
        np.testing.assert_allclose(p[:2], good, rtol=1e-6, atol=1e-7)
    measured = evaluated(experiment, last)
    present = sum(name.startswith("head_") for name in measured)
    assert measured["diverged"] == 8 - present >= 1 and measured["val_top1"] <= 1


def test_the_choice_leaves_out_probes_that_are_not_finite():
    experiment, _ = built()
    _, last, _ = grid()
    whole = evaluated(experiment, last)
    best = max(range(4), key=lambda i: whole[f"head_{4 + i}"])
    heads = last.params["heads"]
    broken = {name: p.copy() for name, p in heads["h"].items()}
    broken["kernel"][best, 0, 0] = np.inf
    some = evaluated(experiment, last.replace(params={"heads": {**heads, "h": broken}}))
    assert f"head_{4 + best}" not in some and some["diverged"] == whole["diverged"] + 1
    others = [whole[f"head_{4 + i}"] for i in range(4) if i != best]
    assert some["val_h"] == max(others)
    broken["kernel"][:] = np.nan
    some = evaluated(experiment, last.replace(params={"heads": {**heads, "h": broken}}))
    assert "test_h" not in some and some["top1"] == some["test_stage1_mean"]
    lost = last.replace(params=jax.tree.map(lambda p: np.full_like(p, np.nan), last.params))
    with pytest.raises(UserError, match=r"all probes have diverged; lower method\.learning_rates"):
        evaluated(experiment, lost)


def evaluated(experiment, state, change_test=None):
    prober = Prober(experiment.config, experiment.mesh)
    if change_test is not None:
        vars(prober)["test"] = change_test(prober.test)
    with jax.set_mesh(experiment.mesh):
        return choice.evaluate_model(experiment.model(state.weights), prober)


def test_the_choice_never_sees_the_test_split():
    experiment, _ = built()
    _, last, _ = grid()
    check_evaluations(experiment)
    measured = evaluated(experiment, last)
    heads = [name for name in measured if name.startswith("head_")]
    assert len(heads) == 8 and measured["val_top1"] == max(measured[name] for name in heads)
    assert measured["val_top1"] == max(measured["val_h"], measured["val_stage1_mean"])
    assert measured["top1"] in (measured["test_h"], measured["test_stage1_mean"])

    def poisoned(test):
        return test.relabelled(np.roll(test.read_labels(), 1).astype(np.int32))

    other = evaluated(experiment, last, poisoned)
    scores = {"top1", "top5", "test_h", "test_stage1_mean"}
    assert other["top1"] != measured["top1"]
    assert {k: v for k, v in other.items() if k not in scores} == {
        k: v for k, v in measured.items() if k not in scores
    }


def test_accuracies_are_those_of_loops():
    experiment, source = built()
    _, last, _ = grid()
    measured, method = evaluated(experiment, last), experiment.method
    held_out = np.flatnonzero(is_held_out(np.arange(len(source)), 0.2))
    batch = source.batch(held_out)
    logits = jax.jit(method.head_logits)(last.weights, batch)
    logits = np.concatenate([logits["stage1/mean"], logits["h"]], axis=1)  # as the config has them
    for i in range(logits.shape[1]):
        expected = np.mean(logits[:, i].argmax(axis=1) == batch["label"])
        assert measured[f"head_{i}"] == pytest.approx(expected, abs=1e-6)


def test_few_labels_are_those_of_the_run():
    experiment, source = build("probe-grid", data__labelled_fraction=0.3)
    read = choice.training_source(Prober(experiment.config, experiment.mesh))
    assert len(read) == len(source) == experiment.spec.num_examples < 500
    np.testing.assert_array_equal(read.read_labels(), source.read_labels())
    np.testing.assert_array_equal(
        read.batch(np.arange(9))["image"], source.batch(np.arange(9))["image"]
    )


@pytest.mark.slow
def test_eight_devices_choose_as_one():
    one, source = built()
    first, last, _ = grid()
    eight, _ = build("probe-grid", 8)
    _, on_eight, _ = trained(eight, batches(source), first.params, first.buffers)
    for path, leaf in by_path(last.params).items():
        np.testing.assert_allclose(
            by_path(on_eight.params)[path], leaf, rtol=1e-5, atol=5e-6, err_msg=path
        )
    # Of the same parameters, the same hits.
    assert evaluated(one, last) == pytest.approx(evaluated(eight, last), abs=1e-6)


@pytest.mark.slow
def test_probes_split_over_fsdp_are_the_same():
    wide = dict(model__widths=(4, 512), method__features=("h",))
    whole, source = build("probe-grid", **wide)
    first, last, _ = trained(whole, batches(source))
    split, _ = build("probe-grid", 8, mesh__fsdp=4, **wide)
    kernel = split.abstract_state.params["heads"]["h"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (4, 128, 10)
    _, over_fsdp, _ = trained(split, batches(source), first.params, first.buffers)
    for path, leaf in by_path(last.params).items():
        got = by_path(over_fsdp.params)[path]
        np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(method__features=("last1/cls",)), r"features: .*no class token; use last1/mean"),
        (dict(method__features=("stage9/mean",)), r"features: .*the encoder has 2 layers"),
        (dict(method__features=("z",)), r"method.features has 'z'; outputs are h"),
        (dict(method__features=("h", "h")), r"names 'h' twice"),
        (dict(method__val_fraction=1e-4), r"val_fraction=0.0001 of 1438 examples holds out none"),
        (dict(optimizer__name="lars"), r"optimizer.name is 'lars', which adapts whole tensors"),
        (dict(optimizer__clip__norm=1.0), r"clip.norm is 1.0, which would clip all probes"),
        (dict(data__classes="0-4"), r"data.classes is '0-4', but method probe_grid"),
        (dict(eval__data="shapes"), r"eval.data is 'shapes', but method probe_grid"),
        (dict(optimizer__groups__attentive__name="lamb"), r"groups.attentive.name is 'lamb'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        experiment, _ = build("probe-grid", **overrides)
        _ = experiment.abstract_state


def test_the_evaluation_is_only_for_its_runs():
    supervised, _ = build("supervised")
    wrong = dataclasses.replace(supervised, config=supervised.config.copy_and_resolve_references())
    with wrong.config.unlocked():
        wrong.config.eval.final_names = ("probe_grid",)
    with pytest.raises(UserError, match="'probe_grid' is not for method supervised"):
        check_evaluations(wrong)
