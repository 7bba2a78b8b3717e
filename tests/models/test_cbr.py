"""CBR nets: the parameter counts of Transfusion's Table 1, and the sizes of their maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.models import make_encoder
from ssl_jax.models.cbr import SIZES, table1_parameters


def shapes_of(name, side=64, **options):
    net = make_encoder(name, **options)
    x = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)

    def run(key, x):
        params, buffers = net.init(key, x)
        return params, net.apply(params, buffers, x, train=True, key=key)[0][1]

    return jax.eval_shape(run, jax.random.key(0), x)


@pytest.mark.parametrize(
    ("name", "of_table", "trainable"),
    [
        ("cbr_large_t", 8_532_480, 8_539_168),
        ("cbr_large_w", 8_432_128, 8_443_456),
        ("cbr_small", 2_108_672, 2_114_336),
        ("cbr_tiny_table1", 1_076_480, 1_079_840),
        ("cbr_tiny", 4_303_360, 4_310_080),
    ],
)
def test_parameters(name, of_table, trainable):
    """Table 1 counts no first convolution and no BatchNorm; both counts have five classes."""
    params, out = shapes_of(name)
    width = out["h"].shape[1]
    counted = sum(
        int(np.prod(kernel.shape))
        for stage, kernels in params.items()
        if stage != "stage1"
        for kernel in kernels["conv"].values()
    )
    assert counted + 5 * width == of_table == table1_parameters(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) + 5 * width == trainable


def test_pooling_halves_every_stage_but_the_last_of_large_t():
    sides = {name: [out.shape[1] for key, out in shapes_of(name)[1].items() if key != "h"]
             for name in ("cbr_large_t", "cbr_small")}  # fmt: skip
    assert sides == {"cbr_large_t": [32, 16, 8, 4, 4], "cbr_small": [32, 16, 8, 4]}


def test_width_scales_every_stage():
    _, out = shapes_of("cbr_tiny", side=16, width=0.25)
    assert [out[f"stage{i}"].shape[-1] for i in (1, 2, 3, 4)] == [16, 32, 64, 128]
    assert min(SIZES["cbr_small"][1]) / 32 == 1  # the narrowest stage has a channel at 1 / 32
