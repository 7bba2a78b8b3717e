"""A batch of one image, for losses that compare the images of a batch."""

import pytest

from ssl_jax.core.errors import UserError
from tests.methods.test_methods import build

ROWS = ("simclr", "simclr-v2", "moco-v3", "barlow-twins", "vicreg", "nnclr", "lejepa")


@pytest.mark.parametrize("row", ROWS)
def test_it_is_refused(row):
    with pytest.raises(UserError, match="batch_size is 1, but .* compares each image with the oth"):
        build(row, batch_size=1)


def test_a_memory_has_others():
    build("simclr-v2", batch_size=1, method__memory_size=16)
