"""Text models over all axes of a mesh, with split matrices: the same values and gradients."""

import math

import jax
import numpy as np
import pytest

from ssl_jax import data, parallel
from ssl_jax.core.tree_paths import by_path
from ssl_jax.experiment.build import Experiment
from tests.methods import table
from tests.methods.test_methods import run

# In place of the default, which is the same with the axes of each matrix exchanged.
RULES = (
    ("(qkv|fc1)/kernel", ("tensor", "fsdp")),
    ("(proj|fc2)/kernel", ("fsdp", "tensor")),
)


# Wide enough that its matrices are worth splitting.
WIDE = {"t5": dict(model__head_dim=48, model__hidden_dim=192)}


def one_step(row, mesh, rules=()):
    """Metrics and parameters after a step of descent, whose difference is the gradient."""
    config = table.ROWS[row].load(
        model__dim=96, model__num_heads=4, optimizer__name="sgd", optimizer__base_lr=1.0,
        optimizer__warmup_epochs=0, optimizer__weight_decay=0.0, optimizer__clip__norm=0.0,
        optimizer__schedule="constant", mesh__rules=rules, **WIDE.get(row, {}),
    )  # fmt: skip
    source = data.from_config(config.data, seed=config.seed)
    experiment = Experiment.build(config, source.spec, mesh)
    state, ((metrics, _),) = run(experiment, source, 1)
    return metrics, by_path(state.params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "rules"), [("bert", ()), ("bert", RULES), ("roberta", ()), ("gpt", ()), ("t5", ())]
)
def test_every_axis_of_the_mesh_changes_nothing(row, rules):
    one = parallel.make_mesh(devices=jax.devices()[:1])
    expected, params = one_step(row, one)
    metrics, split = one_step(row, parallel.make_mesh(data=2, fsdp=2, tensor=2), rules)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    for path, leaf in params.items():
        np.testing.assert_allclose(split[path], leaf, atol=2e-6, err_msg=path)
    parts = {path: math.prod(leaf.addressable_shards[0].data.shape) for path, leaf in split.items()}
    kernels = [
        path
        for path in parts
        if path.endswith(("attn/qkv/kernel", "query/kernel", "fc1/kernel", "fc2/kernel"))
    ]
    assert kernels and all(4 * parts[path] == split[path].size for path in kernels)
    # The embedding is split as all large arrays are, over fsdp alone.
    (embedding,) = (path for path in parts if path.endswith("token/embedding"))
    assert 2 * parts[embedding] == split[embedding].size
