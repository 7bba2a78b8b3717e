"""Names of runs and of their steps."""

import pytest

from ssl_jax.checkpoint.choice import folder_and_step
from ssl_jax.core.errors import UserError


def test_only_trailing_digits_are_a_step(tmp_path):
    home = tmp_path / "u@h"
    (home / "run").mkdir(parents=True)
    (home / "run" / "config.json").write_text("{}")
    (home / "run@7").mkdir()
    run = str(home / "run")
    assert folder_and_step(run) == (run, None)
    assert folder_and_step(f"{run}@12") == (run, 12)
    assert folder_and_step(f"{run}@7") == (f"{run}@7", None)  # a folder of that name
    assert folder_and_step(f"{run}@7@3") == (f"{run}@7", 3)
    assert folder_and_step("/no/u@h/run") == ("/no/u@h/run", None)
    with pytest.raises(UserError, match="run@best is not a run; after @ stands a step, a number"):
        folder_and_step(f"{run}@best")
