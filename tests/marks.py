"""Which parameters of a test are for the slow tests."""

import pytest


def slow_unless(quick, values):
    """Parameters for `pytest.mark.parametrize`; those for which `quick(value)` is false are slow.

    A value is an argument, or a tuple of one for each name.
    """
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=[] if quick(value) else [pytest.mark.slow],
        )
        for value in values
    ]
