"""Kinds of data sets of pairs and triplets of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_jax.core.method import DataSpec
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.request import Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class TupleKind(ImageKind):
    """A kind of tuples of images.

    Attributes:
      group_size: images of a tuple.
    """

    group_size: int

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        spec = super().spec(location, request, values, num_examples, num_classes)
        return dataclasses.replace(spec, group_size=self.group_size)
