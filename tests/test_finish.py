"""The end of a run: what is probed, under which names."""

import numpy as np

from ssl_jax import data, finish, probing
from ssl_jax.experiment import Experiment
from tests.methods.table import ROWS


def test_every_output_asked_for_has_a_row_and_h_is_the_last():
    config = ROWS["simclr"].load(eval__features=("h", "z"), eval__baselines=True)
    source = data.from_config(config.data, seed=0)
    experiment = Experiment.build(config, source.spec)
    state, apply = experiment.init_state(), experiment.features
    batch = source.batch(np.arange(4))
    found = list(finish._representations(experiment, apply, state))
    assert [(name, feature) for name, _, feature in found] == [
        ("raw pixels", "h"),
        ("untrained encoder, z", "z"),
        ("untrained encoder", "h"),
        ("SimCLR, z", "z"),
        ("SimCLR", "h"),
    ]
    expected = apply(state.params, state.buffers, batch)
    for name, encode, feature in found[1:]:  # nothing has been trained
        np.testing.assert_array_equal(encode(batch)[feature], expected[feature], err_msg=name)
    probing.check_names(experiment)
