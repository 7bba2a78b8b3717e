"""Views of images on the device: a recipe of random ops from the config, applied as one function.

A recipe names its ops in order and gives each a sub-dict of parameters:

    views.ops = ("random_resized_crop", "flip", "color_jitter", "grayscale", "gaussian_blur")
    views.random_resized_crop = dict(size=224)
    views.gaussian_blur = dict(p=1.0)
    views.overrides = {"1": {"gaussian_blur": {"p": 0.1}, "solarize": {"p": 0.2}}}

What a sub-dict leaves out, or one that is missing, means the op's defaults (`default_parameters`).
`overrides` changes the recipe of single views, by their index: here BYOL's asymmetric second view.
A view may also replace the list itself, `{"1": {"ops": (...)}}`.

Randomness: view v has the key `fold_in(key, v)`, an op in it folds in its *name*, and example i
gets the i-th of `split(.., n)` over the global batch. So removing an op leaves what the others draw
as it was, and the number of devices changes nothing.
"""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ssl_jax.errors import UserError, nearest
from ssl_jax.views.affine import random_affine
from ssl_jax.views.color import color_jitter, grayscale, normalize, solarize, standardize
from ssl_jax.views.filters import cutout, gaussian_blur, gaussian_noise, sobel
from ssl_jax.views.geometry import (
    Method,
    Size,
    center_crop,
    central_box,
    crop_and_resize,
    flip,
    mirror_after,
    mirror_before,
    random_resized_crop,
    random_rotate90,
    resize,
    rotate90,
    sample_crops,
    sample_flips,
)
from ssl_jax.views.ops import image_op

__all__ = [
    "OPS",
    "center_crop",
    "color_jitter",
    "cutout",
    "default_parameters",
    "eval_view",
    "flip",
    "gaussian_blur",
    "gaussian_noise",
    "grayscale",
    "make_views",
    "normalize",
    "random_affine",
    "random_resized_crop",
    "random_rotate90",
    "resize",
    "rotate90",
    "sobel",
    "solarize",
]

OPS: Mapping[str, Callable] = MappingProxyType(
    {
        op.__name__: op
        for op in (
            random_resized_crop,
            center_crop,
            resize,
            flip,
            random_rotate90,
            random_affine,
            color_jitter,
            grayscale,
            solarize,
            gaussian_blur,
            gaussian_noise,
            sobel,
            cutout,
            normalize,
        )
    }
)
