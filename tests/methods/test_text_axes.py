"""Text models over all axes of a mesh, matrices split by rules: the same values and gradients."""

import math

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from tests.methods import table
from tests.methods.test_methods import run

# Megatron's placement (Shoeybi et al. 2019): first matrices by columns, second ones by rows; what
# is left of each is split over fsdp. The README has it too.
RULES = (
    ("(qkv|fc1)/kernel", ("fsdp", "tensor")),
    ("(proj|fc2)/kernel", ("tensor", "fsdp")),
)
SCANNED = tuple((pattern, (None, *spec)) for pattern, spec in RULES)


def one_step(row, mesh, rules=()):
    """Metrics and parameters after a step of descent, whose difference is the gradient."""
    config = table.ROWS[row].load(
        model__dim=64, model__num_heads=4, optimizer__name="sgd", optimizer__base_lr=1.0,
        optimizer__warmup_epochs=0, optimizer__weight_decay=0.0, optimizer__clip__norm=0.0,
        optimizer__schedule="constant", mesh__rules=rules,
    )  # fmt: skip
    source = data.from_config(config.data, seed=config.seed)
    experiment = Experiment.build(config, source.spec, mesh)
    state, ((metrics, _),) = run(experiment, source, 1)
    return metrics, by_path(state.params)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "rules"), [("bert", RULES), ("roberta", SCANNED), ("gpt", RULES)])
def test_every_axis_of_the_mesh_changes_nothing(row, rules):
    one = parallel.make_mesh(devices=jax.devices()[:1])
    expected, params = one_step(row, one)
    metrics, split = one_step(row, parallel.make_mesh(data=2, fsdp=2, tensor=2), rules)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    for path, leaf in params.items():
        np.testing.assert_allclose(split[path], leaf, atol=2e-6, err_msg=path)
    parts = {path: math.prod(leaf.addressable_shards[0].data.shape) for path, leaf in split.items()}
    kernels = [path for path in parts if path.endswith(("qkv/kernel", "fc1/kernel", "fc2/kernel"))]
    assert kernels and all(4 * parts[path] == split[path].size for path in kernels)
    # The embedding has no rule: it is split as all large arrays are, over fsdp alone.
    (embedding,) = (path for path in parts if path.endswith("token/embedding"))
    assert 2 * parts[embedding] == split[embedding].size
