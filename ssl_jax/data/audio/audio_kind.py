"""Kinds of data sets of audio."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ssl_jax.config import fields
from ssl_jax.core.method import DataSpec
from ssl_jax.data.audio.audio_source import AudioOptions
from ssl_jax.data.kind import WHERE, DataSet, Facts, Kind
from ssl_jax.data.request import Request
from ssl_jax.modalities.audio import AUDIO


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioKind(Kind):
    """A kind of audio.

    Attributes:
      dataset: opens a data set: (location, request, audio options, **options); its keyword
        parameters are the options of the kind.
      targets: (options) -> the labels of frames that its data sets have as a rule.
      known: facts from all options, None if nothing is known.
    """

    dataset: Callable[..., DataSet]
    targets: Callable[[Mapping[str, Any]], tuple[str, ...]]
    known: Callable[[AudioOptions, Mapping[str, Any]], Facts] | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return (AUDIO.name,)

    def options(self, values: Mapping[str, Any]) -> fields.Section:
        del values
        own, common = fields.section(self.dataset), fields.section(AudioOptions)
        return fields.Section({**own.keys, **common.keys})

    def _read(self, values: Mapping[str, Any]) -> tuple[AudioOptions, dict[str, Any]]:
        """The options of every kind of audio, and those of this kind."""
        options = fields.read(self.options(values), values, WHERE)
        common = [field.name for field in dataclasses.fields(AudioOptions)]
        read = AudioOptions(**{name: options.pop(name) for name in common})
        read.check()
        return read, options

    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> DataSet:
        request.refuse_image_options(self.name, "audio")
        read, options = self._read(values)
        return self.dataset(location, request, read, **options)

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        del location
        return self.known(*self._read(values)) if self.known else None

    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        del location
        request.refuse_image_options(self.name, "audio")
        read, options = self._read(values)
        targets = self.targets(options) if read.targets is None else read.targets
        return read.spec(targets, num_examples, num_classes)
