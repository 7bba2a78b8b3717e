"""Families of views: sizes, inheritance of recipes, randomness, host crops."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.views import families_and_eval, family_images, make_families, make_views
from ssl_jax.views.recipe import read_families, read_recipes

TOP = {
    "ops": ("random_resized_crop", "flip", "solarize"),
    "random_resized_crop": {"size": 16, "scale": (0.4, 1.0)},
    "solarize": {"p": 0.0},
    "overrides": {"1": {"solarize": {"p": 0.5}}},
}
LOCAL = {"count": 3, "random_resized_crop": {"size": 8, "scale": (0.05, 0.4)}}
CONFIG = {**TOP, "families": {"local": LOCAL}}
BATCH = {"image": jax.ShapeDtypeStruct((1, 24, 20, 3), jnp.uint8)}


def images(n=6, height=24, width=20):
    shape = (n, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def run(config, source=None, **options):
    source = images() if source is None else source
    keys = jax.random.split(jax.random.key(7), 6)
    return jax.jit(make_families(config, **options))(keys, source)


def test_each_family_has_its_number_of_views_and_their_size():
    make = make_families(ml_collections.ConfigDict(CONFIG), dtype="bfloat16")
    views = jax.eval_shape(make, jax.random.split(jax.random.key(7), 6), images())
    assert {name: view.shape for name, view in views.items()} == {
        "global": (6, 2, 16, 16, 3),
        "local": (6, 3, 8, 8, 3),
    }
    assert {view.dtype for view in views.values()} == {jnp.dtype("bfloat16")}


def test_a_family_takes_over_what_it_does_not_set_but_not_the_overrides():
    local = read_recipes(CONFIG, 3, "local")
    ops = [{step.op: step.parameters for step in recipe} for recipe in local]
    assert local[0] == local[1] == local[2]
    assert list(ops[0]) == ["random_resized_crop", "flip", "solarize"]
    assert ops[0]["random_resized_crop"]["size"] == 8
    assert ops[0]["random_resized_crop"]["ratio"] == (3 / 4, 4 / 3)  # the op's own default
    assert [recipe["solarize"]["p"] for recipe in ops] == [0.0] * 3
    changed = {**LOCAL, "ops": ("flip",), "overrides": {"2": {"flip": {"p": 0.0}}}}
    local = read_recipes({**TOP, "families": {"local": changed}}, 3, "local")
    assert [recipe[0].parameters["p"] for recipe in local] == [0.5, 0.5, 0.0]


@pytest.fixture(scope="module")
def views():
    return run(CONFIG)


def test_the_main_family_draws_as_without_families(views):
    alone = jax.jit(make_views(TOP))(jax.random.split(jax.random.key(7), 6), images())
    np.testing.assert_allclose(views["global"], alone, atol=1e-5)


def test_a_familys_draws_depend_on_its_name_alone(views):
    again = {"count": 2, "overrides": TOP["overrides"]}
    more = run(
        {**TOP, "families": {"small": LOCAL, "local": {**LOCAL, "count": 4}, "again": again}}
    )
    np.testing.assert_allclose(more["local"][:, :3], views["local"], atol=1e-5)
    assert np.abs(more["small"] - views["local"]).mean() > 0.05
    # Neither are they those of the main family, which has the same ops.
    assert np.abs(more["global"] - more["again"]).mean() > 0.05


def test_no_other_family_or_one_without_views():
    keys = jax.random.split(jax.random.key(7), 6)
    for config, options, expected in (
        (TOP, {}, "global"),
        ({**TOP, "families": {"local": {**LOCAL, "count": 0}}}, {}, "global"),
        (TOP, dict(main="large", num_views=4), "large"),
    ):
        assert list(jax.eval_shape(make_families(config, **options), keys, images())) == [expected]


def test_host_crops_come_by_family():
    config = {"ops": (), "families": {"local": {"count": 3}}}
    crops = {
        "global": np.stack([images(height=12, width=12)] * 2, axis=1),
        "local": np.stack([images(height=5, width=5), 255 - images(height=5, width=5)] * 2, 1)[
            :, :3
        ],
    }
    batch = {f"image/{name}": array for name, array in crops.items()}
    source = family_images(batch, ("global", "local"))
    views = run(config, source)
    for name, array in crops.items():
        np.testing.assert_allclose(views[name], array / np.float32(255), atol=1e-6)
    whole = family_images({"image": images()}, ("global", "local"))
    np.testing.assert_array_equal(whole["local"], images())
    with pytest.raises(UserError, match="data.host_crops.local is not a family of views of this"):
        family_images(batch, ("global",))
    del batch["image/local"]
    with pytest.raises(UserError, match=r"crops the views global but not local; .*data.host_crops"):
        family_images(batch, ("global", "local"))


def test_the_evaluation_view_is_as_large_as_the_main_family():
    config = {**CONFIG, "ops": (*TOP["ops"], "normalize"), "normalize": {"mean": (0.5,) * 3}}
    made = families_and_eval(config, BATCH)
    plain = families_and_eval(CONFIG, BATCH)
    normal, evaluated = jax.jit(lambda x: (made.eval_view(x), plain.eval_view(x)))(images())
    assert made.shapes == {"global": (2, 16, 16, 3), "local": (3, 8, 8, 3)}
    assert list(made.shapes) == ["global", "local"]
    assert normal.shape == (6, 16, 16, 3)
    assert made.normalization[0] == (0.5,) * 3
    assert plain.normalization is None
    expected = (np.asarray(evaluated) - 0.5) / made.normalization[1]
    np.testing.assert_allclose(normal, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("local", "message"),
    [
        ({}, r"views\.families\.local\.count is missing; use a whole number"),
        ({"count": -1}, r"views\.families\.local\.count is -1"),
        ({"count": 2.5}, r"views\.families\.local\.count is 2\.5"),
        ({"count": 2, "flop": {}}, r"key views\.families\.local\.flop; .*mean 'flip'"),
        ({"count": 2, "flip": {"p": 2}}, r"views\.families\.local\.flip\.p is 2; use a number"),
        (
            {"count": 2, "overrides": {"2": {}}},
            r"views\.families\.local\.overrides\.2 names no view: there are 2",
        ),
        (
            {"count": 2, "ops": ("normalize",)},
            r"views\.families\.local must have the same normalize",
        ),
    ],
)
def test_mistakes_are_named_with_their_path(local, message):
    with pytest.raises(UserError, match=message):
        families_and_eval({**TOP, "families": {"local": local}}, BATCH)


def test_the_main_family_is_not_among_the_others():
    with pytest.raises(UserError, match=r"views\.families\.global: the recipe .* is the top level"):
        make_families({**TOP, "families": {"global": LOCAL}})
    assert read_families(TOP) == {}


def test_methods_of_one_size_refuse_families():
    with pytest.raises(UserError, match=r"views\.families\.local: .*all of one size"):
        make_views(CONFIG)
