"""The modality of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ssl_jax.core.method import Batch, DataSpec, Method
from ssl_jax.modalities.base import MAP_POINTS, Modality

LABELS = "labels"  # the array of images that can have several labels

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Image(Modality):
    """Images, whole or cropped by the host."""

    def spec(
        self,
        shapes: Mapping[str, Shape],
        num_examples: int,
        num_classes: int | None,
        whole: Mapping[str, Shape] | None = None,
        num_labels: int = 0,
    ) -> DataSpec:
        """The DataSpec of images.

        Args:
          shapes: shapes of the pixel arrays of an example: `image` (h, w, c), or `image/FAMILY`
            (v, h, w, c) each.
          num_examples, num_classes: of the training set.
          whole: `shapes` as evaluation reads them, if they differ.
          num_labels: labels that an image can have together, the width of `labels`; 0 for none.
        """
        return DataSpec(
            arrays=_arrays(shapes, num_labels),
            num_examples=num_examples,
            num_classes=num_classes,
            modality=self.name,
            evaluation_arrays=None if whole is None else _arrays(whole, num_labels),
        )

    def units(self, spec: DataSpec) -> int:
        del spec
        return 1

    def raw_features(self, batch: Batch) -> dict[str, Any]:
        """Pixels in [0, 1], flattened, as `h` float32 [n d]: every encoder should beat them."""
        image = batch["image"]
        return {"h": image.reshape(image.shape[0], -1).astype(np.float32) / 255.0}

    def facts(self, spec: DataSpec) -> dict[str, Any]:
        height, width, channels = spec.evaluated.arrays["image"].shape
        size = {"image_size": width} if height == width else {}
        return {"channels": channels, **size}

    def describe_inputs(self, method: Method, spec: DataSpec) -> dict[str, Any]:
        """Size, channels and range of the images. The method must have an `eval_view`."""
        image = spec.evaluated.batch(1)["image"]
        _, side, _, channels = jax.eval_shape(method.eval_view, image).shape
        colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        return {"image_size": side, "input": f"{colours}, values in [0, 1]"}

    def evaluation_options(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        return {"center": evaluation["center"]}

    def report(self, prober: Any, encode: Any) -> dict[str, Any]:
        """Images with their features, for the embedding map and the nearest neighbours.

        The images come from the test split or, without labels, from the training split. The
        projection z is there if `eval.features` names it.
        """
        section = prober.config.eval
        source = prober.test if prober.labelled else prober.train
        split = section.test_split if prober.labelled else section.train_split
        chosen = np.arange(len(source))
        if len(source) > MAP_POINTS:
            rng = np.random.default_rng(prober.config.seed)
            chosen = np.sort(rng.choice(len(source), MAP_POINTS, replace=False))
        names = [name for name in ("h", "z") if name == "h" or name in section.features]

        def outputs(batch: Any) -> dict[str, jax.Array]:
            every = encode(batch)
            return {name: every[name] for name in names if name in every}

        features = prober.features(outputs, source, chosen)
        return dict(
            pixels=source.batch(features["index"])["image"],
            embedding=features["h"],
            projected=features.get("z"),
            labels=features["label"] if prober.labelled else None,
            class_names=source.class_names or (),
            split=f"{len(chosen)} images of {prober.dataset}[{split}]",
        )


def _arrays(shapes: Mapping[str, Shape], num_labels: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        **{name: jax.ShapeDtypeStruct(shape, np.uint8) for name, shape in shapes.items()},
        "label": jax.ShapeDtypeStruct((), np.int32),
        "index": jax.ShapeDtypeStruct((), np.int32),
        **({LABELS: jax.ShapeDtypeStruct((num_labels,), np.int8)} if num_labels else {}),
    }


IMAGE = Image(
    name="image",
    unit="images",
    short_unit="img",
    batch={
        "image": "uint8 [n h w c], the whole image on a square canvas",
        "image/FAMILY": "uint8 [n v h w c], instead of `image`: host crops of a family of views",
        LABELS: "int8 [n k], of images with several labels: 1 has label k, 0 has not, -1 unknown",
    },
)
