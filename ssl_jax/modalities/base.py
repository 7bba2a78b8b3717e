"""What a modality is: images, text and so on.

A `DataSpec` names its modality, and `ssl_jax.modalities.of(spec)` is the object. It answers what
depends on whether examples are images or text: the unit of throughput, the spec of data that are
not at hand, the features of the raw inputs, what a run's config keeps of the data, how evaluation
reads them, and what the report page shows of them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

from ssl_jax.core.method import Batch, DataSpec


@dataclasses.dataclass(frozen=True)
class Modality(abc.ABC):
    """A modality.

    Attributes:
      name: as `DataSpec.modality` and kinds of data sets have it.
      unit: what throughput counts, plural: "images", "tokens".
      short_unit: the same in a progress bar.
      batch: the arrays of a batch that only this modality has, name -> dtype, shape and meaning.
      raw_title: name of the baseline that takes the raw inputs as features; "" where there is none.
    """

    name: str
    unit: str
    short_unit: str
    batch: Mapping[str, str]
    raw_title: str = ""

    @property
    def throughput_metric(self) -> str:
        """The metric of throughput: "train/images_per_s"."""
        return f"train/{self.unit}_per_s"

    @abc.abstractmethod
    def units(self, spec: DataSpec) -> int:
        """Units of an example, padding included."""

    def raw_features(self, batch: Batch) -> dict[str, Any]:
        """The raw inputs as features: `h` float32 [n d]. Called where there is a `raw_title`."""
        raise NotImplementedError(f"{self.name} has no raw features")

    @abc.abstractmethod
    def facts(self, spec: DataSpec) -> dict[str, Any]:
        """What a run's config keeps of the data, so that it describes the run without them.

        Returns:
          Keys of the data section and their values; `options` is a dict of further options.
        """

    @abc.abstractmethod
    def evaluation_options(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a data set as evaluation reads it.

        Args:
          evaluation: the config's section `eval`.
        """

    @abc.abstractmethod
    def options_elsewhere(
        self,
        options: Mapping[str, Any],
        *,
        task: str | None,
        has_task: bool,
        tokenizer: str | None,
        name: str,
    ) -> dict[str, Any]:
        """Of a run's data options, those with which another data set is read.

        Args:
          options: of the run.
          task: that the run has learned from labels, None for none.
          has_task: whether the other data set can have labels for a task.
          tokenizer: path of the run's tokenizer, None where it has none.
          name: of the other data set.

        Raises:
          UserError: the run lacks what it takes.
        """

    @abc.abstractmethod
    def report(self, prober: Any, encode: Any) -> dict[str, Any]:
        """What the report page shows of the data: keyword arguments of `report.ReportInputs`.

        Args:
          prober: of the splits; see `ssl_jax.run.probing`.
          encode: batch -> {"h": [n d], ...}, the trained encoder.
        """
