"""A dry run of the train command: what a run would be, without data and without compilation."""

import pytest

from ssl_jax import config as config_lib
from ssl_jax.cli import train
from ssl_jax.core.errors import UserError


def load(**changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return config_lib.resolve(config_lib.apply(config_lib.load("simclr:digits"), changes))


def test_a_dry_run_says_what_the_run_is_and_every_key():
    preflight, _, keys = train.dry_run(load(method__temperature="0.25")).partition("\n\n")
    assert preflight.startswith("method ") and "simclr, convnet, float32" in preflight
    assert "method.temperature = 0.25  # " in keys and "optimizer.clip.norm = " in keys


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(batch_size="5000"), "batch_size 5000 is larger than the data set"),
        (dict(eval__names="knnn"), "unknown evaluation 'knnn'; .* Did you mean 'knn'"),
        (dict(method__loss="info_nce", method__implementation="ring"), "'ring' is for nt_xent"),
    ],
)
def test_a_dry_run_finds_what_the_first_seconds_of_a_run_find(changes, message):
    with pytest.raises(UserError, match=message):
        train.dry_run(load(**changes))
