"""Losses with and without the checks of the shapes in their signatures (tests/conftest.py)."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def checked_shapes(request):
    """Tests marked `wrong_shapes` ask for the errors that a user without these checks gets."""
    if request.node.get_closest_marker("wrong_shapes") is None:
        yield
        return
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
