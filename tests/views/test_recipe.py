"""What a config may say, and what it is told when it says something else."""

import json

import ml_collections
import pytest

from ssl_jax.core.errors import UserError
from ssl_jax.views import default_parameters, make_views
from ssl_jax.views.recipe import OPS, Step, read_recipes


def test_default_parameters_are_primitives_of_every_op():
    defaults = default_parameters()
    assert set(defaults) == set(OPS)
    json.dumps(defaults)
    assert defaults["color_jitter"]["hue"] == 0.2
    assert defaults["random_resized_crop"]["scale"] == (0.08, 1.0)
    defaults["flip"]["p"] = 2  # a copy: nobody else's defaults change
    assert default_parameters()["flip"]["p"] == 0.5
    make_views({"ops": tuple(OPS)[:-1], **default_parameters()})


def test_recipes_merge_defaults_config_and_overrides():
    config = ml_collections.ConfigDict(
        {
            "ops": ("cutout", "flip", "flip"),
            "cutout": {"size": 0.3, "p": 1},
            "sobel": {"p": 0.5},  # listed in the config, not in ops
            "overrides": {"1": {"cutout": {"p": 0.1}, "ops": ("cutout",)}},
        }
    )
    first, second = read_recipes(config, 2)
    assert first == (
        Step("cutout", 0, {"size": 0.3, "p": 1, "fill": 0.0}),
        Step("flip", 0, {"p": 0.5}),
        Step("flip", 1, {"p": 0.5}),
    )
    assert second == (Step("cutout", 0, {"size": 0.3, "p": 0.1, "fill": 0.0}),)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ops": ("colour_jitter",)}, r"views\.ops is \('colour_jitter',\).*mean 'color_jitter'"),
        ({"ops": "flip"}, r"views\.ops is 'flip'; use a tuple"),
        ({"colour_jitter": {}}, r"key views\.colour_jitter; .*mean 'color_jitter'"),
        ({"opps": ("flip",)}, r"key views\.opps; .*mean 'ops'"),
        ({"flip": {"probability": 1}}, r"key views\.flip\.probability; known keys: p\."),
        ({"color_jitter": {"stren": 1}}, r"mean 'strength'"),
        ({"flip": {"p": 1.5}}, r"views\.flip\.p is 1\.5; use a number from 0 to 1"),
        ({"flip": {"p": "often"}}, r"views\.flip\.p is 'often'; use a number"),
        (
            {"random_resized_crop": {"size": 0}},
            r"size is 0; use a whole number from 1 to 32768 or a pair",
        ),
        (
            {"random_resized_crop": {"size": (32, 2.5)}},
            r"use a whole number from 1 to 32768 or a pair",
        ),
        ({"random_resized_crop": {"size": True}}, r"size is True"),
        ({"random_resized_crop": {"scale": (1.0, 0.2)}}, r"\(1.0, 0.2\); .* in increasing order"),
        ({"random_resized_crop": {"scale": (0.5, 1.5)}}, r"each item a number above 0, at most 1"),
        ({"random_resized_crop": {"scale": 0.2}}, r"scale is 0.2; use a pair"),
        ({"random_resized_crop": {"antialias": 1}}, r"use True or False"),
        ({"random_resized_crop": {"method": "cubic"}}, r"one of bicubic, bilinear\. .*'bicubic'"),
        ({"random_affine": {"degrees": float("inf")}}, r"degrees is inf; use a finite number"),
        ({"gaussian_blur": {"kernel_size": 2.5}}, r"use a whole number"),
        ({"gaussian_blur": {"kernel_size": 4}}, r"kernel_size is 4; .* odd, or 0"),
        ({"gaussian_noise": {"std": -0.1}}, r"std is -0\.1; use a number of at least 0"),
        ({"normalize": {"mean": ()}}, r"at least one item"),
        ({"normalize": {"std": (0.2, 0.0)}}, r"each item a number above 0"),
        ({"ops": ("normalize", "flip")}, r"normalize last"),
        ({"ops": ("random_erasing", "normalize")}, r"random_erasing after it"),
        ({"ops": ("random_erasing", "flip")}, r"random_erasing after it"),
        (
            {"rand_augment": {"operations": ("rotat",)}},
            r"rand_augment\.operations is .*mean 'rotate'",
        ),
        ({"rand_augment": {"operations": ()}}, r"at least one item"),
        ({"rand_augment": {"num_ops": 0}}, r"num_ops is 0; use a whole number from 1 to 32"),
        ({"rand_augment": {"fill": (0.5, 1.5)}}, r"each item a number from 0 to 1"),
        ({"random_erasing": {"area": (0.5, 0.1)}}, r"in increasing order"),
        ({"random_erasing": {"fill": "pixels"}}, r"one of pixel, color, zero\. .*'pixel'"),
        ({"overrides": {"2": {"flip": {"p": 1.0}}}}, r"views\.overrides\.2 names no view"),
        ({"overrides": {"1": {"flop": {"p": 1.0}}}}, r"key views\.overrides\.1\.flop; .*'flip'"),
        ({"overrides": {"1": {"flip": {"pp": 1.0}}}}, r"views\.overrides\.1\.flip\.pp"),
        ({"overrides": {"0": {"ops": ("flop",)}}}, r"views\.overrides\.0\.ops is .*'flip'"),
    ],
)
def test_mistakes_are_named(config, message):
    with pytest.raises(UserError, match=message) as error:
        make_views({"ops": ("flip",), **config})
    assert "\n" not in str(error.value)


def test_values_a_config_may_give():
    make_views(
        {
            "ops": ("random_resized_crop",),
            "random_resized_crop": {"size": (32, 48), "scale": [0.2, 1]},  # lists come from JSON
            "random_affine": {"size": 0, "degrees": 10},
            "normalize": {"mean": (0.5,), "std": (0.5,)},
        }
    )
