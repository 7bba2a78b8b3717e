"""Views on the device: jittable augmentations of images, and masking of tokens."""

from ssl_jax.views.families import (
    FamiliesAndEval,
    families_and_eval,
    family_counts,
    family_images,
    main_images,
    make_families,
)
from ssl_jax.views.image import default_parameters, eval_view, make_views, to_show, train_and_eval

__all__ = [
    "FamiliesAndEval",
    "default_parameters",
    "eval_view",
    "families_and_eval",
    "family_counts",
    "family_images",
    "main_images",
    "make_families",
    "make_views",
    "to_show",
    "train_and_eval",
]
