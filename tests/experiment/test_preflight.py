"""What the preflight says, against what the config means."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import data, parallel
from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import preflight
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods.simclr import SimCLR
from tests.methods.table import ROWS


def build(devices=1, row="simclr", **overrides):
    config = ROWS[row].load(**overrides)
    source = data.from_config(config.data, seed=0)
    sizes = {"fsdp": overrides.get("mesh__fsdp", 1)}
    mesh = parallel.make_mesh(**sizes, devices=jax.devices()[:devices])
    return Experiment.build(config, source.spec, mesh)


def test_it_says_batch_negatives_length_and_learning_rate():
    experiment = build(
        8, batch_size=64, epochs=10.0, steps=None, optimizer__base_lr=0.5,
        optimizer__lr_scaling="linear", optimizer__warmup_epochs=1.0,
    )  # fmt: skip
    said = dict(preflight.lines(experiment))
    assert said["batch"] == "64 = 8 a device x 8"
    assert said["negatives"].startswith("126 views per anchor, 128 anchors")
    assert said["length"].startswith("220 steps = 10 epochs of 22 steps, 30 other examples")
    assert said["optimizer"] == (
        "adamw, peak 0.125 (0.5 x 64/256), cosine after 22 steps of warm-up"
    )
    assert "data 8 x fsdp 1 x tensor 1" in said["devices"]


def test_a_clipped_warm_up_is_noted():
    said = preflight.lines(build(steps=5, optimizer__warmup_steps=50))
    assert any(label == "note" and "warm" in text for label, text in said)


def test_parameters_are_counted_by_net_and_treatment():
    experiment = build()
    params = experiment.abstract_state.params
    said = preflight.lines(experiment)
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert dict(said)["parameters"].startswith(f"{total:,}: encoder ")
    excluded = sum(
        leaf.size for path, leaf in by_path(params).items() if path.endswith(("bias", "scale"))
    )
    (treatment,) = (text for label, text in said if label == "")
    assert treatment.startswith(f"{total - excluded:,} parameters decayed by ")
    assert f", {excluded:,} not (exclude=" in treatment


def test_state_bytes_shrink_with_fsdp():
    whole = build(8).abstract_state
    split = build(8, mesh__fsdp=8, model__widths=(64, 128, 128)).abstract_state
    assert preflight.state_bytes_per_device(whole.params) == sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(whole.params)
    )
    full = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(split.params))
    assert preflight.state_bytes_per_device(split.params) < 0.3 * full


class Banked(SimCLR):
    """SimCLR with a buffer of 256 KiB that is split over the mesh."""

    def init(self, key, batch):
        params, buffers = super().init(key, batch)
        return params, {**buffers, "bank": jnp.zeros((64, 1024))}

    def placement(self, path):
        return P(("data", "fsdp")) if path == "buffers/bank" else None


@pytest.mark.parametrize(
    ("devices", "overrides", "placement"),
    [
        (1, {}, "bank 256.0 KiB, encoder 96 B, projector 192 B whole on every device"),
        (8, {}, "bank 256.0 KiB split over data; encoder 96 B, projector 192 B whole on every "
                "device"),
        (8, {"mesh__fsdp": 2}, "bank 256.0 KiB split over data x fsdp; encoder 96 B, projector "
                               "192 B whole on every device"),
        (8, {"mesh__rules": (("buffers/bank", (None,)),)},
         "bank 256.0 KiB, encoder 96 B, projector 192 B whole on every device"),
    ],
)  # fmt: skip
def test_buffers_are_listed_with_size_and_placement(devices, overrides, placement):
    experiment = with_method(Banked, build(devices, batch_size=64, **overrides))
    assert dict(preflight.lines(experiment))["buffers"] == placement


def test_a_method_without_buffers_has_no_line_of_them():
    experiment = build(row="bert")
    assert not by_path(experiment.abstract_state.buffers)
    assert "buffers" not in dict(preflight.lines(experiment))


def with_method(cls, experiment):
    """The experiment with its SimCLR as the subclass `cls`."""
    names = (field.name for field in dataclasses.fields(experiment.method))
    method = cls(**{name: getattr(experiment.method, name) for name in names})
    return dataclasses.replace(experiment, method=method)


def test_the_text_is_aligned():
    text = preflight.text([("a", "x"), ("long label", "y")])
    assert text == "a           x\nlong label  y"


def test_notes_of_the_data_are_said(tmp_path):
    path = tmp_path / "a.csv"
    lines = ["text,label", *(f"some words {i},{i % 2 or ''}" for i in range(30))]
    lines += [f"other words {i},2" for i in range(30)]
    path.write_text("\n".join(lines))
    config = ROWS["supervised-text"].load(data__name=f"csv:{path}")
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(
        config, source.spec, parallel.make_mesh(devices=jax.devices()[:1])
    )
    (note,) = source.notes()
    assert "15 of 60 rows" in note and "no label" in note
    assert ("note", note) in preflight.lines(experiment, source)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model__widths": (4_000_000_000,)}, r"the state takes [\d.]+ GiB a device, and cpu has"),
        (
            {"data__image_size": 32_768, "batch_size": 1024},
            r"a batch takes [\d.]+ GiB a device, and cpu has",
        ),
    ],
)
def test_what_cannot_fit_into_memory_is_refused(changes, message):
    config = ROWS["simclr"].load(**changes)
    experiment = Experiment.build(config, data.spec_from_config(config.data))
    with pytest.raises(UserError, match=message):
        preflight.check_memory(experiment)
