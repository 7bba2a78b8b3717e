"""Decodes a data set once and keeps it in memory, instead of decoding it in every epoch."""

from __future__ import annotations

import numpy as np

from ssl_jax.core.errors import UserError
from ssl_jax.data.image_source import ArraySource, ImageSource
from ssl_jax.data.pipeline import epoch_batches
from ssl_jax.data.source import Problem


def in_memory(source: ImageSource, *, workers: int = 0) -> ArraySource:
    """The same examples with decoded images. CIFAR-10 takes 150 MB and some seconds.

    Args:
      source: any source of images without random crops.
      workers: processes that decode; 0: threads.

    Raises:
      UserError: the source has random crops, which differ in every epoch.
    """
    if source.canvas.crops:
        raise UserError(
            "cache keeps one image an example, but data.host_crops asks for random crops "
            f"({', '.join(source.canvas.crops)}); leave one of them out"
        )
    images = np.empty((len(source), *source.canvas.shapes["image"]), np.uint8)
    labels = np.empty(len(source), np.int32)
    matrix = None if source.label_matrix is None else np.empty_like(source.label_matrix)
    bad_rows = {}
    with epoch_batches(source, 1024, workers=workers) as batches:
        for batch in batches:
            real = batch["index"] >= 0
            images[batch["index"][real]] = batch["image"][real]
            labels[batch["index"][real]] = batch["label"][real]
            if matrix is not None:
                matrix[batch["index"][real]] = batch["labels"][real]
            for row in batch["index"][real & ~batch["mask"]].tolist():
                name = source.example_name(row)
                bad_rows[row] = Problem(row, name, source.problems.get(name, "unreadable"))
    return ArraySource(
        name=source.name,
        canvas=source.canvas,
        labels=labels if source.num_classes else None,
        num_classes=source.num_classes,
        class_names=source.class_names,
        names=source.names,
        factors=source.read_factors(),
        factor_names=source.factor_names,
        renderer=source.renderer,
        masks=source.masks,
        label_matrix=matrix,
        label_names=source.label_names,
        problems=dict(source.problems),
        earlier_notes=tuple(source.notes()),
        images=images,
        bad_rows=bad_rows,
    )
