"""Where the arrays of a method lie on the mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ssl_jax import data, parallel
from ssl_jax.core import named_methods
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.methods.simclr import SimCLR
from tests.methods import table

ROWS = 64


class Banked(SimCLR):
    """SimCLR with prototypes and a sharded bank."""

    def init(self, key, batch):
        params, buffers = super().init(key, batch)
        params["prototypes"] = jax.random.normal(key, (ROWS, 8))
        return params, {**buffers, "bank": jnp.ones((ROWS, 8))}

    def placement(self, path):
        return P(("data", "fsdp")) if path == "buffers/bank" else None


class Misplaced(Banked):
    def placement(self, path):
        return P("dta") if path == "buffers/bank" else None


def experiment_of(monkeypatch, cls, devices=1, **overrides):
    load = named_methods.load

    def load_changed(config, spec, length):
        method = load(config, spec, length)
        return cls(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})

    monkeypatch.setattr(named_methods, "load", load_changed)
    config = table.ROWS["simclr"].load(**overrides)
    source = data.from_config(config.data, seed=0)
    mesh = parallel.make_mesh(fsdp=config.mesh.fsdp, devices=jax.devices()[:devices])
    return Experiment.build(config, source.spec, mesh), source


def test_a_method_places_its_buffers(monkeypatch):
    experiment, _ = experiment_of(monkeypatch, Banked, 8, mesh__fsdp=2)
    shardings = experiment.state_shardings
    assert shardings.buffers["bank"].shard_shape((ROWS, 8)) == (ROWS // 8, 8)
    assert shardings.params["prototypes"].spec == P()
    # What the command line says of a path wins.
    ruled, _ = experiment_of(
        monkeypatch, Banked, 8, mesh__fsdp=2, mesh__rules=(("buffers/bank", (None,)),)
    )
    assert ruled.state_shardings.buffers["bank"].spec == P(None)


def test_a_wrong_placement_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="the method names axis 'dta'.*Did you mean 'data'"):
        _ = experiment_of(monkeypatch, Misplaced)[0].state_shardings


def test_a_dropped_train_step_is_made_again(monkeypatch):
    experiment, _ = experiment_of(monkeypatch, SimCLR)
    step = experiment.train_step
    assert experiment.train_step is step
    experiment.drop_train_step()
    experiment.drop_train_step()
    assert experiment.train_step is not step
