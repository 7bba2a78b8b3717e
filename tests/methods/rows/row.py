"""A row of the table of methods: a config, and the overrides that make it small."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from ssl_jax import config as config_lib

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Row:
    """A method under test.

    Attributes:
      config: "file.py:variant" below configs/.
      overrides: dotted key -> value, to make it tiny.
      untrained: regexes of parameters that are meant to get no gradient.
      slow: tested with the slow tests; another row covers most of the method.
      embeds: whether there is an embedding for the collapse monitor; a classifier has none.
      rounding: how far gradients, buffers and moving averages may be from those of another number
        of devices, beside the largest of the array or 1.
    """

    config: str
    overrides: dict[str, Any]
    untrained: tuple[str, ...] = ()
    embeds: bool = True
    slow: bool = False
    rounding: float = 2e-5

    def load(self, **more: Any) -> ConfigDict:
        """The tiny config; keyword arguments are further overrides, with __ for dots."""
        config = config_lib.load(f"{CONFIGS}/{self.config}")
        changes = {"batch_size": BATCH, "log.tensorboard": False, **self.overrides}
        changes |= {key.replace("__", "."): value for key, value in more.items()}
        config = config_lib.apply(config, changes)
        return config_lib.resolve(config, changes)
