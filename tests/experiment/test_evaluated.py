"""Evaluations read the parameters or one of their averages, as the config says."""

from typing import get_args

import chex
import numpy as np
import pytest

from ssl_jax import checkpoint, data, optim
from ssl_jax import config as config_lib
from ssl_jax.config import fields
from ssl_jax.config.base import Eval
from ssl_jax.core.errors import UserError
from ssl_jax.core.method import Weights
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment import evaluated, preflight
from ssl_jax.pretrained import init_from, trained_run
from tests.methods.test_methods import build, run

CHANGES = {
    "params": {},
    "ema": {"eval__weights": "ema"},
    "polyak": {"eval__weights": "polyak", "optimizer__polyak": 0.5},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """choice -> (experiment, state after three steps, workdir with a checkpoint of it)."""
    made, states = {}, {}
    for choice, changes in CHANGES.items():
        experiment, source = build("byol", **changes)
        polyak = changes.get("optimizer__polyak")
        if polyak not in states:  # the others differ in what they evaluate
            states[polyak], _ = run(experiment, source, 3)
        state = states[polyak]
        workdir = tmp_path_factory.mktemp(choice)
        config = data.with_facts(experiment.config, source.spec)
        (workdir / "config.json").write_text(config_lib.to_json(config))
        with checkpoint.Checkpointer(workdir) as saves:
            saves.save(3, state, wait=True)
        made[choice] = (experiment, state, str(workdir))
    return made


def average_of(state, choice):
    if choice == "polyak":
        return by_path(optim.polyak_params(state.opt_state))
    return by_path(state.weights.ema) if choice == "ema" else {}


def assert_equal(one, other):
    chex.assert_trees_all_equal(one, other)


@pytest.mark.parametrize("choice", CHANGES)
def test_the_average_lies_over_the_parameters(runs, choice):
    experiment, state, _ = runs[choice]
    of_state = experiment.evaluated(state)
    average = average_of(state, choice)
    for path, leaf in by_path(of_state.params).items():
        expected = average.get(path, by_path(state.params)[path])
        np.testing.assert_array_equal(leaf, expected, err_msg=path)
    changed = {
        path
        for path, leaf in by_path(of_state.params).items()
        if not np.array_equal(leaf, by_path(state.params)[path])
    }
    nets = {"params": set(), "ema": {"encoder", "projector"}}.get(choice, set(state.params))
    assert {path.partition("/")[0] for path in changed} == nets  # a predictor has no average
    assert_equal(of_state.opt_state, state.opt_state)


@pytest.mark.parametrize("choice", CHANGES)
def test_commands_load_what_the_run_evaluates(runs, choice):
    experiment, state, workdir = runs[choice]
    loaded = trained_run.load(workdir)
    assert_equal(loaded.weights.params, experiment.evaluated(state).params)
    assert_equal(loaded.weights.buffers, experiment.evaluated(state).buffers)
    assert_equal(trained_run.load(workdir, weights="params").weights.params, state.params)
    ema = trained_run.load(workdir, weights="ema").weights.params
    assert_equal(ema["encoder"], state.weights.ema["encoder"])


@pytest.mark.parametrize("choice", CHANGES)
def test_a_run_starts_from_what_another_evaluates(runs, choice):
    experiment, state, workdir = runs[choice]
    loaded, (line, *_) = init_from.load(workdir, build("simclr")[0])
    encoder = by_path(experiment.evaluated(state).params["encoder"])
    for path, leaf in encoder.items():
        np.testing.assert_array_equal(loaded["params"][f"encoder/{path}"], leaf)
    said = {"ema": "moving average", "polyak": "Polyak average"}
    assert [choice] == [name for name, text in said.items() if text in line] or choice == "params"


def test_statistics_of_the_averaged_nets_are_taken_too():
    w = Weights(
        params={"encoder": {"kernel": np.ones(2, np.float32)}, "predictor": np.ones(1)},
        buffers={"encoder": {"mean": 1.0}, "centre": 2.0, "teacher": {"encoder": {"mean": 5.0}}},
        ema={"encoder": {"kernel": np.zeros(2)}},
    )
    averaged = w.averaged()
    np.testing.assert_array_equal(averaged.params["encoder"]["kernel"], 0)
    np.testing.assert_array_equal(averaged.params["predictor"], 1)
    assert averaged.buffers["encoder"] == {"mean": 5.0} and averaged.buffers["centre"] == 2.0
    assert w.buffers["encoder"] == {"mean": 1.0}
    with pytest.raises(ValueError, match="no moving average"):
        w._replace(ema=None).averaged()


@pytest.mark.parametrize(
    ("row", "choice", "message"),
    [
        ("simclr", "ema", "eval.weights is 'ema', but SimCLR keeps no moving average; use params"),
        ("byol", "polyak", "eval.weights is 'polyak', but optimizer.polyak is 0; set it"),
        ("byol", "emma", "eval.weights is 'emma'; use one of .* Did you mean 'ema'"),
    ],
)
def test_weights_that_there_are_not_are_named_before_anything_is_compiled(row, choice, message):
    with pytest.raises(UserError, match=message):
        build(row, eval__weights=choice)


def test_the_config_and_the_commands_have_the_same_choices():
    declared = fields.find(Eval, "weights").type
    assert get_args(declared.__origin__) == evaluated.CHOICES


def test_a_command_may_ask_for_weights_that_a_run_lacks(runs):
    with pytest.raises(UserError, match=r"weights is 'polyak', but optimizer.polyak is 0"):
        trained_run.load(runs["ema"][2], weights="polyak")


def test_the_preflight_says_what_is_evaluated(runs):
    said = {choice: dict(preflight.lines(runs[choice][0])).get("evaluation") for choice in runs}
    assert said["params"] is None and "moving average" in said["ema"]
    assert "Polyak average" in said["polyak"]
