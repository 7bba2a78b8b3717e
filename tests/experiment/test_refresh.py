"""Buffers recomputed from the whole training set."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import parallel
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.refresh import Refresher
from ssl_jax.methods.simclr import SimCLR
from ssl_jax.run.loop import Run
from tests.methods import table
from tests.methods.test_methods import build

EVERY = 2
BINS = 4


class Clustered(SimCLR):
    """SimCLR with a buffer that holds the mean of random projections of all images."""

    def init(self, key, batch):
        params, buffers = super().init(key, batch)
        return params, {**buffers, "means": jnp.zeros((BINS, 8)), "drawn": jnp.zeros(())}

    def refresh_every(self, length):
        return EVERY

    def refresh(self, w, encode_all, *, key, step):
        def encode(w, keys, batch):
            h = self.features(w, batch)["h"]
            noise = jax.vmap(lambda key: jax.random.normal(key, h.shape[1:]))(keys)
            return {"h": h + 0.1 * noise, "index": batch["index"]}

        rows = encode_all(encode)
        member = rows["mask"][:, None] & (rows["index"][:, None] % BINS == jnp.arange(BINS))
        means = jnp.einsum("nb,nd->bd", member, rows["h"]) / member.sum(axis=0)[:, None]
        return {"means": means, "drawn": jax.random.uniform(key)}


def clustered(method):
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return Clustered(**fields)


def experiment_on(devices):
    experiment, source = build("simclr", devices, eval__batch_size=400)
    return dataclasses.replace(experiment, method=clustered(experiment.method)), source


def test_all_examples_arrive_in_order_on_any_number_of_devices():
    results = []
    for devices in (1, 8):
        experiment, source = experiment_on(devices)
        refresh = Refresher(experiment, source)
        with jax.set_mesh(experiment.mesh):
            state = refresh(experiment.init_state(), 4)
            rows = refresh._encode_all(
                state.weights, jax.random.key(0), lambda w, keys, batch: {"i": batch["index"]}
            )
            sums = refresh._encode_all(
                state.weights,
                jax.random.key(0),
                lambda w, keys, batch: {"i": batch["index"], "row": 1 + batch["image"][:, 0, 0]},
                total=True,
            )
        assert int(sums["i"]) == len(source) * (len(source) - 1) // 2
        assert sums["row"].shape == (1,)
        index, mask = (np.asarray(parallel.gather(rows[name])) for name in ("i", "mask"))
        assert len(index) >= len(source) and mask.sum() == len(source)
        np.testing.assert_array_equal(index[mask], np.arange(len(source)))
        results.append({name: np.asarray(state.buffers[name]) for name in ("means", "drawn")})
    assert np.abs(results[0]["means"]).max() > 0
    np.testing.assert_array_equal(results[0]["drawn"], results[1]["drawn"])
    np.testing.assert_allclose(results[1]["means"], results[0]["means"], rtol=1e-4, atol=1e-6)
    assert [refresh.due(step) for step in range(5)] == [True, False, True, False, True]


def test_a_buffer_of_another_shape_is_refused(monkeypatch):
    experiment, source = experiment_on(1)
    monkeypatch.setattr(Clustered, "refresh", lambda *_, **__: {"means": jnp.zeros((BINS, 9))})
    with pytest.raises(ValueError, match="refresh returns buffer 'means' of .*9.*; the state has"):
        Refresher(experiment, source)(experiment.init_state(), 0)


def run_to(workdir, steps):
    config = table.ROWS["simclr"].load(
        batch_size=64, steps=steps, eval__online=False, eval__collapse_every_steps=0,
        checkpoint__every_steps=EVERY,
        optimizer__schedule="constant", optimizer__warmup_steps=0, log__every_steps=1,
    )  # fmt: skip
    run = Run(config, workdir)
    run.experiment = dataclasses.replace(run.experiment, method=clustered(run.experiment.method))
    assert run.execute(final_evaluation=False) == 0
    saved, step = run.saves.restore(run.experiment.abstract_state)
    assert step == steps
    return by_path(saved)


@pytest.mark.parametrize(
    ("defined", "missing"), [("refresh", "refresh_every"), ("refresh_every", "refresh")]
)
def test_refresh_and_its_interval_are_defined_together(defined, missing):
    functions = {defined: getattr(Clustered, defined)}
    with pytest.raises(TypeError, match=f"Half defines only one of .*; define {missing} too"):
        type("Half", (SimCLR,), functions)


@pytest.mark.slow
def test_a_run_restored_where_a_refresh_is_due_computes_it_again(tmp_path):
    whole = run_to(tmp_path / "whole", 5)
    run_to(tmp_path / "parts", EVERY)
    parts = run_to(tmp_path / "parts", 5)
    assert np.abs(whole["buffers/means"]).max() > 0
    for path, leaf in whole.items():
        np.testing.assert_array_equal(parts[path], leaf, err_msg=path)
