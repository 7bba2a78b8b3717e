"""Configs at the papers' sizes, without their data and without computing anything."""

import functools

import jax
import jax.numpy as jnp

from ssl_jax import config as config_lib
from ssl_jax import data, parallel
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from tests.methods.rows.row import CONFIGS


@functools.cache
def build(name, devices=8, **overrides):
    """The experiment of "file.py:variant"; keyword arguments are overrides, with __ for dots.

    Without an online probe, whose width is found by tracing the loss.
    """
    changes = {"eval.online": False}
    changes |= {key.replace("__", "."): value for key, value in overrides.items()}
    config = config_lib.load(f"{CONFIGS}/{name}")
    config = config_lib.apply(config, changes)
    config = config_lib.resolve(config, changes)
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    return Experiment.build(config, data.spec_from_config(config.data), mesh)


def trace_step(name, **overrides):
    """Traces the whole train step; returns the experiment and the shapes of the outputs."""
    experiment = build(name, **overrides)
    state, batch = experiment.abstract_state, experiment.abstract_batch()
    with jax.set_mesh(experiment.mesh):
        after, metrics, outputs = jax.eval_shape(experiment.train_step, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    before = by_path(state)
    for path, leaf in by_path(after).items():
        assert (leaf.shape, leaf.dtype) == (before[path].shape, before[path].dtype), path
    assert metrics["loss"].dtype == jnp.float32
    return experiment, outputs
