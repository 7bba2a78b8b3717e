"""Methods of images take what the host has cropped; nothing is compiled here."""

import jax
import jax.numpy as jnp
import pytest

from ssl_jax import parallel
from ssl_jax.core.errors import UserError
from ssl_jax.experiment.build import Experiment
from ssl_jax.modalities.image import IMAGE
from tests.methods.table import ROWS

GLOBAL, LOCAL = {"image/global": (2, 20, 20, 1)}, {"image/local": (2, 10, 10, 1)}


def build(row, shapes):
    spec = IMAGE.spec(shapes, 100, 10, {"image": (16, 16, 1)})
    return Experiment.build(ROWS[row].load(), spec, parallel.make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize("row", ["simclr", "supervised", "instdisc", "moco-bank", "dino"])
def test_views_are_made_of_host_crops(row):
    """The state is that of whole images, and features are of whole images."""
    has_local = "families" in ROWS[row].load().views
    crops = build(row, GLOBAL | LOCAL if has_local else GLOBAL)
    whole = build(row, {"image": (16, 16, 1)})
    shapes = [
        jax.tree.map(lambda x: x.shape, experiment.abstract_state.params)
        for experiment in (crops, whole)
    ]
    assert shapes[0] == shapes[1]
    keys, batch = jax.random.split(jax.random.key(0), 4), crops.spec.batch(4)
    assert "image" not in batch

    def views(keys, batch):
        return crops.method.views(keys, batch, key=jax.random.key(1), step=jnp.int32(0))

    leaves = jax.tree.leaves(jax.eval_shape(views, keys, batch))
    assert all(leaf.shape[0] in (4, 8) for leaf in leaves)  # SimCLR's views interleave
    features = jax.eval_shape(
        crops.method.features, crops.abstract_state.weights, crops.spec.evaluated.batch(4)
    )
    assert features["h"].shape[0] == 4


def test_families_that_a_method_does_not_have_are_refused():
    with pytest.raises(UserError, match="data.host_crops.local is not a family of views of this"):
        build("simclr", GLOBAL | LOCAL)


def test_crops_that_do_not_suffice_are_refused():
    with pytest.raises(UserError, match="the host crops the views global but not local"):
        build("dino", GLOBAL)
