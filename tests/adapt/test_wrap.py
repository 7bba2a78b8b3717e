"""Methods with adapters: what is trained, what stays, and how they are started and merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import adapt
from ssl_jax.adapt.wrap import joined
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import BASE
from ssl_jax.core.tree_paths import by_path
from ssl_jax.parallel.sharding import state_shardings
from tests.methods.test_methods import build, run


def lora(row, more=(), **options):
    options = {"name": "lora", "rank": 2, **options}
    return build(row, **{f"adapt__{name}": x for name, x in options.items()}, **dict(more))


def test_the_net_is_frozen_and_adapters_and_other_nets_are_trained():
    rate = {"optimizer__base_lr": 1.0, "optimizer__warmup_epochs": 0.0}
    experiment, source = lora("moco-v3-vit", more=rate)
    state, history = run(experiment, source, 2)  # the first moves b away from 0, the second a
    first = experiment.init_state()
    for path, x in by_path(first.buffers[BASE]).items():
        np.testing.assert_array_equal(x, by_path(state.buffers[BASE])[path], err_msg=path)
    for path, x in by_path(first.params).items():
        assert np.any(x != by_path(state.params)[path]), path
    assert all(np.isfinite(metrics["loss"]) for metrics, _ in history)
    # Moments and moving average are those of what is trained.
    trained = by_path(state.params)
    assert {path for path in trained if path.startswith("encoder/")} == {
        f"encoder/layer{i}/attn/qkv/lora/{part}/{factor}"
        for i in (1, 2) for part in ("query", "value") for factor in "ab"
    }  # fmt: skip
    optimizer = [path for path in by_path(state.opt_state) if "encoder/" in path]
    assert optimizer and all("/lora/" in path for path in optimizer)
    assert all("/lora/" in path for path in by_path(state.weights.ema["encoder"]))


def test_the_method_starts_as_the_one_without_adapters():
    experiment, source = lora("supervised-text")
    plain, _ = build("supervised-text")
    w, batch = experiment.init_state().weights, source.batch(np.arange(4))
    whole = joined(experiment.method, w)
    kernels = {path: x for path, x in by_path(whole.params).items() if "/lora/" not in path}
    expected = by_path(plain.init_state().params)
    assert kernels.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_array_equal(kernels[path], x, err_msg=path)
    ours, theirs = (
        e.features(v, batch) for e, v in ((experiment, w), (plain, plain.init_state().weights))
    )
    np.testing.assert_array_equal(ours["logits"], theirs["logits"])


def test_merged_weights_compute_the_same_without_adapters():
    experiment, source = lora("supervised-text")
    plain, _ = build("supervised-text")
    w, batch = experiment.init_state().weights, source.batch(np.arange(4))
    w = w._replace(params=jax.tree.map(lambda x: x, w.params))
    value = w.params["encoder"]["layers"]["attn"]["qkv"]["lora"]["value"]
    value["b"] = jax.random.normal(jax.random.key(0), value["b"].shape)
    merged = adapt.merged(experiment.method, w)
    assert jax.tree.structure(merged.params) == jax.tree.structure(plain.init_state().params)
    with_adapters = experiment.features(w, batch)["logits"]
    np.testing.assert_allclose(
        plain.features(merged, batch)["logits"], with_adapters, atol=1e-5, rtol=1e-5
    )
    first = experiment.features(experiment.init_state().weights, batch)["logits"]
    assert np.abs(with_adapters - first).max() > 1e-3


def test_parameters_that_are_trained_too_and_a_base_of_16_bits():
    experiment, _ = lora("supervised-text", train="norm|bias", base_dtype="bfloat16")
    state = experiment.abstract_state
    own = [path for path in by_path(state.params) if "/lora/" not in path]
    assert all("norm" in path or "bias" in path for path in own if path.startswith("encoder/"))
    assert any(path.startswith("encoder/") for path in own)
    base = by_path(state.buffers[BASE])
    assert not any("norm" in path or "bias" in path for path in base)
    assert {x.dtype for x in base.values()} == {jnp.dtype("bfloat16")}


def test_frozen_weights_are_placed_like_parameters():
    kernel = jax.ShapeDtypeStruct((256, 128), jnp.float32)
    state = {
        "params": {"net": {"kernel": kernel}},
        "buffers": {BASE: {"net": {"kernel": kernel}}, "queue": kernel},
        "opt_state": {},
    }
    mesh = jax.make_mesh((1, 8, 1), ("data", "fsdp", "tensor"))
    placed = state_shardings(state, mesh)
    assert placed["buffers"][BASE]["net"]["kernel"] == placed["params"]["net"]["kernel"]
    assert placed["params"]["net"]["kernel"].spec == jax.sharding.PartitionSpec("fsdp")
    assert placed["buffers"]["queue"].spec == jax.sharding.PartitionSpec()


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("simclr", {}, "adapt.targets has 'query', and encoder has no such dense layer"),
        ("simclr", {"net": "encodr"}, "adapt.net is 'encodr'; nets with parameters: encoder"),
        ("supervised-text", {"name": "lorra"}, "adapters: lora, prompt. Did you mean 'lora'"),
        ("supervised-text", {"rank": 0}, "adapt.rank is 0; use a"),
        ("supervised-text", {"dropout": 1.0}, "adapt.dropout is 1.0; use a"),
        (
            "simclr",
            {"net": "projector", "targets": ("all",), "rank": 1, "dropout": 0.5},
            "adapt.dropout is 0.5, and SimCLR gives projector/.* no random key",
        ),
        (
            "supervised-text",
            {"name": None, "rank": 8},
            "adapt.rank yet; the keys of adapt depend on adapt.name; set it first: lora or prompt",
        ),
        ("supervised-text", {"rnk": 2}, "adapt.rnk"),
        ("supervised-text", {"train": "("}, "adapt.train is '\\('"),
        ("supervised-text", {"train": "abc"}, "'abc', which is found in no path of the param"),
    ],
)
def test_bad_options_are_said_in_one_line(row, options, message):
    with pytest.raises(UserError, match=message) as told:
        lora(row, **options)
    assert "\n" not in str(told.value)


def test_the_projector_of_a_convolutional_net_can_be_adapted():
    experiment, _ = lora("simclr", net="projector", targets=("all",), rank=1)
    paths = by_path(experiment.abstract_state.params)
    assert any("projector" in path and "/lora/" in path for path in paths)
    assert any(path.startswith("encoder/") and path.endswith("kernel") for path in paths)
