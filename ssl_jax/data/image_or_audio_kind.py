"""Kinds of data sets whose examples are images or recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax.config import fields
from ssl_jax.core.method import DataSpec
from ssl_jax.data.audio.audio_kind import AudioKind
from ssl_jax.data.image_kind import ImageKind
from ssl_jax.data.kind import DataSet, Facts, Kind
from ssl_jax.data.request import Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOrAudioKind(Kind):
    """Recordings if an option that only audio has is set, such as `window`; else images.

    Attributes:
      images, recordings: the kinds.
      has_recordings: location -> whether a data set without any option holds recordings; None: it
        holds images.
    """

    images: ImageKind
    recordings: AudioKind
    has_recordings: Callable[[str], bool] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return (*self.images.modalities, *self.recordings.modalities)

    def _of(self, values: Mapping[str, Any], location: str | None = None) -> ImageKind | AudioKind:
        of_images, of_audio = (kind.options(values).keys for kind in (self.images, self.recordings))
        if any(key in of_audio and key not in of_images for key in values):
            return self.recordings
        if values or location is None or self.has_recordings is None:
            return self.images
        return self.recordings if self.has_recordings(location) else self.images

    def options(self, values: Mapping[str, Any]) -> fields.Section:
        return self._of(values).options(values)

    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> DataSet:
        return self._of(values, location).open(location, request, values)

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        return self._of(values).facts(location, values)

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        kind = self._of(values, location)
        return kind.spec(location, request, values, num_examples, num_classes)
