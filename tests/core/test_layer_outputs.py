"""Names of layer outputs, against concatenations by hand."""

import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.core.layer_outputs import LayerOutput, is_layer_output, select


def layers(depth=11, cls=True, name="layer"):
    rng = np.random.default_rng(0)
    out = {}
    for i in range(1, depth + 1):
        patches = rng.normal(size=(2, 5, 3)).astype(np.float32)
        out[f"{name}{i}"] = LayerOutput(patches, patches[:, 0] + i if cls else None)
    return dict(sorted(out.items()))  # as jax orders keys: layer10 before layer2


def test_names():
    good = ("layer1/cls", "layer12/mean", "stage4/patches", "last4/cls_mean")
    bad = ("h", "z", "tokens", "layer0/cls", "layer/cls", "last4", "last4/max", "h/last4/cls")
    assert all(map(is_layer_output, good)) and not any(map(is_layer_output, bad))


def test_the_last_layers_are_those_of_the_largest_numbers():
    every = layers()
    last = [every[f"layer{i}"] for i in (8, 9, 10, 11)]
    cls = np.concatenate([layer.cls for layer in last], axis=1)
    means = np.concatenate([layer.patches.mean(axis=1) for layer in last], axis=1)
    np.testing.assert_array_equal(select(every, "last4/cls"), cls)
    np.testing.assert_allclose(select(every, "last4/mean"), means, rtol=1e-5)
    both = np.concatenate([cls, means[:, -3:]], axis=1)  # the mean of the last layer only
    np.testing.assert_allclose(select(every, "last4/cls_mean"), both, rtol=1e-5)
    np.testing.assert_array_equal(select(every, "last1/patches"), every["layer11"].patches)
    np.testing.assert_array_equal(select(every, "layer2/cls"), every["layer2"].cls)


@pytest.mark.parametrize(
    ("encoder_layers", "name", "message"),
    [
        (layers(4), "last5/cls", "no output 'last5/cls': the encoder has 4 layers, layer1 to"),
        (layers(4), "layer9/mean", "no output 'layer9/mean': the encoder has 4 layers"),
        (layers(4), "stage1/mean", "no output 'stage1/mean': .*layer1 to layer4"),
        (layers(4), "last2/patches", "use last1/patches"),
        (layers(4, cls=False), "last4/cls_mean", "no class token; use last4/mean"),
        ({}, "last1/patches", "this method has no layers of a ViT or of a convolutional net"),
    ],
)
def test_errors(encoder_layers, name, message):
    with pytest.raises(UserError, match=message) as told:
        select(encoder_layers, name)
    assert "\n" not in str(told.value)
