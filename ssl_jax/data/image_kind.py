"""Kinds of data sets of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from ssl_jax.config import fields
from ssl_jax.core.method import DataSpec
from ssl_jax.data.image_source import image_spec
from ssl_jax.data.kind import WHERE, DataSet, Facts, Kind
from ssl_jax.data.request import Request
from ssl_jax.modalities.image import IMAGE


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """The options of every kind of images."""

    center: Annotated[
        float,
        fields.positive_fraction,
        "Side of the central square that is kept over the shorter side; 0.875 is 224 of 256.",
    ] = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageKind(Kind):
    """A kind of images.

    Attributes:
      dataset: opens a data set: (location, request, **options); its keyword parameters are the
        options.
      known: facts from a location and all options by name, None if nothing is known.
      num_labels: from a location and all options by name, the labels that an image can have
        together; 0 for none.
    """

    dataset: Callable[..., DataSet]
    known: Callable[[str, Mapping[str, Any]], Facts | None] | None = None
    num_labels: Callable[[str, Mapping[str, Any]], int] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return (IMAGE.name,)

    def options(self, values: Mapping[str, Any]) -> fields.Section:
        del values
        own, common = fields.section(self.dataset), fields.section(ImageOptions)
        return fields.Section({**own.keys, **common.keys})

    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> DataSet:
        options = fields.read(self.options(values), values, WHERE)
        request = dataclasses.replace(request, center=options.pop("center"))
        return self.dataset(location, request, **options)

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        options = fields.read(self.options(values), values, WHERE)
        return self.known(location, options) if self.known else None

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        facts = self.facts(location, values)
        canvas = request.canvas(*((facts.image_size, facts.channels) if facts else ()))
        num_labels = 0
        if self.num_labels is not None:
            num_labels = self.num_labels(location, fields.read(self.options(values), values, WHERE))
        return image_spec(canvas, num_examples, num_classes, num_labels)
