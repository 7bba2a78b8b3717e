"""The interface of a modality, such as images or text.

A `DataSpec` names its modality; `ssl_jax.modalities.of(spec)` returns the object. The object
defines everything that differs between images and text: the unit of throughput, the spec of data
that are not loaded, the facts that a run's config stores, how evaluation reads the data, and what
an export and the report page say of them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ssl_jax.core.method import DataSpec, Method

MAP_POINTS = 1500  # examples in the map of the embedding, at most


class OtherData(NamedTuple):
    """Another data set than that of the run, and what the run has to read it with.

    Attributes:
      name: of the other data set.
      has_task: whether it can have labels for a task.
      task: the labelled task that the run was trained on; None without one.
      tokenizer: path of the run's tokenizer; None if it has none.
    """

    name: str
    has_task: bool = False
    task: str | None = None
    tokenizer: str | None = None


@dataclasses.dataclass(frozen=True)
class Modality(abc.ABC):
    """A modality.

    Attributes:
      name: the value of `DataSpec.modality`.
      unit: the unit of throughput, plural: "images", "tokens".
      short_unit: the unit in a progress bar.
      batch: the arrays of a batch that only this modality has, name -> dtype, shape and meaning.
      kept: data options of a run with which it reads other data sets too.
    """

    name: str
    unit: str
    short_unit: str
    batch: Mapping[str, str]
    kept: tuple[str, ...] = ()

    @property
    def throughput_metric(self) -> str:
        """The metric of throughput: "train/images_per_s"."""
        return f"train/{self.unit}_per_s"

    @abc.abstractmethod
    def units(self, spec: DataSpec) -> int:
        """Number of units in an example, padding included."""

    @abc.abstractmethod
    def facts(self, spec: DataSpec) -> dict[str, Any]:
        """The facts of the data that a run's config stores, so the run can be built without data.

        Returns:
          Keys of the data section and their values; `options` is a dict of further options.
        """

    @abc.abstractmethod
    def describe_inputs(self, method: Method, spec: DataSpec) -> dict[str, Any]:
        """Describes the inputs of an exported encoder, for its config.json.

        Args:
          method: whose encoder is exported.
          spec: of the training data.
        """

    def evaluation_options(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        """Options that evaluation adds to those of a data set; none unless overridden.

        Args:
          evaluation: the config's section `eval`.
        """
        del evaluation
        return {}

    def options_elsewhere(self, options: Mapping[str, Any], other: OtherData) -> dict[str, Any]:
        """The options with which a run reads another data set, taken from its data options.

        Unless overridden, these are the options `kept`.

        Args:
          options: data options of the run.
          other: the other data set, and what the run has to read it with.

        Raises:
          UserError: the run lacks something that is needed, such as a tokenizer.
        """
        del other
        return {name: options[name] for name in self.kept if name in options}

    def report(self, prober: Any, encode: Any) -> dict[str, Any]:
        """What the report page shows of the data, as keyword arguments of `report.ReportInputs`.

        Unless overridden, these are examples with their features, for the embedding map: of the
        test split or, without labels, of the training split.

        Args:
          prober: gives the splits; see `ssl_jax.run.probing`.
          encode: batch -> {"h": [n d], ...}, the trained encoder.
        """
        section = prober.config.eval
        source = prober.test if prober.labelled else prober.train
        split = section.test_split if prober.labelled else section.train_split
        chosen = prober.evenly(source, MAP_POINTS)
        chosen = np.arange(len(source)) if chosen is None else chosen
        features = prober.features(lambda batch: {"h": encode(batch)["h"]}, source, chosen)
        return dict(
            embedding=features["h"],
            labels=features["label"] if prober.labelled else None,
            class_names=source.class_names or (),
            split=f"{len(chosen)} {self.unit} of {prober.dataset}[{split}]",
        )
