"""What is known of data sets without reading them: for dry runs, and for runs loaded elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_jax.data.kinds import digits, shapes
from ssl_jax.data.labelled import glue_tasks


@dataclasses.dataclass(frozen=True)
class Known:
    """Facts of a data set.

    Attributes:
      splits: examples of each split.
      num_classes: label classes.
      image_size: side of the images, None if they have none in common.
      channels: 1 or 3.
      aliases: further names of splits.
    """

    splits: Mapping[str, int]
    num_classes: int | None
    image_size: int | None = None
    channels: int = 3
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)


# As TFDS divides them (https://www.tensorflow.org/datasets/catalog/overview).
TFDS = {
    "cifar10": Known({"train": 50_000, "test": 10_000}, 10, 32),
    "cifar100": Known({"train": 50_000, "test": 10_000}, 100, 32),
    "fashion_mnist": Known({"train": 60_000, "test": 10_000}, 10, 28, 1),
    "imagenet2012": Known({"train": 1_281_167, "validation": 50_000, "test": 100_000}, 1000),
    "imagenet2012_subset/10pct": Known({"train": 128_116, "validation": 50_000}, 1000),
    "imagenet2012_subset/1pct": Known({"train": 12_811, "validation": 50_000}, 1000),
    "mnist": Known({"train": 60_000, "test": 10_000}, 10, 28, 1),
    "stl10": Known({"train": 5_000, "test": 8_000, "unlabelled": 100_000}, 10, 96),
    "svhn_cropped": Known({"train": 73_257, "test": 26_032, "extra": 531_131}, 10, 32),
}


def facts_of(name: str, options: Mapping[str, Any]) -> Known | None:
    """Facts of the data set `name` with these options, None if it has to be read for them."""
    kind, _, location = name.partition(":")
    if kind == "digits":
        return Known(digits.SIZES, digits.NUM_CLASSES, digits.IMAGE_SIZE, digits.CHANNELS)
    if kind == "shapes":
        sizes = shapes.sizes(options.get("num_generated", shapes.NUM_GENERATED))
        classes = shapes.num_classes(options.get("label", "shape"))
        return Known(sizes, classes, shapes.IMAGE_SIZE, shapes.CHANNELS)
    if kind == "glue":
        found = glue_tasks.task(location)
        names = found.class_names
        return Known(found.sizes, None if names is None else len(names), aliases=found.aliases)
    if kind == "tfds":
        return TFDS.get(location.partition(":")[0])  # without the version
    return None
