"""The length of a run."""

import pytest
from ml_collections import ConfigDict

from ssl_jax.core.errors import UserError
from ssl_jax.core.length import Length


def config(**changes):
    section = {"steps": None, "epochs": None, **changes}
    return ConfigDict(
        {**section, "checkpoint": {"every_steps": None, "every_epochs": 2.0},
         "eval": {"every_epochs": 0.01}}
    )  # fmt: skip


def test_epochs_become_steps():
    assert Length.of(config(epochs=1.5), 5) == Length(5, 8, 1, 10)
    assert Length.of(config(steps=3), 5) == Length(5, 3, 1, 10)


@pytest.mark.parametrize("changes", [{"epochs": 1e30}, {"epochs": 1e12}, {"steps": 2**31}])
def test_a_run_has_no_more_steps_than_can_be_counted(changes):
    assert Length.of(config(steps=2**31 - 1), 5).total_steps == 2**31 - 1
    (key,) = changes
    with pytest.raises(UserError, match=rf"can have 2,147,483,647; set a smaller {key}"):
        Length.of(config(**changes), 5)
