"""Layer-wise rate decay of single layers and of stacked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.tree_paths import by_path
from ssl_jax.optim import layer_factors, scale_by_layer

PARAMS = {
    "embed": jnp.ones(3),
    **{f"layer{i}": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)} for i in (1, 2, 3)},
    "head": jnp.ones(2),
}
STACKED = {
    "embed": jnp.ones(3),
    "layers": {"kernel": jnp.ones((3, 2, 3)), "bias": jnp.ones((3, 3))},
    "head": jnp.ones(2),
}


def first_part(path):
    return path.partition("/")[0]


def scale(params, decay=0.5):
    tx = scale_by_layer(decay, first_part)
    return jax.jit(lambda u: tx.update(u, tx.init(u))[0])(params)


def test_the_last_layer_has_decay_and_the_embedding_a_power_more_than_the_first():
    """MAE: layer i of L at decay^(L + 1 - i), patch embedding and positions at i = 0."""
    rates = {path: np.unique(u).item() for path, u in by_path(scale(PARAMS)).items()}
    assert rates == {
        "embed": 0.5**4, "layer1/kernel": 0.5**3, "layer1/bias": 0.5**3, "layer2/kernel": 0.5**2,
        "layer2/bias": 0.5**2, "layer3/kernel": 0.5, "layer3/bias": 0.5, "head": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slices_of_stacked_layers_have_the_factors_of_single_ones(dtype):
    apart, stacked = (
        scale(jax.tree.map(lambda x: x.astype(dtype), tree), 0.65) for tree in (PARAMS, STACKED)
    )
    for leaf in ("kernel", "bias"):
        expected = np.stack([apart[f"layer{i}"][leaf] for i in (1, 2, 3)])
        np.testing.assert_array_equal(stacked["layers"][leaf], expected)
        assert stacked["layers"][leaf].dtype == dtype
    for name in ("embed", "head"):
        np.testing.assert_array_equal(stacked[name], apart[name])


def test_factors_of_shapes():
    shapes = jax.eval_shape(lambda: STACKED)
    factors = by_path(layer_factors(shapes, 0.5, first_part))
    np.testing.assert_array_equal(factors["layers/bias"], [0.125, 0.25, 0.5])
    assert factors["embed"] == 0.0625 and factors["head"] == 1


@pytest.mark.parametrize(
    "params",
    [
        {"stage1": jnp.ones(3), "head": jnp.ones(3)},
        {"layer2": jnp.ones(3), "layer3": jnp.ones(3)},
        {"layers": jnp.ones((3, 2)), "layer1": jnp.ones(2)},
        {"layers": {"one": jnp.ones((3, 2)), "other": jnp.ones((4, 2))}},
    ],
    ids=["none", "no first", "both", "two depths"],
)
def test_what_has_no_layers_is_named(params):
    tx = scale_by_layer(0.5, first_part)
    with pytest.raises(
        UserError, match="layerwise needs groups layer1, layer2 .* the method's are"
    ):
        tx.init(params)
