"""What `export` needs of methods."""

import pytest

from ssl_jax import modalities
from tests.pretrained.formats.vits import experiment_of

ROWS = ("dino", "swav", "deepcluster-v2", "lejepa", "mae", "ijepa", "rotnet", "vae")


@pytest.mark.parametrize("row", ROWS)
def test_a_method_describes_the_inputs_of_its_encoder(row):
    experiment = experiment_of({}, row)
    inputs = modalities.of(experiment.spec).describe_inputs(experiment.method, experiment.spec)
    assert inputs == {"image_size": 8 if row == "vae" else 16, "input": "grey, values in [0, 1]"}
