"""The interface of a kind of data set, such as `folder:PATH`.

The modules of `ssl_jax.data.kinds` each export one, `KIND`. A kind declares its options as typed
keyword parameters (`ssl_jax.config.fields`), opens data sets, and says what is known of them
without reading them.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ssl_jax.config import fields
from ssl_jax.core.method import DataSpec
from ssl_jax.data.request import Request
from ssl_jax.data.source import Source

WHERE = "data.options"  # where the options of a kind stand in a config


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a data set without reading it.

    Attributes:
      splits: number of examples of each split.
      num_classes: number of label classes, None where there are none.
      image_size: side of the images, None if they differ.
      channels: of the images, 1 or 3.
      aliases: further names of splits.
      examples_per_piece: if `splits` counts pieces, such as recordings: the examples of each.
    """

    splits: Mapping[str, int]
    num_classes: int | None
    image_size: int | None = None
    channels: int = 3
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    examples_per_piece: int = 1


class DataSet(Protocol):
    """An open data set. It may have `aliases`, further names of its splits, too."""

    splits: tuple[str, ...]

    def source(self, split: str) -> Source:
        """The examples of a split.

        Raises:
          UserError: they cannot be read.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(abc.ABC):
    """A kind of data set.

    Attributes:
      name: what stands before the colon.
      location: what stands behind it, for messages ("PATH"); "" for kinds without a colon.
    """

    name: str
    location: str = ""

    @property
    def usage(self) -> str:
        """How a data set of this kind is written: "folder:PATH"."""
        return f"{self.name}:{self.location}" if self.location else self.name

    @property
    @abc.abstractmethod
    def modalities(self) -> tuple[str, ...]:
        """What its examples can be, names in `ssl_jax.modalities`; the usual one first."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that its examples can have labels for, names in `ssl_jax.tasks`."""
        return ()

    @abc.abstractmethod
    def options(self, values: Mapping[str, Any]) -> fields.Section:
        """The declaration of its options.

        Args:
          values: the options that are set; some decide which others there are.
        """

    @abc.abstractmethod
    def open(self, location: str, request: Request, values: Mapping[str, Any]) -> DataSet:
        """Opens a data set; reads no example.

        Args:
          location: what stands behind the colon.
          request: options of every data set.
          values: the options of this kind that are set.

        Raises:
          UserError: an unknown option or a bad value, or there is no such data set.
        """

    @property
    def corpus(self) -> Callable[..., Any] | None:
        """Opens the documents of a data set: (location, **options) -> `Corpus`; None: it has none.

        The keyword parameters are its options.
        """
        return None

    def facts(self, location: str, values: Mapping[str, Any]) -> Facts | None:
        """What is known of a data set without reading it, None if nothing is.

        Raises:
          UserError: as `open`, as far as that can be told.
        """
        del location, values
        return None

    @abc.abstractmethod
    def spec(
        self,
        location: str,
        request: Request,
        values: Mapping[str, Any],
        num_examples: int,
        num_classes: int | None,
    ) -> DataSpec:
        """The DataSpec of a data set, without reading it.

        Args:
          location, request, values: as of `open`.
          num_examples, num_classes: of the training set.

        Raises:
          UserError: a bad value, or something is not known without the data.
        """
